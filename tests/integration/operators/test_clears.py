"""Whatever is cleared, of every run, by every user: nothing is paid twice and nothing is written twice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import chain, combinations
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.jobs.clear_preview import Draft, preview_clear
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.integration.operators.dag_runs import Dags, Run
from tests.integration.operators.tasks import Policy, ask, ask_unapproved, publish, store
from tests.target import DROP, Answer, Target

Record = Callable[[], JobRecord]
Outside = Callable[[], tuple[int, int, int]]

TASKS = ["draft", "approve", "publish", "store"]
WRITTEN_ONCE = (1, 1, 1)


def pipeline(input: str = "Write about the kettle.", version: str = "1", **request: Any) -> None:
    """A note that is approved, put to the CMS and written into a table."""
    policy = Policy()
    policy.version = version
    draft = ask(input=input)
    approve = ApprovalSensor(task_id="approve", job=draft, policy=policy)
    draft >> approve >> publish(draft, **request) >> store(draft)


def results(run: Run) -> dict[str, Any]:
    """What the tasks gave, without how far the job was."""
    return {name: {**result, "state": None} for name, result in run.xcoms.items()}


@pytest.fixture
def outside(stand_in: OpenAIStandIn, target: Target, sales: psycopg.Connection[Any]) -> Outside:
    """How many responses were created, requests received, and rows written."""

    def count() -> tuple[int, int, int]:
        row = sales.execute("SELECT count(*) FROM reports").fetchone()
        assert row is not None
        return len(stand_in.responses().responses), len(target.received), row[0]

    return count


def test_clearing_any_tasks_of_a_finished_run_pays_and_writes_nothing(
    dags: Dags, outside: Outside, record: Record
) -> None:
    dag = dags.make(pipeline)
    run = dags.run(dag)
    before = record()

    for cleared in chain.from_iterable(combinations(TASKS, number) for number in range(1, len(TASKS) + 1)):
        again = dags.clear(dag, run, cleared)

        assert (again.states, results(again), outside()) == (run.states, results(run), WRITTEN_ONCE), cleared
        assert {name for name in TASKS if again.tries[name] > run.tries[name]} == set(cleared)
        run = again
    assert (record().job.state, record().effects) == (JobState.COMPLETED, before.effects)


def test_a_clear_does_what_its_preview_says(dags: Dags, ledger: Ledger, target: Target) -> None:
    answers = {"lost": DROP, "refused": Answer(422), "closed": Answer(429)}

    def define() -> None:
        draft = ask_unapproved()
        for name in ("first", "second", "third", *answers):
            draft >> publish(draft, name, endpoint=f"/posts/{name}", retries=0)

    target.answer_by_path = {f"/posts/{name}": answer for name, answer in answers.items()}
    dag = dags.make(define)
    run = dags.run(dag)
    target.answer_by_path = {}
    before = len(target.received)

    (found,) = ledger.jobs_of_run(run.dag_id, run.run_id)
    preview = preview_clear(found.job, found.effects, found.model_revisions)
    dags.clear(dag, run)

    assert (preview.draft, preview.effects_line) == (Draft.ATTACH, "3 applied, 1 unknown, 2 would run")
    assert {received.path for received in target.received[before:]} == {"/posts/refused", "/posts/closed"}
    assert len(target.received) == before + 2


@pytest.mark.parametrize("upstream", [True, False], ids=["upstream", "downstream"])
def test_clearing_a_refused_task_with_those_before_or_after_it_sends_it_again(
    dags: Dags, outside: Outside, target: Target, upstream: bool
) -> None:
    target.answers = [Answer(422)]
    dag = dags.make(pipeline)
    run = dags.run(dag)
    assert (run.states["publish"], outside()) == ("failed", (1, 1, 0))

    relatives = dag.get_task("publish").get_flat_relative_ids(upstream=upstream)
    again = dags.clear(dag, run, {"publish", *relatives})
    whole = dags.clear(dag, again)

    assert (whole.state, whole.xcoms["publish"]["state"], outside()) == ("success", "applied", (1, 2, 1))


class TestCodeThatHasChanged:
    """The run is done, its Dag's file is another one, and every task is cleared."""

    def test_an_effect_whose_code_has_changed_is_reported_and_not_sent(self, dags: Dags, outside: Outside) -> None:
        dag = dags.make(pipeline)
        run = dags.run(dag)

        again = dags.clear(dags.make(lambda: pipeline(method="POST"), dag_id=dag.dag_id), run)

        assert "It was applied before, as approved" in again.error("publish")
        assert (again.tries["publish"], again.states["store"], outside()) == (2, "upstream_failed", WRITTEN_ONCE)

    def test_an_input_that_has_changed_is_reported_and_not_sent_to_the_model(
        self, dags: Dags, outside: Outside
    ) -> None:
        dag = dags.make(pipeline)
        run = dags.run(dag)

        again = dags.clear(dags.make(lambda: pipeline("Write about a pot."), dag_id=dag.dag_id), run)

        assert "input" in again.error("draft")
        assert (again.tries["draft"], again.states["publish"], outside()) == (2, "upstream_failed", WRITTEN_ONCE)

    def test_a_changed_policy_asks_no_one_again(self, dags: Dags, outside: Outside, record: Record) -> None:
        dag = dags.make(pipeline)
        run = dags.run(dag)

        again = dags.clear(dags.make(lambda: pipeline(version="2"), dag_id=dag.dag_id), run)

        assert (again.states, outside(), len(record().decisions)) == (run.states, WRITTEN_ONCE, 1)

    def test_an_effect_that_was_added_is_not_sent(self, dags: Dags, outside: Outside, record: Record) -> None:
        def publish_only() -> None:
            draft = ask_unapproved()
            draft >> publish(draft)

        def publish_and_store() -> None:
            draft = ask_unapproved()
            draft >> publish(draft) >> store(draft)

        dag = dags.make(publish_only)
        run = dags.run(dag)
        changed = dags.make(publish_and_store, dag_id=dag.dag_id)

        again = dags.clear(changed, run)
        new_run = dags.run(changed)

        assert (again.states["publish"], outside()) == ("success", (1, 1, 0))
        assert "is not part of the plan that was approved" in new_run.error("store")
        assert [effect.name for effect in record().effects] == ["publish"]

    def test_an_effect_that_was_removed_stays_written(self, dags: Dags, outside: Outside, record: Record) -> None:
        def without_publish() -> None:
            draft = ask()
            approve = ApprovalSensor(task_id="approve", job=draft, policy=Policy())
            draft >> approve >> store(draft)

        dag = dags.make(pipeline)
        run = dags.run(dag)

        again = dags.clear(dags.make(without_publish, dag_id=dag.dag_id), run, ["draft", "approve"])

        assert (again.states["draft"], again.states["approve"], outside()) == ("success", "success", WRITTEN_ONCE)
        assert [effect.state for effect in record().effects] == [EffectState.APPLIED] * 2


class TestBackfill:
    """Over days of which the work is done."""

    DAY = datetime(2026, 2, 1, tzinfo=UTC)

    @staticmethod
    def daily(**job: Any) -> Callable[[], None]:
        def define() -> None:
            draft = ask_unapproved(**job)
            draft >> publish(draft) >> store(draft)

        return define

    @pytest.mark.parametrize("job_key", ["report:{{ ds }}", None], ids=["a key of the day", "the default key"])
    def test_a_backfill_runs_a_day_that_has_a_run_again(
        self, dags: Dags, outside: Outside, job_key: str | None
    ) -> None:
        dag = dags.make(self.daily(job_key=job_key), schedule="@daily")
        first = dags.backfill(dag, self.DAY)

        again = dags.backfill(dag, self.DAY)

        assert (again.run_id, again.states, results(again)) == (first.run_id, first.states, results(first))
        assert (again.tries["publish"], outside()) == (2, WRITTEN_ONCE)

    def test_a_backfill_of_a_day_without_a_run_attaches_by_the_key_of_the_day(
        self, dags: Dags, outside: Outside
    ) -> None:
        define = self.daily(job_key="report:{{ ds }}")
        before = dags.backfill(dags.make(define, schedule="@daily"), self.DAY)

        again = dags.backfill(dags.make(define, schedule="@daily"), self.DAY)

        assert again.dag_id != before.dag_id
        assert (again.state, results(again), outside()) == ("success", results(before), WRITTEN_ONCE)
