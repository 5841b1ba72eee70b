"""A request whose answer was lost, or that was never sent, while its task is gone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.generation.provider import own_metadata
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.states import RevisionState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.factories import LEASE, TEST
from tests.integration.core.reconcile.world import World, kinds

NOT_ENDED = [TaskState.ALIVE, TaskState.MISSING, TaskState.UNKNOWN]
GONE = [TaskState.ENDED, TaskState.MISSING]


def error_of(world: World, job: Any) -> Any:
    return world.ledger.revision(job.job_id, 1).error


class TestLostSubmission:
    def test_a_lost_submission_is_counted_once_and_left_to_webhooks(self, world: World) -> None:
        job = world.lost()
        world.tasks["r1"] = TaskState.ENDED

        (finding,) = world.reconcile()
        world.age(job, 600)

        assert finding.kind == "lost submission"
        assert world.ledger.revision(job.job_id, 1).unknown_submissions == 1
        assert (world.state(job), world.events(job)) == ("queued", ["submit unknown"])
        assert world.reconcile() == []

    def test_a_task_that_is_cleared_afterwards_waits_for_the_webhook_where_webhooks_arrive(self, world: World) -> None:
        job = world.lost()
        world.webhook("wh_before", "resp_before")
        world.tasks["r1"] = TaskState.ENDED
        world.reconcile()
        intent = world.ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
        assert intent.token is None
        assert intent.wait > 600

    def test_a_task_that_is_cleared_afterwards_sends_again(self, world: World, stand_in: OpenAIStandIn) -> None:
        job = world.lost()
        world.tasks["r1"] = TaskState.ENDED
        world.reconcile()
        assert world.ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).token is not None

    @pytest.mark.parametrize("state", NOT_ENDED)
    def test_a_lost_submission_whose_task_may_be_alive_is_left(self, world: World, state: TaskState) -> None:
        world.lost()
        world.tasks["r1"] = state
        before = world.dump()
        assert kinds(world.reconcile()) == (["task unknown"] if state is TaskState.UNKNOWN else [])
        assert world.dump() == before

    def test_a_request_that_may_be_on_its_way_is_left(self, world: World) -> None:
        job = world.lost()
        world.sql("UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp() + interval '9 seconds'")
        world.pass_deadline(job, 90)
        world.tasks["r1"] = TaskState.ENDED
        assert world.reconcile() == []

    def test_a_lost_submission_is_left_alone_for_two_minutes(self, world: World) -> None:
        world.age(world.lost(), 110)
        world.tasks["r1"] = TaskState.ENDED
        assert world.reconcile() == []

    @pytest.mark.parametrize("counted", [False, True])
    @pytest.mark.parametrize("state", GONE)
    def test_after_the_deadline_its_job_fails(self, world: World, state: TaskState, *, counted: bool) -> None:
        job = world.lost()
        if counted:
            world.tasks["r1"] = TaskState.ENDED
            world.reconcile()
            world.age(job, 600)
        world.pass_deadline(job, 90)
        world.tasks["r1"] = state

        world.reconcile()

        assert (world.state(job), error_of(world, job)) == ("failed", {"kind": "deadline"})
        assert world.events(job) == ["submit unknown", "failed"]

    def test_after_the_deadline_a_task_that_is_alive_ends_it_itself(self, world: World) -> None:
        world.pass_deadline(world.lost(), 90)
        assert world.reconcile() == []

    def test_an_attempt_that_came_before_the_step_keeps_its_permission(self, world: World) -> None:
        job = world.lost()
        world.tasks["r1"] = TaskState.ENDED
        # After the search: the first answer is the search's.
        world.before_states = lambda: world.ledger.submission.intend(
            job.job_id, 1, actor=Actor.program("other"), lease=LEASE
        )

        (finding,) = world.reconcile()

        assert "moved on" in str(finding.done)
        assert world.events(job) == []
        revision = world.ledger.revision(job.job_id, 1)
        assert (revision.state, revision.submit_token is None) == (RevisionState.SUBMITTING, False)

    def test_a_webhook_that_brings_its_response_comes_first(self, world: World) -> None:
        job = world.lost()
        world.tasks["r1"] = TaskState.ENDED
        response_id = world.created("delay=0", **own_metadata(job.job_id, 1, world.ledger.ledger_id()))
        world.webhook("wh_1", response_id)

        assert kinds(world.reconcile()) == ["webhook due"]
        assert world.state(job) == "running"
        assert world.events(job) == []


class TestNeverSubmitted:
    @pytest.mark.parametrize("state", GONE)
    def test_after_its_deadline_the_job_fails(self, world: World, state: TaskState) -> None:
        job = world.never_sent()
        world.tasks["r1"] = state

        (finding,) = world.reconcile()

        assert (finding.kind, world.state(job)) == ("never submitted", "failed")
        assert (error_of(world, job), world.events(job)) == ({"kind": "deadline"}, ["failed"])
        assert world.ledger.revision(job.job_id, 1).unknown_submissions == 0

    def test_a_task_that_is_alive_is_left(self, world: World) -> None:
        world.never_sent()
        assert world.reconcile() == []

    @pytest.mark.parametrize("seconds", [50, -3600])
    def test_a_job_that_was_never_submitted_waits_until_its_deadline_for_a_cleared_task(
        self, world: World, seconds: float
    ) -> None:
        world.pass_deadline(world.never_sent(), seconds)
        world.tasks["r1"] = TaskState.ENDED
        assert world.reconcile() == []

    def test_a_job_that_is_sent_before_the_step_is_left(self, world: World) -> None:
        job = world.never_sent()
        world.tasks["r1"] = TaskState.ENDED
        owner = world.ledger.job(job.job_id).owner
        world.before_states = lambda: world.ledger.submission.take_over(
            job.job_id, 1, owner=replace(owner, try_number=2), request={}
        )

        (finding,) = world.reconcile()

        assert "moved on" in str(finding.done)
        assert (world.state(job), world.events(job)) == ("queued", [])

    def test_a_task_that_was_cleared_before_the_step_keeps_its_job(self, world: World) -> None:
        job = world.never_sent()
        world.tasks["r1"] = [TaskState.ENDED, TaskState.ALIVE]
        world.reconcile()
        assert (world.state(job), world.events(job)) == ("queued", [])
