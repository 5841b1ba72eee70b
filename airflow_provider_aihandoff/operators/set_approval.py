"""Asks about every job of a set, and waits until all of them are decided: what the approval task does with a set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException
from airflow.sdk.definitions.mappedoperator import MappedOperator

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.error_text import said
from airflow_provider_aihandoff.core.errors import HandoffError, JobFailed, LedgerUnavailable
from airflow_provider_aihandoff.core.generation.settle import ResponseUnreadable
from airflow_provider_aihandoff.core.generation.stop import give_up
from airflow_provider_aihandoff.core.generation.submit import NotSubmitted
from airflow_provider_aihandoff.core.review.rules import due_times
from airflow_provider_aihandoff.core.sets.crew import frozen
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, JobState, RevisionState
from airflow_provider_aihandoff.hooks.ledger import LedgerHook
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.operators.job_tasks import draft_task, effect_tasks
from airflow_provider_aihandoff.operators.notices import NOTICE_RETRY, notify_set
from airflow_provider_aihandoff.operators.responding import store_ended
from airflow_provider_aihandoff.operators.retries import final_errors
from airflow_provider_aihandoff.operators.revising import send_change
from airflow_provider_aihandoff.targets.connections import kept
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Job, Revision
    from airflow_provider_aihandoff.core.review.ask_first import FirstAsk

#: How many of the jobs that cannot be asked about the log names.
_NAMED = 10

#: How many jobs are asked about in one transaction.
_ASKED_TOGETHER = 100

#: The states of jobs that were approved at some time.
_APPROVED = (
    JobState.APPROVED,
    JobState.APPLYING,
    JobState.COMPLETED,
    JobState.ROLLING_BACK,
    JobState.ROLLED_BACK,
)


class ApprovalTask(Protocol):
    """The task that waits for decisions, as this module uses it."""

    job_source: Any
    notifiers: list[BaseNotifier]
    on_reject: Literal["skip", "fail"]
    ledger_conn_id: str | None

    @property
    def log(self) -> Any:
        """The log of the task."""

    @property
    def defer(self) -> Any:
        """Defers the task."""

    def ask_about(self, context: Context, ledger: Ledger, job: Job) -> Job:
        """Render the plan of what a job says now, and ask about it."""

    def first_ask(self, context: Context, ledger: Ledger, job: Job, revision: Revision) -> FirstAsk:
        """Render the plan of a job that was never asked about."""

    def ask_first(self, context: Context, ledger: Ledger, asks: Sequence[FirstAsk]) -> list[Job | None]:
        """Ask about jobs that were never asked about."""

    def expire(self, ledger: Ledger, job: Job) -> Job:
        """End the review of a job, if it has expired."""


@dataclass
class _Undecided:
    """The jobs that wait for people.

    :param until: when there is something to do about one of them at the latest.
    :param newest: when people were asked about one of them last.
    :param example: one of them.
    """

    number: int = 0
    until: datetime | None = None
    newest: datetime | None = None
    example: Job | None = None

    def add(self, job: Job, now: datetime) -> None:
        """Count one."""
        assert job.review_deadline is not None
        times = [job.review_deadline, *(at for at in due_times(job).values() if at > now)]
        self.number += 1
        self.until = min([*times, *([] if self.until is None else [self.until])])
        if job.review_asked_at is not None and (self.newest is None or job.review_asked_at > self.newest):
            self.newest = job.review_asked_at
        self.example = self.example or job


def approve_set(sensor: ApprovalTask, context: Context, set_id: int, event: Any) -> dict[str, Any]:
    """Ask about every job of a set that was not asked about, and end where all are decided; otherwise defer.

    What cannot be asked about, since its plan does not render, holds up no other: it stays in review, is named in the
    log, and is asked about when the task is cleared.

    :param event: what ended the wait before; None in the first leg of an attempt.
    """
    with final_errors(sensor.ledger_conn_id), LedgerHook(sensor.ledger_conn_id).get_conn() as ledger:
        since = ledger.now()
        again = _follow_changes(sensor, context, ledger, set_id)
        with kept(), frozen():
            not_asked = _ask_about_all(sensor, context, ledger, set_id, again=event is None)
        left = _undecided(sensor, context, ledger, set_id)
        sent = _notify(sensor, context, ledger, set_id, left)
        changing = ledger.sets.waiting(set_id, changes=True)
        if left.number or changing or again:
            now = ledger.now()
            times = [] if left.until is None else [left.until]
            times += [now + timedelta(seconds=NOTICE_RETRY)] if again or not sent or not times else []
            _defer(sensor, ledger, set_id, since=since, until=min(times), number=left.number)
        return _end(sensor, ledger, set_id, not_asked)


def _pages(read: Any) -> Iterator[Job]:
    """Each job of a query that gives them in pages."""
    after = 0
    while page := read(after):
        yield from page
        after = page[-1].job_id


def _ask_about_all(
    sensor: ApprovalTask, context: Context, ledger: Ledger, set_id: int, *, again: bool
) -> dict[str, str]:
    """Render the plan of each job that has none, and ask about it; the policy decides at once where it can.

    :return: why a job could not be asked about, by its label.
    """
    problems: dict[str, str] = {}
    for task in effect_tasks(context["dag"], sensor.job_source):
        if not isinstance(task, MappedOperator):
            task.share_environment()
    jobs = _pages(lambda after: ledger.sets.unasked(set_id, again=again, after=after))
    while some := list(islice(jobs, _ASKED_TOGETHER)):
        new = [job for job in some if job.review_digest is None and job.review_deadline is None]
        asked = _ask_first(sensor, context, ledger, new, problems)
        for job in some:
            if job.job_id in asked or job.label in problems:
                continue
            try:
                sensor.ask_about(context, ledger, job)
            except LedgerUnavailable:
                raise
            except (HandoffError, AirflowFailException) as error:
                problems[job.label] = said(error)
    for label, problem in list(problems.items())[:_NAMED]:
        sensor.log.warning("%s cannot be asked about: %s", label, problem)
    return problems


def _ask_first(
    sensor: ApprovalTask, context: Context, ledger: Ledger, jobs: Sequence[Job], problems: dict[str, str]
) -> set[int]:
    """Ask about jobs that were never asked about, together.

    :param problems: why a plan does not render, by the label of its job; it is added to.
    :return: the ids of those that were asked about, or decided.
    """
    revisions = ledger.together.read([(job.job_id, job.revision) for job in jobs])
    asks = []
    for job, revision in zip(jobs, revisions, strict=True):
        try:
            asks.append(sensor.first_ask(context, ledger, job, revision))
        except LedgerUnavailable:
            raise
        except (HandoffError, AirflowFailException) as error:
            problems[job.label] = said(error)
    try:
        done = sensor.ask_first(context, ledger, asks) if asks else []
    except LedgerUnavailable:
        raise
    except Exception as error:  # noqa: BLE001 - nothing was recorded; alone, each says what is wrong with it
        sensor.log.info("A step of several jobs was refused (%s); each is asked about alone.", type(error).__name__)
        return set()
    return {job.job_id for job in done if job is not None}


def _undecided(sensor: ApprovalTask, context: Context, ledger: Ledger, set_id: int) -> _Undecided:
    """The jobs that wait for a decision, after what is due for each was done: a reminder, others who may decide, or the
    end of its time."""
    left, actor = _Undecided(), owner_of(context).actor
    now = ledger.now()
    for found in _pages(lambda after: ledger.sets.jobs(set_id, [JobState.REVIEW], after=after)):
        job = found
        if job.review_digest is None or job.review_deadline is None:
            continue
        if any(at <= now for at in due_times(job).values()):
            job = ledger.reviews.notify(job.job_id, digest=str(job.review_digest), actor=actor)
        if job.state is JobState.REVIEW and job.review_deadline is not None and job.review_deadline <= now:
            job = sensor.expire(ledger, job)
        if job.state is JobState.REVIEW and job.review_digest is not None:
            left.add(job, now)
    return left


def _notify(sensor: ApprovalTask, context: Context, ledger: Ledger, set_id: int, left: _Undecided) -> bool:
    """Notify people once of all that wait for them, and again where others were asked about since.

    :return: False where no notifier could send it.
    """
    if not sensor.notifiers or left.example is None or left.newest is None:
        return True
    before = ledger.sets.read(set_id).notified_at
    if before is not None and before >= left.newest:
        return True
    if not notify_set(sensor.notifiers, context, ledger, left.example, left.number):
        return False
    ledger.sets.notified(set_id)
    return True


def _follow_changes(sensor: ApprovalTask, context: Context, ledger: Ledger, set_id: int) -> bool:
    """Have the model make the revisions that reviewers have asked for, and take those that have ended.

    :return: whether something is to be tried again after a while.
    """
    again = False
    with providers() as provider_for:
        task, actor = draft_task(context["dag"], sensor.job_source), owner_of(context).actor
        states = [JobState.QUEUED, JobState.RUNNING]
        for job in _pages(lambda after: ledger.sets.jobs(set_id, states, after=after)):
            revision = ledger.revision(job.job_id, job.revision)
            if revision.changes is None or task is None:
                continue
            try:
                if job.state is JobState.QUEUED:
                    revision = send_change(task, context, ledger, provider_for, job, revision)
                    job = ledger.job(job.job_id)
                if revision.state is not RevisionState.RUNNING or job.revision != revision.number:
                    continue
                if revision.response_status not in ENDED_RESPONSE_STATUSES:
                    if ledger.now() < revision.deadline:
                        continue
                    provider = provider_for(revision.conn_id)
                    if give_up(ledger, provider, job.job_id, revision.number, why="deadline", actor=actor) is None:
                        continue
                store_ended(ledger, provider_for, job, revision, output_type=task.output_type, actor=actor)
            except JobFailed as failure:
                sensor.log.warning("%s", failure)
            except (NotSubmitted, ResponseUnreadable) as error:
                sensor.log.warning("%s", error)
                again = True
    return again


def _defer(sensor: ApprovalTask, ledger: Ledger, set_id: int, *, since: datetime, until: datetime, number: int) -> None:
    """Wait for decisions.

    :raises TaskDeferred: always.
    """
    from airflow_provider_aihandoff.triggers.set_wait import SetTrigger

    sensor.log.info("%s jobs of set %s wait for a decision.", f"{number:,}", set_id)
    now = ledger.now()
    ledger.close()
    sensor.defer(
        trigger=SetTrigger(
            set_id=set_id,
            phase="review",
            ledger_conn_id=LedgerHook(sensor.ledger_conn_id).ledger_conn_id,
            since=since.isoformat(),
            until=until.isoformat(),
            until_anyway=True,
            not_before=(now + settings.seconds("min_deferral")).isoformat(),
            poll_interval=settings.number("poll_interval"),
        ),
        method_name="execute",
    )


def _end(sensor: ApprovalTask, ledger: Ledger, set_id: int, not_asked: dict[str, str]) -> dict[str, Any]:
    """The XCom; or the end that a rejection means, where nothing of the set was approved.

    :raises AirflowFailException: nothing was, and the author says fail; or nothing could be asked about.
    :raises AirflowSkipException: nothing was, and the author says skip.
    """
    found, total = ledger.sets.read(set_id), ledger.sets.total(set_id)
    words = total.in_words(found.without_job.number)
    if not total.in_states(*_APPROVED):
        if not_asked and not total.in_states(JobState.REJECTED):
            first = next(iter(not_asked.values()))
            raise AirflowFailException(
                f"{found.label}: no job could be asked about. The first one: {first} No external write was made. Fix "
                "the templates, then clear this task."
            )
        message = f"{found.label}: nothing was approved ({words}). No external write was made."
        raise AirflowFailException(message) if sensor.on_reject == "fail" else AirflowSkipException(message)
    sensor.log.info("%s: %s.", found.label, words)
    states = {state.value: number for state, number in total.states.items()}
    return {"set_id": set_id, "states": states, "not_asked": len(not_asked), "said": words}
