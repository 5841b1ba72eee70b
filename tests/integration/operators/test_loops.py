"""Each iteration of a task loop is work of its own: its key, its owner, and what Airflow says of it."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import pytest
from airflow.sdk import task_group

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Owner
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.task_states import ask_database, task_states
from airflow_provider_aihandoff.testing import OpenAIStandIn, ResponderRequest
from tests.integration.operators.conftest import Model
from tests.integration.operators.dag_runs import Dags, Run, open_session
from tests.integration.operators.tasks import ask_unapproved, publish
from tests.target import Target

pytestmark = pytest.mark.skipif(RELEASE < (3, 4), reason="Airflow has task loops as of 3.4")

KEY = "{dag}/{run}/refine.draft/iteration-{index}"


def refine() -> None:
    """Refine an answer three times, and publish each."""

    @task_group(group_id="refine")
    def body() -> None:
        before = "{{ loop.previous.output.title if loop.previous else 'nothing' }}"
        draft = ask_unapproved(job_key=None, input=f"Refine: {before}.")
        publish(draft, endpoint="/posts/kettle-{{ loop.index }}") >> again(draft)

    cast("Any", body).loop(max_iterations=3)


def again(draft: Any) -> Any:
    """The end of an iteration: what the next one finds as the previous result."""
    from airflow.sdk import task

    @task(task_id="result")
    def result(made: dict[str, Any]) -> dict[str, Any]:
        return made

    return result(draft.output)


def longer(request: ResponderRequest) -> dict[str, str]:
    """A title that says what it was made of."""
    return {"title": request.input_text.partition("Refine: ")[2].strip(".") + "+", "body": "Boils."}


@pytest.fixture
def done(dags: Dags, model: Model) -> Run:
    model.output = longer
    return dags.run(dags.make(refine))


def test_each_iteration_asks_for_its_own_answer_from_the_one_before(
    done: Run, ledger: Ledger, stand_in: OpenAIStandIn, target: Target
) -> None:
    assert done.state == "success", done.errors
    jobs = [ledger.job(job.job_id) for job in ledger.jobs()]
    keys = [KEY.format(dag=done.dag_id, run=done.run_id, index=index) for index in range(3)]
    assert sorted(job.job_key for job in jobs) == keys
    assert {job.state for job in jobs} == {JobState.COMPLETED}
    titles = {job.job_key: ledger.record(job.job_id).revision.output for job in jobs}
    assert [cast("Any", titles[key])["title"] for key in keys] == ["nothing+", "nothing++", "nothing+++"]
    assert len(stand_in.responses().responses) == 3
    assert sorted(request.path for request in target.received) == [f"/posts/kettle-{index}" for index in range(3)]


def test_each_iteration_has_an_owner_of_its_own(done: Run, ledger: Ledger) -> None:
    owners = {job.owner for job in map(ledger.job, (job.job_id for job in ledger.jobs()))}
    assert len({owner.ti_id for owner in owners}) == 3
    assert {owner.map_index for owner in owners} == {-1}


def test_the_state_of_a_task_is_that_of_the_iteration_that_owns_the_job(done: Run, ledger: Ledger) -> None:
    owners = {job.job_key[-1]: job.owner for job in map(ledger.job, (job.job_id for job in ledger.jobs()))}
    set_state(owners["0"], "running")
    found = task_states(owners.values(), ask_database)
    assert {index: found[owner] for index, owner in owners.items()} == {
        "0": TaskState.ALIVE,
        "1": TaskState.ENDED,
        "2": TaskState.ENDED,
    }


def test_an_owner_of_before_a_clear_is_looked_up_by_its_name(done: Run, ledger: Ledger) -> None:
    owner = next(job.owner for job in map(ledger.job, (job.job_id for job in ledger.jobs())))
    unknown = Owner(owner.dag_id, owner.run_id, owner.task_id, -1, "of-before-the-clear", 1)
    assert task_states([unknown], ask_database) == {unknown: TaskState.ENDED}
    missing = Owner(owner.dag_id, owner.run_id, "refine.other", -1, "of-before-the-clear", 1)
    assert task_states([missing], ask_database) == {missing: TaskState.MISSING}


def set_state(owner: Owner, state: str) -> None:
    """Give one task instance a state, as the scheduler does."""
    from airflow.models.taskinstance import TaskInstance

    with open_session() as session:
        session.query(TaskInstance).filter(cast("Any", TaskInstance.id) == UUID(owner.ti_id)).update({"state": state})
        session.commit()
