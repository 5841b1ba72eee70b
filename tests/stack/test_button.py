"""The button of a web shop, its script and its own transaction: one job and one bill each, whatever is killed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_stack import LEDGER_DATABASE, Component
from demo.comparison import as_table, compare
from demo.local import DAGS_FOLDER, RECEIVER, LocalDemo, running_demo
from demo.pipelines import approve_what_waits, open_ledger
from demo.processes import python
from demo.waiting import AIRFLOW_SECONDS, wait_until
from tests.stack.browser import ARGUMENTS, find_chromium
from tests.stack.pipelines.shared import responses, writes

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1200)]

CLICKED, SUBMITTED, ENQUEUED = "drift-bottle", "beacon-lamp", "rambler-backpack"


def test_a_button_a_script_and_a_transaction_make_one_job_each_whatever_is_killed(tmp_path: Path) -> None:
    with (
        running_demo(tmp_path / "demo", DAGS_FOLDER, answer_seconds=20) as demo,
        open_ledger(demo) as ledger,
        shop_page(demo) as page,
    ):
        demo.airflow.api().wait_for_dags({"product_note"})
        script = submit(demo)
        assert enqueue(demo) == enqueue(demo)
        page.evaluate("for (let click = 0; click < 10; click++) document.getElementById('draft').click()")
        says(page, "works on it")
        page.reload()
        kill(demo, "api-server")
        script.kill()
        script.wait()
        says(page, "works on it")
        page.wait_for_function("document.getElementById('text').textContent !== ''")
        kill(demo, "triggerer")
        demo.services.kill(RECEIVER)
        demo.start_receiver()
        until(lambda: len(notes(ledger, JobState.REVIEW)) == 3, "three notes that wait for a person")
        says(page, "waits for a decision")
        kill(demo, "api-server")
        page.reload()
        says(page, "waits for a decision")
        script = submit(demo)
        until(lambda: are_published(demo, ledger), "three published notes")
        says(page, "is done")
        published = page.locator("#published a")
        assert published.inner_text() == f"{demo.shop_url}/cms/posts/{CLICKED}"
        published.click()
        page.wait_for_url(f"{demo.business_url}/cms/posts/{CLICKED}")

        said, _ = script.communicate(timeout=AIRFLOW_SECONDS)
        assert said.splitlines()[-1].startswith("Published: post-")
        assert len(responses(demo)) == 3
        assert len(demo.airflow.api().runs("product_note")) == 3
        assert sorted(path for _, path in writes(demo)) == [
            f"/cms/posts/{slug}" for slug in sorted((CLICKED, SUBMITTED, ENQUEUED))
        ]
        assert {job.requested_by for job in notes(ledger)} == {"visitor", "shop"}
        rows = compare(demo)
        assert not [difference for row in rows for difference in row.differences], as_table(rows)


@contextmanager
def shop_page(demo: LocalDemo) -> Iterator[Page]:
    """The shop in a browser that knows no login."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        page = browser.new_page()
        page.set_default_timeout(AIRFLOW_SECONDS * 1000)
        page.goto(demo.shop_url)
        yield page
        browser.close()


def says(page: Page, words: str) -> None:
    """Return when the page says this."""
    page.locator("#said", has_text=words).wait_for()


def kill(demo: LocalDemo, component: Component) -> None:
    """SIGKILL a component, and start it again."""
    demo.airflow.kill(component)
    demo.airflow.start(component)
    demo.airflow.wait_healthy()


def submit(demo: LocalDemo) -> subprocess.Popen[str]:
    """The script, with the client."""
    command = python("-m", "demo.shop.submit", SUBMITTED, f"--airflow={demo.airflow.base_url}")
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def enqueue(demo: LocalDemo) -> str:
    """The request that the shop has made in its own transaction."""
    parts = demo.postgres.connection_kwargs(LEDGER_DATABASE)
    conninfo = " ".join(f"{name}='{_escaped(value)}'" for name, value in parts.items())
    env = {**os.environ, "AIHANDOFF_SHOP_DATABASE": conninfo}
    return subprocess.check_output(python("-m", "demo.shop.enqueue", ENQUEUED), env=env, text=True)


def _escaped(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")


def are_published(demo: LocalDemo, ledger: Ledger) -> bool:
    """Whether all notes are; what waits for a decision by now is approved."""
    approve_what_waits(demo.airflow.api("alice"))
    return len(notes(ledger, JobState.COMPLETED)) == 3


def until(condition: Callable[[], Any], what: str) -> None:
    wait_until(lambda: condition() or None, what, AIRFLOW_SECONDS)


def notes(ledger: Ledger, state: JobState | None = None) -> list[Job]:
    return [job for job in ledger.jobs(limit=100) if job.job_type == "product-note" and state in (None, job.state)]
