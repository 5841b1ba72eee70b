"""From a decision to the task that has gone on, on a real Airflow: through the ledger, and by Airflow's own operator.

Run it with `.venv/bin/python -m benchmarks.decision`. It takes about three minutes: twelve decisions of each kind, one
after the other, over REST. A task has gone on when Airflow has recorded its success, so the time includes the
scheduler, and the start of a process for the task.
"""

from __future__ import annotations

import statistics
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from demo.airflow_api import AirflowApi
from demo.local import CHECKOUT, running_demo

DECISIONS = 12


_HEAD = "seconds from the decision to the task's success"
LEDGER, AIRFLOW = "through the ledger", "Airflow's ApprovalOperator"


def main() -> None:
    """Decide, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        dags, env = CHECKOUT / "benchmarks" / "dags", {"PYTHONPATH": str(CHECKOUT)}
        with running_demo(Path(folder), dags, extra_env=env, report=print) as demo:
            admin, alice = demo.airflow.api("admin"), demo.airflow.api("alice")
            admin.wait_for_dags({"decision_ledger", "decision_airflow"}, timeout_seconds=120)
            for dag_id in ("decision_ledger", "decision_airflow"):
                admin.set_paused(dag_id, False)
            print(f"Deciding {DECISIONS} times in each way", flush=True)
            seconds: dict[str, list[float]] = {LEDGER: [], AIRFLOW: []}
            for _ in range(DECISIONS):  # in turn, so that both meet the same machine
                seconds[LEDGER].append(_decide(admin, alice, "decision_ledger"))
                seconds[AIRFLOW].append(_decide(admin, alice, "decision_airflow"))
            report(seconds)


def _decide(admin: AirflowApi, alice: AirflowApi, dag_id: str) -> float:
    """Bring a run to its question, answer it, and return how long its task took to go on."""
    run_id = admin.trigger(dag_id)
    admin.wait_for_task(dag_id, run_id, "approve", {"deferred"}, timeout_seconds=120)
    if dag_id == "decision_ledger":
        (job,) = alice.json("GET", "/aihandoff/api/v1/jobs", params={"run_id": run_id})["jobs"]
        path, body = f"/aihandoff/api/v1/jobs/{job['job_id']}/decisions", {"verdict": "approve"}
        alice.json("POST", path, json={**body, "digest": job["review_digest"]})
    else:
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approve/-1/hitlDetails"
        alice.json("PATCH", path, json={"chosen_options": ["Approve"], "params_input": {}})
    decided = datetime.now(UTC)
    admin.wait_for_task(dag_id, run_id, "approve", {"success"}, timeout_seconds=120)
    ended = admin.json("GET", f"/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/approve")["end_date"]
    return (datetime.fromisoformat(ended) - decided).total_seconds()


def report(seconds: dict[str, list[float]]) -> None:
    """Print medians and maxima, and the ratio of the medians."""
    print(f"\n{_HEAD:48} {'median':>7} {'max':>7}")
    for way, found in seconds.items():
        print(f"{way:48} {statistics.median(found):7.2f} {max(found):7.2f}")
    ratio = statistics.median(seconds[AIRFLOW]) / statistics.median(seconds[LEDGER])
    print(f"{'ratio of the medians, Airflow / ledger':48} {ratio:7.2f}")


if __name__ == "__main__":
    main()
