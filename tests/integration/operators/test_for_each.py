"""One effect for each element of a list in the output: each with its own key, state and undo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.factories import draft
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import Policy, publish
from tests.target import Answer, Target

Record = Callable[[], JobRecord]

LINES = [{"sku": "a", "n": 2}, {"sku": "b", "n": 0}, {"sku": "c", "n": 5}]
EACH: dict[str, Any] = {
    "task_id": "line",
    "for_each": "$.lines",
    "endpoint": "/lines/{{ item.sku }}",
    "json": {"number": "{{ item.n }}", "at": "{{ index }}"},
}


@pytest.fixture
def order(ledger: Ledger) -> Callable[[Any], None]:
    """Make the first job, whose output has these lines."""

    def make(lines: Any) -> None:
        draft(ledger, output={"lines": lines})

    return make


def states(record: JobRecord) -> list[tuple[str, str]]:
    return [(effect.name, effect.state.value) for effect in record.current_effects]


def approve_then(*effects: Any) -> None:
    before = ApprovalSensor(task_id="approve", job=1, policy=Policy())
    for effect in effects:
        before >> effect
        before = effect


def test_each_element_is_an_effect_of_its_own(
    run: RunDag, record: Record, target: Target, order: Callable[[Any], None]
) -> None:
    order(LINES)
    done = run(lambda: approve_then(publish(**EACH)))
    assert [(each.path, each.json) for each in target.received] == [
        ("/lines/a", {"number": "2", "at": "0"}),
        ("/lines/b", {"number": "0", "at": "1"}),
        ("/lines/c", {"number": "5", "at": "2"}),
    ]
    assert states(record()) == [("line[0]", "applied"), ("line[1]", "applied"), ("line[2]", "applied")]
    keys = {effect.effect_key for effect in record().current_effects}
    assert {each.headers["Idempotency-Key"].strip('"') for each in target.received} == keys
    assert (len(keys), record().job.state) == (3, JobState.COMPLETED)
    assert [each["external_id"] for each in done.xcoms["line"]["effects"]] == ["rec-1", "rec-2", "rec-3"]


def test_an_element_that_is_refused_stops_no_other_and_is_sent_again_alone(
    dags: Dags, record: Record, target: Target, order: Callable[[Any], None]
) -> None:
    order(LINES)
    target.answer_by_path["/lines/b"] = Answer(422, {"error": "no"})
    dag = dags.make(lambda: approve_then(publish(**EACH)))
    run = dags.run(dag)
    assert states(record()) == [("line[0]", "applied"), ("line[1]", "refused"), ("line[2]", "applied")]
    assert "1 of 3 elements of the effect 'line' failed" in run.error("line")
    assert "The other elements are applied" in run.error("line")
    assert record().job.state is JobState.APPLYING
    target.answer_by_path.clear()
    assert dags.clear(dag, run, ["line"]).state == "success"
    assert [each.path for each in target.received] == ["/lines/a", "/lines/b", "/lines/c", "/lines/b"]
    assert record().job.state is JobState.COMPLETED


def test_what_comes_after_waits_for_every_element(
    run: RunDag, record: Record, target: Target, order: Callable[[Any], None]
) -> None:
    order(LINES)
    target.answer_by_path["/lines/b"] = Answer(422, {"error": "no"})

    def define() -> None:
        closing = publish(task_id="close", endpoint="/close", json={}, trigger_rule="all_done")
        approve_then(publish(**EACH), closing)

    done = run(define)
    assert "comes after 'line[1]', which is refused" in done.error("close")
    assert "/close" not in [each.path for each in target.received]


def test_every_element_has_its_own_undo(
    run: RunDag, record: Record, target: Target, order: Callable[[Any], None]
) -> None:
    order(LINES)
    undo = {"method": "DELETE", "endpoint": "/lines/{{ item.sku }}/{external_id}"}

    def define() -> None:
        approve_then(publish(**EACH, undo=undo), RollbackOperator(task_id="undo", job=1, reason="a test"))

    done = run(define)
    assert [each.path for each in target.received[3:]] == ["/lines/c/rec-3", "/lines/b/rec-2", "/lines/a/rec-1"]
    assert done.xcoms["undo"]["undone"] == ["line[2]", "line[1]", "line[0]"]
    assert record().job.state is JobState.ROLLED_BACK


def test_a_condition_can_leave_out_elements(
    run: RunDag, record: Record, target: Target, order: Callable[[Any], None]
) -> None:
    order(LINES)
    run(lambda: approve_then(publish(**EACH, when="{{ item.n > 0 }}")))
    assert states(record()) == [("line[0]", "applied"), ("line[1]", "skipped"), ("line[2]", "applied")]
    assert [each.path for each in target.received] == ["/lines/a", "/lines/c"]
    assert record().job.state is JobState.COMPLETED


def test_an_empty_list_is_shown_as_such_and_the_job_completes(
    run: RunDag, record: Record, target: Target, order: Callable[[Any], None]
) -> None:
    order([])
    done = run(lambda: approve_then(publish(**EACH)))
    (effect,) = record().current_effects
    assert (effect.name, effect.state, effect.plan) == (
        "line",
        EffectState.SKIPPED,
        {"for_each": "$.lines", "elements": 0},
    )
    assert (record().job.state, done.state, target.received) == (JobState.COMPLETED, "success", [])


@pytest.mark.parametrize(
    ("lines", "more", "said"),
    [
        (LINES, {"for_each": "$.rows"}, "'$.rows' names 0 values"),
        (LINES, {"for_each": "$.lines[*]"}, "'$.lines[*]' names 3 values"),
        ("a, b", {}, "'$.lines' names a value of the type str"),
        (LINES, {"max_elements": 2}, "names a list of 3 elements, and max_elements is 2"),
        ([{"sku": "a", "n": 1}, {"sku": "b"}], {}, "of the effect 'line[1]' gives no text: 'n' is"),
    ],
)
def test_what_cannot_be_planned_is_refused_with_a_sentence(
    run: RunDag, target: Target, order: Callable[[Any], None], lines: Any, more: dict[str, Any], said: str
) -> None:
    order(lines)
    done = run(lambda: approve_then(publish(**{**EACH, **more})))
    assert said in done.error("approve")
    assert target.received == []


def test_a_path_that_cannot_be_parsed_fails_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="lines"):
        publish(for_each="lines")


def test_a_name_that_could_be_that_of_an_element_fails_when_the_dag_is_parsed() -> None:
    with pytest.raises(ValueError, match="must not contain"):
        publish(effect="line[0]")
