"""Takes the pictures of the docs from a demo of its own: `.venv/bin/python -m docs.take_screenshots`, some minutes.

It starts the whole demo in a folder that it removes again, runs the three pipelines, decides as a reviewer would, makes
incidents, and writes `docs/images/`. It needs Chromium.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES, JobState
from demo.airflow_stack import LEDGER_DATABASE
from demo.check import finish
from demo.incidents import make_incidents
from demo.local import LocalDemo, running_demo
from demo.pipelines import MOST_JOBS, PIPELINES, open_ledger, trigger_all
from tests.stack.browser import chromium_page

if TYPE_CHECKING:
    from playwright.sync_api import FrameLocator, Page

IMAGES = Path(__file__).parent / "images"
REVIEWER, OPERATOR = "alice", "admin"

WIDTH, HEIGHT, TALL = 1360, 900, 1250

#: Seconds for the model to answer, and for the plans to be rendered.
WITHIN = 600

#: The jobs of a run appear one after the other: for so many seconds, no further one must.
QUIET = 30


def take(demo: LocalDemo, report: Callable[[str], None]) -> None:
    """Take every picture."""
    api = demo.airflow.api()
    report("Triggering the three pipelines")
    runs = trigger_all(api)
    with open_ledger(demo) as ledger:
        wait_for_reviews(demo, ledger)
        (post,) = [job.job_id for job in ledger.jobs(limit=MOST_JOBS) if job.job_type == "publishing"]
    report("Taking the pictures of a reviewer")
    base_url = demo.airflow.base_url
    with chromium_page(base_url, REVIEWER, viewport={"width": WIDTH, "height": HEIGHT}) as page:
        frame = plugin_frame(page, base_url)
        frame.get_by_role("link", name="Review queue").click()
        frame.get_by_text("wait for you").wait_for()
        save(page, "review")
        page.goto(f"{base_url}/aihandoff/bulk-review?by=type")
        page.locator(".groups a", has_text="ticket").click()
        page.get_by_role("link", name="Select all that you can decide").click()
        page.get_by_role("button", name="Approve selected").wait_for()
        save(page, "bulk-review")
        page.set_viewport_size({"width": WIDTH, "height": TALL})
        page.goto(f"{base_url}/aihandoff/jobs/{post}")
        save(page, "job")
    finish(demo, api, runs, report)
    with open_ledger(demo) as ledger, demo.postgres.connect(LEDGER_DATABASE) as connection:
        make_incidents(ledger, connection, "1")
    report("Taking the pictures of an operator")
    with chromium_page(base_url, OPERATOR, viewport={"width": WIDTH, "height": TALL}) as page:
        plugin_frame(page, base_url).get_by_role("heading", name="Connections").wait_for()
        save(page, "overview")


def wait_for_reviews(demo: LocalDemo, ledger: Ledger) -> None:
    """Return when each pipeline has jobs, and all have ended or wait for a decision with their plan rendered.

    :raises TimeoutError: it takes too long, as where the machine is busy with something else.
    """
    until, seen, quiet_since = time.monotonic() + WITHIN, 0, time.monotonic()
    while time.monotonic() < until:
        demo.check_alive()
        jobs = ledger.jobs(limit=MOST_JOBS)
        waits = all(
            job.state in TERMINAL_JOB_STATES or (job.state is JobState.REVIEW and job.review_digest) for job in jobs
        )
        if len(jobs) != seen or not waits:
            seen, quiet_since = len(jobs), time.monotonic()
        elif {job.dag_id for job in jobs} == set(PIPELINES) and time.monotonic() - quiet_since > QUIET:
            return
        time.sleep(1)
    raise TimeoutError(f"Not every job waits for a decision after {WITHIN} s.")


def plugin_frame(page: Page, base_url: str) -> FrameLocator:
    """The pages within Airflow's UI, which has opened."""
    page.goto(f"{base_url}/plugin/aihandoff")
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="Overview").wait_for()
    return frame


def save(page: Page, name: str) -> None:
    """Keep what the window shows."""
    page.wait_for_timeout(500)
    page.screenshot(path=IMAGES / f"{name}.png")


def main() -> None:
    """Take the pictures from a demo that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as home, running_demo(Path(home), report=_report) as demo:
        take(demo, _report)
    _report(f"The pictures are in {IMAGES}")


def _report(step: str) -> None:
    print(step, flush=True)


if __name__ == "__main__":
    main()
