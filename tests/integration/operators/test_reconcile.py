"""The reconciler as a task and at a terminal: what Airflow says of tasks, on a real ledger, with real HTTP."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.models import Connection
from airflow.models.taskinstance import TaskInstance
from airflow.sdk import BaseNotifier, task
from airflow.utils.session import create_session
from openai import OpenAI

from airflow_provider_aihandoff.airflow_compat import dag_bag
from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.database import connection
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, Job, Owner
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.reconcile.notice_store import DueNotice
from airflow_provider_aihandoff.operators.reconcile import ReconcileOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.task_states import ask_database, task_states
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.testing.openai_server import DEFAULT_PROJECT
from tests.airflow_compat import get_parser
from tests.factories import OWNER, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.integration.core.reconcile.world import World
from tests.integration.operators.conftest import RunDag, postgres_connection
from tests.integration.operators.dag_runs import Dags
from tests.recorder import recording

ENDED = ["failed", "success", "skipped", "removed", "upstream_failed"]
ALIVE = ["running", "deferred", "queued", "scheduled", "up_for_retry", "up_for_reschedule", "restarting", None]


@pytest.fixture
def world(ledger: Ledger, conninfo: dict[str, Any], connections: None, _served: Any) -> Iterator[World]:
    with OpenAI(base_url=_served[2], api_key="any", max_retries=0) as client:
        yield World(ledger, conninfo, OpenAIProvider(client))


@pytest.fixture
def instances(dags: Dags) -> list[Owner]:
    """The tasks of a run that has ended: `draft[0]`, `draft[1]`, and `single`."""

    def define() -> None:
        @task
        def draft(number: int) -> int:
            return number

        draft.expand(number=[1, 2])
        task(task_id="single")(lambda: None)()

    run = dags.run(dags.make(define))
    parts = (("draft", 0), ("draft", 1), ("single", -1))
    return [Owner(run.dag_id, run.run_id, task_id, index, f"ti-{task_id}-{index}", 1) for task_id, index in parts]


def put(owner: Owner, state: str | None) -> None:
    """Bring a task instance into a state."""
    with create_session() as session:
        session.query(TaskInstance).filter_by(
            dag_id=owner.dag_id, run_id=owner.run_id, task_id=owner.task_id, map_index=owner.map_index
        ).update({"state": state})
        session.commit()


def running(world: World, owner: Owner, name: str) -> Job:
    """A job of this task, whose response runs."""
    job = world.running(name, owner=owner)
    assert job.owner == owner
    return job


@pytest.fixture
def reconcile(run: RunDag) -> Callable[[], dict[str, Any]]:
    """Run a Dag with the operator, and return its XCom."""

    def reconcile() -> dict[str, Any]:
        ended = run(lambda: ReconcileOperator(task_id="reconcile"))
        assert ended.states == {"reconcile": "success"}
        found: dict[str, Any] = ended.xcoms["reconcile"]
        return found

    return reconcile


@pytest.fixture
def airflow_cli(airflow: None, connections: None, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str) -> str:
        capsys.readouterr()
        args = get_parser().parse_args(["aihandoff", *words])
        args.func(args)
        return capsys.readouterr().out

    return run


Reconcile = Callable[[], dict[str, Any]]
Cli = Callable[..., str]


class TestOperator:
    def test_the_response_of_a_task_that_has_ended_is_cancelled_and_other_responses_go_on(
        self, world: World, instances: list[Owner], reconcile: Reconcile, stand_in: OpenAIStandIn
    ) -> None:
        jobs = [running(world, owner, f"r{number}") for number, owner in enumerate(instances)]
        put(instances[1], "deferred")

        assert reconcile() == {"abandoned response": 2}

        assert [world.state(job) for job in jobs] == ["cancelled", "running", "cancelled"]
        assert [report.cancels for report in stand_in.responses().responses] == [1, 0, 1]

    @pytest.mark.parametrize("state", ALIVE)
    def test_a_task_that_may_run_again_keeps_its_response(
        self, world: World, instances: list[Owner], reconcile: Reconcile, state: str | None
    ) -> None:
        job = running(world, instances[2], "r1")
        put(instances[2], state)
        assert reconcile() == {}
        assert world.state(job) == "running"

    @pytest.mark.parametrize("state", ENDED)
    def test_a_task_that_has_ended_does_not_keep_its_response(
        self, world: World, instances: list[Owner], reconcile: Reconcile, state: str
    ) -> None:
        job = running(world, instances[2], "r1")
        put(instances[2], state)
        assert reconcile() == {"abandoned response": 1}
        assert world.state(job) == "cancelled"

    def test_a_task_that_airflow_does_not_know_has_until_its_deadline(self, world: World, reconcile: Reconcile) -> None:
        job = running(world, OWNER, "r1")
        assert reconcile() == {}
        world.pass_deadline(job, 90)
        assert reconcile() == {"past its deadline": 1}

    def test_a_connection_that_does_not_exist_is_named_and_the_task_succeeds(
        self, world: World, reconcile: Reconcile, caplog: pytest.LogCaptureFixture
    ) -> None:
        job = world.overdue(conn_id="openai_removed")
        assert reconcile() == {"past its deadline": 1, "failed": 1}
        assert world.state(job) == "running"
        assert "openai_removed" in caplog.text

    def test_clients_do_not_try_again_by_themselves(
        self, world: World, reconcile: Reconcile, stand_in: OpenAIStandIn
    ) -> None:
        world.overdue(words="stuck=queued retrieve=500 times=99")
        reconcile()
        assert stand_in.responses().retrieves == 1

    def test_a_ledger_that_does_not_exist_fails_the_task(
        self, run: RunDag, monkeypatch: pytest.MonkeyPatch, conninfo: dict[str, Any]
    ) -> None:
        monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)
        monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", postgres_connection(conninfo, schema="nowhere"))
        ended = run(lambda: ReconcileOperator(task_id="reconcile", retries=0))
        assert ended.states == {"reconcile": "failed"}
        assert "nowhere" in ended.error("reconcile")

    def test_an_inbox_that_would_forget_too_soon_is_not_pruned(
        self, world: World, reconcile: Reconcile, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AIRFLOW__AIHANDOFF__INBOX_RETENTION", "3600")
        world.webhook("wh_1", "resp_1")
        world.sql(
            "UPDATE aihandoff.inbox SET disposition = 'foreign', poll_at = NULL, "
            "received_at = received_at - interval '1 day'"
        )
        assert reconcile() == {"old webhooks": 1, "failed": 1}
        assert world.ledger.inbox.read("wh_1")


class Notifier(BaseNotifier):
    """Keeps what it is to send."""

    template_fields = ("words",)

    def __init__(self, sent: list[str], *, fails: int = 0) -> None:
        self.words = "{{ handoff.notice }}: {{ handoff.label }} ({{ handoff.count }}): {{ handoff.message }}"
        self.sent, self.fails = sent, [None] * fails
        super().__init__()

    def notify(self, context: Any) -> None:
        if self.fails:
            self.fails.pop()
            raise OSError("no mail server")
        self.sent.append(self.words)


class TestNotifiers:
    @pytest.fixture
    def unknown(self, ledger: Ledger) -> Effect:
        """An effect whose outcome is not known."""
        plan = effect_plan()
        job = approve(ledger, ask(ledger, draft(ledger), plan))
        claim = ledger.effects.claim(job.job_id, plan, lease=timedelta(minutes=1), actor=TEST)
        return ledger.effects.lose(claim, error="a time-out", actor=TEST)

    def test_a_cause_is_notified_once_two_runs_have_found_it_and_again_when_it_is_over(
        self, dags: Dags, world: World, ledger: Ledger, unknown: Effect
    ) -> None:
        sent: list[str] = []
        dag = dags.make(lambda: ReconcileOperator(task_id="reconcile", notifiers=[Notifier(sent)]))
        dags.run(dag)
        assert sent == []
        for _ in range(3):
            run = dags.run(dag)
        dags.clear(dag, run)
        (notified,) = sent
        assert notified.startswith("needs you: unknown effects (1): 1 job has an external write that may have been")

        ledger.effects.resolve(unknown.effect_id, applied=True, external_id="7", actor=TEST, why="it is there")
        for _ in range(2):
            dags.run(dag)
        assert sent[1:] == ["over: unknown effects (0): This is over: unknown effects."]

    def test_each_threshold_of_a_budget_is_notified_once_in_a_period(
        self, dags: Dags, world: World, ledger: Ledger
    ) -> None:
        spec = checked_spec("nightly", 10, period="total", owner="alice")
        ledger.budgets.add(spec, why="to be safe", actor=TEST)

        def spend(key: str, need: int) -> None:
            job_id = ledger.submission.open(job_spec(job_key=key)).job.job_id
            worst = WorstCase(cost_usd=Decimal(need))
            ledger.submission.intend(job_id, 1, actor=TEST, lease=timedelta(minutes=1), worst=worst)

        sent: list[str] = []
        dag = dags.make(lambda: ReconcileOperator(task_id="reconcile", notifiers=[Notifier(sent, fails=1)]))
        spend("a", 4)
        dags.run(dag)
        assert sent == []
        spend("b", 5)  # over 50% and 80% at once: one notice
        for _ in range(3):
            dags.run(dag)
        (notified,) = sent
        assert notified.startswith(
            "budget: nightly (90): 90% of the budget 'nightly' (everything) are used: 9.00 USD of 10.00 USD in total."
        )
        spend("c", 1)
        for _ in range(2):
            dags.run(dag)
        assert [each.partition(":")[0] for each in sent] == ["budget", "budget"]
        assert "100%" in sent[1]

    def test_thresholds_are_notified_again_after_a_raise_and_in_a_new_period(
        self, dags: Dags, world: World, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        spec = checked_spec("hourly", 10, period="hour", owner="alice")
        ledger.budgets.add(spec, why="to be safe", actor=TEST)

        def spend(key: str, need: int) -> None:
            job_id = ledger.submission.open(job_spec(job_key=key)).job.job_id
            worst = WorstCase(cost_usd=Decimal(need))
            ledger.submission.intend(job_id, 1, actor=TEST, lease=timedelta(minutes=1), worst=worst)

        sent: list[str] = []
        dag = dags.make(lambda: ReconcileOperator(task_id="reconcile", notifiers=[Notifier(sent)]))
        spend("a", 9)
        dags.run(dag)
        ledger.budgets.raise_once("hourly", Decimal(10), why="launch week", actor=TEST)
        dags.run(dag)
        assert [each.partition("%")[0] for each in sent] == ["budget: hourly (90): 90"], "45% of 20 are no threshold"
        spend("b", 8)
        for _ in range(2):
            dags.run(dag)
        assert len(sent) == 2
        assert "85%" in sent[1]
        with psycopg.connect(**conninfo) as connection:  # the next hour
            connection.execute(
                "UPDATE aihandoff.budget_windows SET starts_at = starts_at - interval '1 hour', ends_at = starts_at"
            )
        spend("c", 5)
        for _ in range(2):
            dags.run(dag)
        assert len(sent) == 3
        assert "50%" in sent[2]

    def test_the_bill_is_compared_once_a_day_and_a_difference_is_notified_once(
        self, dags: Dags, world: World, ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection = json.loads(os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"])
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_ADMIN", json.dumps({**connection, "password": "sk-admin-secret"}))
        extra = {**(connection.get("extra") or {}), "project_id": DEFAULT_PROJECT}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps({**connection, "extra": extra}))
        draft(ledger)
        with psycopg.connect(**conninfo) as opened:
            opened.execute(
                "UPDATE aihandoff.revisions SET completed_at = completed_at - interval '1 day', cost_usd = 9"
            )
        sent: list[str] = []
        dag = dags.make(
            lambda: ReconcileOperator(
                task_id="reconcile", notifiers=[Notifier(sent)], openai_admin_conn_id="openai_admin"
            )
        )
        with recording() as recorded:
            for _ in range(3):
                assert dags.run(dag).states == {"reconcile": "success"}
        assert recorded.of(signals.BILL_DIFFERENCE) == [({"project_id": DEFAULT_PROJECT}, -9.0)] * 3
        found = ledger.bills.find(7)
        assert len(found) == 7
        assert found[0].project_id == DEFAULT_PROJECT
        assert (found[0].billed_usd, found[0].ledger_usd) == (Decimal(0), Decimal(9))
        (notified,) = sent
        assert "OpenAI has billed 0.00 USD, the ledger knows of 9.00 USD" in notified

    def test_a_bill_that_cannot_be_read_fails_no_run_and_is_asked_for_again(
        self, dags: Dags, world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        connection = json.loads(os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"])
        extra = {**(connection.get("extra") or {}), "project_id": DEFAULT_PROJECT}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps({**connection, "extra": extra}))
        draft(ledger)
        dag = dags.make(lambda: ReconcileOperator(task_id="reconcile", openai_admin_conn_id="openai_admin"))
        assert dags.run(dag).states == {"reconcile": "success"}
        assert ledger.bills.is_due()

    def test_what_could_not_be_sent_is_sent_by_the_next_run(self, dags: Dags, world: World, unknown: Effect) -> None:
        sent: list[str] = []
        notifier = Notifier(sent, fails=1)
        dag = dags.make(lambda: ReconcileOperator(task_id="reconcile", notifiers=[notifier]))
        for expected in (0, 0, 1, 1):
            assert dags.run(dag).states == {"reconcile": "success"}
            assert len(sent) == expected

    def test_another_dag_has_a_memory_of_its_own(self, dags: Dags, world: World, unknown: Effect) -> None:
        sent: list[str] = []
        for _ in range(2):
            dag = dags.make(lambda: ReconcileOperator(task_id="reconcile", notifiers=[Notifier(sent)]))
            dags.run(dag)
            dags.run(dag)
        assert len(sent) == 2

    def test_two_runs_of_a_dag_at_once_send_one_notice(
        self, dags: Dags, world: World, ledger: Ledger, unknown: Effect
    ) -> None:
        sent: list[str] = []
        dag = dags.make(lambda: ReconcileOperator(task_id="reconcile", notifiers=[Notifier(sent)]))
        dags.run(dag)
        other = ledger.notices.claim(dag.dag_id, "reconcile", DueNotice("unknown effects", over=False))
        assert other is not None
        dags.run(dag)
        assert sent == [], "another run is sending it"
        ledger.notices.sent(other, sent=True)
        dags.run(dag)
        assert sent == []

    def test_without_notifiers_nothing_is_kept(self, dags: Dags, world: World, unknown: Effect) -> None:
        dags.run(dags.make(lambda: ReconcileOperator(task_id="reconcile")))
        assert world.dump()["notices"] == []

    def test_a_failed_job_is_notified_and_over_once_it_is_acknowledged(
        self, dags: Dags, world: World, ledger: Ledger
    ) -> None:
        revision = submit(ledger, job_spec())
        ledger.outputs.fail(revision.job_id, 1, actor=TEST, reason="no quota", error={"kind": "failed"})
        sent: list[str] = []
        dag = dags.make(lambda: ReconcileOperator(task_id="reconcile", notifiers=[Notifier(sent)]))
        for _ in range(2):
            dags.run(dag)
        assert [each.partition(":")[2] for each in sent] == [
            " failed jobs (1): 1 job has failed in the last 14 days, and no one has acknowledged it. "
            "Read the reason, then clear the task, or acknowledge the failure."
        ]
        ledger.acknowledgements.acknowledge(revision.job_id, revision=1, actor=Actor.user("bob"), reason="seen")
        dags.run(dag)
        assert sent[1:] == ["over: failed jobs (0): This is over: failed jobs."]


def test_what_waits_is_sent_to_the_metrics_at_the_end_of_a_run(world: World, reconcile: Reconcile) -> None:
    world.overdue(conn_id="openai_removed")
    with recording() as recorded:
        reconcile()
    assert recorded.of(signals.FINDINGS) == [({"kind": "past_its_deadline", "result": "failed"}, 1)]
    assert recorded.of(signals.OVERDUE_RESPONSES) == [({}, 1)]
    assert len(recorded.of(signals.LAST_RECONCILED)) == 1


class TestStates:
    def test_the_execution_api_is_asked_once_for_many_runs_of_a_task(self) -> None:
        asked: list[tuple[str, str, int]] = []

        def ask(dag_id: str, task_id: str, run_ids: list[str]) -> dict[str, dict[str, Any]]:
            asked.append((dag_id, task_id, len(run_ids)))
            return {run_id: {"draft": "deferred"} for run_id in run_ids}

        owners = [replace(OWNER, run_id=f"r{number}") for number in range(120)]
        states = task_states(owners, ask)

        assert set(states.values()) == {TaskState.ALIVE}
        assert (len(states), asked) == (
            120,
            [("publishing", "draft", 50), ("publishing", "draft", 50), ("publishing", "draft", 20)],
        )

    def test_a_state_that_cannot_be_read_is_left_out_and_the_others_are_not(self) -> None:
        def ask(dag_id: str, task_id: str, run_ids: list[str]) -> dict[str, dict[str, Any]]:
            if dag_id == "broken":
                raise RuntimeError("no answer")
            return {}

        states = task_states([OWNER, replace(OWNER, dag_id="broken")], ask)
        assert states == {OWNER: TaskState.MISSING}

    def test_the_states_of_a_task_and_of_a_mapped_task_are_not_confused(self, instances: list[Owner]) -> None:
        unmapped = replace(instances[0], map_index=-1)
        states = task_states([*instances, unmapped], ask_database)
        assert [*states.values()].count(TaskState.ENDED) == 3
        assert states[unmapped] is TaskState.MISSING


class TestCommand:
    def test_the_command_reconciles_by_the_states_in_the_metadata_database(
        self, world: World, instances: list[Owner], airflow_cli: Cli
    ) -> None:
        jobs = [running(world, owner, f"r{number}") for number, owner in enumerate(instances)]
        put(instances[0], "deferred")
        put(instances[1], None)

        (found,) = json.loads(airflow_cli("reconcile", "-o", "json"))

        assert (found["kind"], found["job_id"]) == ("abandoned response", jobs[2].job_id)
        assert "cancelled" in found["done"]
        assert [world.state(job) for job in jobs] == ["running", "running", "cancelled"]

    def test_a_dry_run_of_the_command_changes_nothing(
        self, world: World, instances: list[Owner], airflow_cli: Cli, stand_in: OpenAIStandIn
    ) -> None:
        running(world, instances[2], "r1")
        world.webhook("wh_1", "resp_1")
        before, asked = world.dump(), len(stand_in.requests())

        found = json.loads(airflow_cli("reconcile", "--dry-run", "-o", "json"))

        assert [row["kind"] for row in found] == ["webhook due", "abandoned response"]
        assert all("done" not in row for row in found)
        assert (world.dump(), len(stand_in.requests())) == (before, asked)

    def test_the_command_ends_with_an_error_where_a_step_failed(
        self, world: World, airflow_cli: Cli, capsys: pytest.CaptureFixture[str]
    ) -> None:
        world.overdue(conn_id="openai_removed")
        with pytest.raises(SystemExit, match="some steps failed"):
            airflow_cli("reconcile")
        assert "openai_removed" in capsys.readouterr().out

    def test_connections_of_the_metadata_database_are_found(
        self, world: World, airflow_cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        named = json.loads(os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"])
        monkeypatch.delenv("AIRFLOW_CONN_OPENAI_DEFAULT")
        job = world.overdue()
        with create_session() as session:
            kept = Connection("openai_default", "openai", host=named["host"], password=named["password"])
            session.add(kept)
            session.commit()
            try:
                airflow_cli("reconcile")
            finally:
                session.delete(kept)
                session.commit()
        assert world.state(job) == "failed"


def test_the_sensor_says_what_an_expired_review_means(dags: Dags, ledger: Ledger) -> None:
    def define() -> None:
        ApprovalSensor(task_id="approve", job=job.job_id, on_timeout="fail", timeout=0.1, retries=0)

    job = draft(ledger)
    dags.run(dags.make(define))
    assert ledger.job(job.job_id).review_on_timeout == "fail"


def test_airflow_parses_the_maintenance_dag() -> None:
    folder = Path(__file__).parents[3] / "dags"
    bag = dag_bag()(str(folder / "aihandoff_reconcile.py"), load_op_links=False)
    assert bag.import_errors == {}
    dag = bag.dags["aihandoff_reconcile"]
    assert (dag.catchup, dag.max_active_runs, dag.task_ids) == (False, 1, ["reconcile"])
    assert dag.schedule == timedelta(minutes=5)
    assert dag.doc_md
