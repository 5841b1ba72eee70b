"""`airflow aihandoff cancel` and `rollback`: a job ends before its time, or what it wrote is taken back."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from airflow_provider_aihandoff.cli.common import actor, command, open_ledger, print_rows
from airflow_provider_aihandoff.core.effects.roll_back import Unfinished, roll_back_now
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.jobs.cancel_and_roll_back import cannot_roll_back
from airflow_provider_aihandoff.core.jobs.clear_preview import ways_back
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import EffectPlan, Job
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.hooks.openai import providers

#: The longest wait, in seconds, that the command sits out: as long as the pause between two looks of a probe can be.
SHORT_WAIT = 30.0

#: The exit code of a roll-back that has begun and is not done.
UNFINISHED = 3


@command
def cancel(args: Namespace) -> None:
    """Stop a job, and its response at OpenAI."""
    _check_why(args.why)
    with open_ledger(args) as ledger, providers() as provider_for:
        job = cancel_job(ledger, provider_for, args.job_id, actor=actor(), reason=args.why)
    print(_cancelled(job))


def _cancelled(job: Job) -> str:
    if job.cancelling is not None:
        return f"{job.label}: being cancelled. It ends when it is known what became of the effects that are under way."
    return f"{job.label}: {job.state.value} ({job.state_reason})."


@command
def rollback(args: Namespace) -> None:
    """Take back what a job has written, or go on with that."""
    _check_why(args.why)
    with open_ledger(args) as ledger:
        record = ledger.record(args.job_id)
        if record.job.state is JobState.ROLLED_BACK:
            print(f"{record.job.label}: rolled back already ({record.job.state_reason}).")
            return
        _show(record, args.leave)
        if not args.yes and not _agrees():
            sys.exit("aihandoff: Nothing was undone, nothing was sent. Say yes, or give --yes.")
        not_now = 0
        while True:
            done = roll_back_now(ledger, args.job_id, actor=actor(), reason=args.why, leave=args.leave, not_now=not_now)
            if isinstance(done, Job):
                print(f"{done.label}: rolled back.")
                return
            if done.seconds is None or done.seconds > SHORT_WAIT:
                _end_unfinished(done)
            print(f"{done.why} Waiting {done.seconds:.0f} s.", file=sys.stderr)
            not_now = done.not_now
            time.sleep(done.seconds)


def _show(record: JobRecord, leave: Sequence[str]) -> None:
    """Print what would be sent, in its order.

    :raises CannotRollBack: it cannot begin.
    """
    if record.job.state is JobState.ROLLING_BACK:
        plans = [undo.as_plan for undo in record.undos if undo.state is not EffectState.APPLIED]
        print(f"{record.job.label} is being rolled back. Left to undo, in this order:")
    else:
        if problem := cannot_roll_back(record.job, record.current_effects, leave):
            raise problem
        plans = [way.plan for way in ways_back(record.current_effects, leave) if way.plan is not None]
        print(f"{record.job.label} is {record.job.state.value}. This would be sent, in this order:")
    print_rows([_shown(plan) for plan in plans], "yaml")


def _shown(plan: EffectPlan) -> dict[str, object]:
    return {"undo": plan.name, "kind": plan.kind, "plan": plan.plan}


def _agrees() -> bool:
    try:
        return input("Undo this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _end_unfinished(left: Unfinished) -> NoReturn:
    when = "Then run this command again" if left.seconds is None else f"Run this command again in {left.seconds:.0f} s"
    print(
        f"aihandoff: The roll-back has begun and is not done: {left.why} {when}: what is undone stays undone.",
        file=sys.stderr,
    )
    sys.exit(UNFINISHED)


def _check_why(why: str) -> None:
    if not why.strip():
        sys.exit("aihandoff: --why must say why.")
