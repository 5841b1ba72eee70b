"""The page of a decision link shows what the job's page shows, decides with a click alone, or says why it cannot."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.link_store import DecisionLinks
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reviewers, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import ask, draft, effect_plan
from tests.integration.web import showcase
from tests.integration.web.conftest import Grant, Login, Page
from tests.integration.web.test_decisions import FOREIGN, OWN


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return ask(ledger, draft(ledger))


def link_to(ledger: Ledger, job: Job, person: str = "bob", verdict: Any = "approve", **more: Any) -> str:
    token = ledger.decision_links.make(job, verdict, person, **more)
    assert token is not None
    return f"/aihandoff/decide/{token}"


def words(html: str) -> str:
    return " ".join(Page(html).text.split())


@pytest.mark.parametrize(("verdict", "state"), [("approve", JobState.APPROVED), ("reject", JobState.REJECTED)])
def test_a_click_decides_and_opening_the_link_does_not(
    login: Login, ledger: Ledger, job: Job, verdict: str, state: JobState
) -> None:
    link, bob = link_to(ledger, job, verdict=verdict), login("bob")
    pages = [bob.get(link) for _ in range(2)]
    assert [page.status_code for page in pages] == [200, 200]
    assert ledger.job(job.job_id) == job
    page = Page(pages[1].text)
    assert len(page.all("button")) == 1
    assert len(page.all("form")) == 1
    assert f"{verdict.capitalize()} this?" in page.text
    answer = bob.post(link, data={"comment": "Read on the train."})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/aihandoff/jobs/{job.job_id}")
    (decision,) = ledger.record(job.job_id).decisions
    assert (decision.decided_by, decision.verdict, decision.comment) == ("bob", verdict, "Read on the train.")
    assert ledger.job(job.job_id).state is state


def test_it_shows_what_the_page_of_the_job_shows(login: Login, ledger: Ledger) -> None:
    job = showcase.note(ledger, rules=ReviewRules(approvals=2))
    bob = login("bob")
    ours, theirs = words(bob.get(link_to(ledger, job)).text), words(bob.get(f"/aihandoff/jobs/{job.job_id}").text)
    begin, end = "Input", "Waits"
    for said in ("What will be written", "What this changes", showcase.NOTE["tagline"], "after 2 approvals"):
        assert str(said) in ours
        assert str(said) in theirs
    shown, as_ever = (text[text.index("Output") : text.index("Your decision")] for text in (ours, theirs))
    assert shown.replace("Output", "", 1).split() == as_ever.replace("Output Edit", "", 1).split()
    assert begin in ours
    assert end not in ours


def test_a_login_keeps_the_link(stranger: TestClient, ledger: Ledger, job: Job) -> None:
    link = link_to(ledger, job)
    answer = stranger.get(link)
    assert answer.status_code == 303
    assert answer.headers["location"] == f"/api/v2/auth/login?next={link.replace('/', '%2F')}"
    posted = stranger.post(link, data={"comment": "Fine."})
    assert posted.status_code == 401
    assert "What you sent is not lost" in posted.text
    assert link.replace("/", "%2F") in posted.text
    assert ledger.record(job.job_id).decisions == []


def test_another_user_sees_that_it_is_for_someone_else_and_nothing_of_the_job(
    login: Login, ledger: Ledger, job: Job
) -> None:
    link = link_to(ledger, job)
    for client in (login("carol"), login("admin")):
        for answer in (client.get(link), client.post(link)):
            assert answer.status_code == 403
            assert "This link is for another user" in answer.text
            assert not any(said in answer.text for said in (job.job_key, f"jobs/{job.job_id}", "bob", "kettle"))
    assert ledger.record(job.job_id).decisions == []


def test_a_link_that_was_never_made_is_not_found(login: Login, ledger: Ledger, job: Job) -> None:
    for path in ("x" * 43, "%00", "%F0%9F", "a" * 5_000):
        for answer in (login("bob").get(f"/aihandoff/decide/{path}"), login("bob").post(f"/aihandoff/decide/{path}")):
            assert answer.status_code == 404
            assert "Link not found" in answer.text


class TestRefused:
    def refused(self, client: TestClient, link: str, said: str, status: int = 410) -> None:
        for answer in (client.get(link), client.post(link, data={"comment": "My comment."})):
            assert answer.status_code == status
            assert said in words(answer.text)
            assert "This page shows the current state." in answer.text
        assert "My comment." in answer.text

    def test_a_used_one_says_so(self, login: Login, ledger: Ledger, job: Job) -> None:
        link, bob = link_to(ledger, job), login("bob")
        assert bob.post(link).status_code == 303
        self.refused(bob, link, "This link no longer works It was used at")
        assert len(ledger.record(job.job_id).decisions) == 1

    def test_an_expired_one_says_so(self, login: Login, ledger: Ledger, job: Job) -> None:
        self.refused(login("bob"), link_to(ledger, job, lifetime=timedelta(0)), "It expired at")
        assert ledger.job(job.job_id).state is JobState.REVIEW

    def test_one_about_another_plan_says_what_changed(self, login: Login, ledger: Ledger, job: Job) -> None:
        link = link_to(ledger, job)
        ask(ledger, job, effect_plan(url="http://cms/posts/teapot"))
        said = "This job has changed since this link was sent: the plan of the effect 'publish' changed"
        self.refused(login("bob"), link, said)
        assert ledger.record(job.job_id).decisions == []

    def test_one_about_a_decided_job_says_how_it_was_decided(self, login: Login, ledger: Ledger, job: Job) -> None:
        link = link_to(ledger, job)
        assert job.review_digest is not None
        ledger.reviews.decide(job.job_id, "reject", digest=job.review_digest, person=Person("carol"))
        self.refused(login("bob"), link, "This job no longer waits for a decision: it is rejected")

    def test_one_whose_person_may_no_longer_decide_says_who_does(self, login: Login, ledger: Ledger, job: Job) -> None:
        job = ask(ledger, job, rules=ReviewRules(Approvers(users=("bob",))))
        link = link_to(ledger, job)
        to = Reviewers(Approvers(users=("carol",)))
        ledger.reassignments.reassign(job.job_id, to, actor=Actor.user("admin"), reason="on holiday")
        self.refused(login("bob"), link, "Only these may decide on it: carol.", 403)
        assert ledger.record(job.job_id).decisions == []

    def test_it_gives_no_right_to_a_requester_or_to_someone_without_the_permission(
        self, login: Login, ledger: Ledger, job: Job
    ) -> None:
        self.refused(login("alice"), link_to(ledger, job, "alice"), "You asked for this work", 403)
        self.refused(login("vic"), link_to(ledger, job, "vic"), "you cannot decide on it. You need permission", 403)
        assert ledger.record(job.job_id).decisions == []

    def test_it_does_not_show_a_job_that_its_person_may_not_see(
        self, login: Login, ledger: Ledger, job: Job, grant: Grant
    ) -> None:
        grant("bob", "GET", "other")
        link, bob = link_to(ledger, job), login("bob")
        for answer in (bob.get(link), bob.post(link)):
            assert answer.status_code == 404
            assert job.job_key not in answer.text


@pytest.mark.parametrize("headers", FOREIGN)
def test_another_site_cannot_make_a_browser_click(
    login: Login, ledger: Ledger, job: Job, headers: dict[str, str]
) -> None:
    link = link_to(ledger, job)
    assert login("bob", headers=headers).post(link).status_code == 403
    assert ledger.record(job.job_id).decisions == []


@pytest.mark.parametrize("headers", OWN)
def test_a_page_of_this_site_can(
    login: Login, ledger: Ledger, job: Job, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://flow.example.com/")
    assert login("bob", headers=headers).post(link_to(ledger, job)).status_code == 303


def test_the_address_is_neither_cached_nor_sent_on_nor_logged(
    login: Login, ledger: Ledger, job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, bob = link_to(ledger, job), login("bob")
    for site, policy in ((True, "no-referrer"), (False, "same-origin")):
        answer = bob.get(link, headers={"Sec-Fetch-Site": "cross-site"} if site else {})
        assert answer.headers["Referrer-Policy"] == policy
        assert answer.headers["Cache-Control"] == "no-store"

    def away(self: Any, token: str, person: Person) -> Any:
        raise LedgerUnavailable("the ledger is unavailable.")

    def broken(self: Any, token: str, person: Person) -> Any:
        raise RuntimeError

    with caplog.at_level(logging.DEBUG, logger="airflow_provider_aihandoff"):
        assert bob.post(link).status_code == 303
        assert bob.post(link).status_code == 410
        for failure, status in ((away, 503), (broken, 500)):
            monkeypatch.setattr(DecisionLinks, "read", failure)
            assert bob.get(link).status_code == status
    of_the_client = ("httpx", "httpcore")
    logged = [caplog.handler.format(each) for each in caplog.records if not each.name.startswith(of_the_client)]
    assert any("/aihandoff/decide/***" in line for line in logged)
    assert not any(link.rpartition("/")[2] in line for line in logged)
