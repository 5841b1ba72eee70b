"""The pipelines without a person: run the pipelines, approve over REST, and compare ledger and witness."""

import time
from collections.abc import Callable

from demo.airflow_api import AirflowApi
from demo.comparison import Row, as_table, compare
from demo.local import LocalDemo
from demo.pipelines import Runs, approve_what_waits, open_ledger, summary, trigger_all, unfinished

REVIEWER = "alice"
RUN_SECONDS = 600
CHECK_SECONDS = 1.0


class CheckFailedError(RuntimeError):
    """Ledger and witness differ, or a run did not end well; the message holds the table."""


def check(demo: LocalDemo, report: Callable[[str], None]) -> None:
    """Run the three pipelines to their end and print the comparison.

    :raises CheckFailedError: anything differs, or a run did not succeed.
    """
    api = demo.airflow.api()
    report("Triggering the three pipelines")
    runs = trigger_all(api)
    finish(demo, api, runs, report)
    rows = compare(demo)
    table = as_table(rows)
    print(f"\n{table}\n")
    failed = [f"{dag_id} is {state}" for dag_id, state in _states(api, runs).items() if state != "success"]
    differences = count_differences(rows)
    if differences or failed:
        raise CheckFailedError(f"{differences} differences between ledger and witness. {'; '.join(failed)}")
    print("0 differences between ledger and witness.")


def finish(demo: LocalDemo, api: AirflowApi, runs: Runs, report: Callable[[str], None]) -> None:
    """Approve everything that waits, until every run has ended.

    :raises TimeoutError: they take too long.
    """
    reviewer = demo.airflow.api(REVIEWER)
    deadline = time.monotonic() + RUN_SECONDS
    last = ""
    with open_ledger(demo) as ledger:
        while open_runs := unfinished(api, runs):
            demo.check_alive()
            if approved := approve_what_waits(reviewer):
                report(f"{REVIEWER} approved {approved} jobs")
            if (now := summary(ledger.jobs(limit=1000))) != last:
                report(now)
                last = now
            if time.monotonic() > deadline:
                raise TimeoutError(f"Still running after {RUN_SECONDS} s: {', '.join(open_runs)}.")
            time.sleep(CHECK_SECONDS)


def count_differences(rows: list[Row]) -> int:
    """How many differences there are in all rows together."""
    return sum(len(row.differences) for row in rows)


def _states(api: AirflowApi, runs: Runs) -> dict[str, str]:
    return {dag_id: api.run_state(dag_id, run_id) for dag_id, run_id in runs.items()}
