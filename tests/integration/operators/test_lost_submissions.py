"""A request whose answer was lost: its task waits deferred, and goes on with what becomes of the request."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from airflow.sdk.execution_time import task_runner
from openai import OpenAI

from airflow_provider_aihandoff.core.generation import submit as submit_module
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelProvider
from airflow_provider_aihandoff.core.generation.submission_store import Submission
from airflow_provider_aihandoff.core.generation.submit import submit
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor, Job, OnLost, Revision
from airflow_provider_aihandoff.core.states import JobState, RevisionState
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.operators import notices
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.triggers.submission import SubmissionTrigger
from demo.waiting import wait_until
from tests.factories import LEASE, TEST, job_spec
from tests.integration.operators.conftest import API_KEY, RunDag
from tests.integration.operators.tasks import ask, fault
from tests.integration.operators.test_response_trigger import Supervisor, owned
from tests.integration.operators.test_reviewing import Remembers
from tests.people import insist

pytestmark = pytest.mark.usefixtures("connections")

Record = Callable[[], JobRecord]
LOST = "create=drop_after_accept delay=0"


@pytest.fixture
def base_url(stand_in: OpenAIStandIn, _served: Any) -> str:
    return str(_served[2])


@pytest.fixture
def provider(base_url: str) -> Iterator[ModelProvider]:
    with OpenAI(base_url=base_url, api_key="any") as client:
        yield OpenAIProvider(client, conversations=True)


def deliver(ledger: Ledger, provider: ModelProvider, response_id: str) -> None:
    event = {"type": "response.completed", "data": {"id": response_id}}
    webhook_id = f"wh_{response_id}"
    ledger.inbox.receive(Delivery(webhook_id, "openai_default", "response.completed", response_id, event))
    find_owner(ledger, webhook_id, provider)


@contextmanager
def as_soon_as_lost(ledger: Ledger, act: Callable[[Revision], Any]) -> Iterator[None]:
    """Do something once, as soon as the first job waits for the outcome of a lost request."""
    over, failed = threading.Event(), []

    def watch() -> None:
        while not over.wait(0.05):
            for job in ledger.jobs():
                revision = ledger.revision(job.job_id, job.revision)
                if revision.is_lost:
                    try:
                        act(revision)
                    except BaseException as error:  # noqa: BLE001 - it is raised in the test's own thread
                        failed.append(error)
                    return

    thread = threading.Thread(target=insist(watch))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    assert failed == []


class TestDag:
    def test_a_person_has_a_lost_request_sent_again(
        self, run: RunDag, record: Record, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        def send_again(revision: Revision) -> None:
            assert stand_in.responses().creates == 1
            ledger.submission.resolve(revision.job_id, send_again=True, seen=1, actor=Actor.user("bob"), why="?")

        with as_soon_as_lost(ledger, send_again):
            done = run(lambda: ask(metadata=fault(LOST), on_lost_submission="ask"))

        assert (done.states["draft"], done.tries["draft"]) == ("success", 1)
        assert (stand_in.responses().creates, record().job.state) == (2, JobState.REVIEW)

    def test_people_are_notified_once_that_a_lost_request_waits_for_them(
        self, run: RunDag, record: Record, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(notices, "NOTICE_RETRY", 0.2)
        said: list[str] = []
        notifier = Remembers("{{ handoff.notice }}: {{ handoff.message }} {{ handoff.link }}", said, fails=2)

        def define() -> None:
            draft = ask(metadata=fault(LOST), on_lost_submission="ask")
            draft >> ApprovalSensor(task_id="approve", job=draft, notifiers=[notifier], timeout=0.1)

        def send_again(revision: Revision) -> None:
            wait_until(lambda: said, "the notice")
            ledger.submission.resolve(revision.job_id, send_again=True, seen=1, actor=Actor.user("bob"), why="?")

        with as_soon_as_lost(ledger, send_again):
            run(define)

        assert said[0].startswith("lost: publishing post:kettle: a request to the model may have been accepted, and")
        assert said[0].endswith("/aihandoff/jobs/1")
        lost = [event for event in record().events if event.detail.get("notice") == "lost"]
        assert [event.detail["unknown_submissions"] for event in lost] == [1]
        assert [text.partition(":")[0] for text in said].count("lost") == 1

    def test_a_person_ends_a_job_with_a_lost_request_and_no_retry_pays_again(
        self, run: RunDag, record: Record, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        def fail(revision: Revision) -> None:
            ledger.submission.resolve(revision.job_id, send_again=False, seen=1, actor=Actor.user("bob"), why="dear")

        with as_soon_as_lost(ledger, fail):
            done = run(lambda: ask(metadata=fault(LOST), on_lost_submission="ask"))

        assert (done.states["draft"], done.tries["draft"]) == ("failed", 1)
        assert "ended by a person: dear" in done.error("draft")
        assert (stand_in.responses().creates, len(record().revisions)) == (1, 1)

    @pytest.mark.parametrize("on_lost", ["wait", "ask"])
    def test_the_webhook_of_the_lost_response_ends_the_wait_and_it_is_paid_once(
        self,
        run: RunDag,
        record: Record,
        ledger: Ledger,
        stand_in: OpenAIStandIn,
        provider: ModelProvider,
        on_lost: OnLost,
    ) -> None:
        def arrive(_: Revision) -> None:
            deliver(ledger, provider, stand_in.responses().responses[0].response["id"])

        with as_soon_as_lost(ledger, arrive):
            done = run(lambda: ask(metadata=fault(LOST), on_lost_submission=on_lost))

        assert (done.states["draft"], done.tries["draft"]) == ("success", 1)
        assert (stand_in.responses().creates, record().revision.unknown_submissions) == (1, 0)

    def test_with_a_conversation_the_lost_response_is_found_and_paid_once(
        self,
        run: RunDag,
        record: Record,
        stand_in: OpenAIStandIn,
        monkeypatch: pytest.MonkeyPatch,
        base_url: str,
    ) -> None:
        connection = {"conn_type": "openai", "password": API_KEY, "host": base_url, "extra": {"conversations": True}}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))

        done = run(lambda: ask(metadata=fault("create=drop_after_accept delay=4"), inline_wait=timedelta(0)))

        assert (done.states["draft"], done.tries["draft"]) == ("success", 1)
        assert len(stand_in.responses().responses) == 1
        assert record().revision.output is not None
        assert record().revision.response_id is None

    def test_without_anything_that_could_arrive_it_is_sent_again_at_once_and_the_record_says_so(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        began = time.monotonic()
        assert run(lambda: ask(metadata=fault(LOST))).states["draft"] == "success"
        assert time.monotonic() - began < 30
        assert (stand_in.responses().creates, record().revision.unknown_submissions) == (2, 1)

    def test_the_request_of_another_attempt_is_waited_for_outside_of_the_worker(
        self, run: RunDag, record: Record, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(submit_module.time, "sleep", lambda seconds: pytest.fail("it waits in the worker"))
        opened = ledger.submission.open

        def beside_another(spec: Any) -> Any:
            found = opened(spec)
            ledger.submission.intend(found.job.job_id, 1, actor=TEST, lease=timedelta(seconds=3))
            return found

        monkeypatch.setattr(Submission, "open", lambda _, spec: beside_another(spec))
        assert run(lambda: ask(metadata=fault("delay=0"))).states["draft"] == "success"
        assert (stand_in.responses().creates, record().revision.unknown_submissions) == (1, 1)

    @pytest.mark.parametrize("wrong", ["later", ""])
    def test_an_unknown_wish_is_refused_when_the_dag_is_parsed(self, wrong: Any) -> None:
        with pytest.raises(ValueError, match="on_lost_submission must be"):
            ask(on_lost_submission=wrong)


class TestTrigger:
    @pytest.fixture
    def lost(self, ledger: Ledger) -> Revision:
        return self.lose(ledger)

    def lose(self, ledger: Ledger, handle: str | None = None) -> Revision:
        job = ledger.submission.open(job_spec(on_lost="ask")).job
        token = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE, handle=handle).token
        assert token is not None
        ledger.submission.submission_lost(job.job_id, 1, token=token, actor=TEST, reason="cut off")
        return ledger.revision(job.job_id, 1)

    def trigger(self, revision: Revision, **changes: Any) -> SubmissionTrigger:
        assert revision.submit_lease_until is not None
        kwargs: dict[str, Any] = {
            "job_id": revision.job_id,
            "revision": 1,
            "handle": revision.conversation_id,
            "openai_conn_id": "openai_default",
            "ledger_conn_id": "aihandoff_ledger",
            "lease_until": revision.submit_lease_until.isoformat(),
            "not_before": datetime.now(UTC).isoformat(),
            "poll_interval": 0.05,
        }
        return SubmissionTrigger(**{**kwargs, **changes})

    async def fired(self, trigger: SubmissionTrigger) -> list[Any]:
        async with asyncio.timeout(30):
            return [event.payload async for event in trigger.run()]

    async def waits(self, trigger: SubmissionTrigger) -> asyncio.Task[list[Any]]:
        task = asyncio.create_task(self.fired(trigger))
        await asyncio.sleep(2)
        assert not task.done()
        return task

    async def test_it_fires_once_a_person_has_answered(self, ledger: Ledger, lost: Revision) -> None:
        task = await self.waits(self.trigger(lost))
        await asyncio.to_thread(ledger.submission.resolve, lost.job_id, send_again=True, seen=1, actor=TEST, why="?")
        assert await task == [{"job_id": lost.job_id, "submission": 1}]

    @pytest.mark.parametrize("column", ["submit_lease_until", "deadline"])
    async def test_its_end_is_decided_by_the_clock_of_the_database(
        self, ledger: Ledger, lost: Revision, conninfo: dict[str, Any], column: str
    ) -> None:
        with psycopg.connect(**conninfo) as connection:
            connection.execute(f"UPDATE aihandoff.revisions SET {column} = clock_timestamp() + interval '4 s'")  # noqa: S608
        revision = ledger.revision(lost.job_id, 1)
        task = await self.waits(self.trigger(revision))
        assert await task == [{"job_id": lost.job_id, "submission": 1}]

    async def test_it_polls_the_conversation_and_fires_once_the_response_has_ended(
        self, ledger: Ledger, provider: ModelProvider
    ) -> None:
        handle = provider.open_handle({}, {})
        revision = self.lose(ledger, handle)
        provider.create({"model": "m", "input": "x", "metadata": fault("delay=4")}, {}, timeout=5, handle=handle)
        with_time = ledger.submission.intend(revision.job_id, 1, actor=TEST, lease=timedelta(minutes=1)).revision
        task = await self.waits(self.trigger(with_time, handle=handle))
        assert await task == [{"job_id": revision.job_id, "submission": 1}]

    async def test_an_error_of_the_conversation_is_waited_out(self, ledger: Ledger, provider: ModelProvider) -> None:
        handle = provider.open_handle({}, {})
        revision = self.lose(ledger, handle)
        words = fault("delay=0 items=500 times=3")
        provider.create({"model": "m", "input": "x", "metadata": words}, {}, timeout=5, handle=handle)
        with_time = ledger.submission.intend(revision.job_id, 1, actor=TEST, lease=timedelta(minutes=1)).revision
        assert await self.fired(self.trigger(with_time, handle=handle)) == [{"job_id": 1, "submission": 1}]

    def test_it_survives_serialization_and_has_ids_and_times_only(self, lost: Revision) -> None:
        trigger = self.trigger(lost)
        path, kwargs = trigger.serialize()
        assert path == "airflow_provider_aihandoff.triggers.submission.SubmissionTrigger"
        assert SubmissionTrigger(**json.loads(json.dumps(kwargs))).serialize() == trigger.serialize()

    @pytest.mark.parametrize(("state", "expected"), [("failed", JobState.CANCELLED), ("deferred", JobState.QUEUED)])
    async def test_only_a_task_that_was_ended_cancels_its_job(
        self, ledger: Ledger, lost: Revision, monkeypatch: pytest.MonkeyPatch, state: str, expected: JobState
    ) -> None:
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor(state), raising=False)
        await owned(self.trigger(lost)).on_kill()
        assert ledger.job(lost.job_id).state is expected

    async def test_a_job_that_a_newer_attempt_owns_is_not_cancelled(
        self, ledger: Ledger, lost: Revision, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", Supervisor("failed"), raising=False)
        job: Job = ledger.job(lost.job_id)
        await owned(self.trigger(lost), replace(job.owner, try_number=0)).on_kill()
        assert ledger.job(lost.job_id).state is JobState.QUEUED


def test_a_lost_revision_is_one_that_no_attempt_sends(ledger: Ledger, provider: ModelProvider) -> None:
    job = ledger.submission.open(job_spec()).job
    intent = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
    assert not intent.revision.is_lost
    assert submit(ledger, provider, job, actor=TEST).state is RevisionState.SUBMITTING
