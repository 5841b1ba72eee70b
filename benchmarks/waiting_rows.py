"""Writes what Airflow knows of many deferred tasks; run in the environment of its stack.

``python -m benchmarks.waiting_rows TASKS`` registers a Dag with one mapped task, creates a run of it, and keeps, for
each way to wait and for each task, the trigger as a deferred task would have stored it: the table ``waiting_triggers``
of the metadata database. A scheduler would take an hour to bring 10,000 tasks there.
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

DAG_ID = RUN_ID = "waiting"
TASK_ID = "draft"
CONN_ID = "openai_default"
LEDGER_CONN_ID = "aihandoff_ledger"
HUB, POLLING, IDLE, SETS = "hub", "polling", "idle", "sets"
PATTERNS = (HUB, POLLING, IDLE, SETS)

_DAG = f"""
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG({DAG_ID!r}, schedule=None):
    BashOperator.partial(task_id={TASK_ID!r}).expand(bash_command=["true"] * %d)
"""


def write_dag(folder: Path, jobs: int) -> None:
    """Write the Dag's file; its run has one task for each job."""
    folder.mkdir(exist_ok=True)
    (folder / "waiting.py").write_text(_DAG % jobs)


def response_id(index: int) -> str:
    """The response that the task with this map index waits for."""
    return f"resp_{index}"


def main() -> None:
    """Write everything."""
    jobs = int(sys.argv[1])
    _airflow("dags", "reserialize")
    _airflow("dags", "trigger", DAG_ID, "--run-id", RUN_ID)
    _keep_triggers(jobs)


def _airflow(*arguments: str) -> None:
    """Run an `airflow` command in this process, which has imported Airflow already."""
    from airflow.cli import cli_parser

    parsed = cli_parser.get_parser().parse_args(arguments)
    parsed.func(parsed)


def _keep_triggers(jobs: int) -> None:
    from airflow.models.trigger import Trigger
    from airflow.triggers.base import BaseTrigger
    from airflow.utils.session import create_session
    from sqlalchemy import text

    from airflow_provider_aihandoff.core.options import OPTIONS
    from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger
    from airflow_provider_aihandoff.triggers.set_wait import SetTrigger
    from benchmarks.waiting_triggers import POLL_INTERVAL, IdleTrigger, PollingResponseTrigger

    now = datetime.now(UTC)

    def trigger(pattern: str, index: int) -> BaseTrigger:
        if pattern == IDLE:
            return IdleTrigger()  # type: ignore[no-untyped-call]
        if pattern == POLLING:
            return PollingResponseTrigger(CONN_ID, response_id(index), POLL_INTERVAL, time.time() + 86_400)
        if pattern == SETS:
            return SetTrigger(
                set_id=index + 1,
                phase="draft",
                ledger_conn_id=LEDGER_CONN_ID,
                not_before=now.isoformat(),
                until=(now + timedelta(days=1)).isoformat(),
                until_anyway=False,
                poll_interval=float(OPTIONS["poll_interval"].default),
            )
        return OpenAIBackgroundResponseTrigger(
            job_id=index + 1,
            revision=1,
            response_id=response_id(index),
            openai_conn_id=CONN_ID,
            ledger_conn_id=LEDGER_CONN_ID,
            deadline=(now + timedelta(days=1)).isoformat(),
            not_before=now.isoformat(),
            poll_interval=float(OPTIONS["poll_interval"].default),
        )

    stored = [
        {"pattern": pattern, "index": index, "classpath": row.classpath, "kwargs": row.encrypted_kwargs}
        for pattern in PATTERNS
        for index in range(jobs)
        for row in [Trigger.from_object(trigger(pattern, index))]
    ]
    with create_session() as session:
        session.execute(
            text(
                "CREATE TABLE waiting_triggers (pattern text, map_index integer, classpath text, kwargs text,"
                " PRIMARY KEY (pattern, map_index))"
            )
        )
        session.execute(text("INSERT INTO waiting_triggers VALUES (:pattern, :index, :classpath, :kwargs)"), stored)


if __name__ == "__main__":
    main()
