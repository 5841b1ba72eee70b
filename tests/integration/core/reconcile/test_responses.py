"""An orphaned response is stopped, unless it has ended: on a real ledger, over real HTTP."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job, Owner
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.states import ResponseStatus, RevisionState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.factories import LEASE, OWNER, TEST, job_spec
from tests.fake_provider import PRICE, FakeProvider
from tests.integration.core.reconcile.world import World, kinds, task

NOT_ENDED = [TaskState.ALIVE, TaskState.MISSING, TaskState.UNKNOWN]
GONE = [TaskState.ENDED, TaskState.MISSING]
RUNNING = ResponseStatus.RUNNING


def error_of(world: World, job: Any) -> Any:
    return world.ledger.revision(job.job_id, 1).error


class TestSurplus:
    """A response that no revision waits for, where the process died that should have cancelled it."""

    OTHER: ClassVar[dict[str, str]] = {"model": "gpt-5.2", "input": "Write something else."}

    def superseded(self, world: World, words: str = "stuck=in_progress") -> Job:
        job = world.running("r1", words)
        world.ledger.submission.open(job_spec(job_key="r1", input=self.OTHER, request=self.OTHER, owner=job.owner))
        world.age(job, 600)
        return job

    def test_a_superseded_response_whose_worker_died_is_cancelled_at_openai(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        job = self.superseded(world)
        (finding,) = world.reconcile()
        assert (finding.kind, finding.done) == ("surplus response", "it is cancelled, and its cost is on the record")
        assert stand_in.responses().responses[0].response["status"] == "cancelled"
        assert world.ledger.revision(job.job_id, 1).response_status == "cancelled"
        assert world.events(job) == ["output late"]
        assert world.reconcile() == []

    def test_one_that_has_completed_after_all_is_counted_with_its_cost(self, world: World) -> None:
        job = self.superseded(world, "delay=0")
        assert kinds(world.reconcile()) == ["surplus response"]
        old = world.ledger.revision(job.job_id, 1)
        assert (old.state, old.response_status, old.output) == (RevisionState.CANCELLED, "completed", None)
        assert old.cost_usd is not None
        assert world.reconcile() == []

    def test_one_that_openai_no_longer_has_is_settled(self, world: World, stand_in: OpenAIStandIn) -> None:
        job = self.superseded(world)
        stand_in.reset()
        (finding,) = world.reconcile()
        assert finding.done == "OpenAI no longer has it"
        assert world.events(job) == ["output late"]
        assert world.reconcile() == []

    def test_one_that_was_superseded_just_now_is_left_to_its_worker(self, world: World) -> None:
        world.age(self.superseded(world), 60)
        assert world.reconcile() == []

    def test_one_that_openai_cannot_be_asked_about_is_asked_about_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.superseded(world, "stuck=in_progress retrieve=500 times=99")
        with monkeypatch.context() as patch:
            patch.setattr(type(world.provider), "cancel", lambda self, response_id: None)
            (finding,) = world.reconcile()
        assert finding.failed
        assert kinds(world.reconcile()) == ["surplus response"]
        assert world.reconcile() == []

    def test_a_response_that_came_after_its_revision_was_given_up_is_cancelled_where_its_worker_died(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        job = world.opened()
        token = world.ledger.submission.intend(job.job_id, 1, actor=TEST, lease=timedelta(0)).token
        response_id = world.created("stuck=in_progress")
        world.running()
        assert token is not None
        came = world.ledger.submission.submitted(
            job.job_id, 1, token=token, response_id=response_id, status=ResponseStatus.QUEUED, actor=TEST
        )
        assert came is None
        world.sql("UPDATE aihandoff.surplus_responses SET created_at = created_at - interval '10 minutes'")
        (finding,) = world.reconcile()
        assert finding.kind == "surplus response"
        assert stand_in.responses().responses[0].response["status"] == "cancelled"
        assert world.reconcile() == []


class TestPastItsDeadline:
    @pytest.mark.parametrize("state", list(TaskState))
    def test_a_response_that_runs_is_cancelled_and_its_job_fails_whatever_its_task_does(
        self, world: World, stand_in: OpenAIStandIn, state: TaskState
    ) -> None:
        job = world.overdue()
        world.tasks["r1"] = state

        (finding,) = world.reconcile()

        assert (finding.kind, finding.job_id) == ("past its deadline", job.job_id)
        assert "failed" in str(finding.done)
        assert (world.state(job), error_of(world, job)) == ("failed", {"kind": "deadline"})
        assert stand_in.responses().responses[0].response["status"] == "cancelled"
        assert world.events(job) == ["failed"]

    def test_the_cost_of_an_overdue_response_is_recorded(self, world: World) -> None:
        job = world.overdue(words="delay=60 complete_after_cancel")
        response_id = world.ledger.revision(job.job_id, 1).response_id
        assert response_id is not None
        billed = ModelResponse(response_id, ResponseStatus.CANCELLED, usage={"tokens": 5})
        world.provider = FakeProvider(RUNNING, billed)

        world.reconcile()

        revision = world.ledger.revision(job.job_id, 1)
        assert (revision.usage, revision.cost_usd) == ({"tokens": 5}, 5 * PRICE)
        assert world.events(job) == ["failed", "output late"]

    @pytest.mark.parametrize(("status", "words"), [("completed", "delay=0"), ("failed", "delay=0 status=failed")])
    def test_an_overdue_response_that_has_ended_is_left_to_its_task(
        self, world: World, stand_in: OpenAIStandIn, status: str, words: str
    ) -> None:
        job = world.overdue(words=words)

        (finding,) = world.reconcile()

        assert status in str(finding.done)
        assert (world.state(job), world.events(job)) == ("running", ["response ended"])
        assert world.ledger.revision(job.job_id, 1).response_status == status
        assert stand_in.responses().cancels == 0

    def test_the_task_of_an_ended_response_is_notified_and_takes_the_output(self, world: World) -> None:
        job = world.overdue(words="delay=0")
        world.reconcile()
        stored = world.ledger.outputs.store(job.job_id, 1, Output(ResponseStatus.COMPLETED, "A kettle."), actor=TEST)
        assert stored.state.value == "review"

    def test_an_overdue_response_that_ends_while_it_is_being_cancelled_is_left_to_its_task(self, world: World) -> None:
        job = world.overdue()
        world.provider = FakeProvider(RUNNING, ResponseStatus.COMPLETED)

        (finding,) = world.reconcile()

        assert "completed" in str(finding.done)
        assert (world.state(job), world.events(job)) == ("running", ["response ended"])

    def test_an_overdue_response_that_openai_does_not_find_is_gone(self, world: World, stand_in: OpenAIStandIn) -> None:
        job = world.overdue(words="stuck=in_progress retrieve=404 times=99")

        world.reconcile()

        assert (world.state(job), error_of(world, job)) == ("failed", {"kind": "gone"})
        assert stand_in.responses().cancels == 0

    @pytest.mark.parametrize("fault", ["500", "503", "429", "html", "wrong_id", "drop"])
    def test_without_a_valid_answer_of_openai_nothing_is_done_and_the_next_run_asks_again(
        self, world: World, stand_in: OpenAIStandIn, fault: str
    ) -> None:
        job = world.overdue(words=f"stuck=in_progress retrieve={fault} times=1")
        before = world.dump()

        (finding,) = world.reconcile()

        assert (finding.failed, str(finding.done).partition(":")[0]) == (True, "failed")
        assert world.dump() == before
        assert stand_in.responses().cancels == 0
        assert [again.failed for again in world.reconcile()] == [False]
        assert world.state(job) == "failed"

    def test_a_task_that_waits_for_the_deadline_comes_first(self, world: World, stand_in: OpenAIStandIn) -> None:
        job = world.running()
        world.pass_deadline(job, 50)
        assert world.reconcile() == []
        assert stand_in.responses().retrieves == 0

    def test_a_job_that_was_touched_just_now_is_left_alone(self, world: World) -> None:
        world.age(world.overdue(), 50)
        assert world.reconcile() == []

    def test_openai_is_not_asked_about_a_response_that_is_known_to_have_ended(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        job = world.overdue(words="delay=0")
        world.ledger.outputs.ended(job.job_id, 1, status=ResponseStatus.COMPLETED, actor=TEST)
        world.age(job, 600)

        assert world.reconcile() == []
        assert stand_in.responses().retrieves == 0

    def test_a_job_that_takes_its_output_while_openai_is_asked_is_left_alone(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        job = world.overdue()

        class Slow(FakeProvider):
            def retrieve(self, response_id: str) -> ModelResponse:
                world.ledger.outputs.store(
                    job.job_id, 1, Output(ResponseStatus.COMPLETED, "A kettle."), actor=Actor.program("its task")
                )
                return super().retrieve(response_id)

        world.provider = slow = Slow(RUNNING)

        (finding,) = world.reconcile()

        assert "moved on" in str(finding.done)
        assert (slow.calls, world.state(job)) == (["retrieve"], "review")

    def test_a_job_that_moves_on_before_its_step_is_left_alone(self, world: World, stand_in: OpenAIStandIn) -> None:
        job = world.overdue()
        world.before_provider = lambda: world.ledger.outputs.store(
            job.job_id, 1, Output(ResponseStatus.COMPLETED, "A kettle."), actor=Actor.program("its task")
        )

        (finding,) = world.reconcile()

        assert "moved on" in str(finding.done)
        assert (world.state(job), world.events(job)) == ("review", [])
        assert (stand_in.responses().retrieves, stand_in.responses().cancels) == (0, 0)


class TestAbandonedResponse:
    def test_an_abandoned_response_is_cancelled_with_its_job_and_the_wish_is_recorded_first(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        job = world.running()
        world.tasks["r1"] = TaskState.ENDED

        (finding,) = world.reconcile()

        assert (finding.kind, world.state(job)) == ("abandoned response", "cancelled")
        assert world.events(job)[:2] == ["cancel requested", "cancelled"]
        assert stand_in.responses().responses[0].response["status"] == "cancelled"

    @pytest.mark.parametrize("state", NOT_ENDED)
    def test_nothing_is_done_while_its_task_is_not_known_to_have_ended(
        self, world: World, stand_in: OpenAIStandIn, state: TaskState
    ) -> None:
        world.running()
        world.tasks["r1"] = state
        before = world.dump()

        found = world.reconcile()

        assert kinds(found) == (["task unknown"] if state is TaskState.UNKNOWN else [])
        assert world.dump() == before
        assert (stand_in.responses().retrieves, stand_in.responses().cancels) == (0, 0)

    def test_a_task_whose_state_is_not_in_the_answer_is_not_known(self, world: World) -> None:
        world.running()
        assert kinds(world.reconcile(states_of=lambda owners: {})) == ["task unknown"]

    def test_an_abandoned_response_is_left_alone_for_two_minutes(self, world: World) -> None:
        world.age(world.running(), 110)
        world.tasks["r1"] = TaskState.ENDED
        assert world.reconcile() == []

    @pytest.mark.parametrize("status", ["completed", "failed", "incomplete"])
    def test_an_abandoned_response_that_has_ended_is_left(
        self, world: World, stand_in: OpenAIStandIn, status: str
    ) -> None:
        words = "delay=0" if status == "completed" else f"delay=0 status={status}"
        job = world.running(words=words)
        world.tasks["r1"] = TaskState.ENDED

        world.reconcile()

        assert (world.state(job), world.events(job)) == ("running", ["response ended"])
        assert stand_in.responses().cancels == 0

    def test_an_abandoned_response_that_ends_while_it_is_being_cancelled_is_left(self, world: World) -> None:
        job = world.running()
        world.tasks["r1"] = TaskState.ENDED
        world.provider = FakeProvider(RUNNING, ResponseStatus.COMPLETED)

        world.reconcile()

        assert (world.state(job), world.events(job)) == ("running", ["cancel requested", "response ended"])

    def test_an_abandoned_response_that_openai_does_not_find_has_until_its_deadline(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        job = world.running(words="stuck=queued retrieve=404 times=99")
        world.tasks["r1"] = TaskState.ENDED
        before = world.dump()

        (finding,) = world.reconcile()

        assert "deadline" in str(finding.done)
        assert (world.dump(), stand_in.responses().cancels) == (before, 0)
        assert world.state(job) == "running"

    def test_openai_is_asked_again_until_it_says_that_the_response_has_stopped(self, world: World) -> None:
        job = world.running()
        world.tasks["r1"] = TaskState.ENDED
        world.provider = FakeProvider(RUNNING, None)

        (finding,) = world.reconcile()

        assert finding.failed
        assert (world.state(job), world.events(job)) == ("running", ["cancel requested"])
        world.age(job, 600)
        world.provider = FakeProvider(RUNNING, ResponseStatus.CANCELLED)
        world.reconcile()
        assert world.state(job) == "cancelled"

    def test_a_task_that_was_cleared_before_the_step_keeps_its_response(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        world.running()
        # The search asks for the owner, and for all who came; then the step asks again.
        world.tasks["r1"] = [TaskState.ENDED, TaskState.ENDED, TaskState.ALIVE]
        before = world.dump()

        (finding,) = world.reconcile()

        assert "moved on" in str(finding.done)
        assert (world.dump(), stand_in.responses().cancels) == (before, 0)

    def test_a_new_attempt_that_has_attached_before_the_step_keeps_its_response(
        self, world: World, stand_in: OpenAIStandIn
    ) -> None:
        job = world.running()
        world.tasks["r1"] = TaskState.ENDED
        world.before_provider = lambda: world.opened("r1")

        (finding,) = world.reconcile()

        assert "moved on" in str(finding.done)
        assert (world.state(job), world.events(job)) == ("running", [])
        assert stand_in.responses().cancels == 0

    @pytest.mark.parametrize("state", [TaskState.ALIVE, TaskState.UNKNOWN])
    def test_a_response_goes_on_for_a_task_of_another_run_that_waits_for_it_too(
        self, world: World, stand_in: OpenAIStandIn, state: TaskState
    ) -> None:
        first = world.running("r1")
        request = first.input
        job = world.ledger.submission.open(job_spec(job_key="r1", input=request, request=request, owner=task("r2"))).job
        assert job.owner == task("r2")
        world.age(job, 600)
        world.tasks |= {"r2": TaskState.ENDED, "r1": state}
        before = world.dump()

        assert world.reconcile() == []
        assert (world.dump(), stand_in.responses().cancels) == (before, 0)

        world.tasks["r1"] = TaskState.ENDED
        world.reconcile()
        assert world.state(job) == "cancelled"

    def test_a_task_that_came_for_an_earlier_revision_does_not_keep_it(self, world: World) -> None:
        world.running("r1")
        other: Any = {"model": "gpt-5.2", "input": "Other.", "metadata": {"standin": "stuck=queued"}}
        spec = job_spec(job_key="r1", input=other, request=other, owner=task("r2"))
        job = world.ledger.submission.open(spec).job
        intent = world.ledger.submission.intend(job.job_id, 2, actor=TEST, lease=LEASE)
        response_id = world.created("stuck=queued")
        assert intent.token is not None
        world.ledger.submission.submitted(
            job.job_id, 2, token=intent.token, response_id=response_id, status=ResponseStatus.QUEUED, actor=TEST
        )
        world.age(job, 600)
        world.tasks["r2"] = TaskState.ENDED

        world.reconcile()

        assert world.state(job) == "cancelled"


class TestOutputLeft:
    @pytest.mark.parametrize("state", GONE)
    def test_the_finding_to_clear_the_task_is_repeated_in_every_run(self, world: World, state: TaskState) -> None:
        job = world.running(words="delay=0")
        world.ledger.outputs.ended(job.job_id, 1, status=ResponseStatus.COMPLETED, actor=TEST)
        world.age(job, 600)
        world.tasks["r1"] = state
        before = world.dump()

        for _ in range(2):
            (finding,) = world.reconcile()
            assert (finding.kind, finding.done) == ("output left", None)
            assert "clear the draft task" in finding.step
        assert world.dump() == before

    def test_the_attempts_that_wait_for_a_job_are_those_of_tasks_whatever_their_names_hold(
        self, ledger: Ledger
    ) -> None:
        mapped = Owner("d", "a/b/c#1/task:x [0]", "group.draft", 3, "ti", 2)
        for owner in (OWNER, mapped):
            job = ledger.submission.open(job_spec(owner=owner)).job
        assert set(ledger.abandoned.attempts(job.job_id)) == {replace(owner, ti_id="") for owner in (OWNER, mapped)}


def test_an_answer_of_openai_that_is_an_error_is_reported_in_words(world: World) -> None:
    world.overdue(words="stuck=in_progress retrieve=500 times=99")
    (finding,) = world.reconcile()
    assert "OpenAI answered 500" in str(finding.done)
