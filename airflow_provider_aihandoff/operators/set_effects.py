"""Applies the effect of each approved job of a set: what the task of an effect does with a set."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.effects.apply import Suspended, Wait
from airflow_provider_aihandoff.core.error_text import said
from airflow_provider_aihandoff.core.errors import (
    EffectNotNow,
    EffectRefused,
    EffectUnknown,
    HandoffError,
    LedgerUnavailable,
    PlanNotApproved,
)
from airflow_provider_aihandoff.core.jobs.job_view import view
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.sets.crew import Crew, frozen
from airflow_provider_aihandoff.core.sets.fail_when import too_many
from airflow_provider_aihandoff.core.sets.shared_steps import SharedWrites
from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.hooks.ledger import LedgerHook
from airflow_provider_aihandoff.operators import notices
from airflow_provider_aihandoff.operators.asset_events import announce_set, check_type, declared
from airflow_provider_aihandoff.operators.job_tasks import approval_task
from airflow_provider_aihandoff.operators.planning import ask_again, effects_before
from airflow_provider_aihandoff.operators.retries import final_errors, is_retry
from airflow_provider_aihandoff.operators.waiting import INLINE_SECONDS
from airflow_provider_aihandoff.targets.connections import kept
from airflow_provider_aihandoff.task_states import is_under_way, owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.effects.effect_store import WriteSteps
    from airflow_provider_aihandoff.core.effects.target import Target
    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import EffectPlan, Job, Revision

#: After so many writes of one leg that are held, or that the target does not take now, it sends no more: the others
#: would fare the same.
_ENOUGH = 32

#: Why a job is not tried again in a leg.
_NOT_PLANNED, _REFUSED, _FAILED, _NOT_NOW, _UNKNOWN = "not planned", "refused", "failed", "not now", "unknown"
_ASKED_AGAIN = "asked again"

#: How many jobs are read at a time with what their templates see.
_READ_TOGETHER = 100

#: How many problems of jobs, and how many writes that wait for a person, one leg says of.
_NAMED = 20

#: Seconds for which a task waits in the triggerer at most, before it tries again what is held.
_LONGEST_WAIT = 300.0

#: Seconds for which a task waits where the approval task has asked about none of the jobs that are left.
_ASKING_WAIT = 30.0

#: Seconds between two legs that wait for decisions, at least, where the first one had nothing to send.
_IDLE = 30.0

#: Seconds that a decision takes at most from its time in the ledger until others see it.
_COMMITTED_WITHIN = 10.0

#: Seconds after which a write is sent again with the same key whose outcome is unknown.
_SENT_AGAIN_AFTER = 1.0

#: How many times in a row a target may ask to come back later.
_NOT_NOW_TIMES = 8


class EffectTask(Protocol):
    """The task of an effect, as this module uses it."""

    task_id: str
    job_source: Any
    outlets: list[Any]
    ledger_conn_id: str | None
    write_at_once: int
    wait_for_decisions: bool
    hold_timeout: timedelta | None
    fail_when: float | int | None
    retries: int | None

    @property
    def log(self) -> Any:
        """The log of the task."""

    @property
    def defer(self) -> Any:
        """Defers the task."""

    @property
    def effect_name(self) -> str:
        """The effect's name within its job."""

    @property
    def applies(self) -> bool:
        """Whether the effect is part of the plan."""

    def share_environment(self) -> None:
        """Render its copies in one environment."""

    def view_of(self, ledger: Ledger, job_id: int) -> JobView:
        """A job as its templates see it."""

    def parts(self, context: Context, job: JobView) -> Sequence[Any]:
        """Copies of the task with their fields rendered for a job."""

    def plans(self, context: Context, job: JobView, *, key: str, after: Sequence[str]) -> list[EffectPlan]:
        """The plan of each of the parts."""

    def readings_of_attempts(self, ledger: Ledger, job_id: int) -> dict[str, Any]:
        """What the targets had before they may have been written to."""

    def ensure_planned(self, context: Context, ledger: Ledger, job: JobView) -> None:
        """Plan the effects of a job that needs no approval."""

    def skip(self, context: Context, ledger: Ledger, job_id: int, plan: EffectPlan) -> Effect:
        """Check that the plan that was approved leaves the effect out."""

    def apply_one(
        self,
        context: Context,
        ledger: Ledger,
        job_id: int,
        plan: EffectPlan,
        target: Target,
        not_now: int,
        steps: WriteSteps | None = None,
    ) -> Effect | Wait | HandoffError:
        """Apply one effect."""

    def notifiers_for(self, context: Context) -> Sequence[BaseNotifier]:
        """Who is called where a write waits for a person."""


class SetNotWritten(RuntimeError):
    """The target took some of the writes of a set not now; a retry sends those."""


@dataclass
class _Pass:
    """What came of going through the jobs once.

    :param waits: what is to be tried again, but for what waits for a person.
    :param persons: the effects that wait for a person.
    :param problems: what stopped a job, by its label.
    :param tried: how many jobs had something to write, in this leg.
    :param stopped: the jobs that are not tried again in this leg, each with what became of it in a word.
    """

    waits: list[Wait] = field(default_factory=list)
    persons: list[Wait] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    stopped: dict[int, str] = field(default_factory=dict)
    tried: int = 0

    def stops(self) -> bool:
        """Whether no more is sent in this leg."""
        return self.held + self.ended_as(_NOT_NOW) >= _ENOUGH

    @property
    def held(self) -> int:
        """How many writes a pause or a limit holds."""
        return sum(wait.held for wait in self.waits)

    def ended_as(self, *words: str) -> int:
        """How many jobs are not tried again in this leg, for these reasons."""
        return sum(word in words for word in self.stopped.values())

    def again(self) -> _Pass:
        """The next one, of the same leg. What was asked about again may be approved by now."""
        stopped = {job_id: why for job_id, why in self.stopped.items() if why != _ASKED_AGAIN}
        return _Pass(problems=self.problems, stopped=stopped, persons=self.persons, tried=self.tried)


def apply_to_set(task: EffectTask, context: Context, set_id: int, event: Any) -> dict[str, Any]:
    """Apply the effect of each approved job of a set, some at the same time, and end with the counts.

    :param event: what ended the wait before; None in the first leg of an attempt.
    :raises AirflowFailException: too many could not be written.
    :raises SetNotWritten: the target did not take some of them now.
    """
    not_now = int((event or {}).get("not_now", 0))
    # What a target refused is sent again by a clear, and not by Airflow's retry.
    refused = event is None and not is_retry(context, task.retries)
    with (
        final_errors(task.ledger_conn_id),
        LedgerHook(task.ledger_conn_id).get_conn(max_size=task.write_at_once + 1) as ledger,
    ):
        found = ledger.sets.read(set_id)
        check_type(declared(task, context), found.set_type, job=found.label)
        writing = _Writing(task, context, ledger, set_id)
        done = _Pass()
        while True:
            decisions = _decisions(task, context, ledger, set_id)
            writing.all(done, not_now=not_now, refused=refused)
            refused = False
            seconds = _seconds(done)
            if seconds is None:
                if decisions is None and task.wait_for_decisions and done.ended_as(_ASKED_AGAIN):
                    done = done.again()
                    continue
                break
            asked = max((wait.not_now for wait in done.waits), default=0)
            not_now = min(not_now + 1, _NOT_NOW_TIMES) if asked else 0
            if seconds > INLINE_SECONDS or done.held:
                writing.defer(done, seconds, None if asked else decisions, not_now=not_now)
            time.sleep(seconds)
            done = done.again()
        writing.notify(done.persons)
        waits = [left for left in [writing.seconds_for_people(done.persons)] if left > 0]
        waits += [] if decisions is None else [decisions.seconds]
        if waits:
            writing.defer(done, min(*waits, _LONGEST_WAIT), None if done.ended_as(_NOT_NOW) else decisions)
        ended = _end(task, ledger, set_id, done)
        announce_set(task, context, ledger, set_id)
        return ended


@dataclass(frozen=True)
class _Decisions:
    """Decisions that a task waits for.

    :param since: jobs that were approved later may not be among those that the task has read; None where people are
        asked about none.
    :param seconds: for how long it waits at most, before it reads the set again.
    """

    since: datetime | None
    seconds: float


def _decisions(task: EffectTask, context: Context, ledger: Ledger, set_id: int) -> _Decisions | None:
    """What the task waits for beside its writes; None where every job is decided, or it waits for none."""
    if not task.wait_for_decisions:
        return None
    since = ledger.now() - timedelta(seconds=_COMMITTED_WITHIN)
    left = ledger.sets.undecided(set_id)
    if left.asked:
        return _Decisions(since, _LONGEST_WAIT)
    # A job whose plan does not render is never asked about: it waits for no one once the approval task has ended.
    if left.unasked and is_under_way(context, approval_task(context["dag"], task.job_source)):
        return _Decisions(None, _ASKING_WAIT)
    return None


class _Writing:
    """The jobs of one set, as one task writes them."""

    def __init__(self, task: EffectTask, context: Context, ledger: Ledger, set_id: int) -> None:
        self._task, self._context, self._ledger, self._set_id = task, context, ledger, set_id
        self._key, self._after = ledger.digest_key(), effects_before(context["dag"], task)
        self._steps = SharedWrites(ledger, actor=owner_of(context).actor, most=task.write_at_once)
        self._asked_again = set[int]()
        task.share_environment()

    def all(self, done: _Pass, *, not_now: int, refused: bool) -> None:
        """Go through the jobs once: render each here, and write in threads."""
        after = 0

        def collect(results: Sequence[tuple[Job, Effect | Wait | HandoffError]]) -> None:
            for job, result in results:
                self._take(done, job, result)

        with kept(), frozen(), Crew(self._task.write_at_once, collect) as crew:
            self._steps.others = crew.__len__
            while page := self._ledger.sets.writable(self._set_id, self._task.task_id, refused=refused, after=after):
                for job, revision in self._with_revisions(page):
                    if job.job_id in done.stopped:
                        continue
                    if done.stops():
                        return
                    try:
                        planned = self._planned(job, revision)
                    except LedgerUnavailable:
                        raise
                    except Exception as error:  # noqa: BLE001 - whatever its templates do, it is about this job
                        done.problems[job.label] = error.what if isinstance(error, HandoffError) else said(error)
                        done.stopped[job.job_id] = _NOT_PLANNED
                        continue
                    done.tried += 1
                    crew.give(self._write, job, planned, not_now)
                after = page[-1].job_id

    def _with_revisions(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Revision]]:
        """Each job with its current revision, of which some are read at a time."""
        left = iter(jobs)
        while some := list(islice(left, _READ_TOGETHER)):
            revisions = self._ledger.together.read([(job.job_id, job.revision) for job in some])
            yield from zip(some, revisions, strict=True)

    def _planned(self, job: Job, revision: Revision) -> list[tuple[EffectPlan, Target | None]]:
        """What is to be sent for a job, rendered as it was for its approval; without a target, what is left out."""
        task, ledger, context = self._task, self._ledger, self._context
        seen = view(job, revision)
        parts = task.parts(context, seen)
        readings = task.readings_of_attempts(ledger, job.job_id)
        planned: list[tuple[EffectPlan, Target | None]] = [
            (
                part.effect_plan(seen, key=self._key, after=self._after, reading=readings.get(part.effect_name)),
                part.target() if part.applies else None,
            )
            for part in parts
        ]
        if not parts:
            planned = [(plan, None) for plan in task.plans(context, seen, key=self._key, after=self._after)]
        if job.approval != "required":
            task.ensure_planned(context, ledger, seen)
        return planned

    def _write(
        self, job: Job, what: Sequence[tuple[EffectPlan, Target | None]], not_now: int
    ) -> list[tuple[Job, Effect | Wait | HandoffError]]:
        """Write the effects of one job, in a thread of the worker. What becomes of them holds up no other job."""
        results: list[tuple[Job, Effect | Wait | HandoffError]] = []
        for plan, target in what:
            try:
                if target is None:
                    self._task.skip(self._context, self._ledger, job.job_id, plan)
                    continue
                with self._steps.writing(job.job_id):
                    results.append((job, self._apply(job, plan, target, not_now)))
            except LedgerUnavailable:
                raise
            except PlanNotApproved as refusal:
                source, seen = self._task.job_source, self._task.view_of(self._ledger, job.job_id)
                answer = ask_again(self._context, source, seen, self._ledger, refusal)
                if answer is not refusal:
                    self._asked_again.add(job.job_id)
                results.append((job, answer))
                break
            except HandoffError as error:
                results.append((job, error))
        return results

    def _apply(self, job: Job, plan: EffectPlan, target: Target, not_now: int) -> Effect | Wait | HandoffError:
        task, ledger, context = self._task, self._ledger, self._context
        return task.apply_one(context, ledger, job.job_id, plan, target, not_now, self._steps)

    def _take(self, done: _Pass, job: Job, result: Effect | Wait | HandoffError) -> None:
        """Count what came of one effect."""
        if isinstance(result, Wait) and (result.held or result.seconds is not None):
            done.waits.append(result)
        elif isinstance(result, Wait):
            done.persons.append(result)
            done.stopped[job.job_id] = _UNKNOWN
        elif isinstance(result, EffectUnknown):  # the target takes the same key again
            done.waits.append(Wait(result.effect, _SENT_AGAIN_AFTER, str(result)))
        elif isinstance(result, HandoffError):
            done.problems[job.label] = result.what
            if isinstance(result, EffectNotNow | Suspended):  # it was not sent, and a retry sends it
                done.stopped[job.job_id] = _NOT_NOW
            elif isinstance(result, EffectRefused):
                done.stopped[job.job_id] = _REFUSED
            else:
                done.stopped[job.job_id] = _ASKED_AGAIN if job.job_id in self._asked_again else _FAILED

    def notify(self, persons: Sequence[Wait]) -> None:
        """Notify people of writes that wait for them, some of them where there are many."""
        notifiers = self._task.notifiers_for(self._context)
        for wait in persons[:_NAMED]:
            self._task.log.warning("%s", wait.why)
            notices.notify_wait(notifiers, self._context, self._ledger, wait.effect)

    def seconds_for_people(self, persons: Sequence[Wait]) -> float:
        """For how long the task waits for them yet; 0 where it does not."""
        if self._task.hold_timeout is None or not persons:
            return 0.0
        shortest = min(self._ledger.effects.seconds_unknown(wait.effect.effect_id) for wait in persons)
        return max(0.0, self._task.hold_timeout.total_seconds() - shortest)

    def defer(self, done: _Pass, seconds: float, decisions: _Decisions | None, *, not_now: int = 0) -> None:
        """Wait until something changes, or for so long.

        :param decisions: that it waits for beside its writes.
        :raises TaskDeferred: always.
        """
        from airflow_provider_aihandoff.triggers.set_wait import SetTrigger

        task, ledger = self._task, self._ledger
        _name_problems(task, done)
        task.log.info("Set %s: %s. Waiting.", self._set_id, _counts(ledger, self._set_id, task))
        now, since = ledger.now(), None if decisions is None else decisions.since
        idle = timedelta(seconds=_IDLE) if decisions is not None and not done.tried else timedelta(0)
        ledger.close()
        task.defer(
            trigger=SetTrigger(
                set_id=self._set_id,
                phase="write",
                effect=task.task_id,
                since=None if since is None else since.isoformat(),
                ledger_conn_id=LedgerHook(task.ledger_conn_id).ledger_conn_id,
                until=(now + timedelta(seconds=seconds)).isoformat(),
                until_anyway=True,
                not_before=(now + max(settings.seconds("min_deferral"), idle)).isoformat(),
                poll_interval=settings.number("poll_interval"),
                not_now=not_now,
            ),
            method_name="execute",
        )


def _name_problems(task: EffectTask, done: _Pass) -> None:
    for label, problem in list(done.problems.items())[:_NAMED]:
        task.log.warning("%s: %s", label, problem)


def _seconds(done: _Pass) -> float | None:
    """After how long something is to be tried again; None where there is nothing."""
    if not done.waits:
        return None
    soonest = min((wait.seconds for wait in done.waits if wait.seconds is not None), default=_LONGEST_WAIT)
    return min(soonest, _LONGEST_WAIT)


def _counts(ledger: Ledger, set_id: int, task: EffectTask) -> str:
    states = ledger.sets.effect_states(set_id, task.task_id)
    return ", ".join(f"{number:,} {state.value}" for state, number in states.items()) or "no effect"


def _end(task: EffectTask, ledger: Ledger, set_id: int, done: _Pass) -> dict[str, Any]:
    """The XCom: the counts; or the failure of the task."""
    found, total = ledger.sets.read(set_id), ledger.sets.total(set_id)
    states = ledger.sets.effect_states(set_id, task.task_id)
    words = total.in_words(found.without_job.number)
    _name_problems(task, done)
    if late := done.ended_as(_NOT_NOW):
        raise SetNotWritten(
            f"{found.label}: {late:,} writes could not be made now ({words}). These made no external write. A "
            f"retry sends them. The first: {next(iter(done.problems.values()))}"
        )
    others = done.ended_as(_NOT_PLANNED, _FAILED, _ASKED_AGAIN)
    wrong = states.get(EffectState.REFUSED, 0) + others
    written = sum(states.values()) + done.ended_as(_NOT_PLANNED)
    if wrong and too_many(wrong, written, task.fail_when):
        first = next(iter(done.problems.values()), "")
        raise AirflowFailException(
            f"{found.label}: {wrong:,} of {written:,} writes could not be made ({words}). The first: {first} What was "
            "written stays. Fix the cause, then clear this task: it sends only what is missing."
        )
    task.log.info("%s: %s.", found.label, words)
    return {
        "set_id": set_id,
        "effect": task.effect_name,
        "effects": {state.value: number for state, number in states.items()},
        "said": words,
    }
