"""`airflow aihandoff preview-clear`: what clearing a Dag run would cost and write."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from airflow_provider_aihandoff.cli.common import command, open_ledger, print_rows, say
from airflow_provider_aihandoff.core.jobs.clear_preview import ClearedJob, total_line
from airflow_provider_aihandoff.core.jobs.clear_preview import preview_clear as preview


@command
def preview_clear(args: Namespace) -> None:
    """Preview what clearing every task of a Dag run would do. Changes nothing."""
    with open_ledger(args) as ledger:
        found = ledger.jobs_of_run(args.dag_id, args.run_id)
    jobs = [preview(item.job, item.effects, item.model_revisions) for item in found]
    if args.output in ("json", "yaml"):
        print_rows([_row(job) | {"effects": job.effects} for job in jobs], args.output)
    elif not jobs:
        say(f"The ledger has no jobs of run {args.run_id} of Dag {args.dag_id}.")
    else:
        print_rows([_row(job) | {"effects": job.effects_line} for job in jobs], args.output)
        say(f"If the run requests the same as before: {total_line(jobs)}.")


def _row(cleared: ClearedJob) -> dict[str, Any]:
    job = cleared.job
    return {
        "job_id": job.job_id,
        "job_type": job.job_type,
        "job_key": job.job_key,
        "state": job.state,
        "next": cleared.draft,
        "why": f"the draft task {cleared.why}",
    }
