"""What waits for a response in the triggerer: on an event loop, with a real ledger and real HTTP."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
from airflow.providers.openai.hooks.openai import OpenAIHook
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import ErrorResponse, TaskStatesResult
from airflow.triggers.base import BaseTrigger
from openai import OpenAI

from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.submit import submit
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, Owner
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.hooks.model_provider import shared_provider
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.triggers import ended, polling
from airflow_provider_aihandoff.triggers.approval import ApprovalTrigger
from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger
from airflow_provider_aihandoff.triggers.waits import ResponseWait
from tests.factories import OWNER, TEST, approve, ask, draft, in_an_hour, job_spec
from tests.target import Answer, Target

pytestmark = pytest.mark.usefixtures("connections")


@dataclass
class Waiting:
    """A job whose response runs, and the arguments of a trigger that waits for it."""

    job: Job
    kwargs: dict[str, Any]

    def trigger(self, **changes: Any) -> OpenAIBackgroundResponseTrigger:
        return OpenAIBackgroundResponseTrigger(**{**self.kwargs, **changes})


Submit = Callable[..., Waiting]


@pytest.fixture
def wait_for(ledger: Ledger, stand_in: OpenAIStandIn, _served: Any) -> Submit:
    """Submit a job whose response does what the words say."""

    def wait_for(words: str = "delay=0", **changes: Any) -> Waiting:
        request = {"model": "gpt-5.2", "input": "Write.", "metadata": {"standin": words}}
        job = ledger.submission.open(job_spec(input=request, request=request, **changes)).job
        with OpenAI(base_url=_served[2], api_key="any") as client:
            revision = submit(ledger, OpenAIProvider(client), job, actor=TEST)
        kwargs = {
            "job_id": job.job_id,
            "revision": revision.number,
            "response_id": revision.response_id,
            "openai_conn_id": "openai_default",
            "ledger_conn_id": "aihandoff_ledger",
            "deadline": in_an_hour().isoformat(),
            "not_before": datetime.now(UTC).isoformat(),
            "poll_interval": 0.01,
        }
        return Waiting(job, kwargs)

    return wait_for


async def events(trigger: OpenAIBackgroundResponseTrigger) -> list[Any]:
    """Everything that a trigger fires until it ends."""
    async with asyncio.timeout(30):
        return [event.payload async for event in trigger.run()]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  what it waits for happens in other threads
            await asyncio.sleep(0.01)


class TestRun:
    @pytest.mark.parametrize(
        ("words", "status"),
        [
            ("delay=0", "completed"),
            ("delay=0.2", "completed"),
            ("delay=0 status=failed", "failed"),
            ("delay=0 status=incomplete", "incomplete"),
            ("delay=0 status=cancelled", "cancelled"),
        ],
    )
    async def test_the_response_trigger_fires_once_with_ids_and_the_status(
        self, wait_for: Submit, words: str, status: str
    ) -> None:
        waiting = wait_for(words)
        assert await events(waiting.trigger()) == [{"job_id": waiting.job.job_id, "revision": 1, "status": status}]

    @pytest.mark.parametrize(
        "words",
        [
            "delay=0.1 retrieve=404 times=3",
            "delay=0 retrieve=404 times=3 when=finished",
            "delay=0 retrieve=500 times=5",
            "delay=0 retrieve=503 times=3",
            "delay=0 retrieve=429 times=3",
            "delay=0 retrieve=html times=3",
            "delay=0 retrieve=wrong_id times=3",
            "delay=0 retrieve=drop times=3",
        ],
    )
    async def test_the_response_trigger_waits_for_the_end_of_a_fault(
        self, wait_for: Submit, stand_in: OpenAIStandIn, words: str
    ) -> None:
        fired = await events(wait_for(words).trigger())

        assert [event["status"] for event in fired] == ["completed"]
        assert stand_in.responses().retrieves > 3

    async def test_a_completed_response_without_its_output_is_left_to_the_worker(self, wait_for: Submit) -> None:
        (event,) = await events(wait_for("delay=0 retrieve=null_output times=9").trigger())
        assert event["status"] == "completed"

    @pytest.mark.parametrize("words", ["delay=0 unknown_status", "stuck=queued", "delay=0 retrieve=500 times=99999"])
    async def test_a_response_that_never_ends_is_waited_for_until_the_deadline(
        self, wait_for: Submit, stand_in: OpenAIStandIn, words: str
    ) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=0.7)

        (event,) = await events(wait_for(words).trigger(deadline=soon.isoformat()))

        assert event["status"] == "deadline"
        assert datetime.now(UTC) >= soon
        assert stand_in.responses().cancels == 0

    async def test_the_deadline_of_a_response_trigger_is_absolute(
        self, wait_for: Submit, stand_in: OpenAIStandIn
    ) -> None:
        trigger = wait_for("stuck=queued").trigger(deadline=datetime(2026, 1, 1, tzinfo=UTC).isoformat())

        (event,) = await events(trigger)

        assert event["status"] == "deadline"
        assert stand_in.responses().retrieves == 0

    async def test_a_response_that_is_not_found_for_long_is_gone(
        self, wait_for: Submit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(polling, "GONE_AFTER", 0.2)
        (event,) = await events(wait_for("stuck=queued retrieve=404 times=99999").trigger())
        assert event["status"] == "gone"

    async def test_errors_of_another_kind_in_between_start_the_count_again(
        self, wait_for: Submit, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(polling, "GONE_AFTER", -1)
        polls = iter(["error", "pending", "completed", "completed"])

        async def poll(wait: ResponseWait) -> str:
            return next(polls)

        monkeypatch.setattr(polling, "_poll", poll)
        (event,) = await events(wait_for().trigger())
        assert event["status"] == "completed"

    async def test_the_response_trigger_fires_at_once_when_the_ledger_has_settled_the_revision(
        self, wait_for: Submit, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        waiting = wait_for("stuck=queued")
        ledger.outputs.fail(waiting.job.job_id, 1, actor=TEST, reason="enough", error={"kind": "test"})

        (event,) = await events(waiting.trigger())

        assert event["status"] == "settled"
        assert stand_in.responses().retrieves == 0

    async def test_the_response_trigger_does_not_fire_before_the_minimum_wait(self, wait_for: Submit) -> None:
        not_before = datetime.now(UTC) + timedelta(seconds=0.5)

        await events(wait_for().trigger(not_before=not_before.isoformat()))

        assert datetime.now(UTC) >= not_before

    def test_the_response_trigger_survives_serialization_and_has_ids_and_times_only(self, wait_for: Submit) -> None:
        waiting = wait_for()

        path, kwargs = waiting.trigger().serialize()

        assert path == "airflow_provider_aihandoff.triggers.response.OpenAIBackgroundResponseTrigger"
        assert kwargs == waiting.kwargs
        assert vars(OpenAIBackgroundResponseTrigger(**kwargs))["response_id"] == waiting.kwargs["response_id"]


class TestClient:
    async def test_all_triggers_of_a_connection_share_one_client(self, opened: list[str]) -> None:
        providers = await asyncio.gather(*(shared_provider("openai_default") for _ in range(20)))

        assert len({id(provider) for provider in providers}) == 1
        assert await shared_provider("openai_default") is providers[0]
        assert opened == ["openai_default"]

    async def test_a_trigger_that_is_cancelled_does_not_take_the_client_from_the_others(
        self, opened: list[str]
    ) -> None:
        first, second = (asyncio.create_task(shared_provider("openai_default")) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()

        assert await second is await shared_provider("openai_default")
        assert opened == ["openai_default"]

    async def test_a_connection_that_cannot_be_opened_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept = os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"]
        monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
        with pytest.raises(Exception, match="openai_default"):
            await shared_provider("openai_default")
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", kept)
        assert await shared_provider("openai_default")

    async def test_credentials_that_were_refused_are_read_again(
        self, wait_for: Submit, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting = wait_for()
        good = os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"]
        target.answers = [Answer(401, {"error": {"message": "bad key"}})] * 1000
        bad = {**json.loads(good), "host": f"http://127.0.0.1:{target.port}/v1"}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(bad))
        task = asyncio.create_task(events(waiting.trigger()))
        await until(lambda: target.received)

        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", good)

        assert [event["status"] for event in await task] == ["completed"]

    @pytest.fixture
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The connections from which a client was made."""
        conn_ids = []
        aget_conn = OpenAIHook.aget_conn

        async def counted(hook: OpenAIHook) -> Any:
            conn_ids.append(hook.conn_id)
            await asyncio.sleep(0)
            return await aget_conn(hook)

        monkeypatch.setattr(OpenAIHook, "aget_conn", counted)
        return conn_ids


AnyTrigger = TypeVar("AnyTrigger", bound=BaseTrigger)


class Supervisor:
    """Answers what state the task is in."""

    def __init__(self, state: Any) -> None:
        self.state = state
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def asend(self, message: Any) -> Any:
        self.asked.set()
        await self.answers.wait()
        if isinstance(self.state, Exception):
            raise self.state
        if isinstance(self.state, ErrorResponse):
            return self.state
        names = [message.task_ids[0] if message.map_index is None else f"{message.task_ids[0]}_{message.map_index}"]
        return TaskStatesResult(task_states={message.run_ids[0]: dict.fromkeys(names, self.state)})


def owned(trigger: AnyTrigger, owner: Owner = OWNER) -> AnyTrigger:
    """The trigger, as the triggerer runs it for an attempt."""
    trigger.task_instance = SimpleNamespace(  # type: ignore[assignment]
        dag_id=owner.dag_id,
        run_id=owner.run_id,
        task_id=owner.task_id,
        map_index=owner.map_index,
        id=owner.ti_id,
        try_number=owner.try_number,
    )
    return trigger


@pytest.fixture
def supervisor(monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    supervisor = Supervisor("failed")
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
    return supervisor


class TestKill:
    @pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed", "upstream_failed"])
    async def test_a_task_that_was_ended_cancels_its_response(
        self, wait_for: Submit, ledger: Ledger, stand_in: OpenAIStandIn, supervisor: Supervisor, state: str
    ) -> None:
        supervisor.state = state
        waiting = wait_for("stuck=in_progress")

        await owned(waiting.trigger()).on_kill()

        assert stand_in.responses().responses[0].response["status"] == "cancelled"
        record = ledger.record(waiting.job.job_id)
        assert record.job.state is JobState.CANCELLED
        names = [event.event for event in record.events]
        assert names.index("cancel requested") < names.index("cancelled")
        assert record.events[names.index("cancelled")].detail == {"status": "cancelled"}

    async def test_a_mapped_task_is_asked_about_by_its_index(
        self, wait_for: Submit, stand_in: OpenAIStandIn, supervisor: Supervisor
    ) -> None:
        owner = Owner("d", "r", "t", 3, "ti", 1)
        await owned(wait_for("stuck=in_progress", owner=owner).trigger(), owner).on_kill()
        assert stand_in.responses().cancels == 1

    @pytest.mark.parametrize(
        "state",
        [
            "deferred",
            "running",
            "queued",
            "scheduled",
            "up_for_retry",
            None,
            RuntimeError("no answer"),
            ErrorResponse(detail={"message": "no answer"}),
        ],
    )
    async def test_a_task_that_has_not_ended_lets_its_response_go_on(
        self, wait_for: Submit, ledger: Ledger, stand_in: OpenAIStandIn, supervisor: Supervisor, state: Any
    ) -> None:
        supervisor.state = state
        waiting = wait_for("stuck=in_progress")

        await owned(waiting.trigger()).on_kill()

        assert stand_in.responses().cancels == 0
        assert ledger.job(waiting.job.job_id).state is JobState.RUNNING

    @pytest.mark.parametrize(
        "owner",
        [
            Owner(OWNER.dag_id, OWNER.run_id, OWNER.task_id, -1, "ti-2", 1),
            Owner(OWNER.dag_id, OWNER.run_id, OWNER.task_id, -1, "ti-1", 2),
        ],
        ids=["cleared", "retried"],
    )
    async def test_a_response_that_a_newer_attempt_owns_goes_on(
        self, wait_for: Submit, ledger: Ledger, stand_in: OpenAIStandIn, supervisor: Supervisor, owner: Owner
    ) -> None:
        waiting = wait_for("stuck=in_progress", owner=owner)

        await owned(waiting.trigger()).on_kill()

        assert stand_in.responses().cancels == 0
        assert ledger.job(waiting.job.job_id).state is JobState.RUNNING

    async def test_a_trigger_of_no_task_cancels_nothing(
        self, wait_for: Submit, stand_in: OpenAIStandIn, supervisor: Supervisor
    ) -> None:
        await wait_for("stuck=in_progress").trigger().on_kill()
        assert stand_in.responses().cancels == 0

    async def test_a_cancel_of_a_response_goes_on_when_its_trigger_is_cut_off(
        self, wait_for: Submit, ledger: Ledger, stand_in: OpenAIStandIn, supervisor: Supervisor
    ) -> None:
        supervisor.answers.clear()
        waiting = wait_for("stuck=in_progress")
        killing = asyncio.create_task(owned(waiting.trigger()).on_kill())
        await supervisor.asked.wait()

        killing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await killing
        supervisor.answers.set()
        await asyncio.gather(*ended.on_kill_tasks)

        assert stand_in.responses().cancels == 1
        assert ledger.job(waiting.job.job_id).state is JobState.CANCELLED

    async def test_a_trigger_that_is_stopped_cancels_nothing(
        self, wait_for: Submit, stand_in: OpenAIStandIn, supervisor: Supervisor
    ) -> None:
        trigger = owned(wait_for("stuck=in_progress").trigger())
        running = asyncio.create_task(events(trigger))
        await until(lambda: stand_in.responses().retrieves)

        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await trigger.cleanup()

        assert stand_in.responses().cancels == 0

    async def test_a_cancel_of_a_response_that_has_ended_records_its_real_status(
        self, wait_for: Submit, ledger: Ledger, supervisor: Supervisor
    ) -> None:
        waiting = wait_for("delay=0")

        await owned(waiting.trigger()).on_kill()

        record = ledger.record(waiting.job.job_id)
        assert {"status": "completed"} in [event.detail for event in record.events if event.event == "cancelled"]
        assert record.revision.usage is not None


class TestKillOfAnApproval:
    """A job waits for a decision, and its approval task is ended in some way."""

    @pytest.fixture
    def job(self, ledger: Ledger) -> Job:
        return ask(ledger, draft(ledger))

    @staticmethod
    def trigger(job: Job, owner: Owner = OWNER) -> ApprovalTrigger:
        soon = datetime.now(UTC).isoformat()
        assert job.review_digest is not None
        return owned(
            ApprovalTrigger(
                job_id=job.job_id,
                digest=job.review_digest,
                ledger_conn_id="aihandoff_ledger",
                until=soon,
                not_before=soon,
            ),
            owner,
        )

    async def test_marking_the_approval_task_failed_cancels_the_job(
        self, ledger: Ledger, job: Job, supervisor: Supervisor
    ) -> None:
        await self.trigger(job).on_kill()

        after = ledger.job(job.job_id)
        assert (after.state, after.state_reason) == (
            JobState.CANCELLED,
            "the task that waited for its decision was marked failed",
        )
        assert [effect.state for effect in ledger.record(job.job_id).effects] == [EffectState.VOID]

    @pytest.mark.parametrize("state", ["deferred", "scheduled", "running", "success", "skipped", None])
    async def test_only_marking_the_approval_task_failed_cancels_the_job(
        self, ledger: Ledger, job: Job, supervisor: Supervisor, state: str | None
    ) -> None:
        supervisor.state = state
        await self.trigger(job).on_kill()
        assert ledger.job(job.job_id).state is JobState.REVIEW

    async def test_a_job_of_another_run_goes_on_waiting(self, ledger: Ledger, job: Job, supervisor: Supervisor) -> None:
        await self.trigger(job, replace(OWNER, run_id="manual__2")).on_kill()
        assert ledger.job(job.job_id).state is JobState.REVIEW

    async def test_a_job_that_was_decided_meanwhile_stays_as_it_is(
        self, ledger: Ledger, job: Job, supervisor: Supervisor
    ) -> None:
        approve(ledger, job)
        await self.trigger(job).on_kill()
        assert ledger.job(job.job_id).state is JobState.APPROVED
