"""Effects that users write: the base class keeps the protocol, the subclass says how to plan, apply and probe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.effect_store import Effects
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused
from airflow_provider_aihandoff.core.jobs.job_view import JobView
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.side_effect import Applied, NotApplied, SideEffectOperator
from airflow_provider_aihandoff.targets.http import HttpTarget
from tests.factories import draft, job_spec
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import NOTE
from tests.target import Answer, Target

pytestmark = pytest.mark.usefixtures("accepted")

Record = Callable[[], JobRecord]


class Shelf:
    """A system that keeps what it is given, and breaks off as it is set to."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, Any]] = []
        self.faults: list[Exception | None] = []
        self.probes: list[Any] = []
        self.probed = 0


class ShelfOperator(SideEffectOperator):
    template_fields = ("job", "undo", "title")

    def __init__(self, *, shelf: Shelf, title: Any = "{{ job.output.title }}", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shelf = shelf
        self.title = title

    def plan(self, job: JobView) -> dict[str, Any]:
        return {"title": self.title, "by": job.requested_by}

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        fault = self.shelf.faults.pop(0) if self.shelf.faults else None
        if isinstance(fault, (EffectRefused, EffectNotNow)):
            raise fault
        self.shelf.kept.append((key, plan))
        if fault is not None:
            raise fault
        return Applied(f"shelf-{len(self.shelf.kept)}", {"at": "the top"})


class ProbedShelfOperator(ShelfOperator):
    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        self.shelf.probed += 1
        found: Applied | NotApplied | None = self.shelf.probes.pop(0)
        return found


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def put(shelf: Shelf, kind: type[ShelfOperator] = ShelfOperator, **arguments: Any) -> None:
    """Put the note of the first job on the shelf."""
    fields = {"job": 1, "shelf": shelf, "hold_timeout": timedelta(0), "grace": 0, "try_probe": False, **arguments}
    kind(task_id="put", **fields)


def test_a_subclass_plans_applies_and_says_what_to_keep(run: RunDag, record: Record, shelf: Shelf) -> None:
    done = run(lambda: put(shelf))

    (effect,) = record().current_effects
    assert shelf.kept == [(effect.effect_key, {"title": "Kettle", "by": "alice"})]
    assert (effect.kind, effect.name, effect.plan) == ("ShelfOperator", "put", shelf.kept[0][1])
    assert (effect.external_id, effect.result) == ("shelf-1", {"at": "the top"})
    assert done.xcoms["put"]["external_id"] == "shelf-1"


@pytest.mark.parametrize(
    ("fault", "tries", "state"),
    [
        (EffectRefused("no room."), 1, EffectState.REFUSED),
        (EffectNotNow("closed."), 2, EffectState.APPLIED),
        (ValueError("a bug"), 1, EffectState.UNKNOWN),
    ],
)
def test_what_apply_raises_says_what_became_of_the_effect(
    run: RunDag, record: Record, shelf: Shelf, fault: Exception, tries: int, state: EffectState
) -> None:
    shelf.faults = [fault]

    done = run(lambda: put(shelf))

    assert (record().current_effects[0].state, done.tries["put"]) == (state, tries)
    assert len(shelf.kept) <= 1
    if done.states["put"] == "failed":
        assert str(fault) in done.error("put")


class TestProbe:
    """An attempt broke off after the write, and the probe says what it finds."""

    def test_a_write_that_the_probe_finds_is_confirmed_and_not_sent_again(
        self, run: RunDag, record: Record, shelf: Shelf
    ) -> None:
        shelf.faults, shelf.probes = [ConnectionError("cut off")], [Applied("found-1")]

        done = run(lambda: put(shelf, ProbedShelfOperator))

        (effect,) = record().current_effects
        assert (done.states["put"], done.tries["put"]) == ("success", 1)
        assert (effect.state, effect.external_id, len(shelf.kept)) == (EffectState.APPLIED, "found-1", 1)
        assert record().job.state is JobState.COMPLETED
        assert any("the probe found the write" in (event.reason or "") for event in record().events)

    def test_a_write_that_certainly_did_not_happen_is_sent_again_with_the_same_key(
        self, run: RunDag, record: Record, shelf: Shelf
    ) -> None:
        shelf.faults, shelf.probes = [ConnectionError("cut off")], [NotApplied()]

        done = run(lambda: put(shelf, ProbedShelfOperator))

        assert done.states["put"] == "success"
        assert record().current_effects[0].state is EffectState.APPLIED
        assert len({key for key, _ in shelf.kept}) == 1
        assert len(shelf.kept) == 2

    def test_a_probe_without_a_result_leaves_the_effect_to_a_person(
        self, run: RunDag, record: Record, shelf: Shelf
    ) -> None:
        shelf.faults, shelf.probes = [ConnectionError("cut off")], [None]

        done = run(lambda: put(shelf, ProbedShelfOperator))

        assert (done.states["put"], done.tries["put"]) == ("failed", 1)
        assert "may have been applied" in done.error("put")
        assert (record().current_effects[0].state, len(shelf.kept)) == (EffectState.UNKNOWN, 1)

    @pytest.mark.usefixtures("short_claims")
    def test_the_probe_is_asked_about_a_claim_that_a_killed_attempt_left(
        self, run: RunDag, record: Record, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        killed(monkeypatch)
        shelf.probes = [Applied("found-1")]

        done = run(lambda: put(shelf, ProbedShelfOperator))

        assert (done.states["put"], done.xcoms["put"]["external_id"]) == ("success", "found-1")
        assert len(shelf.kept) == 1

    def test_the_probe_is_not_asked_where_no_attempt_broke_off(self, run: RunDag, shelf: Shelf) -> None:
        run(lambda: put(shelf, ProbedShelfOperator))
        assert shelf.probed == 0


@pytest.mark.usefixtures("short_claims")
def test_a_claim_that_a_killed_attempt_left_is_unknown_where_there_is_no_probe(
    run: RunDag, record: Record, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(monkeypatch)

    done = run(lambda: put(shelf))

    assert (done.states["put"], done.tries["put"]) == ("failed", 2)
    assert "ended without an outcome" in done.error("put")
    assert (record().current_effects[0].state, len(shelf.kept)) == (EffectState.UNKNOWN, 1)


def killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, attempts end before they can say what became of their write."""

    def confirm(self: Effects, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(Effects, "confirm", confirm)


def test_a_plan_that_is_not_json_is_refused(run: RunDag, shelf: Shelf) -> None:
    class Odd(ShelfOperator):
        def plan(self, job: JobView) -> dict[str, Any]:
            return {"title": float("nan")}

    done = run(lambda: put(shelf, Odd))

    assert (done.states["put"], done.tries["put"]) == ("failed", 1)
    assert "is not JSON" in done.error("put")
    assert shelf.kept == []


def test_a_subclass_is_bound_to_the_approval_as_well(run: RunDag, ledger: Ledger, shelf: Shelf) -> None:
    done = run(lambda: put(shelf, job=draft(ledger, job_spec(job_key="other"), NOTE, "resp_2").job_id))

    assert "no one has approved" in done.error("put")
    assert shelf.kept == []


def test_a_method_that_its_target_would_replace_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match="Careful defines apply, probe, which is never called"):

        class Careful(HttpSideEffectOperator):
            def apply(self, plan: dict[str, Any], key: str) -> Applied:
                return Applied()

            def probe(self, plan: dict[str, Any], key: str) -> None:
                return None


def test_an_operator_may_change_the_target_of_another_one(run: RunDag, record: Record, target: Target) -> None:
    class Patient(HttpSideEffectOperator):
        def target(self) -> HttpTarget:
            return replace(super().target(), external_id_header="X-Record")

    target.answers = [Answer(201, {}, headers={"X-Record": "rec-7"})]

    done = run(lambda: Patient(task_id="put", job=1, http_conn_id="cms", endpoint="/posts"))

    assert done.xcoms["put"]["external_id"] == "rec-7"
    assert record().current_effects[0].kind == "http"


def test_an_edit_of_the_dag_after_the_write_is_reported_and_writes_nothing(dags: Dags, shelf: Shelf) -> None:
    first = dags.run(dags.make(lambda: put(shelf)))

    done = dags.run(dags.make(lambda: put(shelf, title="Another")))

    assert first.states["put"] == "success"
    assert "It was applied before, as approved (external id shelf-1)" in done.error("put")
    assert len(shelf.kept) == 1


class LooseOperator(ShelfOperator):
    """Returns from its methods what a function would return, and not what the base class says."""

    def __init__(self, *, returned: Any, found: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.returned, self.found = returned, found

    def apply(self, plan: dict[str, Any], key: str) -> Any:
        super().apply(plan, key)
        return self.returned

    def probe(self, plan: dict[str, Any], key: str) -> Any:
        return self.found if self.shelf.kept else False


@pytest.mark.parametrize(("returned", "external_id"), [("rec-7", "rec-7"), (7, "7"), (None, None), ({"id": 7}, None)])
def test_what_apply_returns_is_taken_as_from_a_function_and_no_claim_is_left_behind(
    run: RunDag, record: Record, returned: Any, external_id: str | None
) -> None:
    shelf = Shelf()
    assert run(lambda: LooseOperator(task_id="shelve", job=1, shelf=shelf, returned=returned)).state == "success"
    (effect,) = record().current_effects
    assert (effect.state, effect.external_id, len(shelf.kept)) == (EffectState.APPLIED, external_id, 1)


def test_what_probe_returns_is_taken_as_from_a_function(run: RunDag, record: Record) -> None:
    shelf = Shelf()
    shelf.faults = [RuntimeError("the line broke")]
    run(lambda: LooseOperator(task_id="shelve", job=1, shelf=shelf, returned=None, found="rec-9"))
    (effect,) = record().current_effects
    assert (effect.state, effect.external_id, len(shelf.kept)) == (EffectState.APPLIED, "rec-9", 1)
