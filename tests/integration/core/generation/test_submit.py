"""Sending a request: over real HTTP, on a real ledger, with every fault that the stand-in can make."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from openai import OpenAI

from airflow_provider_aihandoff.core.database.connection import LedgerConnection, _BrokenAtCommit
from airflow_provider_aihandoff.core.errors import (
    InputChanged,
    JobCancelled,
    JobFailed,
    LedgerUnavailable,
    NothingLost,
)
from airflow_provider_aihandoff.core.generation import submit as submit_module
from airflow_provider_aihandoff.core.generation.handle import take_from_handle
from airflow_provider_aihandoff.core.generation.lost import HANDLE_CHECK, LONGEST_FACTOR, MIN_HISTORY
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ModelResponse, own_metadata
from airflow_provider_aihandoff.core.generation.submit import SUBMIT_TRIES, NotSubmitted, submit
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job, OnLost, Revision
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.states import Disposition, JobState, ResponseStatus, RevisionState
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.factories import LEASE, TEST, draft, in_an_hour, job_spec

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[OpenAIStandIn, str]]:
    stand_in = OpenAIStandIn(delay_seconds=60)
    with stand_in.serve() as running:
        yield stand_in, running.base_url


@pytest.fixture
def stand_in(served: tuple[OpenAIStandIn, str]) -> OpenAIStandIn:
    served[0].reset()
    return served[0]


@pytest.fixture
def provider(served: tuple[OpenAIStandIn, str]) -> Iterator[ModelProvider]:
    """A provider on a client as Airflow's hook makes it: with the SDK's retries on."""
    with OpenAI(base_url=served[1], api_key="any", max_retries=5) as client:
        yield OpenAIProvider(client)


@pytest.fixture(autouse=True)
def short_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit_module, "SUBMIT_TIMEOUT", 0.5)


def open_job(
    ledger: Ledger,
    faults: str = "",
    *,
    on_lost: OnLost | None = None,
    deadline: datetime | None = None,
    **request: Any,
) -> Job:
    number = next(_numbers)
    asked = {"model": "gpt-5.2", "input": f"Write note {number}.", "metadata": {"standin": faults}, **request}
    spec = job_spec(
        job_key=f"note:{number}", input=asked, request=asked, on_lost=on_lost, deadline=deadline or in_an_hour()
    )
    return ledger.submission.open(spec).job


class Send:
    """Submits a job, and keeps what it slept instead of sleeping it."""

    def __init__(self, ledger: Ledger, provider: ModelProvider) -> None:
        self.ledger, self.provider, self.slept = ledger, provider, []  # type: tuple[Ledger, ModelProvider, list[float]]

    def __call__(self, job: Job, **changes: Any) -> Revision:
        return submit(self.ledger, self.provider, job, **{"actor": TEST, "sleep": self.slept.append, **changes})


@pytest.fixture
def send(ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn) -> Send:
    return Send(ledger, provider)


def events(ledger: Ledger, job: Job) -> list[str]:
    return [event.event for event in ledger.record(job.job_id).events]


def end_the_wait(conninfo: dict[str, Any]) -> None:
    """Let the time be over for which no request may be sent."""
    with psycopg.connect(**conninfo) as connection:
        connection.execute("UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp()")


def seconds_left(conninfo: dict[str, Any], revision: Revision) -> float:
    """Seconds for which no request may be sent, by the clock of the database."""
    with psycopg.connect(**conninfo) as connection:
        row = connection.execute(
            "SELECT extract(epoch FROM submit_lease_until - clock_timestamp()) FROM aihandoff.revisions "
            "WHERE revision_id = %s",
            [revision.revision_id],
        ).fetchone()
    assert row is not None
    return float(row[0])


def webhooks_arrive(ledger: Ledger, conn_id: str = "openai_default") -> None:
    """A webhook has come on this connection before."""
    event = {"type": "response.completed", "data": {"id": "resp_before"}}
    ledger.inbox.receive(Delivery(f"wh_before_{conn_id}", conn_id, "response.completed", "resp_before", event))


def wait_until_ended(provider: ModelProvider, response_id: str) -> None:
    pause = threading.Event()
    while not provider.retrieve(response_id).ended:
        pause.wait(0.05)


class TestAccepted:
    def test_the_request_is_sent_once_and_its_response_is_recorded(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        job = open_job(ledger)
        revision = send(job)
        sent = stand_in.responses()
        assert sent.creates == 1
        assert (revision.state, revision.response_id) == (RevisionState.RUNNING, sent.responses[0].response["id"])
        assert ledger.job(job.job_id).state is JobState.RUNNING
        assert send.slept == []

    def test_the_metadata_of_a_request_names_job_revision_and_ledger(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        job = open_job(ledger, "delay=1")
        send(job)
        response = stand_in.responses().responses[0].response
        assert response["metadata"] == {
            "standin": "delay=1",
            "aihandoff_job": str(job.job_id),
            "aihandoff_revision": "1",
            "aihandoff_ledger": ledger.ledger_id(),
        }
        assert (response["background"], response["store"]) == (True, True)

    def test_sending_again_what_was_sent_sends_nothing(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        job = open_job(ledger)
        assert send(job) == send(job)
        assert stand_in.responses().creates == 1

    def test_two_that_submit_at_once_send_one_request(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider
    ) -> None:
        job = open_job(ledger)
        start = threading.Barrier(4)

        def attempt(_: int) -> Revision:
            start.wait(10)
            return submit(ledger, provider, job, actor=TEST, sleep=lambda _: None)

        with ThreadPoolExecutor(4) as threads:
            revisions = list(threads.map(attempt, range(4)))
        assert len({revision.response_id for revision in revisions} - {None}) == 1
        assert stand_in.responses().creates == 1


class TestRefused:
    @pytest.mark.parametrize("fault", ["500", "503"])
    def test_a_temporary_refusal_is_tried_again_after_a_while(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, fault: str
    ) -> None:
        job = open_job(ledger, f"create={fault} times=2")
        revision = send(job)
        assert (stand_in.responses().creates, len(stand_in.responses().responses)) == (3, 1)
        assert (revision.submissions, revision.unknown_submissions) == (1, 0)
        assert events(ledger, job).count("submit refused") == 2
        assert len(send.slept) == 2
        assert min(send.slept) >= 0.5

    def test_a_429_slows_all_requests_of_the_connection_at_once_and_is_no_try_of_its_job(
        self,
        ledger: Ledger,
        stand_in: OpenAIStandIn,
        send: Send,
        conninfo: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        job, other = open_job(ledger, "create=429 times=2"), open_job(ledger)
        with monkeypatch.context() as longer:  # than this test takes
            longer.setattr(Heard, "pause", lambda heard, slowed_for=0.0: 3600.0)
            assert send(job).held_kind == "rate"
        held = send(other)
        assert "has asked for a pause on the connection openai_default (429 rate_limit" in str(held.held_why)
        assert stand_in.responses().creates == 1
        assert events(ledger, other).count("held") == 1

        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.rate_limits SET closed_until = clock_timestamp()")
        revisions = [send(each, sleep=time.sleep) for each in (job, other)]
        assert [revision.state for revision in revisions] == [RevisionState.RUNNING] * 2
        assert (stand_in.responses().creates, len(stand_in.responses().responses)) == (4, 2)
        (limit,) = ledger.rate_limits.find()
        assert limit.limit.amount is None
        assert limit.now is not None
        assert (
            30 <= limit.now < 60
        )  # of the 60 a minute that count as the least that went through, and more each minute

    def test_the_tries_of_one_attempt_are_bounded_and_the_sdk_adds_none(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        job = open_job(ledger, "create=500 times=99")
        with pytest.raises(NotSubmitted, match=f"in {SUBMIT_TRIES} tries: OpenAI answered 500"):
            send(job)
        assert stand_in.responses().creates == SUBMIT_TRIES
        assert len(send.slept) == SUBMIT_TRIES - 1
        assert ledger.job(job.job_id).state is JobState.QUEUED

    def test_the_next_attempt_goes_on_from_there(self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send) -> None:
        job = open_job(ledger, f"create=500 times={SUBMIT_TRIES}")
        with pytest.raises(NotSubmitted):
            send(job)
        assert send(job).state is RevisionState.RUNNING

    def test_a_permanent_refusal_fails_the_job_at_once(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        job = open_job(ledger, "create=400 times=99")
        with pytest.raises(JobFailed, match="400"):
            send(job)
        assert stand_in.responses().creates == 1
        record = ledger.record(job.job_id)
        assert (record.job.state, record.revision.error["kind"]) == (JobState.FAILED, "refused request")  # type: ignore[index]
        assert (record.revision.submissions, record.revision.unknown_submissions) == (0, 0)

    @pytest.mark.parametrize("fault", ["429_quota", "429_spend"])
    def test_a_limit_of_money_holds_the_job_and_all_others_of_the_connection(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, conninfo: dict[str, Any], fault: str
    ) -> None:
        job, other = open_job(ledger, f"create={fault} times=1"), open_job(ledger)
        held = [send(job), send(other), send(job)]
        assert all(revision.is_held for revision in held)
        assert (stand_in.responses().creates, send.slept) == (1, [])
        assert "OpenAI answered 429" in str(held[1].held_why)
        assert ".." not in str(held[1].held_why)

        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.spending_limits SET try_at = clock_timestamp()")
        assert [send(each).state for each in (job, other)] == [RevisionState.RUNNING] * 2
        record = ledger.record(job.job_id)
        assert (record.revision.submissions, record.revision.unknown_submissions, record.job.revision) == (1, 0, 1)

    @pytest.mark.parametrize("request_changes", [{"temprature": 1}, {"instructions": "lone \ud800 surrogate"}])
    def test_a_request_that_cannot_leave_fails_the_job_and_leaves_nothing_unknown(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, request_changes: dict[str, Any]
    ) -> None:
        job = open_job(ledger, **request_changes)
        with pytest.raises(JobFailed, match="cannot be sent"):
            send(job)
        assert stand_in.responses().creates == 0
        assert ledger.record(job.job_id).revision.unknown_submissions == 0

    def test_a_connection_that_is_refused_has_sent_nothing(self, ledger: Ledger) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        job = open_job(ledger)
        with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any") as client, pytest.raises(NotSubmitted):
            Send(ledger, OpenAIProvider(client))(job)
        assert ledger.record(job.job_id).revision.unknown_submissions == 0


class TestUnknown:
    @pytest.mark.parametrize("fault", ["timeout_after_accept", "drop_after_accept"])
    def test_an_answer_that_is_lost_leaves_one_orphan_at_most_and_the_record_says_so(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, fault: str
    ) -> None:
        job = open_job(ledger, f"create={fault}")
        revision = send(job)
        assert len(stand_in.responses().responses) == 2
        assert (revision.submissions, revision.unknown_submissions) == (2, 1)
        assert revision.response_id == stand_in.responses().responses[1].response["id"]
        assert events(ledger, job).count("submit unknown") == 1
        orphan = stand_in.responses().responses[0].response
        assert orphan["metadata"]["aihandoff_job"] == str(job.job_id)

    @pytest.mark.parametrize("fault", ["timeout_after_accept", "drop_after_accept", "html"])
    def test_an_answer_that_is_lost_twice_fails_the_job_and_nothing_more_is_sent(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, fault: str
    ) -> None:
        job = open_job(ledger, f"create={fault} times=99")
        with pytest.raises(JobFailed, match="two requests may have been accepted"):
            send(job)
        assert stand_in.responses().creates == 2
        assert ledger.record(job.job_id).revision.unknown_submissions == 2
        assert send(job).state is RevisionState.FAILED
        assert stand_in.responses().creates == 2

    def test_the_request_of_an_attempt_that_died_is_waited_for_outside_of_the_worker_and_then_taken_over(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger)
        ledger.submission.intend(job.job_id, 1, actor=Actor.program("died"), lease=LEASE)
        for _ in range(2):
            assert send(job).state is RevisionState.SUBMITTING
        assert (send.slept, stand_in.responses().creates) == ([], 0)
        end_the_wait(conninfo)
        revision = send(job)
        assert (revision.state, revision.unknown_submissions) == (RevisionState.RUNNING, 1)
        assert stand_in.responses().creates == 1

    def test_a_process_that_was_suspended_before_sending_does_not_send_on_an_old_permission(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticks = itertools.chain([0.0], itertools.repeat(1e6))
        monkeypatch.setattr(submit_module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
        job = open_job(ledger)
        send(job)
        assert stand_in.responses().creates == 1
        assert events(ledger, job).count("submit intended") == 2
        assert events(ledger, job).count("submit refused") == 1


class TestOrphan:
    """The answer to a request was lost, and webhooks are known to arrive: one may still bring its response."""

    WAIT = timedelta(seconds=30)

    @pytest.fixture(autouse=True)
    def _webhooks_arrive(self, ledger: Ledger) -> None:
        webhooks_arrive(ledger)

    def orphans(self, stand_in: OpenAIStandIn) -> list[str]:
        return [report.response["id"] for report in stand_in.responses().responses]

    def deliver(self, ledger: Ledger, provider: ModelProvider, response_id: str) -> Disposition:
        event = {"type": "response.completed", "data": {"id": response_id}}
        webhook_id = f"wh_{response_id}"
        ledger.inbox.receive(Delivery(webhook_id, "openai_default", "response.completed", response_id, event))
        return find_owner(ledger, webhook_id, provider).disposition

    @pytest.mark.parametrize("fault", ["timeout_after_accept", "drop_after_accept"])
    @pytest.mark.parametrize("on_lost", [None, "wait", "ask", "resend"])
    def test_an_orphan_is_found_by_its_webhook_and_there_is_one_response_and_one_bill(
        self,
        ledger: Ledger,
        stand_in: OpenAIStandIn,
        provider: ModelProvider,
        send: Send,
        fault: str,
        on_lost: OnLost | None,
    ) -> None:
        job = open_job(ledger, f"create={fault} delay=0", on_lost=on_lost)
        assert send(job, orphan_wait=self.WAIT).is_lost
        [orphan] = self.orphans(stand_in)
        assert self.deliver(ledger, provider, orphan) is Disposition.APPLIED
        revision = send(job, orphan_wait=self.WAIT)
        assert stand_in.responses().creates == 1
        assert (revision.state, revision.response_id, revision.response_status) == (
            RevisionState.RUNNING,
            orphan,
            "completed",
        )
        assert (revision.submissions, revision.unknown_submissions) == (1, 0)
        assert events(ledger, job).count("submit intended") == 1
        assert "output late" not in events(ledger, job)

    def test_the_response_of_an_attempt_that_died_is_found_too(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider, send: Send
    ) -> None:
        job = open_job(ledger, "delay=0")
        ledger.submission.intend(job.job_id, 1, actor=Actor.program("died"), lease=timedelta(0))
        request, names = ledger.revision(job.job_id, 1).request, own_metadata(job.job_id, 1, ledger.ledger_id())
        created = provider.create(request, names, timeout=5)
        assert isinstance(created, ModelResponse)
        assert send(job, orphan_wait=self.WAIT).is_lost
        self.deliver(ledger, provider, created.id)
        revision = send(job, orphan_wait=self.WAIT)
        assert (revision.response_id, revision.unknown_submissions) == (created.id, 0)
        assert stand_in.responses().creates == 1

    def test_a_request_to_send_again_waits_for_the_webhook_for_a_moment_and_is_sent_then(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept", on_lost="resend")
        for _ in range(3):
            waiting = send(job, orphan_wait=self.WAIT)
            assert waiting.is_lost
            assert seconds_left(conninfo, waiting) == pytest.approx(self.WAIT.total_seconds(), abs=10)
        assert stand_in.responses().creates == 1
        end_the_wait(conninfo)
        revision = send(job, orphan_wait=self.WAIT)
        assert (revision.submissions, revision.unknown_submissions) == (2, 1)
        assert revision.response_id == self.orphans(stand_in)[1]

    def test_the_first_response_to_end_is_taken_and_the_other_is_cancelled_and_counted(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider, send: Send, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept delay=1.5", on_lost="resend")
        send(job, orphan_wait=self.WAIT)
        end_the_wait(conninfo)
        second = send(job)
        orphan = self.orphans(stand_in)[0]
        wait_until_ended(provider, orphan)
        assert self.deliver(ledger, provider, orphan) is Disposition.APPLIED

        record = ledger.record(job.job_id)
        assert (record.revision.response_id, record.revision.response_status) == (orphan, "completed")
        assert record.revision.unknown_submissions == 0
        assert events(ledger, job)[-3:] == ["response replaced", "response ended", "output late"]
        assert record.events[-1].detail["response_id"] == second.response_id
        statuses = [report.response["status"] for report in stand_in.responses().responses]
        assert statuses[0] == "completed"
        assert stand_in.responses().responses[1].cancels == 1
        assert ledger.surplus.of_job(job.job_id) == []

    def test_an_orphan_that_ends_after_the_other_response_is_late_and_its_cost_is_on_the_record(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider, send: Send, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept delay=0", on_lost="resend")
        send(job)
        end_the_wait(conninfo)
        revision = send(job)
        ledger.outputs.ended(job.job_id, 1, status=ResponseStatus.COMPLETED, actor=TEST)
        orphan = self.orphans(stand_in)[0]
        assert self.deliver(ledger, provider, orphan) is Disposition.LATE
        record = ledger.record(job.job_id)
        assert record.revision.response_id == revision.response_id
        assert record.events[-1].detail["response_id"] == orphan
        assert record.events[-1].detail["usage"]["output_tokens"] > 0
        assert float(record.events[-1].detail["cost_usd"]) > 0

    @pytest.mark.parametrize("status", ["failed", "incomplete"])
    def test_an_orphan_that_did_not_complete_does_not_take_the_place_of_the_response_that_runs(
        self,
        ledger: Ledger,
        stand_in: OpenAIStandIn,
        provider: ModelProvider,
        send: Send,
        conninfo: dict[str, Any],
        status: str,
    ) -> None:
        job = open_job(ledger, f"create=drop_after_accept delay=0 status={status}", on_lost="resend")
        send(job)
        end_the_wait(conninfo)
        revision = send(job)
        assert self.deliver(ledger, provider, self.orphans(stand_in)[0]) is Disposition.LATE
        assert ledger.revision(job.job_id, 1).response_id == revision.response_id
        assert stand_in.responses().cancels == 0


class TestHandle:
    """Each revision has a conversation of its own: what became of a lost request is asked, and never guessed."""

    @pytest.fixture
    def provider(self, served: tuple[OpenAIStandIn, str]) -> Iterator[ModelProvider]:
        with OpenAI(base_url=served[1], api_key="any", max_retries=5) as client:
            yield OpenAIProvider(client, conversations=True)

    def take(self, ledger: Ledger, provider: ModelProvider, revision: Revision) -> bool:
        return take_from_handle(ledger, provider, revision, output_type=None, actor=TEST)

    def test_a_conversation_is_made_before_the_request_and_its_id_is_kept_with_the_intent(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        revision = send(open_job(ledger))
        made = [each for each in stand_in.requests() if each.path.startswith("/v1/conversations")]
        assert [(each.method, each.path) for each in made] == [("POST", "/v1/conversations")]
        assert stand_in.responses().responses[0].response["conversation"] == {"id": revision.conversation_id}

    @pytest.mark.parametrize("fault", ["timeout_after_accept", "drop_after_accept"])
    def test_a_lost_request_whose_response_runs_is_refused_by_openai_and_waited_for(
        self,
        ledger: Ledger,
        stand_in: OpenAIStandIn,
        provider: ModelProvider,
        send: Send,
        fault: str,
        conninfo: dict[str, Any],
    ) -> None:
        job = open_job(ledger, f"create={fault} delay=6")
        revision = send(job)
        assert revision.is_lost
        assert (revision.submissions, revision.unknown_submissions) == (1, 1)
        assert seconds_left(conninfo, revision) == pytest.approx(HANDLE_CHECK.total_seconds(), abs=30)
        assert send(job).is_lost
        assert len(stand_in.responses().responses) == 1
        assert not self.take(ledger, provider, revision)

        wait_until_ended(provider, stand_in.responses().responses[0].response["id"])
        assert self.take(ledger, provider, revision)
        record = ledger.record(job.job_id)
        assert (record.job.state, record.revision.state) == (JobState.REVIEW, RevisionState.COMPLETED)
        assert record.revision.output
        assert (record.revision.response_id, record.revision.cost_usd) == (None, None)
        assert record.revision.unknown_submissions == 0

    def test_a_lost_request_whose_response_has_ended_is_not_sent_again(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider, send: Send
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept delay=0")
        revision = send(job)
        assert revision.is_lost
        assert stand_in.responses().creates == 1
        assert self.take(ledger, provider, revision)
        assert ledger.job(job.job_id).state is JobState.REVIEW
        assert send(job).state is RevisionState.COMPLETED
        assert stand_in.responses().creates == 1

    def test_a_request_that_never_began_is_sent_and_is_the_first(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, provider: ModelProvider
    ) -> None:
        job = open_job(ledger)
        handle = provider.open_handle({}, {})
        ledger.submission.intend(job.job_id, 1, actor=Actor.program("died"), lease=timedelta(0), handle=handle)
        revision = send(job)
        assert (revision.state, revision.conversation_id) == (RevisionState.RUNNING, handle)
        assert (stand_in.responses().creates, revision.unknown_submissions) == (1, 0)

    def test_a_response_that_ends_between_the_question_and_the_request_is_taken_and_the_other_one_is_cancelled(
        self,
        ledger: Ledger,
        stand_in: OpenAIStandIn,
        provider: ModelProvider,
        send: Send,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept delay=0")
        read, asked = provider.read_handle, itertools.count()
        monkeypatch.setattr(provider, "read_handle", lambda handle: read(handle) if next(asked) else None)
        revision = send(job)
        assert revision.is_lost
        second = stand_in.responses().responses[1]
        assert second.cancels == 1
        assert [each.response_id for each in ledger.surplus.of_job(job.job_id)] == [second.response["id"]]
        assert self.take(ledger, provider, revision)
        assert ledger.job(job.job_id).state is JobState.REVIEW

    def test_its_webhook_brings_the_id_and_the_cost_of_an_output_that_was_taken_from_the_conversation(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider, send: Send
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept delay=0")
        self.take(ledger, provider, send(job))
        response_id = stand_in.responses().responses[0].response["id"]
        event = {"type": "response.completed", "data": {"id": response_id}}
        ledger.inbox.receive(Delivery("wh_1", "openai_default", "response.completed", response_id, event))
        find_owner(ledger, "wh_1", provider)
        revision = ledger.revision(job.job_id, 1)
        assert (revision.response_id, revision.state) == (response_id, RevisionState.COMPLETED)
        assert revision.cost_usd is not None
        assert revision.cost_usd > 0

    @pytest.mark.parametrize("items", ["500", "html", "drop"])
    def test_a_conversation_that_cannot_be_read_sends_nothing(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, items: str
    ) -> None:
        job = open_job(ledger, f"create=drop_after_accept delay=0 items={items} times=99")
        ledger_revision = None
        with pytest.raises(NotSubmitted, match="cannot be read"):
            ledger_revision = send(job)
        assert ledger_revision is None
        assert stand_in.responses().creates == 1

    def test_a_response_that_was_refused_or_stopped_early_is_read_from_the_conversation_too(
        self, ledger: Ledger, provider: ModelProvider, send: Send
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept delay=0 status=incomplete")
        assert self.take(ledger, provider, send(job))
        record = ledger.record(job.job_id)
        assert (record.job.state, (record.revision.error or {})["kind"]) == (JobState.FAILED, "incomplete")

    @pytest.mark.parametrize("given", [{"previous_response_id": "resp_0"}, {"conversation": "conv_0"}])
    def test_a_request_that_goes_on_from_another_has_no_conversation(
        self, ledger: Ledger, provider: ModelProvider, given: dict[str, str]
    ) -> None:
        assert provider.open_handle(given, {}) is None
        assert provider.open_handle({"extra_body": given}, {}) is None

    def test_a_server_without_conversations_is_used_without(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        with (
            OpenAIStandIn(conversations=False).serve() as running,
            OpenAI(base_url=running.base_url, api_key="any") as client,
        ):
            revision = submit(ledger, OpenAIProvider(client, conversations=True), job, actor=TEST)
        assert (revision.state, revision.conversation_id) == (RevisionState.RUNNING, None)

    def test_without_being_asked_for_no_conversation_is_made(self, served: tuple[OpenAIStandIn, str]) -> None:
        with OpenAI(base_url=served[1], api_key="any") as client:
            assert OpenAIProvider(client).open_handle({}, {}) is None


class TestAsked:
    """A person says what to do about a lost request."""

    @pytest.fixture
    def lost(self, ledger: Ledger, send: Send) -> Job:
        job = open_job(ledger, "create=drop_after_accept", on_lost="ask")
        assert send(job).is_lost
        return ledger.job(job.job_id)

    def test_nothing_is_sent_until_they_have(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, lost: Job
    ) -> None:
        assert all(send(lost).is_lost for _ in range(3))
        assert stand_in.responses().creates == 1

    def test_send_again_sends_one_more_request_and_who_and_why_is_on_record(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, lost: Job
    ) -> None:
        job = ledger.submission.resolve(lost.job_id, send_again=True, seen=1, actor=TEST, why="not in the logs")
        assert job.state is JobState.QUEUED
        line = ledger.record(job.job_id).events[-1]
        assert (line.event, line.actor, line.reason) == (
            "submit resolved",
            "test",
            "sent again by a person: not in the logs",
        )
        revision = send(lost)
        assert (revision.state, stand_in.responses().creates) == (RevisionState.RUNNING, 2)
        assert revision.unknown_submissions == 1

    def test_each_further_loss_is_asked_about_again(self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send) -> None:
        job = open_job(ledger, "create=drop_after_accept times=99", on_lost="ask")
        for seen in (1, 2, 3):
            revision = send(job)
            assert (revision.is_lost, revision.unknown_submissions) == (True, seen)
            ledger.submission.resolve(job.job_id, send_again=True, seen=seen, actor=TEST, why="?")
        assert stand_in.responses().creates == 3

    def test_fail_it_ends_the_job_for_good(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, lost: Job
    ) -> None:
        job = ledger.submission.resolve(lost.job_id, send_again=False, seen=1, actor=TEST, why="too dear")
        assert (job.state, job.state_reason) == (JobState.FAILED, "unknown submission, ended by a person: too dear")
        revision = send(lost)
        assert (revision.error or {})["final"] is True
        assert stand_in.responses().creates == 1

    def test_an_answer_to_an_earlier_loss_is_refused(self, ledger: Ledger, lost: Job) -> None:
        with pytest.raises(NothingLost, match="more than you saw"):
            ledger.submission.resolve(lost.job_id, send_again=True, seen=2, actor=TEST, why="?")

    def test_while_a_request_is_sent_or_where_none_is_lost_there_is_nothing_to_say(
        self, ledger: Ledger, lost: Job
    ) -> None:
        ledger.submission.resolve(lost.job_id, send_again=True, seen=1, actor=TEST, why="?")
        with pytest.raises(NothingLost, match="no request is lost"):
            ledger.submission.resolve(lost.job_id, send_again=True, seen=1, actor=TEST, why="?")
        ledger.submission.intend(lost.job_id, 1, actor=TEST, lease=LEASE)
        with pytest.raises(NothingLost, match="being sent now"):
            ledger.submission.resolve(lost.job_id, send_again=True, seen=1, actor=TEST, why="?")


class TestHowLong:
    """How long a lost request is waited for, on what the ledger knows."""

    def wait(self, ledger: Ledger, send: Send, conninfo: dict[str, Any], on_lost: OnLost | None = None) -> float | None:
        """Seconds that no request is sent after one was lost; None where it was sent again at once."""
        revision = send(open_job(ledger, "create=drop_after_accept", on_lost=on_lost), orphan_wait=timedelta(seconds=7))
        return seconds_left(conninfo, revision) if revision.is_lost else None

    @pytest.mark.parametrize("on_lost", ["wait", "ask", None])
    def test_with_webhooks_and_without_history_it_waits_until_the_deadline(
        self, ledger: Ledger, send: Send, conninfo: dict[str, Any], on_lost: OnLost | None
    ) -> None:
        webhooks_arrive(ledger)
        assert self.wait(ledger, send, conninfo, on_lost) == pytest.approx(3600, abs=30)

    def test_with_webhooks_it_waits_for_as_long_as_a_response_of_that_type_could_take(
        self, ledger: Ledger, send: Send, conninfo: dict[str, Any]
    ) -> None:
        webhooks_arrive(ledger)
        for number in range(MIN_HISTORY):
            draft(ledger, job_spec(job_key=f"before:{number}"), response_id=f"resp_{number}")
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.revisions SET submitted_at = completed_at - interval '100 s'")
        assert self.wait(ledger, send, conninfo) == pytest.approx(LONGEST_FACTOR * 100, abs=15)
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.revisions SET submitted_at = completed_at WHERE job_id <= 20")
        assert self.wait(ledger, send, conninfo, "wait") == pytest.approx(3600, abs=30)

    @pytest.mark.parametrize(("on_lost", "seconds"), [(None, LONGEST_FACTOR * 100), ("wait", 3600), ("ask", 3600)])
    def test_where_more_is_known_by_now_it_waits_less_unless_its_author_chose_to_wait(
        self, ledger: Ledger, send: Send, conninfo: dict[str, Any], on_lost: OnLost | None, seconds: float
    ) -> None:
        webhooks_arrive(ledger)
        job = open_job(ledger, "create=drop_after_accept", on_lost=on_lost)
        assert seconds_left(conninfo, send(job)) == pytest.approx(3600, abs=30)
        for number in range(MIN_HISTORY):
            assert seconds_left(conninfo, send(job)) == pytest.approx(3600, abs=60)
            draft(ledger, job_spec(job_key=f"after:{number}"), response_id=f"resp_{number}")
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.revisions SET submitted_at = completed_at - interval '100 s'")
        shorter = send(job)
        assert seconds_left(conninfo, shorter) == pytest.approx(seconds, abs=15)
        assert (shorter.is_lost, shorter.unknown_submissions) == (True, 1)
        assert send(job).submit_lease_until == shorter.submit_lease_until, "no wait is made longer"

    @pytest.mark.parametrize("on_lost", ["resend", None])
    def test_without_webhooks_nothing_could_arrive_and_it_is_sent_again_at_once(
        self, ledger: Ledger, send: Send, conninfo: dict[str, Any], on_lost: OnLost | None
    ) -> None:
        assert self.wait(ledger, send, conninfo, on_lost) is None

    @pytest.mark.parametrize("on_lost", ["wait", "ask"])
    def test_what_the_author_chose_holds_without_webhooks_too(
        self, ledger: Ledger, send: Send, conninfo: dict[str, Any], on_lost: OnLost
    ) -> None:
        assert self.wait(ledger, send, conninfo, on_lost) == pytest.approx(3600, abs=30)

    def test_webhooks_of_another_connection_say_nothing(
        self, ledger: Ledger, send: Send, conninfo: dict[str, Any]
    ) -> None:
        webhooks_arrive(ledger, "openai_other")
        assert self.wait(ledger, send, conninfo) is None

    def test_webhooks_that_stopped_long_ago_are_not_waited_for(
        self, ledger: Ledger, send: Send, conninfo: dict[str, Any]
    ) -> None:
        webhooks_arrive(ledger)
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.inbox SET received_at = received_at - interval '9 days'")
        assert self.wait(ledger, send, conninfo) is None


class TestMeanwhile:
    def meanwhile(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], Any]) -> None:
        """Let something happen between the answer of OpenAI and the record of it."""
        submitted = ledger.submission.submitted

        def late(*args: Any, **kwargs: Any) -> Revision | None:
            happens()
            return submitted(*args, **kwargs)

        monkeypatch.setattr(ledger.submission, "submitted", late)

    def test_the_response_of_a_job_that_was_cancelled_is_cancelled(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = open_job(ledger)
        self.meanwhile(
            ledger,
            monkeypatch,
            lambda: ledger.outputs.cancelled(job.job_id, 1, actor=Actor.program("bob"), reason="enough", status=None),
        )
        with pytest.raises(JobCancelled):
            send(job)
        assert [report.response["status"] for report in stand_in.responses().responses] == ["cancelled"]

    def test_the_response_of_a_revision_that_was_replaced_is_cancelled(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = open_job(ledger)
        self.meanwhile(
            ledger,
            monkeypatch,
            lambda: ledger.submission.open(job_spec(job_key=job.job_key, input={"input": "other"})),
        )
        with pytest.raises(InputChanged, match="replaced by 2"):
            send(job)
        assert [report.response["status"] for report in stand_in.responses().responses] == ["cancelled"]

    def test_a_response_is_recorded_although_the_ledger_breaks_off_at_that_moment(
        self,
        ledger: Ledger,
        stand_in: OpenAIStandIn,
        send: Send,
        monkeypatch: pytest.MonkeyPatch,
        conninfo: dict[str, Any],
    ) -> None:
        commit = ledger._database._commit
        broken: list[int] = []

        def break_after(connection: LedgerConnection) -> None:
            """Lose the answer to the COMMIT that records the response."""
            pid = connection.info.backend_pid
            row = connection.execute("SELECT count(*) AS n FROM aihandoff.revisions WHERE state = 'running'").fetchone()
            commit(connection)
            if row == {"n": 1} and not broken:
                broken.append(pid)
                with psycopg.connect(**conninfo, autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
                connection.execute("SELECT 1")

        def breaking_commit(connection: LedgerConnection) -> None:
            try:
                break_after(connection)
            except psycopg.OperationalError as error:
                raise _BrokenAtCommit from error

        monkeypatch.setattr(ledger._database, "_commit", breaking_commit)
        job = open_job(ledger)
        revision = send(job)
        assert broken
        assert revision.response_id == stand_in.responses().responses[0].response["id"]
        assert stand_in.responses().cancels == 0
        assert events(ledger, job).count("submitted") == 1

    def test_a_response_that_cannot_be_stored_in_the_ledger_is_named_in_the_log(
        self,
        ledger: Ledger,
        stand_in: OpenAIStandIn,
        send: Send,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        def away() -> None:
            raise LedgerUnavailable("the ledger is unavailable.")

        self.meanwhile(ledger, monkeypatch, away)
        with pytest.raises(LedgerUnavailable):
            send(open_job(ledger))
        assert stand_in.responses().responses[0].response["id"] in caplog.text


class TestDeadline:
    def test_after_the_deadline_nothing_is_sent_and_the_job_fails(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        job = open_job(ledger, deadline=datetime.now(UTC) - timedelta(seconds=1))
        with pytest.raises(JobFailed, match="the deadline passed before a request was accepted"):
            send(job)
        assert stand_in.responses().creates == 0
        assert ledger.job(job.job_id).state is JobState.FAILED

    def test_the_deadline_ends_the_wait_for_a_lost_request_and_says_that_it_may_be_billed(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept", on_lost="wait")
        assert send(job).is_lost
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.revisions SET deadline = clock_timestamp()")
        with pytest.raises(JobFailed, match=r"whether the request was accepted.* may be billed"):
            send(job)
        assert stand_in.responses().creates == 1

    def test_it_counts_by_the_clock_of_the_database_alone(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger)
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.revisions SET deadline = clock_timestamp() - interval '1 ms'")
        with pytest.raises(JobFailed, match="deadline"):
            send(job)

    def test_no_wait_between_two_tries_goes_beyond_the_deadline(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        job = open_job(ledger, "create=500 times=99", deadline=datetime.now(UTC) + timedelta(seconds=1))
        stop = threading.Event()
        slept: list[float] = []

        def wait(seconds: float) -> None:
            slept.append(seconds)
            stop.wait(seconds)

        with pytest.raises(JobFailed, match="deadline"):
            send(job, sleep=wait)
        assert max(slept) <= 1.0
