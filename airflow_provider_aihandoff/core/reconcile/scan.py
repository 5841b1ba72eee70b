"""Finds what was left behind, and the step that goes with each finding. Yields; it takes no step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import partial

from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ProviderFor, ProviderUnreachable
from airflow_provider_aihandoff.core.generation.surplus import settle_surplus
from airflow_provider_aihandoff.core.generation.surplus_store import Surplus
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import RECONCILER, InboxEntry, Owner
from airflow_provider_aihandoff.core.reconcile.act import end_unsent, keep_deadline, stop, stop_batch
from airflow_provider_aihandoff.core.reconcile.diagnose import (
    DEADLINE_GRACE,
    TASK_GRACE,
    Diagnosis,
    TaskState,
    diagnose,
    in_words,
)
from airflow_provider_aihandoff.core.reconcile.findings import LIMIT, MOVED_ON, Finding, Planned
from airflow_provider_aihandoff.core.reconcile.scan_store import ExpiredReview, InFlight, UnsentEffect
from airflow_provider_aihandoff.core.sets.batch_record import BatchState
from airflow_provider_aihandoff.core.sets.batch_store import LeftBatch
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from airflow_provider_aihandoff.core.webhooks.event_types import is_safety_notice

#: The states of task instances; the state of one that is left out is not known.
StatesOf = Callable[[Collection[Owner]], Mapping[Owner, TaskState]]

#: OpenAI delivers a webhook again for 72 hours. One that is forgotten before then would be taken for a new one.
MIN_RETENTION = timedelta(hours=96)

#: Requests over one connection that got no answer, after which it is left alone in this run: each may take its time.
_UNANSWERED = 2


_VERDICTS = {"reject": "reject it", "fail": "fail it", None: "clear its approval task, which knows what it means"}


class NotAsked(RuntimeError):
    """OpenAI did not answer over this connection before."""


class Search:
    """One search of one ledger. Each method searches only as far as its result is read."""

    def __init__(self, ledger: Ledger, provider_for: ProviderFor, states_of: StatesOf) -> None:
        self._ledger, self._provider_for, self._states_of = ledger, provider_for, states_of
        self._unanswered: Counter[str] = Counter()

    def due_webhooks(self, limit: int) -> Iterator[Planned]:
        """Webhooks about whose response OpenAI is to be asked."""
        for entry in self._ledger.inbox.due(limit):
            step = "ask OpenAI whose response it is, or what it has cost"
            yield _about(entry, "webhook due", step), partial(self._poll, entry)

    def matched_webhooks(self, limit: int) -> Iterator[Planned]:
        """Webhooks in quarantine whose response a job has by now."""
        for entry in self._ledger.abandoned.matched_webhooks(limit):
            step = partial(self._correlate, entry)
            yield _about(entry, "webhook matched", "give it to the job that has its response"), step

    def unexplained_webhooks(self, limit: int) -> Iterator[Planned]:
        """Webhooks in quarantine about which OpenAI is no longer asked."""
        for entry in self._ledger.abandoned.unexplained_webhooks(limit):
            if is_safety_notice(entry.event_type):
                step = "read it (`airflow aihandoff inbox show`), act on it at OpenAI, then `inbox discard`"
                yield _about(entry, "safety notice", step), None
                continue
            step = "check it, then `airflow aihandoff inbox replay` or `inbox discard`"
            yield _about(entry, "webhook unexplained", step), None

    def _correlate(self, entry: InboxEntry) -> str:
        return _became(self._ledger.inbox.correlate(entry.webhook_id))

    def _poll(self, entry: InboxEntry) -> str:
        entry = self._ledger.inbox.correlate(entry.webhook_id)
        if entry.poll_at is None:
            return _became(entry)
        try:
            provider = self._provider_for(entry.conn_id)
        except Exception as error:
            # Recorded as a poll, so that the webhooks of a connection that was removed do not block all others forever.
            note = f"its connection {entry.conn_id} cannot be used: {type(error).__name__}"
            self._ledger.inbox.polled(entry.webhook_id, note=note, again=True)
            raise
        return _became(find_owner(self._ledger, entry.webhook_id, provider))

    def of_job(self, job_id: int) -> Iterator[Planned]:
        """What was left behind of one job: its response, its review, and its effects."""
        yield from (plan() for _, plan in self.jobs(job_id))
        yield from self.expired_reviews(1, job_id)
        yield from self.unsaid_reviews(1, job_id)
        yield from self.expired_claims(LIMIT, job_id)

    def jobs(self, job_id: int | None = None) -> Iterator[tuple[str, Callable[[], Planned]]]:
        """The jobs that wait for an output and have a problem: its kind, and what makes the finding.

        :param job_id: only this job.
        """
        for page in self._ledger.abandoned.in_flight(DEADLINE_GRACE, job_id):
            tasks = self._states_of({job.owner for job in page})
            for job in page:
                task = tasks.get(job.owner, TaskState.UNKNOWN)
                diagnosis = diagnose(job, task)
                if diagnosis is None or (diagnosis is Diagnosis.ABANDONED and self._somebody_waits(job)):
                    continue
                yield diagnosis.value, partial(self._planned, job, diagnosis, task)

    def _planned(self, job: InFlight, diagnosis: Diagnosis, task: TaskState) -> Planned:
        steps = {
            Diagnosis.OVERDUE: self._keep_deadline,
            Diagnosis.ABANDONED: self._stop,
            Diagnosis.LOST: self._end_unsent,
            Diagnosis.NEVER_SENT: self._end_unsent,
        }
        found, words = in_words(job, diagnosis, task)
        finding = Finding(diagnosis.value, f"{job.job_type} {job.job_key}: {found}", words, job_id=job.job_id)
        return finding, partial(steps[diagnosis], job) if diagnosis in steps else None

    def _keep_deadline(self, job: InFlight) -> str:
        return self._ask(job.conn_id, lambda provider: keep_deadline(self._ledger, provider, job))

    def _stop(self, job: InFlight) -> str:
        def is_orphaned() -> bool:
            return self._task_of(job).has_ended and not self._somebody_waits(job)

        return self._ask(job.conn_id, lambda provider: stop(self._ledger, provider, job, is_orphaned=is_orphaned))

    def _end_unsent(self, job: InFlight) -> str:
        return end_unsent(self._ledger, job) if self._task_of(job).is_gone else MOVED_ON

    def _task_of(self, job: InFlight) -> TaskState:
        """The state of the job's task now: a user may have cleared it since."""
        return self._states_of([job.owner]).get(job.owner, TaskState.UNKNOWN)

    def _somebody_waits(self, job: InFlight) -> bool:
        """Whether a task that may be alive, of any Dag run, has come for this revision and may wait for it."""
        attempts = self._ledger.abandoned.attempts(job.job_id)
        came = {replace(attempt, try_number=0) for attempt in attempts}
        tasks = self._states_of(came)
        return any(
            not (state.has_ended or state is TaskState.MISSING)
            for state in (tasks.get(t, TaskState.UNKNOWN) for t in came)
        )

    def _ask(self, conn_id: str, step: Callable[[ModelProvider], str]) -> str:
        if self._unanswered[conn_id] >= _UNANSWERED:
            raise NotAsked(f"OpenAI did not answer over {conn_id} before")
        try:
            done = step(self._provider_for(conn_id))
        except ProviderUnreachable:
            self._unanswered[conn_id] += 1
            raise
        del self._unanswered[conn_id]
        return done

    def left_batches(self, limit: int) -> Iterator[Planned]:
        """Batches whose task has ended: they are stopped, and what they have cost is recorded."""
        found = self._ledger.batches.untouched(TASK_GRACE, limit)
        tasks = self._states_of({left.owner for left in found})
        for left in found:
            batch, task = left.batch, tasks.get(left.owner, TaskState.UNKNOWN)
            if not task.has_ended:
                continue
            words = f"{batch.label} is {batch.in_words()}, and its task has ended"
            if batch.state is not BatchState.ENDED:
                step = "find out what became of it, and stop it at OpenAI"
                yield Finding("batch left", words, step), partial(self._end_batch, left)
            elif self._ledger.batches.has_late(batch):
                step = "record what the requests that were given up have cost"
                yield Finding("batch left", words, step), partial(self._end_batch, left)
            else:
                yield Finding("batch left", words, "clear the draft task to take its outputs"), None

    def _end_batch(self, left: LeftBatch) -> str:
        if not self._states_of([left.owner]).get(left.owner, TaskState.UNKNOWN).has_ended:
            return MOVED_ON
        return self._ask(left.batch.conn_id, lambda provider: stop_batch(self._ledger, provider, left.batch))

    def surplus_responses(self, limit: int) -> Iterator[Planned]:
        """Responses that no revision waits for: theirs was replaced or cancelled, or has another one."""
        for surplus in self._ledger.surplus.open(TASK_GRACE, limit):
            found = f"the response {surplus.response_id} of revision {surplus.number} is not waited for"
            step = "cancel it at OpenAI, and record what it has cost"
            yield Finding("surplus response", found, step, job_id=surplus.job_id), partial(self._settle, surplus)

    def _settle(self, surplus: Surplus) -> str:
        return self._ask(
            surplus.conn_id, lambda provider: settle_surplus(self._ledger, provider, surplus, actor=RECONCILER)
        )

    def expired_reviews(self, limit: int, job_id: int | None = None) -> Iterator[Planned]:
        """Reviews that have expired, where the ledger knows what that means.

        :param job_id: only the review of this job.
        """
        for review in self._ledger.abandoned.expired_reviews(DEADLINE_GRACE, said=True, limit=limit, job_id=job_id):
            yield _about_review(review, "review over"), partial(self._expire, review)

    def unsaid_reviews(self, limit: int, job_id: int | None = None) -> Iterator[Planned]:
        """Reviews that have expired, where only their task knows what that means: an older release asked.

        :param job_id: only the review of this job.
        """
        for review in self._ledger.abandoned.expired_reviews(DEADLINE_GRACE, said=False, limit=limit, job_id=job_id):
            yield _about_review(review, "review over, task needed"), None

    def _expire(self, review: ExpiredReview) -> str:
        fail = review.review_on_timeout == "fail"
        job = self._ledger.reviews.expire(review.job_id, digest=review.review_digest, fail=fail)
        return f"the job is {job.state}" if job.state in (JobState.REJECTED, JobState.FAILED) else MOVED_ON

    def expired_claims(self, limit: int, job_id: int | None = None) -> Iterator[Planned]:
        """Effects whose attempt has ended without an outcome, and that no task has come back for.

        :param job_id: only effects of this job.
        """
        for effect in self._ledger.abandoned.expired_claims(DEADLINE_GRACE, limit, job_id):
            found = f"attempt {effect.attempt} at the effect {effect.name!r} ended without an outcome"
            finding = Finding("expired claim", found, "record that its outcome is not known", job_id=effect.job_id)
            yield finding, partial(self._give_up, effect.effect_id)

    def _give_up(self, effect_id: int) -> str:
        effect = self._ledger.effects.give_up(effect_id, actor=RECONCILER)
        unknown = effect.state is EffectState.UNKNOWN
        return "it is unknown: clear its task, which finds out, or resolve it" if unknown else MOVED_ON

    def skipped_effects(self) -> Iterator[Planned]:
        """The planned effects of approved jobs whose task Airflow has skipped: no task will apply them."""
        for page in self._ledger.abandoned.unsent_effects(TASK_GRACE):
            tasks = self._states_of({effect.owner for effect in page})
            for effect in page:
                if tasks.get(effect.owner) is TaskState.SKIPPED:
                    found = f"the effect {effect.name!r} is planned, and Airflow skipped its task"
                    finding = Finding("skipped effect", found, "record that it is skipped", job_id=effect.job_id)
                    yield finding, partial(self._skip, effect)

    def _skip(self, effect: UnsentEffect) -> str:
        if self._states_of([effect.owner]).get(effect.owner) is not TaskState.SKIPPED:
            return MOVED_ON
        self._ledger.effects.skip(effect.effect_id, actor=RECONCILER, reason="Airflow skipped its task")
        return f"the job is {self._ledger.job(effect.job_id).state}"

    def old_webhooks(self, retention: timedelta) -> Iterator[Planned]:
        """The webhooks that need not be kept any longer, all together."""
        count = self._ledger.abandoned.old_webhooks(retention)
        if count:
            found = f"{count} received more than {retention.total_seconds() / 86400:g} days ago"
            step = partial(self._prune, retention)
            yield Finding("old webhooks", found, "remove them"), step

    def expired_reservations(self) -> Iterator[Planned]:
        """What is reserved in budgets for requests whose responses can no longer run, all together."""
        if count := self._ledger.reservations.expired():
            found = f"{count} of requests whose response can no longer run"
            yield Finding("expired reservations", found, "settle what ran, give back the rest"), self._give_back

    def _give_back(self) -> str:
        return f"ended {self._ledger.reservations.expire()}"

    def _prune(self, retention: timedelta) -> str:
        return f"removed {self._ledger.inbox.prune(check_retention(retention))}"


def _about(entry: InboxEntry, kind: str, step: str) -> Finding:
    note = f" ({entry.note})" if entry.note else ""
    about = entry.response_id or ("OpenAI" if is_safety_notice(entry.event_type) else "no response")
    found = f"{entry.event_type} of {about} is {entry.disposition}{note}"
    return Finding(kind, found, step, job_id=entry.job_id, webhook_id=entry.webhook_id)


def _became(entry: InboxEntry) -> str:
    note = f" ({entry.note})" if entry.note else ""
    return f"it is {entry.disposition}{note}" + ("" if entry.poll_at is None else "; OpenAI is asked again later")


def _about_review(review: ExpiredReview, kind: str) -> Finding:
    found = f"no one decided by {review.review_deadline.isoformat(timespec='seconds')}"
    words = f"{review.job_type} {review.job_key}: {found}"
    return Finding(kind, words, _VERDICTS[review.review_on_timeout], job_id=review.job_id)


def check_retention(retention: timedelta) -> timedelta:
    """Return for how long webhooks are remembered.

    :raises ValueError: one that is forgotten so soon could come again.
    """
    if retention < MIN_RETENTION:
        raise ValueError(
            f"webhooks must be remembered for at least {MIN_RETENTION.total_seconds():.0f} seconds (4 days), not "
            f"{retention.total_seconds():.0f}: OpenAI delivers a webhook again for 3 days. Nothing was removed. Raise "
            "inbox_retention in the section aihandoff."
        )
    return retention
