"""What a job wrote is undone by a task: in order, each undo once, whatever interrupts it, and again from the UI."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.exceptions import ParamValidationError
from airflow.sdk import task

from airflow_provider_aihandoff.core.effects import apply
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators import waiting
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from tests.factories import TEST
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags, Run
from tests.integration.operators.tasks import ask_unapproved, publish
from tests.integration.operators.test_effect_waits import resolve_when_unknown
from tests.integration.operators.test_reviewing import Remembers
from tests.target import DROP, Answer, Target

Record = Callable[[], JobRecord]

DAG_FILE = Path(__file__).parents[3] / "dags" / "aihandoff_rollback.py"
DELETE = {"method": "DELETE", "endpoint": "/posts/{external_id}"}
RECALL = {"method": "POST", "endpoint": "/recalls/{external_id}"}
PROBED = {
    **RECALL,
    "probe": {
        "endpoint": "/recalls",
        "query": {"key": "{effect_key}"},
        "found_in": "$.items",
        "found": {"$.of": "{external_id}"},
    },
    "grace": 0,
}
LEFT_AS_IT_IS = ["publish", "announce"]


def write(draft: Any = 1, **undos: Any) -> None:
    """A post, and after it an announcement."""
    post = publish(draft, undo=undos.get("publish", DELETE))
    announce = publish(
        draft, "announce", method="POST", endpoint="/mails", undo=undos.get("announce", RECALL), retries=0
    )
    post >> announce


def roll_back(job: Any = 1, **arguments: Any) -> RollbackOperator:
    return RollbackOperator(task_id="roll_back", job=job, **{"reason": "the wrong product", **arguments})


@pytest.fixture
def written(accepted: Any, run: RunDag, target: Target) -> Callable[..., None]:
    """Apply both effects of the first job, and forget what was sent."""

    def written(**undos: Any) -> None:
        assert run(lambda: write(**undos)).state == "success"
        target.received.clear()

    return written


def sent(target: Target) -> list[tuple[str, str]]:
    return [(received.method, received.path) for received in target.received]


def states(record: Record) -> list[EffectState]:
    return [undo.state for undo in record().undos]


def result(*undone: str) -> dict[str, Any]:
    return {"job_id": 1, "state": "rolled_back", "undone": list(undone)}


class TestAll:
    def test_the_last_effect_is_undone_first_each_with_a_key_of_its_own(
        self, written: Any, run: RunDag, record: Record, target: Target
    ) -> None:
        written()

        done = run(roll_back)

        assert sent(target) == [("POST", "/recalls/rec-2"), ("DELETE", "/posts/rec-1")]
        assert [received.headers["Idempotency-Key"] for received in target.received] == [
            undo.effect_key for undo in record().undos
        ]
        assert len({effect.effect_key for effect in record().effects}) == 4
        assert (record().job.state, done.xcoms["roll_back"]) == (
            JobState.ROLLED_BACK,
            result("announce", "publish"),
        )

    def test_the_actor_and_the_reason_of_a_roll_back_are_on_the_record(
        self, written: Any, run: RunDag, record: Record
    ) -> None:
        written()

        done = run(lambda: roll_back(reason="wrong: {{ run_id }}"))

        (start,) = [event for event in record().events if event.event == "roll back started"]
        assert (start.actor, start.reason) == (
            f"task:{done.dag_id}/{done.run_id}/roll_back#1",
            f"wrong: {done.run_id}",
        )

    @pytest.mark.parametrize("cleared", [True, False])
    def test_clearing_or_repeating_a_roll_back_sends_nothing_and_gives_the_same_result(
        self, written: Any, dags: Dags, record: Record, target: Target, cleared: bool
    ) -> None:
        written()
        dag = dags.make(roll_back)
        first = dags.run(dag)
        before = len(target.received), len(record().events)

        again = dags.run(dag, again=first if cleared else None)

        assert (again.states, again.xcoms) == (first.states, first.xcoms)
        assert (len(target.received), len(record().events)) == before

    def test_a_roll_back_takes_its_job_from_the_task_that_makes_it(
        self, dags: Dags, record: Record, target: Target
    ) -> None:
        def define() -> None:
            draft = ask_unapproved()
            post = publish(draft, undo=DELETE)
            draft >> post >> broken() >> roll_back(draft, trigger_rule="one_failed")

        @task(retries=0)
        def broken() -> None:
            raise RuntimeError("The page looks wrong.")

        done = dags.run(dags.make(define))

        assert (done.states["roll_back"], done.xcoms["roll_back"]) == ("success", result("publish"))
        assert sent(target) == [("PUT", "/posts/kettle"), ("DELETE", "/posts/rec-1")]


class TestBeforeAnythingStarts:
    def refused(self, done: Run, target: Target, record: Record) -> str:
        """What it says that fails at once, and has done nothing."""
        assert (done.states["roll_back"], done.tries["roll_back"]) == ("failed", 1)
        assert (target.received, record().undos, record().job.state) == ([], [], JobState.COMPLETED)
        return done.error("roll_back")

    def test_a_roll_back_names_an_effect_without_an_undo(
        self, written: Any, run: RunDag, target: Target, record: Record
    ) -> None:
        written(announce=None)
        assert "'announce' declares no undo" in self.refused(run(roll_back), target, record)

    @pytest.mark.parametrize("leave", [["announce"], '["announce", " "]'])
    def test_an_effect_without_an_undo_may_be_left_as_it_is(
        self, written: Any, run: RunDag, target: Target, record: Record, leave: Any
    ) -> None:
        written(announce=None)

        done = run(lambda: roll_back(leave=leave))

        assert sent(target) == [("DELETE", "/posts/rec-1")]
        assert done.xcoms["roll_back"] == result("publish")
        assert "left as they are: announce" in str([event.reason for event in record().events])

    @pytest.mark.parametrize(
        ("arguments", "what"),
        [
            ({"job": 4711}, "has no job 4711"),
            ({"job": "{{ 'none' }}"}, "does not name a job: 'none'"),
            ({"reason": "{{ ' ' }}"}, "must say why"),
            ({"leave": LEFT_AS_IT_IS}, "has nothing applied to undo"),
            ({"leave": ["annonce"]}, "has no effect 'annonce' to leave"),
            ({"leave": "announce"}, "is not a list of names: 'announce'"),
            ({"leave": "{}"}, "is not a list of names"),
            ({"leave": "[1]"}, "is not a list of names"),
        ],
    )
    def test_a_roll_back_that_cannot_begin_says_why(
        self, written: Any, run: RunDag, target: Target, record: Record, arguments: Any, what: str
    ) -> None:
        written()
        assert what in self.refused(run(lambda: roll_back(**arguments)), target, record)


class TestUnknown:
    """The answer to an undo got lost."""

    def test_an_undo_that_the_probe_finds_is_not_sent_again(
        self, written: Any, run: RunDag, record: Record, target: Target
    ) -> None:
        written(announce=PROBED)
        target.answers = [DROP, Answer(200, {"items": [{"of": "rec-2"}]})]

        done = run(roll_back)

        key = record().current_effects[1].effect_key
        assert sent(target) == [
            ("POST", "/recalls/rec-2"),
            ("GET", f"/recalls?key={key}"),
            ("DELETE", "/posts/rec-1"),
        ]
        assert done.xcoms["roll_back"] == result("announce", "publish")

    @pytest.mark.parametrize(("applied", "times"), [(True, 1), (False, 2)])
    def test_an_unknown_undo_waits_for_a_person_and_the_rest_continues_once_it_is_resolved(
        self, written: Any, run: RunDag, ledger: Ledger, target: Target, applied: bool, times: int
    ) -> None:
        written()
        target.answers = [DROP]
        person = resolve_when_unknown(ledger, applied=applied)

        done = run(roll_back)

        person.join()
        assert (done.states["roll_back"], done.tries["roll_back"]) == ("success", 1)
        assert sent(target) == [("POST", "/recalls/rec-2")] * times + [("DELETE", "/posts/rec-1")]
        assert ledger.job(1).state is JobState.ROLLED_BACK

    @pytest.mark.parametrize(("retries", "held", "times"), [(0, True, 1), (1, False, 2)])
    def test_an_idempotent_undo_is_sent_again_by_airflows_retry_or_waits_where_no_retry_is_left(
        self, written: Any, run: RunDag, ledger: Ledger, target: Target, retries: int, held: bool, times: int
    ) -> None:
        written(announce=None)
        target.answers = [DROP]
        person = resolve_when_unknown(ledger, applied=True) if held else None

        done = run(lambda: roll_back(leave=["announce"], retries=retries, retry_delay=timedelta(0)))

        if person is not None:
            person.join()
        assert (done.states["roll_back"], done.tries["roll_back"]) == ("success", times)
        assert sent(target) == [("DELETE", "/posts/rec-1")] * times

    def test_a_roll_back_waits_for_a_person_no_longer_than_its_author_says(
        self, written: Any, run: RunDag, record: Record, target: Target
    ) -> None:
        written()
        target.answers = [DROP]

        said: list[str] = []
        notifier = Remembers("{{ handoff.notice }}: {{ handoff.message }}", said)

        done = run(lambda: roll_back(hold_timeout=timedelta(0), notifiers=[notifier]))

        assert [text.partition(" may ")[0] for text in said] == [
            "held: publishing post:kettle: the write 'undo:announce'"
        ]
        assert (done.states["roll_back"], done.tries["roll_back"]) == ("failed", 1)
        assert "'undo:announce' may have been applied" in done.error("roll_back")
        assert states(record) == [EffectState.UNKNOWN, EffectState.PLANNED]
        assert sent(target) == [("POST", "/recalls/rec-2")]

    def test_a_roll_back_waits_for_a_killed_attempt_and_sends_nothing_meanwhile(
        self, written: Any, run: RunDag, ledger: Ledger, target: Target
    ) -> None:
        written()
        recall, _ = ledger.roll_backs.start(1, actor=TEST, reason="killed")
        ledger.effects.claim(1, recall.as_plan, lease=timedelta(seconds=0.5), actor=TEST)
        person = resolve_when_unknown(ledger, applied=True)

        done = run(roll_back)

        person.join()
        assert sent(target) == [("DELETE", "/posts/rec-1")]
        assert done.xcoms["roll_back"] == result("announce", "publish")


class TestNotNow:
    def test_a_target_that_says_not_now_gets_the_undo_after_the_time_it_asks_for(
        self, written: Any, run: RunDag, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "INLINE_SECONDS", 0.0)
        written()
        target.answers = [Answer(503, headers={"Retry-After": "1"})] * 2

        done = run(roll_back)

        assert (done.states["roll_back"], done.tries["roll_back"]) == ("success", 1)
        assert sent(target) == [("POST", "/recalls/rec-2")] * 3 + [("DELETE", "/posts/rec-1")]

    @pytest.mark.parametrize("inline_seconds", [5.0, -1.0])
    def test_a_target_that_says_not_now_too_often_is_tried_again_by_airflow(
        self, written: Any, run: RunDag, target: Target, monkeypatch: pytest.MonkeyPatch, inline_seconds: float
    ) -> None:
        written()
        monkeypatch.setattr(waiting, "INLINE_SECONDS", inline_seconds)
        monkeypatch.setattr(apply, "RETRY_AFTER_TIMES", 1)
        target.answers = [Answer(503, headers={"Retry-After": "0"})] * 2

        done = run(lambda: roll_back(retry_delay=timedelta(0)))

        assert (done.states["roll_back"], done.tries["roll_back"]) == ("success", 2)
        assert "503" in done.error("roll_back")

    def test_a_target_that_says_not_now_without_a_time_is_tried_again_by_airflow(
        self, written: Any, run: RunDag, target: Target
    ) -> None:
        written()
        target.answers = [Answer(201), Answer(503)]

        done = run(lambda: roll_back(retry_delay=timedelta(0)))

        assert (done.states["roll_back"], done.tries["roll_back"]) == ("success", 2)
        assert sent(target) == [("POST", "/recalls/rec-2")] + [("DELETE", "/posts/rec-1")] * 2


def test_a_refused_undo_fails_the_task_and_a_clear_continues_with_it_and_the_rest(
    written: Any, dags: Dags, record: Record, target: Target
) -> None:
    written()
    target.answers = [Answer(201), Answer(422)]
    dag = dags.make(roll_back)

    first = dags.run(dag)
    stopped = record().job.state, states(record)
    again = dags.run(dag, again=first)

    assert (first.states["roll_back"], first.tries["roll_back"]) == ("failed", 1)
    assert "422" in first.error("roll_back")
    assert stopped == (JobState.ROLLING_BACK, [EffectState.APPLIED, EffectState.REFUSED])
    assert again.xcoms["roll_back"] == result("announce", "publish")
    assert sent(target) == [("POST", "/recalls/rec-2"), ("DELETE", "/posts/rec-1"), ("DELETE", "/posts/rec-1")]
    assert record().job.state is JobState.ROLLED_BACK


class TestWrittenAnew:
    """After a roll-back, the job has a new revision, which is written."""

    @staticmethod
    def pipeline() -> None:
        draft = ask_unapproved()
        draft >> publish(draft, undo=DELETE)

    @pytest.mark.parametrize("job", [1, {"job_id": 1, "revision": 1}])
    def test_clearing_the_roll_back_of_an_old_revision_leaves_the_new_write(
        self, dags: Dags, record: Record, target: Target, job: Any
    ) -> None:
        writing, undoing = dags.make(self.pipeline), dags.make(lambda: roll_back(job))
        dags.run(writing)
        first = dags.run(undoing)
        dags.run(writing, conf={"regenerate": True})
        before = sent(target)

        again = dags.run(undoing, again=first)

        assert (again.states, again.xcoms) == (first.states, first.xcoms)
        assert (record().job.revision, record().job.state) == (2, JobState.COMPLETED)
        assert sent(target) == before

    def test_another_run_rolls_back_the_new_write(self, dags: Dags, record: Record, target: Target) -> None:
        writing, undoing = dags.make(self.pipeline), dags.make(roll_back)
        dags.run(writing)
        dags.run(undoing)
        dags.run(writing, conf={"regenerate": True})

        done = dags.run(undoing)

        assert done.xcoms["roll_back"] == result("publish")
        assert (record().job.revision, record().job.state) == (2, JobState.ROLLED_BACK)
        assert sent(target)[-2:] == [("PUT", "/posts/kettle"), ("DELETE", "/posts/rec-3")]

    def test_a_fully_cleared_run_whose_draft_is_the_new_revision_rolls_back_the_new_write(
        self, dags: Dags, record: Record, target: Target
    ) -> None:
        def define() -> None:
            draft = ask_unapproved()
            draft >> publish(draft, undo=DELETE) >> check() >> roll_back(draft, trigger_rule="one_failed")

        @task(retries=0)
        def check(dag_run: Any = None) -> None:
            if not dag_run.conf["good"]:
                raise RuntimeError("The page looks wrong.")

        dag = dags.make(define)
        first = dags.run(dag, conf={"good": False})
        dags.run(dag, conf={"good": True, "regenerate": True})
        assert (record().job.revision, record().job.state) == (2, JobState.COMPLETED)

        again = dags.run(dag, again=first, conf={"good": False})

        assert again.xcoms["roll_back"] == result("publish")
        assert record().job.state is JobState.ROLLED_BACK
        assert [method for method, _ in sent(target)] == ["PUT", "DELETE"] * 2


class TestTemplateDag:
    @pytest.fixture
    def trigger(self, dags: Dags) -> Callable[..., Run]:
        return lambda **params: dags.run(dags.load(DAG_FILE), conf={"job": 1, "reason": "the wrong product", **params})

    def test_the_roll_back_dag_rolls_back_a_job_and_records_who_asked_for_it(
        self, written: Any, trigger: Any, record: Record, target: Target
    ) -> None:
        written()

        done = trigger()

        assert (done.dag_id, done.xcoms) == ("aihandoff_rollback", {"roll_back": result("announce", "publish")})
        assert len(target.received) == 2
        assert "the wrong product (asked for by dag_test)" in [event.reason for event in record().events]

    @pytest.mark.parametrize("leave", [["announce"], ["announce", ""]])
    def test_the_roll_back_dag_leaves_the_effects_that_are_named(
        self, written: Any, trigger: Any, target: Target, leave: list[str]
    ) -> None:
        written(announce=None)
        trigger(leave=leave)
        assert sent(target) == [("DELETE", "/posts/rec-1")]

    def test_an_empty_field_of_the_roll_back_form_leaves_no_effect(
        self, written: Any, trigger: Any, target: Target
    ) -> None:
        written()
        trigger(leave=None)
        assert len(target.received) == 2

    @pytest.mark.parametrize("reason", ['it\'s {{ 1 }} of "two"\nlines', "12"])
    def test_the_reason_in_the_roll_back_form_is_recorded_unchanged(
        self, written: Any, trigger: Any, record: Record, reason: str
    ) -> None:
        written()
        trigger(reason=reason)
        assert f"{reason} (asked for by dag_test)" in [event.reason for event in record().events]

    def test_a_job_that_does_not_exist_fails_the_roll_back_dag(
        self, accepted: Any, trigger: Any, target: Target
    ) -> None:
        done = trigger(job=4711)
        assert (done.state, target.received) == ("failed", [])
        assert "has no job 4711" in done.error("roll_back")

    @pytest.mark.parametrize(
        "params", [{"job": None}, {"job": "one"}, {"job": 0}, {"reason": " "}, {"leave": "announce"}]
    )
    def test_airflow_refuses_a_run_of_the_roll_back_dag_without_a_job_and_a_reason(
        self, trigger: Any, params: dict[str, Any]
    ) -> None:
        with pytest.raises(ParamValidationError, match=f"Invalid input for param {next(iter(params))}"):
            trigger(**params)

    def test_the_form_of_the_roll_back_dag_says_what_each_field_is(self, dags: Dags) -> None:
        dag = dags.load(DAG_FILE)
        fields = {name: dag.params.get_param(name) for name in dag.params}
        assert list(fields) == ["job", "reason", "leave"]
        assert all(field.description and field.schema["title"] for field in fields.values())
        assert [name for name, field in fields.items() if not field.has_value] == ["job", "reason"]
        assert dag.doc_md
