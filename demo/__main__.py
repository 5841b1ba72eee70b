"""`python -m demo`: start the demo, check it without a person, run a busy day, make incidents, or remove its data."""

import argparse
import shutil
import signal
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import NoReturn

import psycopg

from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_stack import USERS
from demo.business.seed import MOST_TICKETS
from demo.busy_day import ENVIRONMENT, check_day, page_of, run_day
from demo.check import CheckFailedError, check
from demo.incidents import make_in_running_demo
from demo.local import AlreadyRunningError, LocalDemo, address_file, alone, demo_home, receiver_switch, running_demo
from demo.pipelines import MOST_JOBS, answers, open_ledger, summary, trigger_new
from demo.postgres import PostgresUnavailableError, open_postgres
from demo.processes import ProcessFailedError

WATCH_SECONDS = 1.0


def up(home: Path) -> None:
    """Start everything, print the addresses, and stop it on Ctrl-C."""
    started = time.monotonic()
    with running_demo(home, report=_Steps(started)) as demo:
        trigger_new(demo.airflow.api())
        print(addresses_and_logins(demo, time.monotonic() - started), flush=True)
        watch(demo)


def check_alone(home: Path) -> None:
    """Run the pipelines from nothing, in a folder of its own, and compare ledger and witness."""
    own = home / "check"
    if own.exists():
        clean(own)
    steps = _Steps(time.monotonic())
    with running_demo(own, report=steps) as demo:
        check(demo, steps)


def busy_day(home: Path, options: Namespace) -> None:
    """Run a set of many tickets from nothing, in a folder of its own, and show how far it is."""
    if not 1 <= options.items <= MOST_TICKETS:
        sys.exit(f"A busy day has 1 to {MOST_TICKETS:,} tickets, not {options.items:,}.")
    own = home / "set"
    if own.exists():
        clean(own)
    steps = _Steps(time.monotonic())
    with running_demo(own, extra_env=ENVIRONMENT, more_tickets=options.items, report=steps) as demo:
        day = run_day(demo, options.items, steps, alone=options.alone)
        steps(f"{day.said}. The run is {day.state}.")
        check_day(demo, day)
        if not options.alone:
            print(f"The demo goes on: {page_of(demo, day.set_id)}. Ctrl-C stops everything.", flush=True)
            watch(demo)


def clean(home: Path) -> None:
    """Remove the data of the demo."""
    with alone(home):
        open_postgres(home / "postgres").destroy()
        shutil.rmtree(home)
    print(f"Removed {home}.")


def make_incidents(home: Path) -> None:
    """Make one of each kind of incident in the running demo, and say where they are."""
    try:
        made = make_in_running_demo(home)
    except psycopg.OperationalError:
        sys.exit(f"No demo is running in {home}. Start it with `make demo`, then try again.")
    for what, job_id in made.jobs.items():
        print(f"  {what:<20} job {job_id}")
    print(f"  {'quarantined webhook':<20} {made.webhook_id}")
    print(f"  {'silent webhooks':<20} {made.conn_id}; `make demo-receiver-on` starts the receiver again")
    overview = f"{address_file(home).read_text()}/aihandoff/overview"
    print(f"The demo goes on. Log in as alice, bob or admin, and open {overview}")


def watch(demo: LocalDemo) -> NoReturn:
    """Show what the jobs do, until Ctrl-C or until something ends by itself."""
    last: tuple[str, int] = ("", 0)
    with open_ledger(demo) as ledger:
        while True:
            demo.follow_switch()
            demo.check_alive()
            jobs = ledger.jobs(limit=MOST_JOBS)
            waiting = sum(job.state is JobState.REVIEW and job.review_digest is not None for job in jobs)
            if (now := (f"{summary(jobs)}\n          {how_answers_came(demo)}", waiting)) != last:
                print(f"{datetime.now():%H:%M:%S}  {now[0]}", flush=True)  # noqa: DTZ005  the person's own clock
                if waiting and waiting != last[1]:
                    print(f"          {waiting} waiting for you: {review_url(demo)}", flush=True)
                last = now
            time.sleep(WATCH_SECONDS)


def how_answers_came(demo: LocalDemo) -> str:
    """How many answers came by webhook and how many by polling, in one line."""
    by_webhook, by_polling = answers(demo)
    receiver = "" if demo.openai_url is None else f" (the receiver is {'on' if demo.receives else 'OFF'})"
    return f"answers: {by_webhook} by webhook, {by_polling} by polling{receiver}"


def addresses_and_logins(demo: LocalDemo, seconds: float) -> str:
    """The addresses, and the names to log in with, as the terminal shows them."""
    openai = f"{demo.openai_url} (a stand-in: set OPENAI_API_KEY to use OpenAI itself)"
    people = ", ".join(f"{name}/{name} ({role})" for name, role in USERS.items())
    return f"""
The demo is up after {seconds:.0f} s.

  Airflow          {demo.airflow.base_url}
  Review page      {review_url(demo)}
  Log in as        {people};
                   to decide, as alice or bob: admin has triggered the pipelines, and another user must approve
  Business system  {demo.business_url} (helpdesk, CMS, channel, and the witness of every write)
  Web shop         {demo.shop_url} (a page of another origin, with a button that asks for a job)
  OpenAI           {openai if demo.openai_url else "OpenAI itself, with your OPENAI_API_KEY"}
  Data and logs    {demo.home}

`make demo-receiver-off` stops the receiver of webhooks, and the demo polls; `make demo-receiver-on` starts it again.
Ctrl-C stops everything and keeps your data; `make demo-clean` removes it.
"""


def review_url(demo: LocalDemo) -> str:
    """Where a person decides, inside the Airflow UI."""
    return f"{demo.airflow.base_url}/plugin/aihandoff"


class _Steps:
    """Prints each step as it begins, with the time since the start."""

    def __init__(self, started: float) -> None:
        self._started = started

    def __call__(self, step: str) -> None:
        print(f"{time.monotonic() - self._started:5.1f} s  {step}", flush=True)


def _stop_orderly(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> None:
    commands: dict[str, Callable[[Path, Namespace], None]] = {
        "up": lambda home, _: up(home),
        "check": lambda home, _: check_alone(home),
        "set": busy_day,
        "clean": lambda home, _: clean(home),
        "incidents": lambda home, _: make_incidents(home),
        "receiver-on": lambda home, _: receiver_switch(home).unlink(missing_ok=True),
        "receiver-off": lambda home, _: receiver_switch(home).touch(),
    }
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    named = parser.add_subparsers(dest="command", required=True)
    parsers = {name: named.add_parser(name) for name in commands}
    parsers["set"].add_argument("--items", type=int, default=2_000, help="how many tickets (2000)")
    parsers["set"].add_argument("--alone", action="store_true", help="without a person: what waits is approved")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _stop_orderly)
    try:
        commands[options.command](demo_home(), options)
    except KeyboardInterrupt:
        print("Stopped.")
    except (AlreadyRunningError, CheckFailedError, PostgresUnavailableError, ProcessFailedError, TimeoutError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
