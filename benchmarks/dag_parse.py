"""What a Dag file that uses all our operators adds to the time of parsing, beside one that uses Airflow's own.

`.venv/bin/python -m benchmarks.dag_parse` parses three Dag files, each in fresh interpreters that have imported
`airflow.sdk`, as the Dag processor has: an empty one, which imports Airflow's `DAG` and `task`; one with every operator
of this package; and one with Airflow's own operators for the same work (OpenAI, HTTP, SQL, human in the loop). It
prints medians of the time of a processor, in one run: a neighbour on the machine plays little part in it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

#: Interpreters for each file.
RUNS = 15

_BEGIN = """
from airflow.sdk import DAG, task
with DAG("parsed", schedule=None):
    pass
"""

OURS = (
    _BEGIN
    + """
from airflow_provider_aihandoff.job_types import JobType
from airflow_provider_aihandoff.operators.email import EmailSideEffectOperator
from airflow_provider_aihandoff.operators.event_delivery import EventDeliveryOperator
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.postgres import PostgresSideEffectOperator
from airflow_provider_aihandoff.operators.reconcile import ReconcileOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator
from airflow_provider_aihandoff.policies import MinimumConfidence
from airflow_provider_aihandoff.reviewers import Approvers
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from pydantic import BaseModel

class Note(BaseModel):
    title: str

with DAG("ours", schedule=None):
    note = JobType("note", {"type": "object", "properties": {}})
    draft = OpenAIBackgroundResponseOperator(task_id="draft", job_type=note, model="m", input="x", output_type=Note)
    approve = ApprovalSensor(
        task_id="approve", job=draft, policy=MinimumConfidence(0.9), approvers=Approvers(users=("a",))
    )
    http = HttpSideEffectOperator(task_id="http", job=draft, endpoint="/x", json={})
    sql = PostgresSideEffectOperator(task_id="sql", job=draft, sql="SELECT 1")
    mail = EmailSideEffectOperator(
        task_id="mail", job=draft, from_email="a@example.com", to="b@example.com", subject="s", text="t"
    )
    undo = RollbackOperator(task_id="undo", job=1, reason="x")
    ReconcileOperator(task_id="reconcile")
    EventDeliveryOperator(task_id="events")
    OpenAIResponseSetOperator(task_id="set", items=[], job_key="{{ index }}", model="m", input="{{ item }}")

    @task.side_effect(job=draft)
    def write(title: str) -> None: ...

    draft >> approve >> [http, sql, mail, write("x")]
"""
)

AIRFLOWS = (
    _BEGIN
    + """
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.openai.operators.openai import OpenAITriggerBatchOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator

with DAG("airflows", schedule=None):
    draft = OpenAITriggerBatchOperator(task_id="draft", file_id="f", endpoint="/v1/chat/completions")
    approve = ApprovalOperator(task_id="approve", subject="x")
    http = HttpOperator(task_id="http", endpoint="/x")
    sql = SQLExecuteQueryOperator(task_id="sql", sql="SELECT 1")
    draft >> approve >> [http, sql]
"""
)

_PARSE = """
import sys, time
import airflow.sdk
text = open(sys.argv[1]).read()
begin = time.process_time()
exec(compile(text, sys.argv[1], "exec"), {"__name__": "dag_file"})
print(time.process_time() - begin)
"""


def parse_seconds(file: Path, home: Path) -> float:
    """Seconds of a processor that one fresh interpreter takes for one Dag file."""
    environment = {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONDONTWRITEBYTECODE": "",  # an installed package has its bytecode; all three get theirs in the first run
        "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
    }
    done = subprocess.run(
        [sys.executable, "-c", _PARSE, str(file)], capture_output=True, text=True, check=True, env=environment
    )
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        files: dict[str, Path] = {}
        for name, text in {"empty": _BEGIN, "ours": OURS, "airflow's own": AIRFLOWS}.items():
            files[name] = home / f"{len(files)}.py"
            files[name].write_text(text)
        seconds: dict[str, list[float]] = {name: [] for name in files}
        for run in range(RUNS + 1):
            for name, file in files.items():
                took = parse_seconds(file, home)
                if run:  # the first one writes bytecode
                    seconds[name].append(took)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    for name, median in medians.items():
        print(f"{name:15} {1000 * median:7.1f} ms, {1000 * (median - medians['empty']):+7.1f} ms beside the empty one")
    ours, airflows = (medians[name] - medians["empty"] for name in ("ours", "airflow's own"))
    print(f"ours adds {ours / airflows:.2f} of what Airflow's own operators add")


if __name__ == "__main__":
    main()
