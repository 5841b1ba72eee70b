"""A set of three hundred on a real Airflow, of which the worker, the triggerer and PostgreSQL are killed meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.comparison import as_table, compare
from demo.local import LocalDemo, running_demo
from demo.pipelines import approve_what_waits, open_ledger
from tests.stack.pipelines.shared import process_titled, writes

pytestmark = [pytest.mark.stack, pytest.mark.timeout(2400)]

DAG_ID, NUMBER = "ticket_set", 300


def test_a_set_of_three_hundred_is_paid_and_written_once_though_everything_is_killed(tmp_path: Path) -> None:
    dags = Path(__file__).parent / "dags"
    with running_demo(tmp_path / "demo", dags, answer_seconds=2) as demo, open_ledger(demo) as ledger:
        killing = Killing(demo, ledger)
        killing.worker("draft")
        killing.until(lambda: killing.stored() >= NUMBER // 6, "the first outputs")
        demo.airflow.kill("triggerer")
        killing.until(lambda: killing.stored() >= NUMBER // 3, "a third of the outputs")
        killing.postgres()
        killing.until(lambda: killing.stored() >= NUMBER // 2, "half of the outputs")
        killing.worker("draft")
        killing.until(killing.all_approved, "every job to be approved")
        killing.until(lambda: len(writes(demo)) > 0, "the first write")
        killing.worker("write")
        killing.until(lambda: len(writes(demo)) >= NUMBER // 2, "half of the writes")
        killing.postgres()
        killing.until(killing.ended_well, "the run to succeed")

        (found,) = ledger.sets.newest()
        assert ledger.sets.total(found.set_id).in_words() == "300 applied"
        assert killing.admin.xcom(DAG_ID, killing.run_id, "write")["said"] == "300 applied"
        posts = {path for _, path in writes(demo)}
        assert posts == {f"/cms/posts/killed-{number}" for number in range(NUMBER)}
        rows = compare(demo)
        assert not [difference for row in rows for difference in row.differences], as_table(rows)


class Killing:
    """One run of the set, and who kills what it needs."""

    def __init__(self, demo: LocalDemo, ledger: Ledger) -> None:
        self.demo, self.ledger = demo, ledger
        self.admin: AirflowApi = demo.airflow.api()
        self.admin.wait_for_dags({DAG_ID})
        self.run_id = self.admin.trigger(DAG_ID, {"number": NUMBER, "prefix": "killed"})

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for something. What ends of Airflow is started again, and what has failed is cleared, as people do."""

        def reached() -> bool:
            self.demo.airflow.revive()
            if self.admin.run_state(DAG_ID, self.run_id) == "failed":
                self.admin.clear(DAG_ID, self.run_id, only_failed=True)
            return condition()

        self.admin.wait_for(reached, what, 900)

    def worker(self, task_id: str) -> None:
        """SIGKILL the process of a task as soon as there is one."""

        def killed() -> bool:
            tasks = self.admin.task_instances(DAG_ID, self.run_id)
            pid = next((process_titled(f"airflow worker -- {ti.id}") for ti in tasks if ti.task_id == task_id), None)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
            return pid is not None

        self.until(killed, f"{task_id} to run")

    def postgres(self) -> None:
        """SIGKILL the server of the ledger and of Airflow's own database, and start it again."""
        self.demo.postgres.kill()
        self.demo.postgres.start()

    def stored(self) -> int:
        """How many outputs are stored."""
        return self.in_states(JobState.REVIEW, JobState.APPROVED, JobState.APPLYING, JobState.COMPLETED)

    def all_approved(self) -> bool:
        """Approve what waits; whether there is nothing left to approve."""
        approve_what_waits(self.demo.airflow.api("alice"))
        return self.in_states(JobState.APPROVED, JobState.APPLYING, JobState.COMPLETED) == NUMBER

    def ended_well(self) -> bool:
        """Whether the run has succeeded."""
        return self.admin.run_state(DAG_ID, self.run_id) == "success"

    def in_states(self, *states: JobState) -> int:
        """How many jobs are in any of these; 0 while the ledger is unavailable."""
        try:
            return len(self.ledger.jobs(states=list(states), limit=NUMBER))
        except LedgerUnavailable:
            return 0
