"""A busy day: many tickets as one set, through the whole line, watched in the terminal and in the browser."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from airflow_provider_aihandoff.core.sets.set_record import SetPhase
from demo.airflow_api import FINISHED
from demo.business.seed import MORE_OPENED
from demo.check import REVIEWER, CheckFailedError, count_differences
from demo.comparison import as_table, compare
from demo.local import LocalDemo
from demo.pipelines import approve_what_waits, open_ledger
from demo.processes import python
from demo.waiting import wait_until

DAG_ID = "ticket_classification"
INTERVAL = {"opened_from": MORE_OPENED.isoformat(), "opened_to": (MORE_OPENED + timedelta(days=1)).isoformat()}
ENVIRONMENT = {"AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "3", "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "2"}
"""A machine that is busy with thousands of jobs may be late to start the task that reads them."""
LOOK_SECONDS = 1.0
"""Between two reads of the set."""
WATCH_SECONDS = 60.0
"""How long the last line of the bar may take after the end of the run."""


@dataclass(frozen=True)
class Day:
    """How a busy day went.

    :param said: what became of the set, in words.
    :param seconds: how long it was in each phase, from the trigger to the end of the run.
    """

    set_id: int
    said: str
    state: str
    seconds: dict[str, float] = field(default_factory=dict)


def run_day(demo: LocalDemo, items: int, report: Callable[[str], None], *, alone: bool) -> Day:
    """Trigger a run for all of the further tickets, and watch its set until the run has ended.

    :param items: how many further tickets the demo was started with.
    :param alone: a reviewer approves what waits, over REST; otherwise it waits for you.
    :raises CheckFailedError: the run has ended without a set.
    """
    api, reviewer = demo.airflow.api(), demo.airflow.api(REVIEWER)
    api.wait_for_dags({DAG_ID})
    report(f"Triggering {DAG_ID} for {items:,} tickets")
    run_id = api.trigger(DAG_ID, INTERVAL)
    with open_ledger(demo) as ledger:
        seconds: dict[str, float] = {}
        began = time.monotonic()

        def made() -> int | None:
            set_id = next((found.set_id for found in ledger.sets.newest() if found.run_id == run_id), None)
            if set_id is None and (state := api.run_state(DAG_ID, run_id)) in FINISHED:
                raise CheckFailedError(f"The run is {state}, and has made no set. Its logs: {demo.airflow.home}.")
            return set_id

        set_id = wait_until(made, "the set", timeout_seconds=600)
        report(f"Set {set_id}: {page_of(demo, set_id)}")
        invited = False
        with watched(demo, set_id):
            while (state := api.run_state(DAG_ID, run_id)) not in FINISHED:
                demo.check_alive()
                found, totals = ledger.sets.read(set_id), ledger.sets.total(set_id)
                phase = totals.phase(found)
                if phase is SetPhase.DECIDING and alone:
                    approve_what_waits(reviewer)
                elif phase is SetPhase.DECIDING and not invited:
                    invited = True
                    report(f"Jobs wait for you: log in as {REVIEWER}, and open {page_of(demo, set_id)}")
                time.sleep(LOOK_SECONDS)
                now = time.monotonic()
                seconds[phase.value] = round(seconds.get(phase.value, 0.0) + now - began, 1)
                began = now
        found, totals = ledger.sets.read(set_id), ledger.sets.total(set_id)
        return Day(set_id, totals.in_words(found.without_job.number), state, seconds)


def check_day(demo: LocalDemo, day: Day) -> None:
    """Compare ledger and witness after a busy day.

    :raises CheckFailedError: they differ, or the run did not succeed.
    """
    rows = compare(demo)
    print(f"\n{as_table(rows)}\n")
    if (differences := count_differences(rows)) or day.state != "success":
        raise CheckFailedError(f"{differences} differences between ledger and witness. The run is {day.state}.")
    print("0 differences between ledger and witness.")


@contextmanager
def watched(demo: LocalDemo, set_id: int) -> Iterator[None]:
    """Show in this terminal what `airflow aihandoff sets show --watch` says of a set meanwhile."""
    command = python("-m", "airflow_provider_aihandoff", "sets", "show", str(set_id), "--watch")
    process = subprocess.Popen(command, env=demo.airflow.env, cwd=demo.airflow.home, stdin=subprocess.DEVNULL)
    try:
        yield
        process.wait(WATCH_SECONDS)  # it ends with the set
    finally:
        process.terminate()
        process.wait()


def page_of(demo: LocalDemo, set_id: int) -> str:
    """Where a person sees the set, and finds what waits for them."""
    return f"{demo.airflow.base_url}/aihandoff/sets/{set_id}"
