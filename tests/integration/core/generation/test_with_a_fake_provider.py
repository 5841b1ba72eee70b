"""What the submit protocol, a stop and a webhook do with each answer that a provider can give, on a real ledger."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.errors import JobCancelled, JobFailed
from airflow_provider_aihandoff.core.generation.provider import (
    ModelResponse,
    ProviderError,
    ResponseNotFound,
    Sent,
    SubmitFailure,
    own_metadata,
)
from airflow_provider_aihandoff.core.generation.stop import Why, cancel_job, give_up
from airflow_provider_aihandoff.core.generation.submit import SUBMIT_TRIES, NotSubmitted, submit
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, InboxEntry, Job, Revision
from airflow_provider_aihandoff.core.states import Disposition, JobState, ResponseStatus, RevisionState
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from tests.factories import TEST, job_spec
from tests.fake_provider import PRICE, FakeProvider

_numbers = itertools.count(1)


@pytest.fixture
def provider() -> FakeProvider:
    return FakeProvider()


def opened(ledger: Ledger) -> Job:
    return ledger.submission.open(job_spec(job_key=f"note:{next(_numbers)}")).job


def send(ledger: Ledger, provider: FakeProvider, job: Job, slept: list[float] | None = None) -> Revision:
    kept: list[float] = [] if slept is None else slept
    return submit(ledger, provider, job, actor=TEST, sleep=kept.append)


def running(ledger: Ledger, provider: FakeProvider) -> Revision:
    return send(ledger, provider, opened(ledger))


def lines(ledger: Ledger, job_id: int) -> list[str]:
    record = ledger.record(job_id)
    assert first_break(record.events, record.job) is None
    return [event.event for event in record.events]


class TestSubmit:
    def test_a_request_that_was_not_sent_is_sent_again_and_not_counted(
        self, ledger: Ledger, provider: FakeProvider
    ) -> None:
        job = opened(ledger)
        provider.refusals.extend([SubmitFailure(Sent.NO, "busy")] * 2)
        revision = send(ledger, provider, job)
        assert provider.calls == ["create"] * 3
        assert (revision.state, revision.response_id) == (RevisionState.RUNNING, "resp_1")
        assert (revision.submissions, revision.unknown_submissions) == (1, 0)
        assert lines(ledger, job.job_id).count("submit refused") == 2

    def test_the_wait_that_the_provider_asks_for_is_kept(self, ledger: Ledger, provider: FakeProvider) -> None:
        provider.refusals.append(SubmitFailure(Sent.NO, "busy", retry_after=17.0))
        slept: list[float] = []
        send(ledger, provider, opened(ledger), slept)
        assert slept == [17.0]

    def test_the_tries_of_one_attempt_are_bounded(self, ledger: Ledger, provider: FakeProvider) -> None:
        job = opened(ledger)
        provider.refusals.extend([SubmitFailure(Sent.NO, "busy")] * 99)
        with pytest.raises(NotSubmitted, match="busy"):
            send(ledger, provider, job)
        assert provider.calls == ["create"] * SUBMIT_TRIES
        assert ledger.job(job.job_id).state is JobState.QUEUED

    def test_a_request_that_would_be_refused_again_fails_the_job_at_once(
        self, ledger: Ledger, provider: FakeProvider
    ) -> None:
        job = opened(ledger)
        provider.refusals.append(SubmitFailure(Sent.NEVER, "no such model"))
        with pytest.raises(JobFailed, match="no such model"):
            send(ledger, provider, job)
        record = ledger.record(job.job_id)
        assert (record.job.state, provider.calls) == (JobState.FAILED, ["create"])
        assert record.revision.error == {"kind": "refused request", "message": "no such model"}
        assert record.revision.unknown_submissions == 0

    def test_a_request_whose_answer_was_lost_is_sent_again_and_leaves_one_orphan(
        self, ledger: Ledger, provider: FakeProvider
    ) -> None:
        job = opened(ledger)
        provider.refusals.append(SubmitFailure(Sent.UNKNOWN, "cut off"))
        revision = send(ledger, provider, job)
        assert (revision.response_id, sorted(provider.responses)) == ("resp_2", ["resp_1", "resp_2"])
        assert (revision.submissions, revision.unknown_submissions) == (2, 1)

    def test_an_answer_that_is_lost_twice_fails_the_job(self, ledger: Ledger, provider: FakeProvider) -> None:
        job = opened(ledger)
        provider.refusals.extend([SubmitFailure(Sent.UNKNOWN, "cut off")] * 9)
        with pytest.raises(JobFailed, match="two requests may have been accepted"):
            send(ledger, provider, job)
        assert provider.calls == ["create"] * 2

    @pytest.mark.parametrize("first", [Sent.NO, Sent.NEVER, Sent.UNKNOWN])
    def test_the_request_is_that_of_the_revision_and_its_response_names_it(
        self, ledger: Ledger, provider: FakeProvider, first: Sent
    ) -> None:
        job = opened(ledger)
        if first is not Sent.NEVER:
            provider.refusals.append(SubmitFailure(first, "?"))
        revision = send(ledger, provider, job)
        assert provider.requests == [revision.request] * len(provider.requests)
        assert revision.response_id is not None
        names = own_metadata(job.job_id, 1, ledger.ledger_id())
        assert provider.responses[revision.response_id].metadata == names

    @pytest.mark.parametrize("answers", [[], [None]], ids=["stops", "says nothing"])
    def test_a_response_of_a_job_that_was_cancelled_meanwhile_is_stopped(
        self, ledger: Ledger, answers: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider, job, submitted = FakeProvider(*answers), opened(ledger), ledger.submission.submitted

        def late(*args: Any, **kwargs: Any) -> Revision | None:
            ledger.outputs.cancelled(job.job_id, 1, actor=Actor.user("bob"), reason="enough", status=None)
            return submitted(*args, **kwargs)

        monkeypatch.setattr(ledger.submission, "submitted", late)
        with pytest.raises(JobCancelled):
            send(ledger, provider, job)
        assert provider.calls == ["create", "cancel"]


class TestCancel:
    def test_a_response_that_runs_is_stopped_and_what_it_has_cost_is_recorded(
        self, ledger: Ledger, provider: FakeProvider
    ) -> None:
        revision = running(ledger, provider)
        assert revision.response_id is not None
        billed = replace(provider.responses[revision.response_id], usage={"tokens": 7})
        provider.answers.append(replace(billed, status=ResponseStatus.CANCELLED))

        job = cancel_job(ledger, lambda _: provider, revision.job_id, actor=Actor.user("bob"), reason="enough")

        assert (job.state, job.state_reason) == (JobState.CANCELLED, "enough")
        after = ledger.revision(revision.job_id, 1)
        assert (after.response_status, after.cost_usd) == ("cancelled", 7 * PRICE)
        assert lines(ledger, revision.job_id)[-3:] == ["cancel requested", "cancelled", "output late"]

    @pytest.mark.parametrize(
        ("answer", "status"),
        [(None, None), (ResponseStatus.RUNNING, "running"), (ResponseStatus.QUEUED, "queued")],
    )
    def test_no_cost_is_recorded_while_it_is_unknown_whether_the_response_has_stopped(
        self, ledger: Ledger, provider: FakeProvider, answer: ResponseStatus | None, status: str | None
    ) -> None:
        revision = running(ledger, provider)
        provider.answers.append(answer)

        job = cancel_job(ledger, lambda _: provider, revision.job_id, actor=Actor.user("bob"), reason="enough")

        assert job.state is JobState.CANCELLED
        last = ledger.record(revision.job_id).events[-1]
        assert (last.event, last.detail) == ("cancelled", {"status": status})
        assert ledger.revision(revision.job_id, 1).usage is None

    def test_a_job_without_a_response_asks_no_provider(self, ledger: Ledger, provider: FakeProvider) -> None:
        job = opened(ledger)
        cancelled = cancel_job(ledger, lambda _: provider, job.job_id, actor=Actor.user("bob"), reason="enough")
        assert (cancelled.state, provider.calls) == (JobState.CANCELLED, [])


class TestGiveUp:
    @pytest.mark.parametrize(("why", "calls"), [("deadline", ["cancel"]), ("gone", [])])
    def test_the_revision_fails_and_a_response_past_its_deadline_is_stopped(
        self, ledger: Ledger, provider: FakeProvider, why: Why, calls: list[str]
    ) -> None:
        revision = running(ledger, provider)
        provider.calls.clear()
        assert give_up(ledger, provider, revision.job_id, 1, why=why, actor=TEST) is None
        assert (ledger.job(revision.job_id).state, provider.calls) == (JobState.FAILED, calls)
        assert ledger.revision(revision.job_id, 1).error == {"kind": why}

    @pytest.mark.parametrize("status", [ResponseStatus.COMPLETED, ResponseStatus.FAILED, ResponseStatus.INCOMPLETE])
    def test_a_response_that_has_ended_on_its_own_is_left_to_its_task(
        self, ledger: Ledger, provider: FakeProvider, status: ResponseStatus
    ) -> None:
        revision = running(ledger, provider)
        provider.answers.append(status)
        assert give_up(ledger, provider, revision.job_id, 1, why="deadline", actor=TEST) is status
        assert ledger.job(revision.job_id).state is JobState.RUNNING


class TestFindOwner:
    def delivered(self, ledger: Ledger, response_id: str) -> InboxEntry:
        event = {"type": "response.completed", "data": {"id": response_id}}
        delivery = Delivery(f"wh_{next(_numbers)}", "openai_default", "response.completed", response_id, event)
        return ledger.inbox.receive(delivery).entry

    def orphan(self, ledger: Ledger, provider: FakeProvider, **changes: Any) -> tuple[Job, InboxEntry]:
        """A job whose answer was lost, and the webhook of the response that runs for it."""
        job = opened(ledger)
        ledger.submission.intend(job.job_id, 1, actor=Actor.program("died"), lease=timedelta(0))
        created = provider.create({}, own_metadata(job.job_id, 1, ledger.ledger_id()), timeout=1)
        assert isinstance(created, ModelResponse)
        provider.end(created.id, **changes)
        return job, self.delivered(ledger, created.id)

    def test_the_job_that_the_response_names_adopts_it(self, ledger: Ledger, provider: FakeProvider) -> None:
        job, webhook = self.orphan(ledger, provider)
        entry = find_owner(ledger, webhook.webhook_id, provider)
        assert (entry.disposition, entry.job_id) == (Disposition.APPLIED, job.job_id)
        assert ledger.revision(job.job_id, 1).response_status == "completed"

    @pytest.mark.parametrize(
        ("age", "disposition"),
        [
            (None, Disposition.APPLIED),
            (timedelta(0), Disposition.APPLIED),
            (timedelta(days=1), Disposition.QUARANTINED),
        ],
    )
    def test_a_response_that_is_older_than_its_revision_is_left_to_a_person(
        self, ledger: Ledger, provider: FakeProvider, age: timedelta | None, disposition: Disposition
    ) -> None:
        created_at = None if age is None else datetime.now(UTC) - age
        _, webhook = self.orphan(ledger, provider, created_at=created_at)
        assert find_owner(ledger, webhook.webhook_id, provider).disposition is disposition

    @pytest.mark.parametrize(
        ("answer", "note"),
        [
            (ResponseNotFound("OpenAI does not find it."), "OpenAI does not find it"),
            (ProviderError("OpenAI answered 500."), "OpenAI answered 500"),
            (ResponseStatus.RUNNING, "OpenAI says that it has not ended"),
        ],
    )
    def test_an_answer_that_does_not_help_is_noted_and_the_webhook_stays_in_quarantine(
        self, ledger: Ledger, provider: FakeProvider, answer: Any, note: str
    ) -> None:
        _, webhook = self.orphan(ledger, provider)
        provider.answers.append(answer)
        entry = find_owner(ledger, webhook.webhook_id, provider)
        assert (entry.disposition, entry.note) == (Disposition.QUARANTINED, note)
        assert find_owner(ledger, webhook.webhook_id, provider).disposition is Disposition.APPLIED

    def test_an_orphan_of_a_job_that_has_another_response_is_late_with_its_cost(
        self, ledger: Ledger, provider: FakeProvider
    ) -> None:
        job = opened(ledger)
        provider.refusals.append(SubmitFailure(Sent.UNKNOWN, "cut off"))
        running = send(ledger, provider, job)
        ledger.outputs.ended(job.job_id, running.number, status=ResponseStatus.COMPLETED, actor=TEST)
        provider.end("resp_1", usage={"tokens": 11})
        entry = find_owner(ledger, self.delivered(ledger, "resp_1").webhook_id, provider)
        assert entry.disposition is Disposition.LATE
        late = ledger.record(job.job_id).events[-1]
        assert (late.event, Decimal(late.detail["cost_usd"])) == ("output late", 11 * PRICE)
