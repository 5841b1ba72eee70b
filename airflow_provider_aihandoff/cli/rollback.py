"""`airflow aihandoff rollback`: undo what a job has written."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import NoReturn

from airflow_provider_aihandoff.cli.common import (
    actor,
    as_typed,
    check_reason,
    command,
    fail,
    open_ledger,
    print_rows,
    say,
)
from airflow_provider_aihandoff.core.effects.roll_back import Unfinished, roll_back_now
from airflow_provider_aihandoff.core.effects.roll_back_store import cannot_roll_back
from airflow_provider_aihandoff.core.effects.undo import undo_steps
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import EffectPlan, Job
from airflow_provider_aihandoff.core.states import EffectState, JobState

#: The longest time, in seconds, that the command waits: the longest pause between two probes.
SHORT_WAIT = 30.0

#: The exit code of a roll-back that has started and is not finished.
UNFINISHED = 3


@command
def rollback(args: Namespace) -> None:
    """Undo what a job has written, or continue a roll-back."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        record = ledger.record(args.job_id)
        if record.job.state is JobState.ROLLED_BACK:
            say(f"{record.job.label}: already rolled back ({record.job.state_reason}).")
            return
        _show(record, args.leave)
        if not args.yes and not _agrees():
            fail("Nothing was undone. This command made no external write. Answer yes, or give --yes.")
        not_now = 0
        while True:
            done = roll_back_now(
                ledger, args.job_id, actor=actor(), reason=args.reason, leave=args.leave, not_now=not_now
            )
            if isinstance(done, Job):
                say(f"{done.label}: rolled back.")
                return
            if done.seconds is None or done.seconds > SHORT_WAIT:
                _end_unfinished(done)
            say(f"{done.why} Waiting {done.seconds:.0f} s.", error=True)
            not_now = done.not_now
            time.sleep(done.seconds)


def _show(record: JobRecord, leave: Sequence[str]) -> None:
    """Print what would be sent, in this order.

    :raises CannotRollBack: it cannot start.
    """
    if record.job.state is JobState.ROLLING_BACK:
        plans = [undo.as_plan for undo in record.undos if undo.state is not EffectState.APPLIED]
        say(f"{record.job.label} is being rolled back. Left to undo, in this order:")
    else:
        if problem := cannot_roll_back(record.job, record.current_effects, record.altered_undos, leave):
            raise problem
        steps = undo_steps(record.current_effects, record.altered_undos, leave)
        plans = [step.plan for step in steps if step.plan is not None]
        say(f"{record.job.label} is {record.job.state.value}. This would be sent, in this order:")
    print_rows([_shown(plan) for plan in plans], "yaml")


def _shown(plan: EffectPlan) -> dict[str, object]:
    return {"undo": plan.name, "kind": plan.kind, "plan": plan.plan}


def _agrees() -> bool:
    try:
        return input("Undo this? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _end_unfinished(left: Unfinished) -> NoReturn:
    when = (
        "Then run this command again." if left.seconds is None else f"Run this command again in {left.seconds:.0f} s."
    )
    say(
        f"aihandoff: The roll-back has started, but is not finished: {as_typed(left.why)} {when} It continues where it "
        "stopped.",
        error=True,
    )
    sys.exit(UNFINISHED)
