"""Runs bulk actions: shown first, confirmed by their number, and taken job by job, each in its own transactions.

A run may be killed at any time. What it has done stays done, and the next one goes on: the step of each job is safe to
repeat, so that a job whose step was taken but not recorded is not changed twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from airflow_provider_aihandoff.core.bulk.bulk_plan import REASSIGNED, PlannedStep, can_start, digest_of, plan_step
from airflow_provider_aihandoff.core.bulk.bulk_store import Bulk, BulkAction, NewBulkJob, Outcome, Progress
from airflow_provider_aihandoff.core.bulk.bulk_totals import Totals, stopped_types, total
from airflow_provider_aihandoff.core.effects.resolve import answer
from airflow_provider_aihandoff.core.effects.roll_back import Unfinished, roll_back_now
from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.errors import (
    BulkChanged,
    CannotReassign,
    FilterRefused,
    HandoffError,
    LedgerSchemaError,
    LedgerUnavailable,
)
from airflow_provider_aihandoff.core.generation.provider import ProviderFor
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.reconcile.findings import Finding
from airflow_provider_aihandoff.core.reconcile.run import reconcile_job
from airflow_provider_aihandoff.core.reconcile.scan import StatesOf
from airflow_provider_aihandoff.core.review.rules import Reviewers
from airflow_provider_aihandoff.core.states import EffectState, JobState

log = logging.getLogger(__name__)

#: Jobs that one bulk action may be about.
MAX_JOBS = 5_000

#: Those of the Dags on whose jobs a user may act.
Answerable = Callable[[Iterable[str]], Collection[str]]


@dataclass(frozen=True)
class Preview:
    """What a bulk action would do.

    :param digest: what the user confirms, with :attr:`count`.
    :param totals: what it would stop, write and have cost.
    :param reviewers: who may decide then, where it reassigns reviews.
    """

    action: BulkAction
    wanted: JobFilter
    steps: list[PlannedStep]
    digest: str
    totals: Totals
    reviewers: Reviewers | None = None

    @property
    def count(self) -> int:
        """To how many jobs something would be done."""
        return sum(not step.refused for step in self.steps)

    @property
    def refused(self) -> int:
        """To how many nothing would be done."""
        return len(self.steps) - self.count


def preview(
    ledger: Ledger,
    action: BulkAction,
    wanted: JobFilter,
    *,
    answerable: Answerable,
    actor: Actor,
    dag_ids: Sequence[str] | None = None,
    reviewers: Reviewers | None = None,
) -> Preview:
    """What would be done to each job that a filter finds. Changes nothing.

    :param actor: the user.
    :param dag_ids: only jobs of these Dags, which the user may see; None for every Dag.
    :param reviewers: who may decide then, where it reassigns reviews; no other action takes any.
    :raises FilterRefused: it is about every job, or too many, or cannot be answered from an index.
    :raises CannotReassign: it reassigns reviews to no one, or names people and does something else.
    """
    _check_reviewers(action, reviewers)
    if wanted.is_empty:
        raise FilterRefused("a bulk action needs a filter.", written="", remedy="Name at least one.")
    job_ids = ledger.search.ids(wanted, dag_ids=dag_ids, limit=MAX_JOBS + 1)
    if len(job_ids) > MAX_JOBS:
        what = f"the filter finds more than {MAX_JOBS:,} jobs."
        raise FilterRefused(what, written="", remedy="Narrow it, and take one part after the other.")
    found = list(ledger.bulks.jobs(job_ids))
    allowed = set(answerable({each.job.dag_id for each in found}))
    steps = [
        plan_step(action, each, may_act=each.job.dag_id in allowed, actor=actor, reviewers=reviewers) for each in found
    ]
    totals = total(steps, ledger.bulks.typical_costs(stopped_types(steps)))
    return Preview(action, wanted, steps, digest_of(action, steps, reviewers), totals, reviewers)


def _check_reviewers(action: BulkAction, reviewers: Reviewers | None) -> None:
    if (action is BulkAction.REASSIGN) is bool(reviewers):
        return
    what = "no one is named who may decide." if action is BulkAction.REASSIGN else f"{action} names no one who decides."
    raise CannotReassign(
        what, written="Nothing was changed. No external write was made.", remedy="Name users, roles or groups."
    )


def begin(ledger: Ledger, shown: Preview, *, count: int, digest: str, reason: str, actor: Actor) -> int:
    """Record a bulk action that its user has confirmed, and return its id. :func:`run` takes its steps.

    :param shown: what it would do now.
    :param count: the number that the user has typed.
    :param digest: of what the user saw.
    :raises BulkChanged: it is about other jobs now, or the number is another one. Nothing was recorded.
    """
    if count != shown.count or digest != shown.digest or not shown.count:
        raise BulkChanged(
            f"you confirmed {count:,} jobs, and it would be about {shown.count:,} now."
            if count != shown.count
            else "it would be about other jobs, or other attempts, than you saw.",
            written="Nothing was recorded. This request made no external write.",
            remedy="Check what it would do now, then confirm that.",
        )
    jobs = [NewBulkJob(step.job.job_id, step.seen, step.words if step.refused else None) for step in shown.steps]
    return ledger.bulks.begin(
        shown.action, shown.wanted.as_texts(), jobs, reason=reason, actor=actor, reviewers=shown.reviewers
    )


def run(
    ledger: Ledger,
    bulk_id: int,
    *,
    provider_for: ProviderFor,
    states_of: StatesOf,
    answerable: Answerable,
    seconds: float | None = None,
    on_step: Callable[[int, Outcome, str], None] = lambda *_: None,
) -> Progress:
    """Take the steps that are left, each job once at most in a run, for as long as there is time.

    Each step is recorded in the history of its job in the name of who confirmed the action.

    :param states_of: what Airflow says of task instances; only reconciling asks.
    :param seconds: when to begin no further step; None: never.
    :param on_step: called after each step.
    :raises BulkNotFound: there is none with this id.
    :raises LedgerUnavailable: the ledger is unavailable; what was done until then stays done.
    """
    bulk = ledger.bulks.read(bulk_id)
    began, until = ledger.now(), time.monotonic() + (float("inf") if seconds is None else seconds)
    while time.monotonic() < until and (item := ledger.bulks.next(bulk_id, began=began)):
        job_id, seen = item
        outcome, note = _take(ledger, bulk, job_id, seen, provider_for, states_of, answerable)
        ledger.bulks.record(bulk_id, job_id, outcome, note)
        on_step(job_id, outcome, note)
    return ledger.bulks.progress(bulk_id)


def _take(
    ledger: Ledger,
    bulk: Bulk,
    job_id: int,
    seen: dict[str, int],
    provider_for: ProviderFor,
    states_of: StatesOf,
    answerable: Answerable,
) -> tuple[Outcome, str]:
    """Take the step of one job. What keeps it from being taken keeps no other job from it."""
    dag_id = ledger.job(job_id).dag_id
    if not answerable([dag_id]):
        return Outcome.REFUSED, f"You may not act on the jobs of the Dag {dag_id}."
    reason = f"{bulk.reason} (bulk action {bulk.bulk_id})"
    try:
        match bulk.action:
            case BulkAction.CANCEL:
                job = cancel_job(ledger, provider_for, job_id, actor=bulk.actor, reason=reason)
                return Outcome.DONE, "Being cancelled." if job.cancelling else f"It is {job.state.value}."
            case BulkAction.ROLL_BACK:
                return _roll_back(ledger, bulk.actor, job_id, seen, reason)
            case BulkAction.ACKNOWLEDGE:
                ledger.acknowledgements.acknowledge(job_id, revision=seen["revision"], actor=bulk.actor, reason=reason)
                return Outcome.DONE, "Acknowledged."
            case BulkAction.RECONCILE:
                return _reconciled(reconcile_job(ledger, job_id, provider_for=provider_for, states_of=states_of))
            case BulkAction.REASSIGN:
                return _reassign(ledger, bulk, job_id, seen, reason)
        return _resolve(ledger, bulk, seen, reason)
    except (LedgerUnavailable, LedgerSchemaError):
        raise
    except HandoffError as error:
        return Outcome.REFUSED, str(error)
    except Exception as error:
        log.error("The step of a bulk action failed.", exc_info=shown(error))
        return Outcome.UNFINISHED, f"The step failed: {type(error).__name__}. The log has the details."


def _roll_back(ledger: Ledger, actor: Actor, job_id: int, seen: dict[str, int], reason: str) -> tuple[Outcome, str]:
    (found,) = ledger.bulks.jobs([job_id])
    job = found.job
    if job.state is JobState.ROLLED_BACK:
        return Outcome.DONE, "Rolled back."
    applied = {str(effect.effect_id): effect.attempt for effect in found.effects if effect.state is EffectState.APPLIED}
    if can_start(job) and applied != seen:
        return Outcome.REFUSED, "Other effects are applied than you saw. Nothing was undone."
    done = roll_back_now(ledger, job_id, actor=actor, reason=reason)
    return (Outcome.UNFINISHED, done.why) if isinstance(done, Unfinished) else (Outcome.DONE, "Rolled back.")


def _reassign(ledger: Ledger, bulk: Bulk, job_id: int, seen: dict[str, int], reason: str) -> tuple[Outcome, str]:
    assert bulk.reviewers is not None
    ledger.reassignments.reassign(job_id, bulk.reviewers, actor=bulk.actor, reason=reason, seen=seen[REASSIGNED])
    return Outcome.DONE, "Reassigned."


def _resolve(ledger: Ledger, bulk: Bulk, seen: dict[str, int], reason: str) -> tuple[Outcome, str]:
    applied = bulk.action is BulkAction.RESOLVE_APPLIED
    for effect_id, attempt in seen.items():
        answer(ledger, int(effect_id), applied=applied, external_id=None, why=reason, actor=bulk.actor, attempt=attempt)
    return Outcome.DONE, "Recorded."


def _reconciled(findings: Sequence[Finding]) -> tuple[Outcome, str]:
    failed = any(finding.failed for finding in findings)
    said = "; ".join(f"{finding.found}: {finding.done or finding.step}" for finding in findings)
    return Outcome.UNFINISHED if failed else Outcome.DONE, said or "Nothing was left behind."
