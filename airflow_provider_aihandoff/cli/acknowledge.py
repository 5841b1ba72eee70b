"""`airflow aihandoff acknowledge`: say that the failure of a job was seen."""

from __future__ import annotations

from argparse import Namespace

from airflow_provider_aihandoff.cli.common import actor, check_reason, command, open_ledger, say


@command
def acknowledge(args: Namespace) -> None:
    """Record that a failed job was seen."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        revision = args.revision or ledger.job(args.job_id).revision
        job = ledger.acknowledgements.acknowledge(args.job_id, revision=revision, actor=actor(), reason=args.reason)
    say(f"{job.label}: failed, and acknowledged. It needs no person until it fails again.")
