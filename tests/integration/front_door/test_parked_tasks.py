"""Approval tasks that Airflow has parked, beside an API server: who wakes them, and what an answer there is worth."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from airflow.api.common.trigger_dag import trigger_dag
from airflow.sdk import DAG
from airflow.utils.types import DagRunTriggeredByType
from starlette.testclient import TestClient

from airflow_provider_aihandoff import airflow_compat
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, Owner
from airflow_provider_aihandoff.core.review.required_action import RequiredAction, options_for
from airflow_provider_aihandoff.core.review.rules import Approvers, Person
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.web.front_door import parked_tasks
from tests.factories import ask, draft, effect_plan
from tests.integration.front_door.conftest import Serve, of_session
from tests.integration.operators.dag_runs import Dags, Run
from tests.integration.web.conftest import Login
from tests.waiting import until

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(airflow_compat.RELEASE < (3, 3), reason="Airflow parks no task here"),
]

BOB = Person("bob")


class Parked:
    """A run whose approval waits, of which this test is the scheduler."""

    run_id = "manual__kettle"

    def __init__(self, dags: Dags, dag: DAG) -> None:
        self._dags, self.dag = dags, dag
        trigger_dag(dag.dag_id, triggered_by=DagRunTriggeredByType.TEST, run_id=self.run_id)
        until(lambda: self.step() is not None and self.state() == "awaiting_input")

    def step(self) -> Run:
        """Run what may run now."""
        return self._dags.step(self.dag, self.run_id)

    def end(self) -> Run:
        """Run it to its end."""
        until(lambda: self.step().state != "running")
        return self.step()

    def state(self) -> str | None:
        row = self._row("state")
        return None if row is None else str(row)

    def _row(self, column: str) -> Any:
        with of_session() as session:
            rows = session.execute(
                f"SELECT {column} FROM task_instance WHERE dag_id = '{self.dag.dag_id}' AND task_id = 'approve'"  # noqa: S608
            ).fetchall()
        return rows[0][0] if rows else None

    @property
    def ti_id(self) -> str:
        return str(self._row("id"))

    @property
    def path(self) -> str:
        return f"/api/v2/dags/{self.dag.dag_id}/dagRuns/{self.run_id}/taskInstances/approve"

    def question(self, client: TestClient) -> dict[str, Any]:
        """What Airflow lists."""
        return dict(client.get(f"{self.path}/-1/hitlDetails").json())

    def answer(self, client: TestClient, option: str, comment: str = "") -> int:
        body = {"chosen_options": [option], "params_input": {"comment": comment}}
        return int(client.patch(f"{self.path}/-1/hitlDetails", json=body).status_code)


Park = Callable[..., Parked]


@pytest.fixture
def job(ledger: Ledger) -> Job:
    """What waits for a decision, with a plan that the sensor renders again."""
    return draft(ledger)


@pytest.fixture
def park(dags: Dags, job: Job, monkeypatch: pytest.MonkeyPatch) -> Park:
    """Have Airflow park an approval of the job."""
    monkeypatch.setattr(airflow_compat, "can_await_input", lambda: True)

    def park(**arguments: Any) -> Parked:
        dag = dags.make(lambda: ApprovalSensor(task_id="approve", job=job.job_id, **arguments), dag_id="publishing")
        return Parked(dags, dag)

    return park


def test_a_decision_anywhere_wakes_the_task_while_an_api_server_runs(
    park: Park, serve: Serve, ledger: Ledger, job: Job
) -> None:
    serve()
    waiting = park()
    ledger.reviews.decide(job.job_id, "approve", digest=str(ledger.job(1).review_digest), person=BOB)
    assert waiting.end().states == {"approve": "success"}
    assert list(ledger.parked_tasks.pages(10)) == []


def test_an_answer_in_airflows_list_is_the_decision_of_the_user_who_gave_it(
    park: Park, login: Login, ledger: Ledger, job: Job
) -> None:
    waiting, bob = park(), login("bob", bearer=True)
    question = waiting.question(bob)
    digest = str(ledger.job(job.job_id).review_digest)
    assert question["options"] == [*options_for(digest)]
    assert waiting.answer(bob, question["options"][1], "too long") == 200
    assert waiting.end().states == {"approve": "skipped"}
    (decision,) = ledger.record(job.job_id).decisions
    assert (decision.decided_by, decision.verdict, decision.digest) == ("bob", "reject", digest)
    assert decision.comment == "too long"


@pytest.mark.parametrize(
    "new_id",
    # As of 3.4, Airflow keeps each attempt, with its answer.
    ["id", *(["gen_random_uuid()"] if airflow_compat.RELEASE < (3, 4) else [])],
)
def test_an_answer_is_not_lost_with_a_task_that_airflow_loses_when_it_resumes_it(
    park: Park, login: Login, ledger: Ledger, job: Job, new_id: str
) -> None:
    waiting, bob = park(), login("bob", bearer=True)
    assert waiting.answer(bob, waiting.question(bob)["options"][0]) == 200
    with of_session() as session:
        session.execute("UPDATE task_instance SET state = 'up_for_retry', next_method = NULL, next_kwargs = NULL")
        session.execute(f"UPDATE task_instance SET end_date = now(), id = {new_id}")  # noqa: S608
    for _ in range(2):
        parked_tasks.follow_up(ledger)
    assert waiting.end().states == {"approve": "success"}
    assert [each.decided_by for each in ledger.record(job.job_id).decisions] == ["bob"]


def test_an_answer_that_the_rules_refuse_is_asked_again_with_the_reason(
    park: Park, login: Login, ledger: Ledger, job: Job
) -> None:
    waiting = park(approvers=Approvers(users=("carol",)))
    bob, carol = login("bob", bearer=True), login("carol", bearer=True)
    approve = waiting.question(bob)["options"][0]
    assert waiting.answer(bob, approve) == 200
    waiting.step()
    assert waiting.state() == "awaiting_input"
    parked_tasks.follow_up(ledger)
    assert "Only these may decide on it: carol." in waiting.question(bob)["body"]
    assert ledger.record(job.job_id).decisions == []
    assert waiting.answer(carol, approve) == 200
    assert waiting.end().states == {"approve": "success"}


def test_what_was_asked_before_is_no_longer_offered_once_the_job_says_something_else(
    park: Park, login: Login, ledger: Ledger, job: Job
) -> None:
    waiting, bob = park(), login("bob", bearer=True)
    old, before = waiting.question(bob), ledger.job(job.job_id)
    ledger.reviews.edit(job.job_id, digest=str(before.review_digest), output="Another kettle.", person=BOB)

    def asked_again() -> bool:
        parked_tasks.wake_due(ledger)
        waiting.step()
        parked_tasks.follow_up(ledger)
        now = ledger.job(job.job_id)
        shown = waiting.question(bob)
        return bool(now.review_digest) and shown["options"] == [*options_for(str(now.review_digest))]

    until(asked_again)
    assert waiting.state() == "awaiting_input"
    assert waiting.answer(bob, old["options"][0]) == 400
    assert ledger.record(job.job_id).decisions == []
    assert waiting.answer(bob, waiting.question(bob)["options"][0]) == 200
    assert waiting.end().states == {"approve": "success"}
    assert ledger.record(job.job_id).decisions[-1].digest == ledger.job(job.job_id).review_digest


def test_an_answer_to_an_older_question_that_arrives_all_the_same_is_no_vote(
    park: Park, login: Login, ledger: Ledger, job: Job
) -> None:
    waiting, bob = park(), login("bob", bearer=True)
    approve = waiting.question(bob)["options"][0]
    # The plan has changed a moment before the answer, and no API server has woken the task yet.
    ask(ledger, ledger.job(job.job_id), effect_plan(url="http://elsewhere"))
    assert waiting.answer(bob, approve) == 200
    waiting.step()
    assert (waiting.state(), waiting.question(bob)["response_received"]) == ("awaiting_input", False)
    assert ledger.record(job.job_id).decisions == []
    assert ledger.job(job.job_id).state is JobState.REVIEW


@pytest.mark.parametrize(("of_run", "state"), [(True, JobState.CANCELLED), (False, JobState.REVIEW)])
def test_marking_the_task_failed_while_it_waits_cancels_the_job_if_it_is_still_its_runs(
    park: Park,
    login: Login,
    ledger: Ledger,
    job: Job,
    conninfo: dict[str, Any],
    of_run: bool,
    state: JobState,
) -> None:
    waiting, admin = park(), login("admin", bearer=True)
    if of_run:
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.jobs SET run_id = %s", [waiting.run_id])
    assert admin.patch(waiting.path, json={"new_state": "failed"}).status_code == 200
    assert waiting.end().states == {"approve": "failed"}
    parked_tasks.follow_up(ledger)
    assert ledger.job(job.job_id).state is state
    assert list(ledger.parked_tasks.pages(10)) == []


def test_no_other_task_is_touched_whatever_the_ledger_says(park: Park, login: Login, ledger: Ledger, job: Job) -> None:
    waiting, bob = park(), login("bob", bearer=True)
    with of_session() as session:
        session.execute("UPDATE task_instance SET next_method = 'execute_complete' WHERE task_id = 'approve'")
    owner = Owner("publishing", "any", "approve", -1, waiting.ti_id, 1)
    now = ledger.now()
    forged = RequiredAction("forged", "forged", ("Approve",))
    ledger.parked_tasks.park(owner, ledger.job(job.job_id), forged, not_before=now, until=now - timedelta(hours=1))
    assert parked_tasks.wake_due(ledger) == 0
    parked_tasks.follow_up(ledger)
    assert waiting.question(bob)["subject"] != "forged"
    assert waiting.state() == "awaiting_input"
