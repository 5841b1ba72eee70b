"""`@task.side_effect`: a Python function writes what was approved, at most once, and is probed and undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import task, task_group

from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.decorators.side_effect import rollback_function
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.operators.side_effect import Applied, NotApplied
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import Policy, ask, ask_unapproved, publish
from tests.integration.operators.test_approval import person
from tests.integration.operators.test_custom_effects import killed
from tests.integration.operators.test_effect_waits import resolve_when_unknown
from tests.target import Target

Record = Callable[[], JobRecord]
HERE = __name__
ROOT = Path(__file__).parents[3]
FUNCTION_DAG = ROOT / "tests" / "stack" / "dags" / "function_effect.py"
ROLL_BACK_DAG = ROOT / "dags" / "aihandoff_rollback.py"


class Shelf:
    """What functions do to a system outside, and how they break off."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.faults: list[Exception | None] = []
        self.probes: list[Any] = []
        self.removed: list[dict[str, Any]] = []


shelf = Shelf()


@pytest.fixture(autouse=True)
def _empty_shelf() -> Iterator[None]:
    yield
    shelf.__init__()  # type: ignore[misc]


def put(title: str, tags: list[str] | None = None, shelf_mark: str = "A", *, effect_key: str) -> str:
    shelf.calls.append({"title": title, "tags": tags, "shelf_mark": shelf_mark, "effect_key": effect_key})
    fault = shelf.faults.pop(0) if shelf.faults else None
    if isinstance(fault, (EffectRefused, EffectNotNow)):
        shelf.calls.pop()
    if fault is not None:
        raise fault
    return f"shelf-{len(shelf.calls)}"


def find(title: str, effect_key: str) -> Any:
    return shelf.probes.pop(0)


@rollback_function
def remove(external_id: str, title: str, effect_key: str) -> None:
    shelf.removed.append({"external_id": external_id, "title": title, "effect_key": effect_key})


def effect(job: Any = 1, function: Callable[..., Any] = put, **options: Any) -> Any:
    """Put the title of the job, by default the first, on the shelf."""
    arguments = options.pop("arguments", {"title": "{{ job.output.title }}"})
    given = {"job": job, "hold_timeout": timedelta(0), "grace": 0, "timeout": 0.5, "try_probe": False, **options}
    return task.side_effect(**given)(function)(**arguments)


class TestPlan:
    @pytest.mark.usefixtures("review")
    def test_the_function_is_called_with_what_was_approved(self, run: RunDag, record: Record) -> None:
        policy = Policy()

        def define() -> None:
            approve = ApprovalSensor(task_id="approve", job=1, policy=policy)
            approve >> effect(arguments={"title": "{{ job.output.title }}", "tags": ["{{ job.job_key }}", "new"]})

        done = run(define)

        ((_, (plan,)),) = policy.asked
        (applied,) = record().current_effects
        arguments = {"title": "Kettle", "tags": ["post:kettle", "new"], "shelf_mark": "A"}
        assert plan == applied.plan
        assert (plan["function"], plan["arguments"]) == (f"{HERE}:put", arguments)
        assert shelf.calls == [{**arguments, "effect_key": applied.effect_key}]
        assert (applied.kind, applied.name, applied.external_id) == ("function", "put", "shelf-1")
        assert done.xcoms["put"] == {
            "job_id": 1,
            "effect_id": applied.effect_id,
            "effect_key": applied.effect_key,
            "external_id": "shelf-1",
            "state": "applied",
        }
        assert record().job.state is JobState.COMPLETED

    @pytest.mark.usefixtures("review")
    def test_the_function_is_not_called_before_it_is_approved(self, run: RunDag, ledger: Ledger) -> None:
        done = run(lambda: effect())

        assert "no one has approved" in done.error("put")
        assert shelf.calls == []

    def test_a_function_effect_takes_the_job_of_its_draft_and_has_a_key_of_its_own(
        self, run: RunDag, record: Record
    ) -> None:
        def define() -> None:
            draft = ask()
            approve = ApprovalSensor(task_id="approve", job=draft, policy=Policy())
            draft >> approve >> effect(draft, key="on the shelf")

        assert run(define).state == "success"
        (applied,) = record().current_effects
        assert (applied.name, applied.state) == ("on the shelf", EffectState.APPLIED)

    @pytest.mark.usefixtures("accepted")
    def test_a_function_effect_keeps_its_order_among_the_other_effects_of_the_job(
        self, run: RunDag, record: Record
    ) -> None:
        run(lambda: publish() >> effect())
        assert [(one.name, one.after_effects) for one in record().current_effects] == [
            ("publish", []),
            ("put", ["publish"]),
        ]

    @pytest.mark.usefixtures("accepted")
    def test_arguments_that_are_not_json_are_refused_before_anything_is_called(self, run: RunDag) -> None:
        done = run(lambda: effect(arguments={"title": "Kettle", "tags": object()}))

        assert (done.states["put"], done.tries["put"]) == ("failed", 1)
        assert "is not JSON" in done.error("put")
        assert shelf.calls == []

    @pytest.mark.usefixtures("accepted")
    def test_the_function_gets_the_json_that_is_shown(self, run: RunDag, record: Record) -> None:
        run(lambda: effect(arguments={"title": "Kettle", "tags": (date(2026, 2, 1), {2, 1})}))

        assert shelf.calls[0]["tags"] == ["2026-02-01", [1, 2]]
        assert record().current_effects[0].plan["arguments"]["tags"] == ["2026-02-01", [1, 2]]

    @pytest.mark.usefixtures("accepted")
    def test_a_function_that_was_changed_after_the_approval_is_not_called(self, dags: Dags) -> None:
        def changed(title: str, tags: Any = None, shelf_mark: str = "A", *, effect_key: str) -> None:
            shelf.calls.append({"title": title})

        changed.__module__, changed.__qualname__ = put.__module__, put.__qualname__
        shelf.faults = [EffectNotNow("closed.")]
        dags.run(dags.make(lambda: publish() >> effect(retries=0)))

        done = dags.run(dags.make(lambda: publish() >> effect(function=changed, task_id="put")))

        assert "is not what was approved. Changed: code." in done.error("put")
        assert shelf.calls == []

    @pytest.mark.usefixtures("accepted")
    def test_what_the_function_does_to_its_arguments_does_not_reach_the_next_attempt(self, run: RunDag) -> None:
        seen = []

        def add(tags: list[str]) -> None:
            seen.append(list(tags))
            tags.append("changed")
            if len(seen) == 1:
                raise ConnectionError("cut off")

        run(lambda: effect(function=add, probe=lambda: False, arguments={"tags": ["new"]}))

        assert seen == [["new"], ["new"]]

    @pytest.mark.usefixtures("accepted")
    def test_a_function_effect_that_is_mapped_by_itself_is_refused(self, run: RunDag) -> None:
        done = run(lambda: task.side_effect(job=1)(put).expand(title=["Kettle", "Lamp"]))

        assert "mapped by itself" in str(done.errors)
        assert shelf.calls == []

    @pytest.mark.usefixtures("accepted")
    def test_secrets_among_the_arguments_are_passed_on_and_kept_nowhere(self, run: RunDag, record: Record) -> None:
        passed = []
        run(
            lambda: effect(
                function=lambda token, pin: passed.append((token, pin)),
                task_id="put",
                arguments={"token": "t0p", "pin": "1234"},
                secret_fields=["pin"],
            )
        )

        assert passed == [("t0p", "1234")]
        assert record().current_effects[0].plan["arguments"] == {"token": "***", "pin": "***"}


@pytest.mark.usefixtures("accepted")
class TestOnce:
    def test_clearing_the_run_calls_nothing_and_gives_the_same_result(self, dags: Dags) -> None:
        dag = dags.make(effect)
        first = dags.run(dag)

        again = dags.run(dag, again=first)

        assert (again.states, again.xcoms) == (first.states, first.xcoms)
        assert len(shelf.calls) == 1

    @pytest.mark.parametrize(
        ("fault", "tries", "state"),
        [
            (EffectRefused("no room."), 1, EffectState.REFUSED),
            (EffectNotNow("closed."), 2, EffectState.APPLIED),
            (ValueError("a bug"), 1, EffectState.UNKNOWN),
        ],
    )
    def test_the_error_of_the_function_says_what_became_of_the_effect(
        self, run: RunDag, record: Record, fault: Exception, tries: int, state: EffectState
    ) -> None:
        shelf.faults = [fault]

        done = run(lambda: effect())

        assert (record().current_effects[0].state, done.tries["put"]) == (state, tries)
        assert len(shelf.calls) <= 1

    def test_the_same_key_is_used_again_where_that_is_safe(self, run: RunDag, record: Record) -> None:
        shelf.faults = [ConnectionError("cut off")]

        run(lambda: effect(idempotent=True))

        assert record().current_effects[0].state is EffectState.APPLIED
        assert [call["effect_key"] for call in shelf.calls] == [record().current_effects[0].effect_key] * 2

    @pytest.mark.parametrize(
        ("found", "external_id", "calls"),
        [
            ("found-1", "found-1", 1),
            (Applied("found-2"), "found-2", 1),
            (False, "shelf-2", 2),
            (NotApplied(), "shelf-2", 2),
        ],
    )
    def test_the_probe_says_what_became_of_a_call_that_broke_off(
        self, run: RunDag, record: Record, found: Any, external_id: str, calls: int
    ) -> None:
        shelf.faults, shelf.probes = [ConnectionError("cut off")], [found]

        done = run(lambda: effect(probe=find))

        (applied,) = record().current_effects
        assert (done.states["put"], applied.state, applied.external_id) == (
            "success",
            EffectState.APPLIED,
            external_id,
        )
        assert len(shelf.calls) == calls

    @pytest.mark.usefixtures("short_claims")
    def test_the_probe_is_asked_about_a_claim_that_a_killed_attempt_left(
        self, run: RunDag, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed(monkeypatch)
        shelf.probes = ["found-1"]

        done = run(lambda: effect(probe=find))

        assert (done.states["put"], done.xcoms["put"]["external_id"], len(shelf.calls)) == ("success", "found-1", 1)

    def test_an_unknown_call_waits_for_a_person_and_continues_once_it_is_resolved(
        self, run: RunDag, record: Record, ledger: Ledger
    ) -> None:
        shelf.faults, shelf.probes = [ConnectionError("cut off")], [None]
        person = resolve_when_unknown(ledger, applied=True)

        done = run(lambda: effect(probe=find, hold_timeout=None))

        person.join()
        assert (done.states["put"], done.tries["put"]) == ("success", 1)
        assert (record().current_effects[0].external_id, len(shelf.calls)) == ("found-1", 1)

    @pytest.mark.parametrize("returned", [True, {"id": 7}])
    def test_a_return_value_that_is_not_an_external_id_counts_as_applied_without_one(
        self, run: RunDag, record: Record, returned: Any
    ) -> None:
        run(lambda: effect(function=lambda title: returned, task_id="put"))
        assert (record().current_effects[0].state, record().current_effects[0].external_id) == (
            EffectState.APPLIED,
            None,
        )


@pytest.mark.usefixtures("accepted")
class TestUndo:
    def test_an_undo_function_gets_the_arguments_of_the_call_and_its_external_id(
        self, run: RunDag, record: Record
    ) -> None:
        run(lambda: effect(undo=remove))
        assert record().current_effects[0].undo == {
            "kind": "function",
            "plan": {"function": f"{HERE}:remove", "arguments": {"title": "Kettle", "external_id": "{external_id}"}},
            "idempotent": False,
            "masked": False,
        }

        run(lambda: RollbackOperator(task_id="roll_back", job=1, reason="the wrong product"))

        (undo,) = record().undos
        assert shelf.removed == [{"external_id": "shelf-1", "title": "Kettle", "effect_key": undo.effect_key}]
        assert record().job.state is JobState.ROLLED_BACK

    def test_a_function_effect_can_be_undone_by_another_kind_of_target(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        delete = {"kind": "http", "connection": "cms", "method": "DELETE", "endpoint": "/shelf/{external_id}"}
        run(lambda: effect(undo=delete))

        run(lambda: RollbackOperator(task_id="roll_back", job=1, reason="the wrong product"))

        assert [(request.method, request.path) for request in target.received] == [("DELETE", "/shelf/shelf-1")]
        assert record().job.state is JobState.ROLLED_BACK


def test_two_calls_of_one_function_are_two_effects(run: RunDag, record: Record) -> None:
    def define() -> None:
        draft = ask_unapproved()
        on_the_shelf: Any = task.side_effect(job=draft)(put)  # the operator passes the effect key
        draft >> on_the_shelf(title="{{ job.output.title }}") >> on_the_shelf(title="A second copy")

    assert run(define).state == "success"
    assert [one.name for one in record().current_effects] == ["put", "put__1"]
    assert [call["title"] for call in shelf.calls] == ["Kettle", "A second copy"]


def test_the_xcom_of_another_task_can_be_an_argument(run: RunDag, record: Record) -> None:
    @task
    def facts() -> dict[str, Any]:
        return {"title": "Kettle", "tags": ["new"]}

    def define() -> None:
        found: Any = facts()
        draft = ask(input="Write about {{ ti.xcom_pull(task_ids='facts')['title'] }}.")
        approve = ApprovalSensor(task_id="approve", job=draft, policy=Policy())
        found >> draft >> approve >> effect(draft, arguments={"title": found["title"], "tags": ["x"]}, undo=remove)

    assert run(define).state == "success"
    (applied,) = record().current_effects
    assert applied.undo is not None
    for shown in (applied.plan, applied.undo["plan"]):
        assert shown["arguments"]["title"] == "Kettle"
    assert shelf.calls[0]["title"] == "Kettle"


def test_each_item_of_a_mapped_group_has_an_effect_of_its_own(run: RunDag, ledger: Ledger) -> None:
    @task_group
    def item(name: str) -> None:
        draft = ask_unapproved(job_key=name)
        draft >> effect(draft, arguments={"title": name})

    def define() -> None:
        item.expand(name=["kettle", "lamp"])

    assert run(define).state == "success"
    assert sorted(call["title"] for call in shelf.calls) == ["kettle", "lamp"]
    assert {job.state for job in ledger.jobs()} == {JobState.COMPLETED}
    assert len({call["effect_key"] for call in shelf.calls}) == 2


def test_a_job_can_be_given_where_the_function_is_used(run: RunDag, record: Record) -> None:
    on_the_shelf: Any = task.side_effect(key="copy")(put)  # the operator passes the effect key

    def define() -> None:
        draft = ask_unapproved()
        draft >> on_the_shelf.override(job=draft)(title="{{ job.output.title }}")

    assert run(define).state == "success"
    assert record().current_effects[0].name == "copy"


def test_functions_of_a_dags_file_write_and_are_undone_by_the_roll_back_dag(
    dags: Dags, ledger: Ledger, record: Record, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(FUNCTION_DAG.parent))  # as Airflow does with the Dags folder
    with person(ledger, "approve"):
        done = dags.run(dags.load(FUNCTION_DAG), conf={"slug": "kettle"})

    (applied,) = record().effects
    assert (done.state, applied.name, applied.state) == ("success", "post", EffectState.APPLIED)
    assert applied.plan["function"] == "function_effect.<locals>.publish"
    assert len(applied.plan["code"]) == 64
    dags.run(dags.load(ROLL_BACK_DAG), conf={"job": 1, "reason": "the wrong product"})

    assert record().job.state is JobState.ROLLED_BACK
    assert [(sent.method, sent.path) for sent in target.received] == [
        ("PUT", "/posts/kettle"),
        ("DELETE", "/posts/kettle"),
    ]
    assert [sent.headers["Idempotency-Key"] for sent in target.received] == [one.effect_key for one in record().effects]
