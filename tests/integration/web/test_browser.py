"""The pages in a real browser: usable by all, in light and dark, on a wide screen and on a phone."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
import pytest
import uvicorn
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi import FastAPI
from openai import OpenAI

from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.reconcile.run import reconcile
from airflow_provider_aihandoff.core.review.rules import Person, ReviewRules
from airflow_provider_aihandoff.core.states import EffectState, JobState, ResponseStatus
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.web.pages import (
    bulk_action,
    bulk_review,
    inbox_page,
    job_list,
    job_search,
    overview_page,
)
from airflow_provider_aihandoff.web.pages.bulk_table import key_of
from demo.incidents import make_incidents
from demo.ports import HOST, free_port
from tests.factories import TEST, ask, draft, job_spec, submit
from tests.integration.web import showcase
from tests.integration.web.conftest import ROLES
from tests.integration.web.test_untrusted import ATTACK, MARKDOWN
from tests.stack.browser import ARGUMENTS, find_chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FloatRect, Page

WIDE = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
APPEARANCES = [(scheme, size) for scheme in ("light", "dark") for size in ("wide", "phone")]

#: Where to keep a picture of each page, to check by eye.
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
    showcase.ended(ledger, 6)
    rendering = showcase.note(ledger, "post:teapot")
    written = showcase.written(ledger)
    assert rendering.review_digest is not None
    ledger.reviews.edit(rendering.job_id, digest=rendering.review_digest, output="An edit.", person=Person("carol"))
    return {
        "list": "",
        "all": "?tab=all",
        "overview": "overview",
        "jobs": "jobs?newer_than=1h&sort=oldest",
        "no-jobs": "jobs?older_than=9d",
        "inbox": "inbox",
        "doctor": "doctor",
        "doctor-found": "doctor?run=true",
        "bulk-action": "bulk?action=cancel&type=ticket",
        "bulk-reassign": "bulk?action=reassign&type=ticket&to_users=carol&to_groups=press",
        "bulk-report": f"bulk/{showcase.bulk(ledger)}?paused",
        "job": f"jobs/{job.job_id}",
        "decide": f"decide/{ledger.decision_links.make(job, 'approve', 'bob')}",
        "written": f"jobs/{written.job_id}",
        "rendering": f"jobs/{rendering.job_id}",
        "edit": f"jobs/{job.job_id}/edit",
        "compare": f"jobs/{job.job_id}/compare",
        "spending": "spending?days=7",
        "sets": "sets",
        "set": f"sets/{showcase.job_set(ledger)}",
        "request": f"requests/{showcase.job_request(ledger)}",
        "budgets": "budgets",
        "budget": f"budgets/{showcase.budget(ledger)}",
        "bulk-review": "bulk-review?by=outcome",
        "bulk-review-requests": "bulk-review?by=shape&select=all&group="
        + key_of("label: http PUT (category, priority)"),
        "bulk-review-narrowed": f"bulk-review?group={key_of('ticket')}&where=" + quote('[["category"],"billing"]'),
        "bulk-review-all": f"bulk-review/all?group={key_of('ticket')}",
    }


@pytest.mark.parametrize(("scheme", "size"), APPEARANCES)
def test_every_page_is_accessible_and_fits_the_screen(open_page: Open, ledger: Ledger, scheme: str, size: str) -> None:
    for name, path in _pages(ledger).items():
        username = "admin" if name.startswith("doctor") else "bob"
        page = open_page(path, username, scheme=scheme, size=size)
        page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
        picture(page, f"{name}-{scheme}-{size}")
        assert problems(page) == [], name


def tab_to(page: Page, selector: str) -> None:
    """Move the focus, as a user without a mouse does."""
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"the Tab key does not lead to {selector}")


def test_a_link_of_a_message_is_opened_and_clicked_on_a_phone_with_the_keyboard(
    open_page: Open, ledger: Ledger
) -> None:
    job = showcase.note(ledger, rules=ReviewRules())
    token = ledger.decision_links.make(job, "approve", "bob")
    page = open_page(f"decide/{token}", size="phone")
    assert problems(page) == []
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request))
    tab_to(page, "a.jump")
    page.keyboard.press("Enter")
    tab_to(page, "#comment")
    page.keyboard.type("Read on the train.")
    tab_to(page, "main button")
    assert ledger.job(job.job_id).state is JobState.REVIEW
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/jobs/{job.job_id}*")
    assert "Approved by you" in page.inner_text("main")
    assert not any(str(token) in request.headers.get("referer", "") for request in asked)
    (decision,) = ledger.record(job.job_id).decisions
    assert (decision.decided_by, decision.verdict, decision.comment) == ("bob", "approve", "Read on the train.")
    page.go_back()
    page.goto(f"/aihandoff/decide/{token}")
    page.get_by_role("heading", name="This link no longer works").wait_for()
    assert problems(page) == []
    picture(page, "decide-used-phone")


def test_an_output_is_edited_and_approved_with_the_keyboard(open_page: Open, ledger: Ledger) -> None:
    job = showcase.note(ledger, rules=ReviewRules())
    page = open_page(f"jobs/{job.job_id}")
    tab_to(page, "a[href$='/edit']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/edit")
    tab_to(page, "textarea[name='value/tagline']")
    page.keyboard.press("Control+A")
    page.keyboard.type("Two minutes to tea.")
    tab_to(page, "button[value=save]")
    page.keyboard.press("Enter")
    page.get_by_text("has not been rendered yet").first.wait_for()
    output = ledger.record(job.job_id).revision.output
    assert output == {**showcase.NOTE, "tagline": "Two minutes to tea."}
    # The approval task renders the plan; the page refreshes by itself.
    ask(ledger, ledger.job(job.job_id), showcase.put("post:kettle", {"tagline": output["tagline"]}))
    page.locator("button[value=approve]").wait_for()
    tab_to(page, "button[value=approve]")
    page.keyboard.press("Enter")
    page.get_by_text("Approved by you").first.wait_for()
    assert ledger.job(job.job_id).state is JobState.APPROVED


def test_a_page_that_refreshes_keeps_what_is_typed_the_focus_and_what_is_unfolded(
    open_page: Open, ledger: Ledger
) -> None:
    revision = submit(ledger, job_spec(), "resp_1")
    page = open_page(f"jobs/{revision.job_id}")
    page.evaluate("document.querySelector('main').dataset.same = 'page'")
    run = page.get_by_role("link", name="manual__1")
    assert run.count() == 1
    page.locator("summary", has_text="Cancel this job").click()
    page.fill("#reason-cancel", "The wrong product")
    page.get_by_text("As a table").click()
    page.focus("#reason-cancel")
    ledger.outputs.store(revision.job_id, 1, Output(ResponseStatus.COMPLETED, "A fine kettle."), actor=TEST)
    page.get_by_text("A fine kettle.").wait_for()
    assert "Its plan has not been rendered yet." in page.inner_text("main")
    assert page.input_value("#reason-cancel") == "The wrong product"
    assert page.evaluate("document.activeElement.id") == "reason-cancel"
    assert page.get_by_text("How long, or who").is_visible()
    ask(ledger, ledger.job(revision.job_id))
    page.get_by_text("The job has been waiting since").wait_for()
    assert page.get_by_text("Refreshes every").count() == 0
    assert run.count() == 1, "a refresh knows that the page has a window of its own"
    assert page.evaluate("document.querySelector('main').dataset.same") == "page"


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages refresh each second."""
    monkeypatch.setattr(job_list, "LIST", 1)
    monkeypatch.setattr(job_search, "LIST", 1)
    monkeypatch.setattr(inbox_page, "LIST", 1)
    monkeypatch.setattr(overview_page, "OVERVIEW", 1)
    monkeypatch.setattr(overview_page, "live_triggerers", lambda: ["host-1"])


def same_page(page: Page) -> bool:
    """Whether the page is still the one that was opened, after a first call that marks it."""
    return bool(
        page.evaluate("const main = document.querySelector('main'); main.same = (main.same ?? 0) + 1; main.same > 1")
    )


@pytest.mark.usefixtures("soon")
@pytest.mark.parametrize(
    ("path", "key"), [("", "ticket:4700"), ("?tab=all", "ticket:4700"), ("jobs?type=ticket", "ticket:4700")]
)
def test_a_list_refreshes_and_the_focus_stays_at_the_job_that_it_is_at(
    open_page: Open, ledger: Ledger, path: str, key: str
) -> None:
    jobs = showcase.tickets(ledger, 30)
    page = open_page(path)
    page.evaluate("window.scrollTo(0, 300)")
    page.focus(f"main a:text-is('{key}')")
    before = page.evaluate("window.scrollY")
    same_page(page)
    ledger.cancels.cancel(jobs[1].job_id, actor=TEST, reason="a wrong prompt")
    if path:
        page.locator("tr", has_text="ticket:4701").get_by_text("cancelled").wait_for()
    else:
        page.locator("tr", has_text="ticket:4701").wait_for(state="detached")
    assert same_page(page)
    assert page.evaluate("document.activeElement.textContent") == key
    assert abs(page.evaluate("window.scrollY") - before) < 150


@pytest.mark.usefixtures("soon")
def test_a_filter_that_is_being_filled_in_stays_while_the_list_below_it_refreshes(
    open_page: Open, ledger: Ledger
) -> None:
    (job,) = showcase.tickets(ledger, 1)
    page = open_page("jobs")
    same_page(page)
    page.locator("summary").first.click()
    page.fill("#requester", "ali")
    page.select_option("#state", ["failed", "review"])
    page.select_option("#sort", "oldest")
    ledger.cancels.cancel(job.job_id, actor=TEST, reason="a wrong prompt")
    page.locator("td").get_by_text("cancelled").wait_for()
    assert same_page(page)
    assert page.input_value("#requester") == "ali"
    assert page.evaluate("[...document.querySelector('#state').selectedOptions].map(each => each.value)") == [
        "review",
        "failed",
    ]
    assert page.input_value("#sort") == "oldest"
    page.get_by_text("Refreshes every").wait_for(state="detached")


@pytest.mark.usefixtures("soon")
def test_the_overview_refreshes_and_what_is_unfolded_scrolled_and_selected_stays(
    open_page: Open, ledger: Ledger
) -> None:
    showcase.ended(ledger, 6)
    (job,) = showcase.tickets(ledger, 1)
    page = open_page("overview", size="phone")
    same_page(page)
    page.locator("summary").first.click()
    page.evaluate(
        """() => {
            document.querySelector(".scroll:has(td)").scrollLeft = 20;
            getSelection().selectAllChildren(document.querySelector(".legend li"));
        }"""
    )
    scrolled = page.evaluate("[...document.querySelectorAll('.scroll')].map(each => each.scrollLeft)")
    selected = page.evaluate("getSelection().toString()")
    assert selected
    ledger.cancels.cancel(job.job_id, actor=TEST, reason="a wrong prompt")
    page.locator(".states li", has_text="cancelled").wait_for()
    assert same_page(page)
    assert page.locator("details").first.evaluate("each => each.open")
    assert page.evaluate("getSelection().toString()") == selected
    assert page.evaluate("[...document.querySelectorAll('.scroll')].map(each => each.scrollLeft)") == scrolled


@pytest.mark.usefixtures("soon")
def test_a_reason_that_is_being_typed_stays_while_other_webhooks_come_and_go(open_page: Open, ledger: Ledger) -> None:
    showcase.tickets(ledger, 1)
    for number in range(3):
        showcase.webhook(ledger, f"wh_{number}")
    page = open_page("inbox", size="phone")
    same_page(page)
    row = page.locator("tr[data-key=wh_1]")
    row.locator("summary").click()
    row.locator("textarea").fill("It is the other application's, as")
    ledger.inbox.discard("wh_2", actor=TEST, why="a test")
    showcase.webhook(ledger, "wh_new")
    page.locator("tr[data-key=wh_new]").wait_for()
    assert page.locator("tr[data-key]").evaluate_all("rows => rows.map(row => row.dataset.key)") == [
        "wh_new",
        "wh_1",
        "wh_0",
    ]
    # Even where its own webhook is gone: the answer then says so, and has the text.
    ledger.inbox.discard("wh_1", actor=TEST, why="a test")
    ledger.inbox.discard("wh_0", actor=TEST, why="a test")
    page.locator("tr[data-key=wh_0]").wait_for(state="detached")
    assert same_page(page)
    assert row.locator("textarea").input_value() == "It is the other application's, as"
    row.get_by_role("button", name="Discard wh_1").click()
    page.get_by_text("The webhook was not discarded").wait_for()
    assert "It is the other application's, as" in page.inner_text("main")


@pytest.mark.usefixtures("soon")
def test_a_hidden_tab_does_not_refresh(open_page: Open, ledger: Ledger) -> None:
    showcase.tickets(ledger, 1)
    page = open_page("")
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => window.away, configurable: true})")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.resource_type == "fetch" else None)
    page.evaluate("window.away = true")
    page.wait_for_timeout(2500)
    assert asked == []
    page.evaluate("window.away = false")
    page.wait_for_timeout(2500)
    assert asked != []


def test_webhooks_are_replayed_and_discarded_with_the_keyboard_on_a_phone(
    open_page: Open, ledger: Ledger, openai: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection_to_openai = {"conn_type": "openai", "password": "sk-any", "host": openai}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection_to_openai))
    showcase.tickets(ledger, 1)
    showcase.webhook(ledger, "wh_1")
    page = open_page("inbox", size="phone")
    tab_to(page, "button:not(.danger)")
    page.keyboard.press("Enter")
    page.get_by_text("Webhook wh_1 is quarantined (OpenAI does not find").wait_for()
    picture(page, "inbox-replayed-phone")
    assert problems(page) == []
    tab_to(page, "td summary")
    page.keyboard.press("Enter")
    tab_to(page, "textarea")
    page.keyboard.type("Sent by hand.")
    tab_to(page, "button.danger")
    page.keyboard.press("Enter")
    page.get_by_text("Webhook wh_1 is discarded (user:bob: Sent by hand.)").wait_for()
    assert ledger.inbox.read("wh_1").note == "user:bob: Sent by hand."


def test_the_console_is_used_with_the_keyboard_on_a_phone(open_page: Open, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 3)
    page = open_page("overview", "admin", size="phone")
    tab_to(page, ".states a")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs?state=review")
    tab_to(page, "#key")
    page.keyboard.type("ticket:470")
    page.keyboard.press("Enter")
    page.wait_for_url("**/jobs?*key=ticket*")
    tab_to(page, "a[href*='/bulk?']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/bulk?*")
    tab_to(page, "a[href*='action=cancel']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/bulk?action=cancel*")
    tab_to(page, "#reason")
    page.keyboard.type("A wrong prompt")
    tab_to(page, "#count")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Report").wait_for()
    picture(page, "bulk-done-phone")
    assert problems(page) == []
    assert {ledger.job(job.job_id).state for job in jobs} == {JobState.CANCELLED}
    tab_to(page, "a[href$='/overview']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/overview")
    tab_to(page, "a[href$='/doctor']")
    page.keyboard.press("Enter")
    page.wait_for_url("**/doctor")
    tab_to(page, "main button")
    page.keyboard.press("Enter")
    page.get_by_text("As seen from").wait_for()
    tab_to(page, "main summary")
    page.keyboard.press("Enter")
    page.get_by_text("The schema has the version").wait_for()


def test_the_id_of_a_record_opens_it_in_another_window_from_the_list_and_from_the_job(
    open_page: Open, ledger: Ledger
) -> None:
    job = showcase.written(ledger)
    page = open_page("jobs")
    page.context.route("https://cms.example/**", lambda route: route.fulfill(body="The record"))
    for path in ("jobs", f"jobs/{job.job_id}"):
        page.goto(f"/aihandoff/{path}")
        with page.expect_popup() as opened:
            page.get_by_role("link", name="post 17").click()
        assert opened.value.url == "https://cms.example/posts/post%2017"
        assert opened.value.evaluate("window.opener") is None
        assert page.url.endswith(path)


def test_the_page_of_a_bulk_action_continues_it_and_shows_how_far_it_has_come(
    open_page: Open, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    showcase.tickets(ledger, 8)
    path = f"bulk/{showcase.bulk(ledger)}"
    page = open_page(f"{path}?paused")
    assert "0 of 8" in page.inner_text("main")
    assert ledger.bulks.progress(1).left == 8
    monkeypatch.setattr(bulk_action, "SECONDS", 0.01)  # so that it takes several requests
    page.goto(f"/aihandoff/{path}")
    page.evaluate("document.querySelector('main').dataset.same = 'page'")
    page.get_by_text("8 of 8").wait_for()
    assert ledger.bulks.progress(1).done == 8
    assert page.get_by_text("Refreshes every").count() == 0
    assert page.get_by_role("button", name="Continue").count() == 0
    assert page.evaluate("document.querySelector('main').dataset.same") == "page"


def test_the_input_stands_beside_the_output_and_above_it_on_a_phone(open_page: Open, ledger: Ledger) -> None:
    job = showcase.note(ledger)

    def places(size: str) -> list[FloatRect]:
        page = open_page(f"jobs/{job.job_id}", size=size)
        found = (page.get_by_role("heading", name=name, exact=True).bounding_box() for name in ("Input", "Output"))
        return [box for box in found if box is not None]

    asked, output = places("wide")
    assert abs(asked["y"] - output["y"]) < 30
    assert asked["x"] + asked["width"] < output["x"]
    asked, output = places("phone")
    assert asked["x"] == output["x"]
    assert asked["y"] < output["y"]


def test_a_script_that_is_not_ours_does_not_run(open_page: Open, ledger: Ledger) -> None:
    revision = submit(ledger, job_spec(), "resp_1")
    page = open_page(f"jobs/{revision.job_id}")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "document.title = 'taken over'";
            document.body.append(script);
        }"""
    )
    assert "taken over" not in page.title()


def test_an_old_tab_approves_nothing_and_keeps_the_comment(open_page: Open, ledger: Ledger) -> None:
    job = showcase.note(ledger, rules=ReviewRules())
    page = open_page(f"jobs/{job.job_id}")
    page.fill("#comment", "Reads well.")
    showcase.edited(ledger, job)
    page.click("button[value=approve]")
    page.get_by_text("Your decision was not recorded").wait_for()
    assert page.input_value("#comment") == "Reads well."
    assert "the output changed" in page.inner_text("main")
    assert ledger.record(job.job_id).decisions == []


def test_a_request_is_followed_and_cancelled_with_the_keyboard_on_a_phone(open_page: Open, ledger: Ledger) -> None:
    request_id = showcase.job_request(ledger)
    page = open_page(f"requests/{request_id}", size="phone")
    assert "It waits for a decision." in page.inner_text("main")
    page.reload()
    page.focus("summary")
    page.keyboard.press("Enter")
    page.focus("button.danger")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=It was cancelled.")
    assert ledger.jobs()[0].state.value == "cancelled"
    assert page.query_selector("button.danger") is None


def test_a_double_click_counts_once(open_page: Open, ledger: Ledger) -> None:
    job = showcase.note(ledger, rules=ReviewRules(approvals=2))
    page = open_page(f"jobs/{job.job_id}")
    page.dblclick("button[value=approve]")
    page.get_by_text("1 of 2 approvals so far, by you").wait_for()
    assert len(ledger.record(job.job_id).decisions) == 1


def test_a_login_that_expires_during_an_edit_loses_nothing(open_page: Open, ledger: Ledger, address: str) -> None:
    job = showcase.note(ledger, rules=ReviewRules())
    page = open_page(f"jobs/{job.job_id}/edit")
    page.fill("textarea[name='value/body']", "First line\n\n  “second” <b>line</b>")
    page.context.clear_cookies()
    page.click("button[value=save]")
    page.get_by_text("What you sent is not lost.").wait_for()
    picture(page, "login-over")
    assert problems(page) == []
    log_in(page.context, "bob", address)
    page.get_by_role("button", name="Send it again").click()
    page.wait_for_url(f"**/aihandoff/jobs/{job.job_id}")
    assert ledger.record(job.job_id).revision.output["body"] == "First line\n\n  “second” <b>line</b>"


def test_an_added_row_is_on_the_screen(open_page: Open, ledger: Ledger) -> None:
    job = showcase.note(ledger, rules=ReviewRules())
    page = open_page(f"jobs/{job.job_id}/edit", size="phone")
    page.fill("textarea[name='value/title']", "Kept")
    page.get_by_role("button", name="Add to colours").click()
    row = page.locator("textarea[name='value/colours/301']")
    row.wait_for()
    assert page.locator("fieldset[id='value-2Fcolours']").is_visible()
    assert page.evaluate("window.scrollY") > 0
    row.fill("red")
    page.fill("input[name='value/price']", "cheap")
    page.click("button[value=save]")
    page.get_by_text("One field is not valid").wait_for()
    picture(page, "edit-wrong-phone")
    assert problems(page) == []
    assert page.input_value("textarea[name='value/title']") == "Kept"
    assert row.input_value() == "red"


def test_an_output_runs_nothing_and_loads_nothing(open_page: Open, ledger: Ledger, address: str) -> None:
    attack = f"{ATTACK}\n\n{MARKDOWN}"
    job = ask(ledger, draft(ledger, output={"title": attack, attack: [attack], "rows": [{"a": attack, "b": "1"}] * 2}))
    said: list[str] = []
    asked: list[str] = []
    page = open_page("")
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.on("dialog", lambda dialog: dialog.dismiss())
    page.on("request", lambda request: asked.append(request.url))
    for path in (f"jobs/{job.job_id}", f"jobs/{job.job_id}/edit", "bulk-review?by=type"):
        page.goto(f"/aihandoff/{path}", wait_until="networkidle")
    assert said == []
    assert len(asked) > 3
    assert [url for url in asked if not url.startswith(f"{address}/aihandoff/")] == []


def test_a_bulk_review_works_on_a_phone(open_page: Open, ledger: Ledger) -> None:
    jobs = showcase.tickets(ledger, 4)
    page = open_page("", size="phone")
    page.get_by_role("link", name="Bulk review").click()
    page.get_by_role("link", name="Select all that you can decide").click()
    page.get_by_label("Select ticket:4702").uncheck()
    ask(ledger, jobs[0], showcase.put("elsewhere", {"category": "spam"}, name="label"))
    page.get_by_role("button", name="Approve selected").click()
    page.get_by_text("No decision was recorded").wait_for()
    picture(page, "bulk-review-stale-phone")
    assert problems(page) == []
    assert {ledger.job(job.job_id).state for job in jobs} == {JobState.REVIEW}
    page.get_by_role("button", name="Approve selected").click()
    page.get_by_text("2 decisions recorded").wait_for()
    picture(page, "bulk-decided-phone")
    assert problems(page) == []
    states = [ledger.job(job.job_id).state for job in jobs]
    assert states == [JobState.REVIEW, JobState.APPROVED, JobState.REVIEW, JobState.APPROVED]


def test_all_jobs_of_a_group_are_narrowed_and_decided_on_with_the_keyboard_on_a_phone(
    open_page: Open, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_review, "PAGE_SIZE", 2)
    jobs = showcase.tickets(ledger, 9)
    page = open_page("bulk-review", size="phone")
    page.get_by_role("link", name="Next jobs").click()
    page.get_by_text("Jobs 3 to 4 of 9").wait_for()
    page.get_by_role("link", name="Previous jobs").click()
    page.get_by_text("Jobs 1 to 2 of 9").wait_for()
    tab_to(page, "a[href*='bug']")
    page.keyboard.press("Enter")
    page.get_by_text("Jobs 1 to 2 of 3").wait_for()
    picture(page, "bulk-review-narrowed-phone")
    assert problems(page) == []
    tab_to(page, "a[href*='verdict=approve']")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Approve all of a group").wait_for()
    changed = ask(ledger, jobs[4], showcase.put("elsewhere", {"category": "spam"}, name="label"))
    tab_to(page, "#count")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    page.get_by_text("No decision was recorded").wait_for()
    assert f"Job {changed.job_id}: it has changed since you opened it" in page.inner_text("main")
    picture(page, "bulk-review-all-stale-phone")
    assert problems(page) == []
    assert {ledger.job(job.job_id).state for job in jobs} == {JobState.REVIEW}
    tab_to(page, "#count")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    page.get_by_text("3 decisions recorded").wait_for()
    assert [ledger.job(job.job_id).state is JobState.APPROVED for job in jobs] == [n % 3 == 1 for n in range(9)]


@pytest.fixture
def openai() -> Iterator[str]:
    """Where the stand-in is, which knows none of the responses."""
    with OpenAIStandIn().serve() as running:
        yield running.base_url


#: Where the overview has each incident of the demo, and what its page says first.
INCIDENTS = {
    "unknown effect": ("Unknown effects", "may have been applied"),
    "failed job": ("Failed jobs", "The job failed"),
    "stuck response": ("Jobs past their deadline", "deadline"),
    "overdue review": ("Overdue reviews", "No one decided by"),
    "expired claim": ("Expired claims", "claim"),
    "lost request": ("Held jobs", "answer was lost"),
    "slow response": ("Slow responses", "has been working on the response"),
}


def test_each_incident_is_two_clicks_from_the_overview_and_gone_after_the_step_that_its_page_names(
    open_page: Open, ledger: Ledger, conninfo: dict[str, Any], openai: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview_page, "live_triggerers", lambda: ["host-1"])
    connection_to_openai = {"conn_type": "openai", "password": "sk-any", "host": openai}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection_to_openai))
    with psycopg.connect(**conninfo, autocommit=True) as connection:
        made = make_incidents(ledger, connection, "1")
    page = open_page("overview")

    def find(what: str) -> None:
        page.goto("/aihandoff/overview")
        page.click(f"main a:text-is('{INCIDENTS[what][0]}')")
        page.click(f"main a:has-text('{ledger.job(made.jobs[what]).job_key}')")

    for what, (_, says) in INCIDENTS.items():
        find(what)
        assert says in page.inner_text("main section")
    page.goto("/aihandoff/overview")
    page.click("main a:text-is('Webhooks in quarantine')")
    assert made.webhook_id in page.inner_text("main")
    page.goto("/aihandoff/overview")
    assert "No webhooks on openai_default" in page.inner_text(".needs")
    picture(page, "overview-incidents")
    assert problems(page) == []

    find("failed job")
    assert problems(page) == []
    page.fill("#reason-acknowledgement", "The customer has left.")
    page.click("button:text-is('Acknowledge')")
    page.get_by_text("Acknowledged by bob").wait_for()
    find("lost request")
    page.fill("#reason-submission", "Nothing in OpenAI's logs, and not needed any more.")
    page.click("button:text-is('Fail the job')")
    page.get_by_text("The job failed").wait_for()
    find("slow response")
    page.click("summary:text-is('Cancel this job')")
    page.fill("#reason-cancel", "It takes too long.")
    page.click("form button:text-is('Cancel this job')")
    page.get_by_text("The job was cancelled").wait_for()
    find("unknown effect")
    effect_id = ledger.record(made.jobs["unknown effect"]).current_effects[0].effect_id
    page.fill(f"#reason-{effect_id}", "The helpdesk shows it.")
    page.click("button:text-is('It was applied')")
    page.get_by_text("Every effect was applied").wait_for()
    find("stuck response")
    page.click("summary:text-is('Cancel this job')")
    page.fill("#reason-cancel", "It runs for hours.")
    page.click("form button:text-is('Cancel this job')")
    page.get_by_text("The job was cancelled").wait_for()
    # As `airflow aihandoff reconcile` does, which the other two pages name.
    with providers() as provider_for:
        retention = timedelta(days=7)
        reconcile(ledger, provider_for=provider_for, states_of=lambda owners: {}, inbox_retention=retention)
    ledger.inbox.discard(made.webhook_id, actor=TEST, why="another application's")

    page.goto("/aihandoff/overview")
    left = page.locator(".needs").inner_text()
    assert [title for title, _ in INCIDENTS.values() if title in left] == ["Unknown effects"]
    assert "quarantine" not in left
    states = {what: ledger.job(job_id).state for what, job_id in made.jobs.items()}
    assert states["unknown effect"] is JobState.COMPLETED
    assert states["overdue review"] is JobState.REJECTED
    assert states["stuck response"] is JobState.CANCELLED
    # The claim that had expired is an unknown effect now.
    assert ledger.record(made.jobs["expired claim"]).current_effects[0].state is EffectState.UNKNOWN


@pytest.mark.parametrize("size", ["wide", "phone"])
def test_what_the_model_writes_appears_as_text_while_it_works_and_goes_with_the_end(
    open_page: Open, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    written = "<img src=x onerror=alert(1)> \u202eA kettle that is quiet."
    with OpenAIStandIn(delay_seconds=6, responders=[lambda _: written]).serve() as server:
        openai = {"conn_type": "openai", "password": "any", "host": server.base_url}
        conn_id = f"openai_{size}"  # a process keeps the client of a connection
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(openai))
        request = {"model": "gpt-5.2", "input": "Write about the kettle.", "stream": True}
        with OpenAI(base_url=server.base_url, api_key="any") as client:
            response = OpenAIProvider(client).create(request, {}, timeout=10)
        assert isinstance(response, ModelResponse)
        revision = submit(ledger, job_spec(request=request, conn_id=conn_id), response.id)
        page = open_page(f"jobs/{revision.job_id}", size=size)
        page.wait_for_selector("[data-live-text]:has-text('quiet.')")
        assert page.text_content("[data-live-text]") == written.replace("\u202e", "\\u202e")
        assert page.query_selector("[data-live-text] img") is None
        assert str(page.text_content("[data-live-sign]")).startswith("Working for ")
        assert "last sign" in str(page.text_content("[data-live-sign]"))
        assert not page.is_visible("[data-sign]")
        assert "I check what is asked" in str(page.text_content("[data-live-thinking]"))
        page.click("[data-live-thinking] summary")
        assert problems(page) == []
        picture(page, f"live-{size}")
        error = {"kind": "test", "message": ""}
        ledger.outputs.fail(revision.job_id, 1, actor=TEST, reason="it is a test", error=error)
        page.wait_for_selector("[data-live]", state="detached")
