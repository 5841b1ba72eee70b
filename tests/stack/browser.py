"""A real browser, logged in to Airflow as a person would be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from demo.waiting import AIRFLOW_SECONDS

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: It draws without a GPU, and sends no request to the internet.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str:
    """The installed Chromium. Without one the test is skipped, on a CI machine it fails."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    message = "This test needs a browser: apt-get install chromium"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def chromium_page(base_url: str, username: str, **options: object) -> Iterator[Page]:
    """A page in a new browser, after a login through Airflow's own form."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=ARGUMENTS)
        page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
        page.set_default_timeout(AIRFLOW_SECONDS * 1000)
        page.goto(f"{base_url}/auth/login")
        page.fill("input[name=username]", username)
        page.fill("input[name=password]", username)
        page.click("button[type=submit]")
        page.wait_for_url(lambda url: "/auth/" not in url)
        yield page
        browser.close()
