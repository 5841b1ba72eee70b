"""Sending a request: over real HTTP, on a real ledger, with every fault that the stand-in can make."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from openai import OpenAI

from airflow_provider_aihandoff.core.database.connection import LedgerConnection, _BrokenAtCommit
from airflow_provider_aihandoff.core.errors import InputChanged, JobCancelled, JobFailed, LedgerUnavailable
from airflow_provider_aihandoff.core.generation import submit as submit_module
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ModelResponse, own_metadata
from airflow_provider_aihandoff.core.generation.submit import SUBMIT_TRIES, NotSubmitted, submit
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job, Revision
from airflow_provider_aihandoff.core.states import Disposition, JobState, RevisionState
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.factories import LEASE, TEST, in_an_hour, job_spec

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


def open_job(ledger: Ledger, faults: str = "", **request: Any) -> Job:
    number = next(_numbers)
    asked = {"model": "gpt-5.2", "input": f"Write note {number}.", "metadata": {"standin": faults}, **request}
    return ledger.submission.open(job_spec(job_key=f"note:{number}", input=asked, request=asked)).job


class Send:
    """Submits a job, and keeps what it slept instead of sleeping it."""

    def __init__(self, ledger: Ledger, provider: ModelProvider) -> None:
        self.ledger, self.provider, self.slept = ledger, provider, []  # type: tuple[Ledger, ModelProvider, list[float]]

    def __call__(self, job: Job, *, deadline: datetime | None = None, **changes: Any) -> Revision:
        arguments = {"deadline": deadline or in_an_hour(), "actor": TEST, "sleep": self.slept.append, **changes}
        return submit(self.ledger, self.provider, job, **arguments)


@pytest.fixture
def send(ledger: Ledger, provider: ModelProvider, stand_in: OpenAIStandIn) -> Send:
    return Send(ledger, provider)


def events(ledger: Ledger, job: Job) -> list[str]:
    return [event.event for event in ledger.record(job.job_id).events]


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
            return submit(ledger, provider, job, deadline=in_an_hour(), actor=TEST, sleep=lambda _: None)

        with ThreadPoolExecutor(4) as threads:
            revisions = list(threads.map(attempt, range(4)))
        assert len({revision.response_id for revision in revisions}) == 1
        assert stand_in.responses().creates == 1


class TestRefused:
    @pytest.mark.parametrize("fault", ["429", "500", "503"])
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

    @pytest.mark.parametrize(("fault", "code"), [("429_quota", "insufficient_quota"), ("400", "400")])
    def test_a_permanent_refusal_fails_the_job_at_once(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, fault: str, code: str
    ) -> None:
        job = open_job(ledger, f"create={fault} times=99")
        with pytest.raises(JobFailed, match=code):
            send(job)
        assert stand_in.responses().creates == 1
        record = ledger.record(job.job_id)
        assert (record.job.state, record.revision.error["kind"]) == (JobState.FAILED, "refused request")  # type: ignore[index]
        assert (record.revision.submissions, record.revision.unknown_submissions) == (0, 0)

    def test_spending_limits_use_up_no_revision_so_that_a_clear_after_them_is_a_new_try(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        asked = {"model": "gpt-5.2", "input": "Spend.", "metadata": {"standin": "create=429_spend times=3"}}
        spec = job_spec(job_key="spent", input=asked, request=asked, max_revisions=1)
        for refused in range(1, 4):
            job = ledger.submission.open(spec).job
            with pytest.raises(JobFailed) as failed:
                send(job)
            text = str(failed.value)
            assert "OpenAI answered 429 project_spend_limit_exceeded: " in text
            assert "limit. " in text
            assert ".." not in text
            assert "makes a new revision" in text
            assert (stand_in.responses().creates, send.slept) == (refused, [])
        job = ledger.submission.open(spec).job
        assert send(job).state is RevisionState.RUNNING
        assert (job.revision, ledger.jobs_of_run(job.dag_id, job.run_id)[0].model_revisions) == (4, 1)

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

    def test_an_attempt_that_died_after_sending_is_waited_for_and_then_taken_over(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger)
        ledger.submission.intend(job.job_id, 1, actor=Actor.program("died"), lease=LEASE)
        waits: list[float] = []

        def let_the_lease_run_out(seconds: float) -> None:
            waits.append(seconds)
            with psycopg.connect(**conninfo) as connection:
                connection.execute("UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp()")

        revision = submit(ledger, provider, job, deadline=in_an_hour(), actor=TEST, sleep=let_the_lease_run_out)
        assert (stand_in.responses().creates, len(waits)) == (1, 1)
        assert (revision.state, revision.unknown_submissions) == (RevisionState.RUNNING, 1)

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
    """The answer to a request was lost, and a webhook may still bring its response."""

    WAIT = timedelta(seconds=30)

    def orphans(self, stand_in: OpenAIStandIn) -> list[str]:
        return [report.response["id"] for report in stand_in.responses().responses]

    @pytest.mark.parametrize("fault", ["timeout_after_accept", "drop_after_accept"])
    def test_an_orphan_is_found_by_its_webhook_and_there_is_one_response_and_one_bill(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider, send: Send, fault: str
    ) -> None:
        job = open_job(ledger, f"create={fault} delay=0")
        found: list[Disposition] = []

        def deliver_and_poll(_: float) -> None:
            [response_id] = self.orphans(stand_in)
            event = {"type": "response.completed", "data": {"id": response_id}}
            ledger.inbox.receive(Delivery("wh_1", "openai_default", "response.completed", response_id, event))
            found.append(find_owner(ledger, "wh_1", provider).disposition)

        revision = send(job, orphan_wait=self.WAIT, sleep=deliver_and_poll)
        assert found == [Disposition.APPLIED]
        assert stand_in.responses().creates == 1
        assert [revision.response_id] == self.orphans(stand_in)
        assert (revision.state, revision.response_status) == (RevisionState.RUNNING, "completed")
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
        response_id = created.id

        def deliver_and_poll(_: float) -> None:
            event = {"type": "response.completed", "data": {"id": response_id}}
            ledger.inbox.receive(Delivery("wh_1", "openai_default", "response.completed", response_id, event))
            find_owner(ledger, "wh_1", provider)

        revision = send(job, orphan_wait=self.WAIT, sleep=deliver_and_poll)
        assert (revision.response_id, revision.unknown_submissions) == (response_id, 0)
        assert stand_in.responses().creates == 1

    def test_an_orphan_without_a_webhook_is_waited_for_and_the_request_is_sent_again(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept")
        slept: list[float] = []

        def wait(seconds: float) -> None:
            slept.append(seconds)
            assert stand_in.responses().creates == 1
            if len(slept) == 3:
                with psycopg.connect(**conninfo) as connection:
                    connection.execute("UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp()")

        revision = send(job, orphan_wait=self.WAIT, sleep=wait)
        assert len(slept) == 3
        assert slept[1:] == [1.0, 1.0]
        assert (revision.submissions, revision.unknown_submissions) == (2, 1)
        assert revision.response_id == self.orphans(stand_in)[1]

    def test_a_webhook_that_comes_after_the_wait_leaves_the_orphan_s_cost_on_the_record(
        self, ledger: Ledger, stand_in: OpenAIStandIn, provider: ModelProvider, send: Send
    ) -> None:
        job = open_job(ledger, "create=drop_after_accept delay=0")
        revision = send(job)
        orphan = self.orphans(stand_in)[0]
        event = {"type": "response.completed", "data": {"id": orphan}}
        ledger.inbox.receive(Delivery("wh_1", "openai_default", "response.completed", orphan, event))
        assert find_owner(ledger, "wh_1", provider).disposition is Disposition.LATE
        record = ledger.record(job.job_id)
        assert record.revision == revision
        assert record.events[-1].detail["response_id"] == orphan
        assert record.events[-1].detail["usage"]["output_tokens"] > 0
        assert float(record.events[-1].detail["cost_usd"]) > 0


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
            lambda: ledger.outputs.cancelled(
                job.job_id, 1, actor=Actor.program("bob"), reason="enough", status="unknown"
            ),
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
        job = open_job(ledger)
        with pytest.raises(JobFailed, match="the deadline passed before a request was accepted"):
            send(job, deadline=datetime.now(UTC) - timedelta(seconds=1))
        assert stand_in.responses().creates == 0
        assert ledger.job(job.job_id).state is JobState.FAILED

    def test_no_wait_between_two_tries_goes_beyond_the_deadline(
        self, ledger: Ledger, stand_in: OpenAIStandIn, send: Send
    ) -> None:
        job = open_job(ledger, "create=500 times=99")
        deadline = datetime.now(UTC) + timedelta(seconds=0.3)
        stop = threading.Event()
        slept: list[float] = []

        def wait(seconds: float) -> None:
            slept.append(seconds)
            stop.wait(seconds)

        with pytest.raises(JobFailed, match="deadline"):
            send(job, deadline=deadline, sleep=wait)
        assert max(slept) <= 0.3
