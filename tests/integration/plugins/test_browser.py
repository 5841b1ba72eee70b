"""The pages in a real browser: usable by everybody, in light and dark, on a wide screen and on a phone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvicorn
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI

from airflow_provider_aihandoff.ledger import Ledger
from airflow_provider_aihandoff.plugins.batches import key_of
from airflow_provider_aihandoff.reviewers import Person
from demo.ports import HOST, free_port
from tests.integration.plugins import showcase
from tests.integration.plugins.conftest import ROLES
from tests.stack.browser import ARGUMENTS, find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
LOOKS = [(scheme, size) for scheme in ("light", "dark") for size in ("wide", "phone")]

#: Where to keep a picture of each page, for somebody to look at.
PICTURES = os.environ.get("AIHANDOFF_TEST_PICTURES")

Open = Callable[..., "Page"]


@pytest.fixture(scope="module")
def address(airflow: FastAPI) -> Iterator[str]:
    """Where the API server is served."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(airflow, host=HOST, port=port, log_level="warning", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield f"http://{HOST}:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = find_chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(
    address: str,
    browser: Browser,
    use_ledger: Callable[[dict[str, Any]], None],
    conninfo: dict[str, Any],
) -> Iterator[Open]:
    """A page of the app, in a browser of a user."""
    use_ledger(conninfo)
    contexts = []

    def open_at(path: str, username: str = "bob", scheme: str = "light", size: str = "wide") -> Page:
        viewport = PHONE if size == "phone" else WIDE
        context = browser.new_context(color_scheme=scheme, viewport=viewport, base_url=address)  # type: ignore[arg-type]
        contexts.append(context)
        log_in(context, username, address)
        page = context.new_page()
        page.goto(f"/aihandoff/{path}")
        return page

    yield open_at
    for context in contexts:
        context.close()


def log_in(context: Any, username: str, address: str) -> None:
    user = SimpleAuthManagerUser(username=username, role=ROLES[username])
    token = airflow_app.get_auth_manager().generate_jwt(user)
    context.add_cookies([{"name": "_token", "value": token, "url": address}])


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=True)


def problems(page: Page) -> list[str]:
    """What axe finds wrong with a page, and what does not fit its width."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    said = [f"{item['id']}: {node['html']}" for item in found for node in item["nodes"]]
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        said.append("the page is wider than the screen")
    return said


def _pages(ledger: Ledger) -> dict[str, str]:
    """Every page, by what a picture of it is called."""
    job = showcase.edited(ledger, showcase.note(ledger))
    showcase.tickets(ledger, 8)
    rendering = showcase.note(ledger, "post:teapot")
    assert rendering.review_digest is not None
    edit = {"digest": rendering.review_digest, "output": "An edit.", "person": Person("carol")}
    ledger.reviews.edit(rendering.job_id, **edit)
    return {
        "list": "",
        "job": f"jobs/{job.job_id}",
        "rendering": f"jobs/{rendering.job_id}",
        "edit": f"jobs/{job.job_id}/edit",
        "compare": f"jobs/{job.job_id}/compare",
        "batch": "batch?by=outcome",
        "batch-shape": "batch?by=shape&select=all&group=" + key_of("label: http PUT (category, priority)"),
    }


@pytest.mark.parametrize(("scheme", "size"), LOOKS)
def test_everybody_can_use_every_page(open_page: Open, ledger: Ledger, scheme: str, size: str) -> None:
    for name, path in _pages(ledger).items():
        page = open_page(path, scheme=scheme, size=size)
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        picture(page, f"{name}-{scheme}-{size}")
        assert problems(page) == [], name
