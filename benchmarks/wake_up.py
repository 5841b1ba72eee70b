"""From the end of a response to its output in the ledger, on a real Airflow: by webhook, and by plain polling.

Run it with `.venv/bin/python -m benchmarks.wake_up`. It takes about five minutes: 30 responses that end one after the
other. The output is stored by the task that was deferred, so the time includes the scheduler, and the start of a
process for the task.
"""

from __future__ import annotations

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from demo.airflow_stack import LEDGER_DATABASE
from demo.local import CHECKOUT, LocalDemo, running_demo

#: A response's end: when it was submitted, by the clock of the ledger, and the delay that its input asks for.
_TIMES = """
    SELECT job_type, extract(epoch FROM inbox.received_at - ended)::float8,
        extract(epoch FROM completed_at - ended)::float8
    FROM (
        SELECT job_type, response_id, completed_at,
            submitted_at + make_interval(secs => substring(request->>'input' FROM 'delay=([0-9]+)')::float8) AS ended
        FROM aihandoff.jobs JOIN aihandoff.revisions USING (job_id)) AS responses
    LEFT JOIN aihandoff.inbox USING (response_id)"""


@dataclass
class Times:
    """Seconds since the ends of responses of one kind."""

    received: list[float]
    stored: list[float]


def main() -> None:
    """Run the Dag once, and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"PYTHONPATH": str(CHECKOUT), "AIRFLOW__AIHANDOFF__MIN_DEFERRAL": "8"}
        with running_demo(Path(folder), CHECKOUT / "benchmarks" / "dags", extra_env=env, report=print) as demo:
            api = demo.airflow.api()
            api.wait_for_dags({"wake_up"}, timeout_seconds=120)
            print("Running 30 responses", flush=True)
            state = api.wait_for_run("wake_up", api.trigger("wake_up"), timeout_seconds=900)
            assert state == "success", f"the run is {state}"
            report(measure(demo))


def measure(demo: LocalDemo) -> dict[str, Times]:
    """Read the times from the ledger, by job type."""
    with demo.postgres.connect(LEDGER_DATABASE) as connection:
        rows = connection.execute(_TIMES).fetchall()
    kinds: dict[str, Times] = {}
    for kind, received, stored in rows:
        times = kinds.setdefault(kind, Times([], []))
        times.stored.append(stored)
        if received is not None:
            times.received.append(received)
    return kinds


def report(kinds: dict[str, Times]) -> None:
    """Print medians and maxima, and the ratio of the medians."""
    print(f"\n{'seconds since the response ended':42} {'median':>7} {'max':>7}")
    _line("webhook: recorded by the receiver", kinds["webhook"].received)
    _line("webhook: output stored by the task", kinds["webhook"].stored)
    _line("plain polling, 10 s: output stored", kinds["polling"].stored)
    ratio = statistics.median(kinds["polling"].stored) / statistics.median(kinds["webhook"].stored)
    print(f"{'ratio of the medians, polling / webhook':42} {ratio:7.2f}")


def _line(name: str, seconds: list[float]) -> None:
    print(f"{name:42} {statistics.median(seconds):7.2f} {max(seconds):7.2f}")


if __name__ == "__main__":
    main()
