"""Webhooks on a real Airflow: a day of them is accounted for, and no waiting task is lost when something dies."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import Disposition, JobState
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from benchmarks.waiting_rows import CONN_ID, HUB, response_id
from benchmarks.waiting_stack import WaitingStack
from demo.airflow_api import AirflowApi
from demo.airflow_stack import METADATA_DATABASE
from demo.comparison import as_table, compare
from demo.local import DAGS_FOLDER, LocalDemo, running_demo
from demo.pipelines import answers, open_ledger
from demo.processes import ProcessFailedError
from demo.waiting import wait_until
from tests.factories import TEST

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

#: How many jobs wait when something is restarted.
WAITING = 200


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalDemo]:
    dags = Path(tmp_path_factory.mktemp("dags"))
    shutil.copytree(Path(__file__).parent / "dags", dags, dirs_exist_ok=True)
    shutil.copy(DAGS_FOLDER / "aihandoff_reconcile.py", dags)
    with running_demo(Path(tmp_path_factory.mktemp("demo")), dags, answer_seconds=5) as demo:
        demo.airflow.api().wait_for_dags({"drafts", "aihandoff_reconcile"})
        yield demo


@pytest.fixture(scope="module")
def admin(demo: LocalDemo) -> AirflowApi:
    return demo.airflow.api("admin")


@pytest.fixture(scope="module")
def ledger(demo: LocalDemo) -> Iterator[Ledger]:
    with open_ledger(demo) as ledger:
        yield ledger


def standin(demo: LocalDemo, path: str) -> Any:
    return httpx.get(f"{demo.openai_url}/standin/{path}", timeout=30, trust_env=False).raise_for_status().json()


def run_drafts(admin: AirflowApi, words: list[str], case: str) -> str:
    """Start a draft for each of these faults of the stand-in."""
    return admin.trigger("drafts", {"words": words, "case": case})


def dispositions(ledger: Ledger) -> Counter[str]:
    return Counter({name.value: webhooks for name, (webhooks, _) in ledger.inbox.counts().items()})


def test_every_delivery_of_a_bad_day_is_accounted_for(demo: LocalDemo, admin: AirflowApi, ledger: Ledger) -> None:
    words = [
        "delay=6",
        "delay=6 webhook=duplicate",
        "delay=6 webhook=again",
        "webhook=early",
        "delay=6 webhook=forged",
        "delay=6 webhook=stale",
        "delay=6 webhook=none",
        "delay=6 webhook_delay=10",
        "delay=6 status=failed",
    ]
    run_id = run_drafts(admin, words, "bad day")
    others = [{"type": "response.completed", "data": {"id": "resp_of_another_application"}}]
    others += [{"type": "batch.completed", "data": {"id": "batch_1"}}, {"type": "response.completed", "data": {}}]
    for event in others:
        answer = httpx.post(f"{demo.openai_url}/standin/webhooks", json=event, timeout=30, trust_env=False).json()
        assert answer["status"] == 200
    unsigned = httpx.post(demo.webhook_url, json={}, timeout=30, trust_env=False)
    assert unsigned.status_code == 400

    admin.wait_for_run("drafts", run_id)
    wait_until(lambda: standin(demo, "webhooks")["due"] == 0, "the last webhook to be delivered")

    attempts = standin(demo, "webhooks")["attempts"]
    accepted = [attempt for attempt in attempts if attempt["status"] == 200]
    refused = [attempt["kind"] for attempt in attempts if attempt["status"] == 400]
    assert sorted(refused) == ["forged", "stale"]
    assert sum(deliveries for _, deliveries in ledger.inbox.counts().values()) == len(accepted)
    assert set(dispositions(ledger)) <= {"applied", "duplicate", "ignored", "quarantined"}
    assert dispositions(ledger)["ignored"] == 1
    assert dispositions(ledger)["quarantined"] == 2  # another application's, which answers 404 here, and one without id
    assert {entry.response_id for entry in ledger.inbox.entries(dispositions=[Disposition.QUARANTINED])} == {
        "resp_of_another_application",
        None,
    }
    notified = {entry.response_id for entry in ledger.inbox.entries(dispositions=[Disposition.APPLIED])}
    responses = {seen["response"]["id"] for seen in standin(demo, "responses")["responses"]}
    assert notified <= responses
    # The one without a webhook was found by looking.
    assert answers(demo)[1] >= 1
    assert not [row for row in compare(demo) if row.differences], as_table(compare(demo))


def test_a_response_whose_id_was_lost_is_waited_for_without_a_worker_and_paid_once(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    """The model thinks for longer than the lease of a request and the wait for an orphan, 75 s together."""
    before = len(standin(demo, "responses")["responses"])
    faults = ["drop_after_accept", "timeout_after_accept"]
    run_id = run_drafts(admin, [f"create={fault} id={fault} delay=110" for fault in faults], "lost")
    for index in range(len(faults)):
        admin.wait_for_task("drafts", run_id, "draft", {"deferred"}, map_index=index)
    records = [ledger.record(job.job_id) for job in ledger.jobs(dag_id="drafts", run_id=run_id)]
    assert [(record.revisions[0].is_lost, record.revisions[0].response_id) for record in records] == [(True, None)] * 2

    assert admin.wait_for_run("drafts", run_id) == "success"
    assert len(standin(demo, "responses")["responses"]) == before + len(faults)
    for record in records:
        (revision,) = ledger.record(record.job.job_id).revisions
        assert revision.submissions == 1
        assert revision.response_id is not None


def test_the_maintenance_dag_asks_openai_about_a_webhook_in_quarantine(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    event = {"type": "response.completed", "data": {"id": "resp_unknown"}, "webhook_id": "wh_unknown"}
    httpx.post(f"{demo.openai_url}/standin/webhooks", json=event, timeout=30, trust_env=False).raise_for_status()
    wait_until(lambda: ledger.inbox.read("wh_unknown").polls, "the receiver to ask about it", 60)
    assert ledger.inbox.replay("wh_unknown", actor=TEST).polls == 0

    assert admin.wait_for_run("aihandoff_reconcile", admin.trigger("aihandoff_reconcile")) == "success"

    entry = ledger.inbox.read("wh_unknown")
    assert (entry.disposition, entry.polls) == (Disposition.QUARANTINED, 1)
    assert "404" in str(entry.note)


def test_responses_are_polled_while_the_receiver_is_down_and_its_webhooks_come_later(
    demo: LocalDemo, admin: AirflowApi, ledger: Ledger
) -> None:
    before = answers(demo)
    run_id = run_drafts(admin, ["delay=12"] * 3, "receiver down")
    wait_until(lambda: len(waiting_jobs(ledger, run_id)) == 3, "the drafts to be submitted")
    demo.stop_receiver()
    assert admin.wait_for_run("drafts", run_id) == "success"
    assert answers(demo) == (before[0], before[1] + 3)
    known = dispositions(ledger)

    demo.start_receiver()

    wait_until(lambda: standin(demo, "webhooks")["due"] == 0, "the webhooks to be delivered again")
    assert dispositions(ledger) - known == Counter(duplicate=3)


def waiting_jobs(ledger: Ledger, run_id: str) -> list[int]:
    """The jobs of a run whose response runs."""
    return [job.job_id for job in ledger.jobs(states=[JobState.RUNNING], run_id=run_id, limit=1000)]


@dataclass
class Waiting:
    """A real triggerer in which 200 tasks wait, each for a job of its own."""

    stack: WaitingStack

    def end_responses(self, indexes: range) -> dict[int, float]:
        """Deliver the webhooks of these, each one again until it is recorded, as OpenAI does; and say when it was."""
        recorded = {}
        with self.stack.ledger() as ledger:
            for index in indexes:
                body = {"object": "event", "type": "response.completed", "data": {"id": response_id(index)}}
                delivery = Delivery(f"wh_{index}", CONN_ID, "response.completed", response_id(index), body)
                wait_until(partial(received, ledger, delivery), "the ledger to take a webhook")
                recorded[index] = time.time()
        return recorded

    def resumed(self) -> Counter[int]:
        """How often each task was made ready to run."""
        with self.stack.postgres.connect(METADATA_DATABASE) as connection:
            return Counter(row[0] for row in connection.execute("SELECT map_index FROM waiting_resumed").fetchall())

    def fired(self) -> Counter[int]:
        """How often each trigger has fired, by its own logs."""
        return Counter(
            int(re.search(r"map_index=(\d+)", str(log))[1])  # type: ignore[index]
            for log in (self.stack.airflow.home / "task-logs").rglob("*.trigger.*")
            for line in log.read_text().splitlines()
            if "Trigger fired event" in line
        )


def received(ledger: Ledger, delivery: Delivery) -> bool:
    try:
        ledger.inbox.receive(delivery)
    except LedgerUnavailable:
        return False
    return True


def test_none_of_two_hundred_waiting_tasks_is_lost_when_postgresql_and_the_triggerer_die(tmp_path: Path) -> None:
    with WaitingStack(tmp_path, WAITING) as stack, stack.triggerer(HUB, WAITING):
        waiting = Waiting(stack)
        stack.release()
        wait_until(lambda: stack.started() > WAITING, "200 triggers")
        wait_until(lambda: len(stack.ledger_queries()) == 1, "the one connection to the ledger")

        with ThreadPoolExecutor(1) as threads:
            ending = threads.submit(waiting.end_responses, range(1, WAITING // 2))
            stack.postgres.restart()
            recorded = ending.result()
        survived = True

        def first_half_resumed() -> bool:
            nonlocal survived
            try:
                stack.airflow.check_alive()
            except ProcessFailedError:
                # Airflow's triggerer ends when a heartbeat finds its database down: a supervisor starts it again.
                survived = False
                stack.airflow.restart("triggerer")
            return len(waiting.resumed()) == len(recorded)

        wait_until(first_half_resumed, "the first half to go on")
        late = [at - recorded[index] for index, at in stack.fired_at(list(recorded)).items()]
        assert not survived or max(late) < 60  # the sweep, every 10 s, and the time that the server was down

        stack.airflow.kill("triggerer")
        recorded |= waiting.end_responses(range(WAITING // 2, WAITING + 1))
        stack.airflow.start("triggerer")
        wait_until(lambda: len(waiting.resumed()) == WAITING, "every task to go on")

        assert set(waiting.resumed().values()) == {1}
        assert set(waiting.fired().values()) == {1}
        assert waiting.resumed().keys() == set(recorded)
