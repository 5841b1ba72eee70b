"""What a run has of Airflow, and what the default keys make of it: timetables and data intervals; and its notes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.api.common.trigger_dag import trigger_dag
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable
from airflow.utils.types import DagRunTriggeredByType
from pendulum import DateTime
from sqlalchemy import select

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.airflow_compat import CronDataIntervalTimetable, CronTriggerTimetable, register_timetable
from tests.integration.operators.dag_runs import Dags, Run, open_session
from tests.integration.operators.tasks import ask_unapproved, publish
from tests.integration.operators.test_sets import draft_set, requests_of
from tests.target import Target

ITEMS = [{"id": "a", "text": "Help!"}, {"id": "b", "text": "Thanks."}]
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)


class Shifts(Timetable):
    """Three a day, of eight hours each; a run is about the last one that has ended."""

    description = "Shifts"

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        end = run_after.start_of("day").add(hours=run_after.hour // 8 * 8)
        return DataInterval(start=end.subtract(hours=8), end=end)

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        return None  # these tests start their runs themselves


def items_of(make_key: str) -> Any:
    return draft_set(items=ITEMS, job_key=make_key)


def run_at(dags: Dags, dag: Any, at: datetime, *, logical: bool = True) -> Run:
    ended = dags._ended(dag.test(logical_date=at if logical else None, run_after=at))
    assert ended.state == "success", ended.errors
    return ended


def set_keys(ledger: Ledger) -> list[str]:
    return sorted(each.set_key for each in ledger.sets.newest(limit=100))


def test_runs_about_the_same_interval_of_a_timetable_of_your_own_are_one_set(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_timetable(Shifts, monkeypatch)
    dag = dags.make(lambda: items_of("{{ data_interval_start | ts }}/{{ item.id }}"), schedule=Shifts())

    first, again, next_shift = (run_at(dags, dag, NOON + timedelta(hours=hours)) for hours in (0, 2, 6))

    start = f"{dag.dag_id}/draft/2026-03-02T"
    assert set_keys(ledger) == [
        f"{start}00:00:00+00:00/2026-03-02T08:00:00+00:00",
        f"{start}08:00:00+00:00/2026-03-02T16:00:00+00:00",
    ]
    assert first.xcoms["draft"] == again.xcoms["draft"] != next_shift.xcoms["draft"]
    assert requests_of(stand_in) == 4


@pytest.mark.parametrize("daily", [CronDataIntervalTimetable, CronTriggerTimetable])
def test_two_runs_of_a_day_are_one_set_only_where_the_timetable_has_intervals(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, daily: Any
) -> None:
    dag = dags.make(lambda: items_of("{{ run_id }}/{{ item.id }}"), schedule=daily("0 0 * * *", timezone="UTC"))

    runs = [run_at(dags, dag, NOON + timedelta(hours=hours)) for hours in (0, 2)]

    interval = f"{dag.dag_id}/draft/2026-03-01T00:00:00+00:00/2026-03-02T00:00:00+00:00"
    each = [f"{dag.dag_id}/draft/{run.run_id}" for run in runs]
    assert set_keys(ledger) == ([interval] if daily is CronDataIntervalTimetable else sorted(each))


def test_a_run_without_a_logical_date_has_a_set_and_a_job_of_its_own(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    def define() -> None:
        items_of("{{ run_id }}/{{ item.id }}")
        ask_unapproved("alone", job_key=None)

    dag = dags.make(define, schedule=CronDataIntervalTimetable("0 0 * * *", timezone="UTC"))

    runs = [run_at(dags, dag, NOON + timedelta(hours=hours), logical=False) for hours in (0, 2)]

    assert set_keys(ledger) == sorted(f"{dag.dag_id}/draft/{run.run_id}" for run in runs)
    assert {job.job_key for job in ledger.jobs() if job.set_id is None} == {
        f"{dag.dag_id}/{run.run_id}/alone" for run in runs
    }
    assert requests_of(stand_in) == 6


def test_a_draft_that_waits_for_downstream_begins_when_the_run_before_has_written(
    dags: Dags, ledger: Ledger, target: Target, stand_in: OpenAIStandIn
) -> None:
    def define() -> None:
        draft = ask_unapproved(job_key="day:{{ ds }}", wait_for_downstream=True)
        draft >> publish(draft)

    dag = dags.make(define)
    days = ["2026-03-01", "2026-03-02"]
    for day in days:
        at = datetime.fromisoformat(f"{day}T00:00:00+00:00")
        trigger_dag(dag.dag_id, run_id=day, logical_date=at, triggered_by=DagRunTriggeredByType.TEST)

    begun = [dags.step(dag, day).states["draft"] for day in days]
    assert (begun, requests_of(stand_in)) == (["success", "None"], 1)
    written = dags.step(dag, days[0])
    later = dags.step(dag, days[1])
    assert (written.states["publish"], later.states["draft"], requests_of(stand_in)) == ("success", "success", 2)
    assert [request.path for request in target.received] == ["/posts/kettle"]


def test_notes_of_a_run_and_of_a_task_stay_and_change_nothing(
    dags: Dags, ledger: Ledger, target: Target, stand_in: OpenAIStandIn
) -> None:
    def define() -> None:
        draft = ask_unapproved()
        draft >> publish(draft)

    dag = dags.make(define)
    run = dags.run(dag)
    with open_session() as session:
        (dag_run,) = session.scalars(select(DagRun).where(DagRun.dag_id == dag.dag_id))
        dag_run.note = "The customer has called."
        for task in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == dag.dag_id)):
            task.note = f"Seen: {task.task_id}."
        session.commit()

    again = dags.clear(dag, run)

    assert again.state == "success", again.errors
    assert (requests_of(stand_in), len(target.received)) == (1, 1)
    with open_session() as session:
        (dag_run,) = session.scalars(select(DagRun).where(DagRun.dag_id == dag.dag_id))
        notes = {task.task_id: task.note for task in dag_run.get_task_instances(session=session)}
        assert dag_run.note == "The customer has called."
        assert notes == {"draft": "Seen: draft.", "publish": "Seen: publish."}
    assert "customer" not in str(ledger.record(1))
