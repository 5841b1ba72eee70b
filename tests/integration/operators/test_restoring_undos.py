"""An undo that names what the target had: approved with these values, and refused once the target has others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.factories import draft, job_spec
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import NOTE, Policy, publish, store
from tests.target import DROP, Answer, Target

Record = Callable[[], JobRecord]

NOW = "/now"
WAS = {"title": "Old {external_id}", "n": 3, "tags": ["a"], "sub": {"x": None}, "slug": "a b", "password": "hunter2"}


def has(target: Target, **changes: Any) -> None:
    """Let the target have this record now, in an envelope."""
    target.answer_by_path[NOW] = Answer(200, {"data": {**WAS, **changes}})


def update(restore: Any, *, method: str = "PATCH", endpoint: str = "/posts/1", **arguments: Any) -> Any:
    undo = {"method": method, "endpoint": endpoint, "json": restore}
    current = {"endpoint": NOW, "path": "$.data"}
    return publish(**{"method": "PATCH", "json": {"title": "New"}, "current": current, "undo": undo, **arguments})


def in_order(*tasks: Any, **arguments: Any) -> None:
    before = ApprovalSensor(**{"task_id": "approve", "job": 1, "policy": Policy(), **arguments})
    for task in tasks:
        before >> task
        before = task


def roll_back() -> RollbackOperator:
    return RollbackOperator(task_id="undo", job=1, reason="a test")


def writes(target: Target) -> list[tuple[str, Any]]:
    return [(each.path, each.json) for each in target.received if each.method != "GET"]


pytestmark = pytest.mark.usefixtures("review")


def test_an_update_is_undone_to_what_the_target_had(run: RunDag, record: Record, target: Target) -> None:
    has(target)
    restore = {"title": "{current.title}", "n": "{current.n}", "tags": "{current.tags}", "x": "{current.sub.x}"}
    restore |= {"text": "{current.n}", "said": "was {current.n}, id {external_id}"}
    run(lambda: in_order(update(restore), roll_back()))
    (effect,) = record().current_effects
    assert effect.undo["plan"]["body"].startswith('{"title":"Old {external_id}","n":3,"tags":["a"],"x":null')  # type: ignore[index]
    old = {"title": "Old {external_id}", "n": 3, "tags": ["a"], "x": None, "text": 3, "said": "was 3, id rec-3"}
    assert writes(target) == [("/posts/kettle", {"title": "New"}), ("/posts/1", old)]
    assert record().job.state is JobState.ROLLED_BACK


def test_the_whole_record_can_be_restored(run: RunDag, target: Target) -> None:
    target.answer_by_path[NOW] = Answer(200, {"title": "Old", "n": 1.5})
    run(lambda: in_order(update("{current}", method="PUT", current=NOW), roll_back()))
    assert writes(target)[1] == ("/posts/1", {"title": "Old", "n": 1.5})


def test_a_value_in_the_endpoint_stays_one_part_of_it(run: RunDag, target: Target) -> None:
    has(target, slug="a/b?c")
    run(lambda: in_order(update({}, endpoint="/by/{current.slug}"), roll_back()))
    assert writes(target)[1][0] == "/by/a%2Fb%3Fc"


def test_a_target_that_has_changed_since_the_approval_is_not_written_to(
    dags: Dags, record: Record, target: Target
) -> None:
    has(target)
    target.answer_by_path[NOW], later = target.answer_by_path[NOW], Answer(200, {"data": {**WAS, "n": 4}})

    class Changing(Policy):
        def decide(self, job: Any, plan: Any) -> Any:
            target.answer_by_path[NOW] = later
            return super().decide(job, plan)

    dag = dags.make(lambda: in_order(update({"n": "{current.n}"}), policy=Changing()))
    run = dags.run(dag)
    assert "is not what was approved. Changed: undo." in run.error("publish")
    assert writes(target) == []
    assert record().job.state is JobState.REVIEW
    (effect,) = record().current_effects
    assert effect.undo["plan"]["body"] == '{"n":4}'  # type: ignore[index]
    assert effect.current["record"]["n"] == 4  # type: ignore[index]


def test_a_field_that_the_undo_does_not_name_may_change(run: RunDag, record: Record, target: Target) -> None:
    has(target)

    class Changing(Policy):
        def decide(self, job: Any, plan: Any) -> Any:
            has(target, title="Other")
            return super().decide(job, plan)

    run(lambda: in_order(update({"n": "{current.n}"}), policy=Changing()))
    assert record().job.state is JobState.COMPLETED


def test_what_a_lost_attempt_has_written_is_not_taken_for_what_was_there(
    dags: Dags, record: Record, target: Target
) -> None:
    has(target)
    target.answers = [DROP]
    dag = dags.make(lambda: in_order(update({"title": "{current.title}"}, idempotent=True, retries=0)))
    run = dags.run(dag)
    has(target, title="New")
    dags.clear(dag, run)
    (effect,) = record().current_effects
    assert effect.state is EffectState.APPLIED
    assert effect.undo["plan"]["body"] == '{"title":"Old {external_id}"}'  # type: ignore[index]
    assert writes(target) == [("/posts/kettle", {"title": "New"})] * 2


@pytest.mark.parametrize(
    ("restore", "arguments", "said"),
    [
        ({"x": "{current.none}"}, {}, "names {current.none}, and the target has nothing there"),
        ({"x": "{current.password}"}, {}, "names {current.password}, which has a secret"),
        ("{current}", {}, "names {current}, which has a secret"),
        ('{"x": "{current.title}"}', {}, "Write the body as a mapping, not as a text"),
        ({"x": "{current.title}"}, {"current": None}, "nothing says how to read that. "),
        ({"x": "{current.title}"}, {"current": {"endpoint": NOW}}, "a path that leads to one value at most"),
        ({"x": "{current.title}"}, {"current": {"endpoint": NOW, "path": "$..a"}}, "leads to one value at most"),
        ({"x": "{current.}"}, {}, "has {current.}, which is no placeholder"),
    ],
)
def test_an_undo_that_cannot_be_made_is_refused_when_it_is_planned(
    run: RunDag, target: Target, restore: Any, arguments: dict[str, Any], said: str
) -> None:
    has(target)
    done = run(lambda: in_order(update(restore, **arguments)))
    assert said in done.error("approve")
    assert (done.tries["approve"], writes(target)) == (1, [])


def test_a_value_that_is_no_text_cannot_be_in_an_endpoint(run: RunDag, target: Target) -> None:
    has(target)
    done = run(lambda: in_order(update({}, endpoint="/by/{current.sub}")))
    assert "needs {current.sub} as a text, and it is none" in done.error("approve")


def test_a_target_that_cannot_be_read_is_asked_again(run: RunDag, target: Target) -> None:
    target.answer_by_path[NOW] = Answer(500)
    done = run(lambda: in_order(update({"x": "{current.title}"})))
    assert done.tries["approve"] > 1
    assert "that cannot be read: the target answered 500" in done.error("approve")
    assert writes(target) == []


def test_a_path_that_leads_nowhere_is_said_to_the_reviewer(run: RunDag, record: Record, target: Target) -> None:
    target.answer_by_path[NOW] = Answer(200, {"items": []})
    run(lambda: in_order(update({}, undo=None)))
    (effect,) = record().current_effects
    assert effect.current["error"] == "the target's answer has nothing at $.data"  # type: ignore[index]


def test_a_row_is_undone_to_what_it_was(run: RunDag, record: Record, sales: psycopg.Connection[Any]) -> None:
    sales.execute("INSERT INTO reports (title) VALUES ('old')")
    change: dict[str, Any] = {
        "sql": "UPDATE reports SET title = %(title)s WHERE report_id = %(id)s",
        "parameters": {"title": "new", "id": "1"},
        "current": "SELECT report_id, title FROM reports WHERE report_id = %(id)s",
        "undo": {
            "sql": "UPDATE reports SET title = %(title)s WHERE report_id = %(id)s",
            "parameters": {"title": "{current.title}", "id": "{current.report_id}"},
        },
    }
    titles = []

    class Seen(RollbackOperator):
        def execute(self, *args: Any, **kwargs: Any) -> Any:
            titles.extend(sales.execute("SELECT title FROM reports").fetchall())
            return super().execute(*args, **kwargs)

    run(lambda: in_order(store(**change), Seen(task_id="undo", job=1, reason="a test")))
    assert (titles, sales.execute("SELECT title FROM reports").fetchall()) == ([("new",)], [("old",)])
    assert record().job.state is JobState.ROLLED_BACK


def test_a_job_that_needs_no_approval_can_restore_too(run: RunDag, ledger: Ledger, target: Target) -> None:
    draft(ledger, job_spec(job_key="other", approval="not required", approval_reason="a test"), NOTE, "resp_2")
    has(target)
    undo = RollbackOperator(task_id="undo", job=2, reason="a test")
    run(lambda: update({"n": "{current.n}"}, draft=2) >> undo)
    assert writes(target) == [("/posts/kettle", {"title": "New"}), ("/posts/1", {"n": 3})]
