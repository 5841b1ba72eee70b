"""What a person says about an unknown effect counts once, for the attempt that they checked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.effects.apply import apply_effect
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Effect, Event
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.targets.http import HttpTarget, plan_probe
from airflow_provider_aihandoff.web.api import schemas
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, job_spec
from tests.integration.web.conftest import Grant, Login, Page
from tests.integration.web.world import approved, cms, confirm, lose, plan_of
from tests.target import Answer, Target

FOUND = {"applied": True, "external_id": "post-7", "reason": "The CMS shows it.", "attempt": 1}
NOT_FOUND = {"applied": False, "reason": "No trace of it.", "attempt": 1}


@pytest.fixture
def target() -> Iterator[Target]:
    with cms() as running:
        yield running


@pytest.fixture
def unknown(ledger: Ledger, target: Target) -> Effect:
    plan = plan_of(target, "publish")
    return lose(ledger, approved(ledger, plan), plan)


def send(client: TestClient, effect: Effect, body: dict[str, Any]) -> Any:
    return client.post(f"/aihandoff/api/v1/effects/{effect.effect_id}/resolution", json=body)


def post(client: TestClient, effect: Effect, body: dict[str, Any], **kwargs: Any) -> Any:
    form = {"found": "applied" if body["applied"] else "not applied", **body}
    path = f"/aihandoff/jobs/{effect.job_id}/effects/{effect.effect_id}/resolution"
    return client.post(path, data=form, **kwargs)


def resolutions(ledger: Ledger, effect: Effect) -> list[Event]:
    return [event for event in ledger.record(effect.job_id).events if event.event == "effect resolved"]


def test_unknown_effects_are_listed_in_pages_and_only_those_of_visible_jobs(
    login: Login, ledger: Ledger, target: Target, unknown: Effect, grant: Grant
) -> None:
    plan, path = plan_of(target, "announce"), "/aihandoff/api/v1/effects"
    second = lose(ledger, approved(ledger, plan, key="second"), plan)
    hidden = lose(ledger, approved(ledger, plan, key="hidden", dag_id="payroll"), plan)
    for user, dag_id in (("carol", OWNER.dag_id), ("bob", OWNER.dag_id), ("bob", "payroll")):
        grant(user, "GET", dag_id)
    carol, bob = login("carol"), login("bob")

    page = bob.get(f"{path}?state=unknown&limit=2").json()
    assert [effect["effect_id"] for effect in page["effects"]] == [hidden.effect_id, second.effect_id]
    rest = bob.get(f"{path}?state=unknown&limit=2&after={page['next']}").json()
    assert ([effect["effect_id"] for effect in rest["effects"]], rest["next"]) == ([unknown.effect_id], None)

    seen = carol.get(f"{path}?state=unknown").json()["effects"]
    assert [effect["job_id"] for effect in seen] == [second.job_id, unknown.job_id]
    assert "claim_token" not in seen[0]
    assert carol.get(f"{path}?dag_id=payroll").json() == {"effects": [], "next": None}
    assert carol.get(f"{path}?state=applied").json() == {"effects": [], "next": None}
    assert carol.get(f"{path}?state=odd").status_code == 422


def test_the_page_shows_the_resolution_form_to_reviewers(login: Login, ledger: Ledger, unknown: Effect) -> None:
    path = f"/aihandoff/jobs/{unknown.job_id}"
    page = Page(login("bob").get(path).text)
    assert "The effect publish may have been applied" in page.text
    assert unknown.effect_key in page.text
    assert "The effect publish may have been applied" in page.text
    assert f"{path}/effects/{unknown.effect_id}/resolution" in [form["action"] for form in page.all("form")]
    assert page.field("attempt") == "1"
    assert {"applied", "not applied"} <= set(page.buttons)
    assert Page(login("vic").get(path).text).all("form") == []


def test_the_page_shows_what_the_target_and_the_probe_said(login: Login, ledger: Ledger, target: Target) -> None:
    plan = plan_of(target, "publish")
    job = approved(ledger, plan)
    target.answer_by_path = {
        "/publish": Answer(500, {"error": "the shelf is full"}),
        "/lookup": Answer(403, {"error": "the token lacks a scope"}),
    }
    probe = plan_probe("cms", {"endpoint": "/lookup", "found": {"$.title": "Kettle"}}, "publish")
    apply_effect(ledger, job.job_id, plan, HttpTarget("publish", probe_plan=probe, grace_seconds=0), actor=TEST)

    page = Page(login("bob").get(f"/aihandoff/jobs/{job.job_id}").text)
    assert "the shelf is full" in page.text
    assert "the token lacks a scope" in page.text


@pytest.mark.parametrize(
    ("body", "state", "job_state", "said"),
    [
        (FOUND, EffectState.APPLIED, JobState.COMPLETED, "publish: applied as post-7: The CMS shows it."),
        (NOT_FOUND, EffectState.PLANNED, JobState.APPLYING, "publish: not applied: No trace of it."),
    ],
)
@pytest.mark.parametrize("sent", [send, post])
def test_a_resolution_on_the_page_is_recorded(
    login: Login,
    ledger: Ledger,
    unknown: Effect,
    sent: Any,
    body: dict[str, Any],
    state: EffectState,
    job_state: JobState,
    said: str,
) -> None:
    bob = login("bob")
    assert sent(bob, unknown, body).status_code in (200, 303)
    effect = ledger.effects.read(unknown.effect_id)
    assert (effect.state, effect.external_id) == (state, body.get("external_id"))
    assert ledger.job(unknown.job_id).state is job_state
    assert [(event.actor, event.reason) for event in resolutions(ledger, unknown)] == [("user:bob", said)]
    assert said in Page(bob.get(f"/aihandoff/jobs/{unknown.job_id}").text).text


def test_a_resolution_by_rest_returns_the_job(login: Login, ledger: Ledger, unknown: Effect) -> None:
    answer = send(login("bob", bearer=True), unknown, FOUND)
    assert answer.json()["job"]["state"] == "completed"
    documented = schemas.JobRecord.model_validate_json(answer.content)
    assert documented.model_dump(mode="json") == answer.json()


@pytest.mark.parametrize("body", [FOUND, NOT_FOUND])
def test_a_repeated_resolution_counts_once(login: Login, ledger: Ledger, unknown: Effect, body: dict[str, Any]) -> None:
    bob = login("bob")
    assert [post(bob, unknown, body).status_code for _ in range(2)] == [303, 303]
    assert send(bob, unknown, body).status_code == 200
    assert send(bob, unknown, {**body, "attempt": None}).status_code == 200
    assert len(resolutions(ledger, unknown)) == 1


def test_a_contradicting_resolution_is_refused_with_what_is_recorded(
    login: Login, ledger: Ledger, unknown: Effect
) -> None:
    send(login("bob"), unknown, FOUND)
    carol = login("carol")
    refused = send(carol, unknown, NOT_FOUND)
    assert (refused.status_code, refused.json()["type"]) == (409, "cannot-resolve")
    assert "is applied as post-7" in refused.json()["detail"]
    assert "user:bob resolved attempt 1" in refused.json()["detail"]
    posted = post(carol, unknown, NOT_FOUND)
    page = Page(posted.text)
    assert posted.status_code == 409
    assert "Your answer was not recorded" in page.text
    assert "No trace of it." in page.text
    assert len(resolutions(ledger, unknown)) == 1


def test_a_resolution_of_an_older_attempt_is_refused(
    login: Login, ledger: Ledger, target: Target, unknown: Effect
) -> None:
    bob = login("bob")
    send(bob, unknown, NOT_FOUND)
    lose(ledger, ledger.job(unknown.job_id), plan_of(target, "publish"))
    assert post(bob, unknown, NOT_FOUND).status_code == 303  # the same again: it is recorded, of attempt 1
    posted = post(login("carol"), unknown, NOT_FOUND)
    assert posted.status_code == 409
    assert "number 2 is unknown now" in Page(posted.text).text
    assert "No trace of it.</textarea>" in posted.text
    again = send(bob, unknown, {**NOT_FOUND, "attempt": None})
    assert again.status_code == 409
    assert "name the attempt that you checked: 2" in again.json()["detail"]
    assert ledger.effects.read(unknown.effect_id).state is EffectState.UNKNOWN
    assert send(bob, unknown, {**NOT_FOUND, "attempt": 2}).status_code == 200


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reason": " \n "}, "reason"),
        ({"reason": None}, "reason"),
        ({"reason": "x" * 10_001}, "reason"),
        ({"applied": "maybe"}, "applied"),
        ({"applied": False}, "external_id"),
        ({"external_id": "x" * 1_001}, "external_id"),
        ({"attempt": 0}, "attempt"),
        ({"attempt": 2**31}, "attempt"),
        ({"decided_by": "eve"}, "decided_by"),
    ],
)
def test_a_malformed_resolution_is_refused_with_field_errors(
    login: Login, ledger: Ledger, unknown: Effect, change: dict[str, Any], field: str
) -> None:
    answer = send(login("bob"), unknown, {**FOUND, **change})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert ledger.effects.read(unknown.effect_id).state is EffectState.UNKNOWN


def test_a_form_without_a_reason_or_with_a_contradiction_changes_nothing(
    login: Login, ledger: Ledger, unknown: Effect
) -> None:
    bob = login("bob")
    assert post(bob, unknown, {**FOUND, "reason": " "}).status_code == 422
    contradiction = post(bob, unknown, {**FOUND, "applied": False})
    assert contradiction.status_code == 422
    assert 'value="post-7"' in contradiction.text
    assert "The CMS shows it.</textarea>" in contradiction.text
    assert ledger.effects.read(unknown.effect_id).state is EffectState.UNKNOWN


def test_resolving_needs_the_permission_to_decide(login: Login, ledger: Ledger, unknown: Effect, grant: Grant) -> None:
    grant("vic", "GET", OWNER.dag_id)
    for sent in (send, post):
        assert sent(login("vic"), unknown, FOUND).status_code == 403
        assert sent(login("carol"), unknown, FOUND).status_code == 404
    hidden = send(login("carol"), unknown, FOUND)
    missing = login("carol").post("/aihandoff/api/v1/effects/999/resolution", json=FOUND)
    assert hidden.text == missing.text.replace("999", str(unknown.effect_id))
    assert hidden.json()["type"] == "effect-not-found"
    assert resolutions(ledger, unknown) == []


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.test"}, {}])
def test_another_site_cannot_make_a_browser_resolve(
    login: Login, ledger: Ledger, unknown: Effect, headers: dict[str, str]
) -> None:
    bob = login("bob", headers=headers)
    assert (post(bob, unknown, FOUND).status_code, send(bob, unknown, FOUND).status_code) == (403, 403)
    assert resolutions(ledger, unknown) == []


def test_an_effect_of_another_job_is_not_resolved_on_this_page(login: Login, ledger: Ledger, unknown: Effect) -> None:
    bob = login("bob")
    for path in ("999/effects/1", f"{unknown.job_id}/effects/999"):
        form = {"found": "applied", "reason": "x", "attempt": "1"}
        assert bob.post(f"/aihandoff/jobs/{path}/resolution", data=form).status_code == 404
    assert resolutions(ledger, unknown) == []


def test_a_partly_applied_job_says_how_many_effects_are_applied(login: Login, ledger: Ledger, target: Target) -> None:
    plans = [plan_of(target, "publish"), plan_of(target, "announce", after=("publish",))]
    job = approved(ledger, *plans)
    confirm(ledger, job, plans[0])
    claim = ledger.effects.claim(job.job_id, plans[1], lease=LEASE, actor=TEST)
    ledger.effects.refuse(claim, error="the target answered 403", actor=TEST)
    page = Page(login("bob").get(f"/aihandoff/jobs/{job.job_id}").text)
    assert "Partly applied: 1 of 2 effects applied." in page.text
    assert "the target answered 403" in page.text
    assert "Sent after publish, which must be applied first." in page.text


def test_an_effect_of_a_hidden_job_is_answered_like_a_missing_one_on_every_path(
    login: Login, ledger: Ledger, target: Target, unknown: Effect, grant: Grant
) -> None:
    plan = plan_of(target, "salary")
    owner = replace(OWNER, dag_id="payroll")
    secret = draft(ledger, job_spec(job_key="secret", owner=owner), response_id="resp_2")
    hidden = lose(ledger, approve(ledger, ask(ledger, secret, plan)), plan)
    for method in ("GET", "PUT"):
        grant("carol", method, OWNER.dag_id)
    carol = login("carol")
    form = {"found": "applied", "reason": "x", "attempt": "1"}
    for job_id in (unknown.job_id, hidden.job_id, 999):
        answers = [
            carol.post(f"/aihandoff/jobs/{job_id}/effects/{number}/resolution", data=form)
            for number in (hidden.effect_id, 77777)
        ]
        assert [answer.status_code for answer in answers] == [404, 404]
        shown = Page(answers[1].text).text.replace("77777", str(hidden.effect_id))
        assert Page(answers[0].text).text == shown
    sent = [
        carol.post(f"/aihandoff/api/v1/effects/{number}/resolution", json=FOUND) for number in (hidden.effect_id, 77777)
    ]
    assert sent[0].text == sent[1].text.replace("77777", str(hidden.effect_id))
    assert ledger.effects.read(hidden.effect_id) == hidden
