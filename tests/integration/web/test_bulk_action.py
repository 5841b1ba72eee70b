"""Bulk actions over the pages and REST: shown, confirmed by the number, continued, and seen by their user alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from starlette.routing import Route

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.web.app import build_app
from airflow_provider_aihandoff.web.pages import bulk_action
from tests.factories import OWNER, ask, draft, effect_plan, job_spec, submit
from tests.integration.web.conftest import Grant, Login, Page
from tests.integration.web.world import approved, cms, confirm, lose, plan_of
from tests.target import Target

BULK = "/aihandoff/bulk"
API = "/aihandoff/api/v1/jobs/bulk"


def in_review(ledger: Ledger, number: int, dag_id: str = OWNER.dag_id) -> Job:
    spec = job_spec(job_key=f"post:{number}", owner=replace(OWNER, dag_id=dag_id))
    return ask(ledger, draft(ledger, spec, response_id=f"resp_{number}"))


@pytest.fixture
def target() -> Iterator[Target]:
    with cms() as target:
        yield target


def form_of(client: Any, query: str, **typed: Any) -> dict[str, Any]:
    """The form of a preview, as its user fills it in."""
    form = Page(client.get(f"{BULK}?{query}").text).form
    return {**form, "reason": "a wrong prompt", **typed}


def test_jobs_are_cancelled_after_the_number_was_typed(login: Login, ledger: Ledger) -> None:
    jobs = [in_review(ledger, number) for number in range(3)]
    ledger.cancels.cancel(jobs[2].job_id, actor=OWNER.actor, reason="no longer needed")
    bob = login("bob")
    links = [each["href"] or "" for each in Page(bob.get("/aihandoff/jobs?type=publishing").text).all("a")]
    (link,) = [each for each in links if each.startswith(f"{BULK}?")]
    assert "you see what it would do before" in bob.get(link).text
    text = Page(bob.get(f"{BULK}?action=cancel&type=publishing").text).text
    assert "2 jobs would be changed, and 1 would not" in text
    assert "type the number of jobs: 2" in text
    answer = bob.post(BULK, data=form_of(bob, "action=cancel&type=publishing", count="2"))
    assert answer.status_code == 303
    report = " ".join(Page(bob.get(answer.headers["location"]).text).text.split())
    assert "Done2 Refused1 Unfinished0 Left0" in report
    assert "Continue" not in report
    for job in jobs[:2]:
        assert ledger.job(job.job_id).state is JobState.CANCELLED
        assert ledger.record(job.job_id).events[-1].actor == "user:bob"
    assert "Cancel, number 1" in bob.get(BULK).text


@pytest.mark.parametrize("count", ["1", "3", "0"])
def test_another_number_does_nothing_and_keeps_what_was_typed(login: Login, ledger: Ledger, count: str) -> None:
    jobs = [in_review(ledger, number) for number in range(2)]
    bob = login("bob")
    answer = bob.post(BULK, data=form_of(bob, "action=cancel&type=publishing", count=count))
    assert answer.status_code == 409
    assert "Nothing was done" in answer.text
    assert Page(answer.text).form["reason"] == "a wrong prompt"
    assert [ledger.job(job.job_id) for job in jobs] == jobs


def test_what_changed_since_it_was_shown_is_not_done(login: Login, ledger: Ledger) -> None:
    jobs = [in_review(ledger, number) for number in range(2)]
    bob = login("bob")
    form = form_of(bob, "action=cancel&type=publishing", count="2")
    ledger.cancels.cancel(jobs[0].job_id, actor=OWNER.actor, reason="no longer needed")
    in_review(ledger, 3)
    assert bob.post(BULK, data=form).status_code == 409
    assert ledger.job(jobs[1].job_id).state is JobState.REVIEW


def test_each_route_has_a_name_of_its_own_by_which_pages_find_it() -> None:
    names = Counter(route.name for route in build_app().routes if isinstance(route, Route))
    assert len(names) > 30
    assert [name for name, number in names.items() if number > 1] == []


def test_the_forms_lead_to_the_pages_that_take_them(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_review(ledger, 1)
    bob = login("bob")
    (form,) = Page(bob.get(f"{BULK}?action=cancel&type=publishing").text).all("form")
    assert form["action"] == BULK
    monkeypatch.setattr(bulk_action, "SECONDS", 0)
    path = bob.post(BULK, data=form_of(bob, "action=cancel&type=publishing", count="1")).headers["location"]
    (form,) = Page(bob.get(path).text).all("form")
    assert form["action"] == f"{path}/run"


def test_what_is_left_is_continued(login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        in_review(ledger, number)
    bob = login("bob")
    with monkeypatch.context() as patch:
        patch.setattr(bulk_action, "SECONDS", 0)
        path = bob.post(BULK, data=form_of(bob, "action=cancel&type=publishing", count="3")).headers["location"]
    assert "Left3" in Page(bob.get(path).text).text
    assert bob.post(f"{path}/run").status_code == 303
    assert "Done3" in Page(bob.get(path).text).text


def test_a_job_of_another_dag_is_refused_and_one_that_may_not_be_seen_is_not_named(
    login: Login, ledger: Ledger, grant: Grant
) -> None:
    mine, seen, hidden = (in_review(ledger, n, dag_id=name) for n, name in enumerate(["mine", "seen", "hidden"]))
    grant("bob", "GET", "mine")
    grant("bob", "PUT", "mine")
    grant("bob", "GET", "seen")
    bob = login("bob")
    page = bob.get(f"{BULK}?action=cancel&type=publishing")
    assert hidden.job_key not in page.text
    assert "You may not act on the jobs of the Dag seen." in page.text
    bob.post(BULK, data=form_of(bob, "action=cancel&type=publishing", count="1"))
    states = [ledger.job(job.job_id).state for job in (mine, seen, hidden)]
    assert states == [JobState.CANCELLED, JobState.REVIEW, JobState.REVIEW]


def test_no_one_sees_or_continues_the_action_of_another_user(login: Login, ledger: Ledger) -> None:
    in_review(ledger, 1)
    bob, carol = login("bob"), login("carol")
    path = bob.post(BULK, data=form_of(bob, "action=cancel&type=publishing", count="1")).headers["location"]
    assert bob.get(path).status_code == 200
    assert carol.get(path).status_code == 404
    assert carol.post(f"{path}/run").status_code == 404
    assert carol.get(f"{API}/1").json()["type"] == "bulk-not-found"
    assert "number 1" not in carol.get(BULK).text


def test_every_job_is_not_a_filter(login: Login, ledger: Ledger) -> None:
    in_review(ledger, 1)
    bob = login("bob")
    assert "needs a filter" in bob.get(f"{BULK}?action=cancel").text
    answer = bob.post(f"{API}/preview", json={"action": "cancel", "filter": {}})
    assert (answer.status_code, answer.json()["type"]) == (422, "invalid-filter")


def test_a_form_of_another_site_begins_nothing(login: Login, ledger: Ledger) -> None:
    job = in_review(ledger, 1)
    bob = login("bob")
    form = form_of(bob, "action=cancel&type=publishing", count="1")
    assert bob.post(BULK, data=form, headers={"Origin": "https://evil.test"}).status_code == 403
    assert ledger.job(job.job_id) == job


def test_the_rest_api_previews_begins_continues_and_reports(
    login: Login, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in ("a", "b"):
        plan = plan_of(target, key)
        confirm(ledger, approved(ledger, plan, key=key), plan)
    bob = login("bob", bearer=True)
    about = {"action": "roll back", "filter": {"type": "publishing", "state": ["completed"]}}
    shown = bob.post(f"{API}/preview", json=about).json()
    assert [(job["job_key"], job["refused"], job["what"]) for job in shown["jobs"]] == [
        ("b", False, "Undoes b."),
        ("a", False, "Undoes a."),
    ]
    body = {**about, "reason": "a wrong prompt", "count": 2, "digest": shown["digest"]}
    stale = bob.post(API, json={**body, "digest": "0" * 64})
    assert (stale.status_code, stale.json()["type"]) == (409, "bulk-changed")
    with monkeypatch.context() as patch:
        patch.setattr(bulk_action, "SECONDS", 0)
        begun = bob.post(API, json=body).json()
    assert (begun["over"], begun["progress"]["left"]) == (False, 2)
    path = f"{API}/{begun['bulk_id']}"
    assert bob.post(f"{path}/run").json()["progress"]["done"] == 2
    report = bob.get(path).json()
    assert report["over"]
    assert [(job["job_key"], job["outcome"]) for job in report["jobs"]] == [("a", "done"), ("b", "done")]
    assert sorted(request.path for request in target.received) == ["/a/a-1", "/b/b-1"]


def test_unknown_effects_are_resolved_together(login: Login, ledger: Ledger) -> None:
    effects = [lose(ledger, approved(ledger, effect_plan(), key=key), effect_plan()) for key in ("a", "b")]
    bob = login("bob")
    form = form_of(bob, "action=resolve+as+applied&need=unknown+effect", count="2")
    assert bob.post(BULK, data=form).status_code == 303
    assert {ledger.effects.read(effect.effect_id).state for effect in effects} == {EffectState.APPLIED}


def test_a_preview_says_what_it_would_stop_and_cost_and_counts_what_is_refused(login: Login, ledger: Ledger) -> None:
    in_review(ledger, 1)
    submit(ledger, job_spec(job_key="post:2"), "resp_runs")
    cancelled = in_review(ledger, 3)
    ledger.cancels.cancel(cancelled.job_id, actor=OWNER.actor, reason="no longer needed")
    text = " ".join(Page(login("bob").get(f"{BULK}?action=cancel&type=publishing").text).text.split())
    assert "1 response runs and is stopped. What each has used by then is billed." in text
    assert "What one response of the type publishing costs is unknown." in text
    assert "1 planned write is never sent." in text
    assert "1 job: It is cancelled already, or is being cancelled." in text
    shown = (
        login("bob", bearer=True)
        .post(f"{API}/preview", json={"action": "cancel", "filter": {"type": "publishing"}})
        .json()
    )
    assert shown["responses"] == {"publishing": 1}
    assert shown["refusals"] == {"It is cancelled already, or is being cancelled.": 1}
    assert shown["summary"][0].startswith("1 response runs")


def test_reviews_are_reassigned_to_the_people_who_were_shown(login: Login, ledger: Ledger) -> None:
    jobs = [in_review(ledger, number) for number in range(2)]
    bob = login("bob")
    page = Page(bob.get(f"{BULK}?action=reassign&type=publishing&state=review").text)
    assert page.field("to_users") == ""
    assert page.field("state") == "review"
    query = "action=reassign&type=publishing&to_users=carol%2C+dave"
    assert "Then: may decide: carol, dave." in bob.get(f"{BULK}?{query}").text
    form = form_of(bob, query, count="2")
    answer = bob.post(BULK, data={**form, "to_users": "eve"})
    assert answer.status_code == 409
    answer = bob.post(BULK, data=form)
    assert answer.status_code == 303
    assert "Then: may decide: carol, dave." in bob.get(answer.headers["location"]).text
    for job in jobs:
        assert "Approvers: carol, dave." in login("carol").get(f"/aihandoff/jobs/{job.job_id}").text
        assert ledger.record(job.job_id).events[-1].event == "reassigned"


def test_a_program_reassigns_reviews(login: Login, ledger: Ledger) -> None:
    job = in_review(ledger, 1)
    bob = login("bob", bearer=True)
    about = {"action": "reassign", "filter": {"type": "publishing"}}
    refused = bob.post(f"{API}/preview", json=about)
    assert (refused.status_code, refused.json()["type"]) == (409, "cannot-reassign")
    about = {**about, "reviewers": {"approvers": {"users": ["carol"], "groups": ["legal"]}}}
    shown = bob.post(f"{API}/preview", json=about).json()
    body = {**about, "reason": "on holiday", "count": shown["count"], "digest": shown["digest"]}
    report = bob.post(API, json=body).json()
    assert report["progress"]["done"] == 1
    assert report["reviewers"]["approvers"] == {"users": ["carol"], "roles": [], "groups": ["legal"]}
    assert ledger.job(job.job_id).reassigned is not None


def test_the_page_of_an_action_refreshes_and_continues_until_it_is_paused_or_over(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_review(ledger, 1)
    bob = login("bob")
    with monkeypatch.context() as patch:
        patch.setattr(bulk_action, "SECONDS", 0)
        path = bob.post(BULK, data=form_of(bob, "action=cancel&type=publishing", count="1")).headers["location"]
    assert "data-continue" in bob.get(path).text
    assert 'data-refresh="2"' in bob.get(path).text
    paused = bob.get(f"{path}?paused").text
    assert "data-continue" not in paused
    assert "data-refresh" not in paused
    assert "Continue" in paused
    assert ledger.bulks.progress(1).left == 1, "no page that is shown takes a step"
    bob.post(f"{path}/run")
    assert "data-refresh" not in bob.get(path).text
