"""`airflow aihandoff cancel`: cancel a job."""

from __future__ import annotations

from argparse import Namespace

from airflow_provider_aihandoff.cli.common import actor, check_reason, command, open_ledger, say
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.hooks.model_provider import providers


@command
def cancel(args: Namespace) -> None:
    """Cancel a job, and its response at OpenAI."""
    check_reason(args.reason)
    with open_ledger(args) as ledger, providers() as provider_for:
        job = cancel_job(ledger, provider_for, args.job_id, actor=actor(), reason=args.reason)
    say(_cancelled(job))


def _cancelled(job: Job) -> str:
    if job.cancelling is not None:
        return f"{job.label}: being cancelled. It ends when the outcome of the effects under way is known."
    return f"{job.label}: {job.state.value} ({job.state_reason})."
