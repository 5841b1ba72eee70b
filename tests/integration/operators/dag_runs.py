"""Runs Dags in this process to their end, and says what became of each task."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast

from airflow import settings
from airflow.models.backfill import Backfill, ReprocessBehavior, _create_backfill
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.xcom import XComModel
from airflow.sdk import DAG
from airflow.sdk.definitions.dag import _run_task
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import select
from sqlalchemy.orm import Session

from airflow_provider_aihandoff import airflow_compat
from tests.airflow_compat import SerializedDAG

_numbers = count(1)


@dataclass
class Run:
    """A Dag run that has ended."""

    dag_id: str
    run_id: str
    state: str
    states: dict[str, str]
    """The state of each task instance, by `task_id`, or `task_id[map_index]`."""
    tries: dict[str, int]
    errors: dict[str, list[BaseException]]
    """What ended each attempt that did not succeed."""
    xcoms: dict[str, Any]
    """The return values."""

    def error(self, task_id: str) -> str:
        """What ended the last attempt of a task."""
        return str(self.errors[task_id][-1])


Define = Callable[[], Any]


class Dags:
    """Runs Dags, and keeps what ends their tasks."""

    def __init__(self) -> None:
        self.errors: dict[str, list[BaseException]] = defaultdict(list)

    def make(self, define: Define, **arguments: Any) -> DAG:
        """A Dag with the tasks that `define` makes, in Airflow's database."""
        # A task that is tried again is tried again at once.
        hooks = {name: [self._remember] for name in ("on_failure_callback", "on_retry_callback")}
        with DAG(
            arguments.pop("dag_id", None) or f"dag_{next(_numbers)}",
            schedule=arguments.pop("schedule", None),
            start_date=datetime(2026, 1, 1, tzinfo=UTC),
            default_args={"retry_delay": timedelta(0), **hooks, **arguments.pop("default_args", {})},
            **arguments,
        ) as dag:
            define()
        return self._stored(dag)

    def load(self, file: Path) -> DAG:
        """The Dag of a file, in Airflow's database."""
        bag = airflow_compat.dag_bag()(str(file), load_op_links=False)
        assert bag.import_errors == {}
        (dag,) = bag.dags.values()
        for task in dag.tasks:
            task.on_failure_callback = [self._remember]
        return self._stored(dag)

    @staticmethod
    def _stored(dag: DAG) -> DAG:
        lazy = LazyDeserializedDAG.from_dag(dag)
        SerializedDAG.bulk_write_to_db("dags-folder", None, [dag])
        SerializedDagModel.write_dag(lazy, bundle_name="dags-folder")
        return dag

    def run(self, dag: DAG, *, again: Run | None = None, conf: dict[str, Any] | None = None) -> Run:
        """Run every task of a Dag to its end.

        :param again: the run of which every task is cleared first.
        :param conf: what the run is triggered with.
        """
        self.errors.clear()
        if again is None:
            at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=next(_numbers))
        else:
            at = datetime.fromisoformat(again.run_id.removeprefix("manual__"))
        return self._ended(dag.test(logical_date=at, run_after=at, run_conf=conf))

    def clear(self, dag: DAG, run: Run, task_ids: Collection[str] | None = None) -> Run:
        """Clear tasks of a run, or all of them, as Airflow's UI does, and run it to its end.

        :param dag: may be the run's Dag with other code.
        """
        stored = SerializedDagModel.get_dag(dag.dag_id)
        assert stored is not None
        stored.clear(task_ids=task_ids, run_id=run.run_id)
        return self.go_on(dag, run.run_id)

    def backfill(self, dag: DAG, day: datetime) -> Run:
        """Backfill one day, whether it has a run or not, as Airflow's UI does, and run it to its end."""
        _create_backfill(
            dag_id=dag.dag_id,
            from_date=day,
            to_date=day,
            max_active_runs=1,
            reverse=False,
            dag_run_conf=None,
            triggering_user_name="alice",
            reprocess_behavior=ReprocessBehavior.COMPLETED,
        )
        with open_session() as session:
            (run_id,) = session.scalars(select(DagRun.run_id).filter_by(dag_id=dag.dag_id, logical_date=day))
            session.query(Backfill).update({Backfill.completed_at: datetime.now(UTC)})  # as the scheduler does
            session.commit()
        return self.go_on(dag, run_id)

    def go_on(self, dag: DAG, run_id: str) -> Run:
        """Run what a run has left to its end: the loop of `dag.test()`, without its beginning."""
        self.errors.clear()
        with open_session() as session:
            (dag_run,) = session.scalars(select(DagRun).filter_by(dag_id=dag.dag_id, run_id=run_id))
            dag_run.dag = SerializedDagModel.get_dag(dag.dag_id)
            dag_run.state = DagRunState.RUNNING
            while dag_run.state == DagRunState.RUNNING:
                self._run_what_may_run(session, dag, dag_run)
            return self._ended(dag_run)

    def step(self, dag: DAG, run_id: str) -> Run:
        """Run the tasks of a run that may run now, each to its end or until it waits for a person."""
        with open_session() as session:
            (dag_run,) = session.scalars(select(DagRun).filter_by(dag_id=dag.dag_id, run_id=run_id))
            dag_run.dag = SerializedDagModel.get_dag(dag.dag_id)
            self._run_what_may_run(session, dag, dag_run)
            return self._ended(dag_run)

    @staticmethod
    def _run_what_may_run(session: Session, dag: DAG, dag_run: DagRun) -> None:
        for ti in dag_run.update_state(session=session)[0]:
            # As of 3.4, a clear and a retry have counted the attempt that they are for.
            ti.try_number = ti.try_number + 1 if airflow_compat.RELEASE < (3, 4) else max(1, ti.try_number)
            ti.state = TaskInstanceState.SCHEDULED
        session.commit()
        for ti in dag_run.get_task_instances(state=[TaskInstanceState.SCHEDULED], session=session):
            _run_task(ti=ti, task=dag.task_dict[ti.task_id], run_triggerer=True)
        session.expire_all()

    def _ended(self, dag_run: DagRun) -> Run:
        tasks = {_name(ti): ti for ti in dag_run.get_task_instances()}
        with open_session() as session:
            rows = session.query(XComModel).filter_by(dag_id=dag_run.dag_id, run_id=dag_run.run_id, key="return_value")
            xcoms = {_name(row): XComModel.deserialize_value(row) for row in rows}
        return Run(
            dag_run.dag_id,
            dag_run.run_id,
            str(dag_run.state),
            {name: str(ti.state) for name, ti in tasks.items()},
            {name: ti.try_number for name, ti in tasks.items()},
            dict(self.errors),
            xcoms,
        )

    def _remember(self, context: Any) -> None:
        self.errors[_name(context["ti"])].append(context["exception"])


def open_session() -> Session:
    """A session on Airflow's metadata database."""
    assert settings.Session is not None
    return cast("Session", settings.Session())


def _name(row: Any) -> str:
    return row.task_id if row.map_index in (None, -1) else f"{row.task_id}[{row.map_index}]"
