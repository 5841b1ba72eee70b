"""The overview names what needs a person now, each with a link to exactly these jobs, and shows how things are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.jobs.job_filter import Need
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.web.pages import overview_page
from tests.factories import LEASE, OWNER, TEST, approve, ask, effect_plan, job_spec, submit
from tests.integration.web.conftest import Grant, Login, Page

OVERVIEW = "/aihandoff/overview"

Change = Callable[..., None]


@pytest.fixture
def change(conninfo: dict[str, Any]) -> Change:
    def run(statement: str, *values: Any) -> None:
        with psycopg.connect(**conninfo) as connection:
            assert connection.execute(statement, values).rowcount > 0

    return run


@pytest.fixture(autouse=True)
def triggerer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The triggerers that are alive."""
    alive = ["host-1"]
    monkeypatch.setattr(overview_page, "live_triggerers", lambda: alive)
    return alive


def in_review(ledger: Ledger, key: str, *, job_type: str = "ticket", cost: str = "0.5", dag_id: str = "tickets") -> Job:
    spec = job_spec(job_type=job_type, job_key=key, owner=replace(OWNER, dag_id=dag_id))
    revision = submit(ledger, spec, f"resp_{key}")
    output = Output(ResponseStatus.COMPLETED, "A label.", cost_usd=Decimal(cost))
    return ask(ledger, ledger.outputs.store(revision.job_id, 1, output, actor=TEST))


def test_responses_without_a_sign_are_listed_the_quietest_first(login: Login, ledger: Ledger, change: Change) -> None:
    keys = ("quiet", "quieter", "seen", "new")
    jobs = {key: submit(ledger, job_spec(job_key=key), f"resp_{key}").job_id for key in keys}
    assert "No sign of the model" not in login("admin").get(OVERVIEW).text
    for key, minutes in (("quiet", 10), ("quieter", 30), ("seen", 30)):
        change(
            "UPDATE aihandoff.revisions SET submitted_at = now() - %s * interval '1 min' WHERE job_id = %s",
            minutes,
            jobs[key],
        )
    change("INSERT INTO aihandoff.signs VALUES (%s, 1, now() - interval '1 min')", jobs["seen"])
    change("INSERT INTO aihandoff.signs VALUES (%s, 1, now() - interval '12 min')", jobs["quieter"])
    page = Page(login("admin").get(OVERVIEW).text)
    shown = " ".join(page.text.split()).partition("No sign of the model")[2]
    assert f"Job {jobs['quieter']} Working for 30 min, no sign for 12 min." in shown
    assert f"Job {jobs['quiet']} Working for 10 min, no sign for 10 min." in shown
    assert shown.index(f"Job {jobs['quieter']} ") < shown.index(f"Job {jobs['quiet']} ")
    assert f"Job {jobs['seen']} " not in shown
    assert f"Job {jobs['new']} " not in shown


def complete(ledger: Ledger, key: str, **more: str) -> None:
    job = approve(ledger, in_review(ledger, key, **more))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id=key, result=None, actor=TEST)


def every_need(ledger: Ledger, change: Change) -> dict[Need, str]:
    """One job for each need: its key."""
    job = approve(ledger, in_review(ledger, "key-unknown"))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.lose(claim, error="no answer", actor=TEST)
    failed = submit(ledger, job_spec(job_key="key-failed"), "resp_failed")
    ledger.outputs.fail(failed.job_id, 1, actor=TEST, reason="refused", error={"kind": "refused"})
    submit(ledger, job_spec(job_key="key-late"), "resp_late")
    change("UPDATE aihandoff.revisions SET deadline = now() - interval '1 s' WHERE response_id = 'resp_late'")
    held = ledger.submission.open(job_spec(job_key="key-held")).job
    ledger.submission.intend(held.job_id, 1, actor=TEST, lease=LEASE)
    event_seq = ledger.job(held.job_id).event_seq
    ledger.abandoned.count_lost(held.job_id, 1, as_of=event_seq, actor=TEST, reason="it died")
    in_review(ledger, "key-overdue")
    change("UPDATE aihandoff.jobs SET review_deadline = now() - interval '1 s' WHERE job_key = 'key-overdue'")
    job = approve(ledger, in_review(ledger, "key-claim"))
    ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    change("UPDATE aihandoff.effects SET claim_until = now() - interval '1 s' WHERE job_id = %s", job.job_id)
    for number in range(20):
        in_review(ledger, f"known-{number}", job_type="slow")
    submit(ledger, job_spec(job_type="slow", job_key="key-slow"), "resp_slow")
    change("UPDATE aihandoff.revisions SET submitted_at = now() - interval '1 h' WHERE response_id = 'resp_slow'")
    return {
        Need.UNKNOWN_EFFECT: "key-unknown",
        Need.FAILED: "key-failed",
        Need.PAST_DEADLINE: "key-late",
        Need.HELD: "key-held",
        Need.REVIEW_OVERDUE: "key-overdue",
        Need.CLAIM_EXPIRED: "key-claim",
        Need.SLOW_RESPONSE: "key-slow",
    }


def test_what_needs_a_person_leads_to_exactly_these_jobs(login: Login, ledger: Ledger, change: Change) -> None:
    keys = every_need(ledger, change)
    assert set(keys) == set(Need)
    bob = login("bob")
    html = bob.get(OVERVIEW).text
    links = [link["href"] or "" for link in Page(html).all("a") if "need=" in (link["href"] or "")]
    found = {}
    for link in links:
        text = Page(bob.get(link).text).text.splitlines()
        found[link.partition("need=")[2].replace("+", " ")] = [line for line in text if line.startswith("key-")]
    assert found == {need.value: [key] for need, key in keys.items()}


def test_when_nothing_is_wrong_it_says_so(login: Login, ledger: Ledger) -> None:
    complete(ledger, "a")
    text = Page(login("bob").get(OVERVIEW).text).text
    assert "Nothing needs a person now" in text
    assert "completed 1" in text


def test_an_empty_ledger_has_an_overview(login: Login, ledger: Ledger) -> None:
    answer = login("bob").get(OVERVIEW)
    assert answer.status_code == 200
    assert "There are no jobs." in answer.text


def test_a_triggerer_without_a_heartbeat_is_said(login: Login, ledger: Ledger, triggerer: list[str]) -> None:
    triggerer.clear()
    assert "No triggerer has a heartbeat" in login("bob").get(OVERVIEW).text


def test_what_airflow_cannot_say_leaves_the_rest(login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise RuntimeError("no database")

    monkeypatch.setattr(overview_page, "live_triggerers", fail)
    text = login("bob").get(OVERVIEW).text
    assert "heartbeat" not in text
    assert "Jobs by state" in text


def test_a_webhook_in_quarantine_is_two_clicks_away(login: Login, ledger: Ledger) -> None:
    complete(ledger, "a")
    event = {"type": "response.completed", "data": {"id": "resp_9"}, "secret": "its content"}
    ledger.inbox.receive(Delivery("wh_9", "openai_default", "response.completed", "resp_9", event))
    bob = login("bob")
    (link,) = [a["href"] for a in Page(bob.get(OVERVIEW).text).all("a") if "inbox" in (a["href"] or "")]
    html = bob.get(link or "").text
    assert "wh_9" in html
    assert "its content" not in html


def test_a_connection_whose_webhooks_fell_silent_is_named(login: Login, ledger: Ledger, change: Change) -> None:
    complete(ledger, "a")
    event = {"type": "response.completed", "data": {"id": "resp_a"}}
    ledger.inbox.receive(Delivery("wh_1", "openai_default", "response.completed", "resp_a", event))
    bob = login("bob")
    assert "No webhooks on" not in bob.get(OVERVIEW).text
    change("UPDATE aihandoff.inbox SET received_at = now() - interval '1 h'")
    assert "No webhooks on openai_default" in bob.get(OVERVIEW).text


def test_the_last_poll_of_a_connection_is_shown(login: Login, ledger: Ledger, change: Change) -> None:
    complete(ledger, "a")
    change("INSERT INTO aihandoff.polls VALUES ('openai_polled', now() - interval '3 h')")
    text = " ".join(Page(login("bob").get(OVERVIEW).text).text.split())
    assert "openai_polled0 none 3 h ago none" in text


def test_the_rest_api_gives_the_same(login: Login, ledger: Ledger, change: Change) -> None:
    complete(ledger, "a")
    every_need(ledger, change)
    answer = login("bob").get("/aihandoff/api/v1/overview").json()
    assert answer["needs"] == {need.value: 1 for need in Need}
    assert answer["by_state"]["completed"] == 1
    assert {(day["job_type"], day["state"], day["jobs"], day["cost_usd"]) for day in answer["days"]} == {
        ("ticket", "completed", 1, "0.5"),
        ("publishing", "failed", 1, "0"),
    }
    assert [each["conn_id"] for each in answer["connections"]] == ["openai_default"]
    assert (answer["quarantined"], answer["silent"]) == (0, [])


def test_pictures_have_words_and_a_table(login: Login, ledger: Ledger, change: Change) -> None:
    for number in range(3):
        complete(ledger, f"a{number}", cost="0.5")
    complete(ledger, "b", job_type="note", cost="2")
    change("UPDATE aihandoff.revisions SET submitted_at = completed_at - interval '30 s'")
    html = login("bob").get(OVERVIEW).text
    page = Page(html)
    pictures = [svg for svg in page.all("svg") if svg.get("role") == "img"]
    assert len(pictures) == 4
    ids = {element.attributes.get("id") for element in page.elements}
    assert all(set((svg["aria-labelledby"] or "").split()) <= ids for svg in pictures)
    text = " ".join(page.text.split())
    assert "ticket: 3" in text
    assert "note: $2.00" in text
    assert "ticket: 30 s" in text
    assert 'style="' not in html, "the Content-Security-Policy lets no style in"


def test_no_one_sees_figures_of_jobs_that_they_may_not_see(login: Login, ledger: Ledger, grant: Grant) -> None:
    complete(ledger, "a", dag_id="mine")
    complete(ledger, "b", dag_id="other", job_type="hidden_type")
    ledger.inbox.receive(Delivery("wh_9", "openai_x", "response.completed", "resp_9", {"type": "response.completed"}))
    grant("bob", "GET", "mine")
    bob = login("bob")
    text = Page(bob.get(OVERVIEW).text).text
    assert "completed 1" in text
    assert "hidden_type" not in text
    grant("carol", "GET", "nothing")
    carol = login("carol")
    assert "openai_x" not in carol.get(OVERVIEW).text
    assert "wh_9" not in carol.get("/aihandoff/inbox").text


def test_a_ledger_of_another_release_is_said(login: Login, ledger: Ledger, change: Change) -> None:
    bob = login("bob")
    assert bob.get(OVERVIEW).status_code == 200
    change("UPDATE aihandoff.alembic_version SET version_num = '0001'")
    try:
        answer = bob.get(OVERVIEW)
    finally:
        change("UPDATE aihandoff.alembic_version SET version_num = %s", schema.head_version())
    assert answer.status_code == 503
    assert "does not fit this release" in answer.text
