"""From a decision to the task that has gone on, on a real Airflow; beside it, what Airflow takes to start any task.

Run it with `.venv/bin/python -m benchmarks.decision`. It takes some minutes: ten decisions over REST, one after the
other, for each place where approvals wait, and as many runs of a Dag with one empty task in between. A task has gone on
when Airflow has recorded its success, so the time includes the scheduler, and the start of a process for the task.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from demo.airflow_api import AirflowApi
from demo.local import CHECKOUT, running_demo

TIMES = 10

#: How long a task has waited when a person decides: longer than `[aihandoff] min_deferral` of the demo, as people do.
WAITED_SECONDS = 4

#: The state in which the approval waits, by where its author lets it wait.
WAITS = {"awaiting_input": "awaiting_input", "triggerer": "deferred"}

BESIDE = "trigger: empty task done"


def main() -> None:
    """Decide, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        dags, env = CHECKOUT / "benchmarks" / "dags", {"PYTHONPATH": str(CHECKOUT)}
        with running_demo(Path(folder), dags, extra_env=env, report=print) as demo:
            admin, alice = demo.airflow.api("admin"), demo.airflow.api("alice")
            dag_ids = {"decision_beside", *(f"decision_{wait_in}" for wait_in in WAITS)}
            admin.wait_for_dags(dag_ids, timeout_seconds=120)
            for dag_id in dag_ids:
                admin.set_paused(dag_id, False)
            print(f"Deciding {TIMES} times for each place", flush=True)
            seconds: dict[str, list[float]] = {**{label(wait_in): [] for wait_in in WAITS}, BESIDE: []}
            for _ in range(TIMES):  # alternately, so that all meet the same machine
                for wait_in in WAITS:
                    seconds[label(wait_in)].append(_decide(admin, alice, wait_in))
                seconds[BESIDE].append(_start(admin))
            report(seconds)


def label(wait_in: str) -> str:
    """How the table names a decision on what waits there."""
    return f"decision, {wait_in}: task done"


def _decide(admin: AirflowApi, alice: AirflowApi, wait_in: str) -> float:
    """Bring a run to its question, answer it, and return how long its task took to go on."""
    dag_id = f"decision_{wait_in}"
    run_id = admin.trigger(dag_id)
    admin.wait_for_task(dag_id, run_id, "approve", {WAITS[wait_in]}, timeout_seconds=120)
    time.sleep(WAITED_SECONDS)
    (job,) = alice.json("GET", "/aihandoff/api/v1/jobs", params={"run_id": run_id})["jobs"]
    decision = {"verdict": "approve", "digest": job["review_digest"]}
    alice.json("POST", f"/aihandoff/api/v1/jobs/{job['job_id']}/decisions", json=decision)
    return _until_done(admin, dag_id, run_id, "approve")


def _start(admin: AirflowApi) -> float:
    """Trigger the Dag with the empty task, and return how long that took."""
    return _until_done(admin, "decision_beside", admin.trigger("decision_beside"), "start")


def _until_done(admin: AirflowApi, dag_id: str, run_id: str, task_id: str) -> float:
    """Seconds from now to a task's success."""
    began = datetime.now(UTC)
    admin.wait_for_task(dag_id, run_id, task_id, {"success"}, timeout_seconds=120)
    ended = admin.json("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}")["end_date"]
    return (datetime.fromisoformat(ended) - began).total_seconds()


def report(seconds: dict[str, list[float]]) -> None:
    """Print medians and maxima."""
    print(f"\n{'seconds from':40} {'median':>7} {'max':>7}")
    for what, found in seconds.items():
        print(f"{what:40} {statistics.median(found):7.2f} {max(found):7.2f}")


if __name__ == "__main__":
    main()
