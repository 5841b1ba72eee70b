"""The pages of sets, and REST: how far a set has come, and the way to each of its jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.rules import ReviewRules
from airflow_provider_aihandoff.core.sets.pause_set import pauses_of
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut, LeftOutItem, LeftOutReason
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.sets.transport import Transport
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from airflow_provider_aihandoff.web.pages.bulk_table import key_of
from tests.factories import OWNER, TEST, approve, ask, draft, effect_plan, in_batch, job_spec, submit
from tests.integration.web.conftest import Grant, Login, Page
from tests.integration.web.world import cms, confirm, plan_of

API = "/aihandoff/api/v1/sets"


def made(ledger: Ledger) -> JobSet:
    left_out = LeftOut()
    left_out.add(LeftOutItem(5, LeftOutReason.DUPLICATE, "its key 'a' is that of item 1"))
    spec = SetSpec("publishing", "<b>nightly</b>", "alice", OWNER, timedelta(hours=1))
    found = ledger.sets.open(spec, LeftOut())
    wanted = [job_spec(job_key=key, set_id=found.set_id) for key in "abcd"]
    ledger.submission.open_many(wanted)
    for number, each in enumerate(wanted[:2]):
        revision = submit(ledger, replace(each), f"resp_{number}")
        if number == 0:
            output = Output(ResponseStatus.COMPLETED, "Text", usage={"input_tokens": 1}, cost_usd=Decimal("0.25"))
            ledger.outputs.store(revision.job_id, 1, output, actor=TEST)
    return ledger.sets.opened(found.set_id, 5, left_out)


def test_the_page_of_a_set_says_how_far_it_is_and_leads_to_its_jobs(login: Login, ledger: Ledger) -> None:
    found = made(ledger)
    bob = login("bob")
    listed = " ".join(Page(bob.get("/aihandoff/sets").text).text.split())
    assert "<b>nightly</b> publishing · set 1" in listed
    assert "the model 2 queued, 1 running, 1 in review, 1 left out" in listed
    html = bob.get(f"/aihandoff/sets/{found.set_id}").text
    text = " ".join(Page(html).text.split())
    assert "2 queued, 1 running, 1 in review, 1 left out" in text
    assert "$0.2500" in text
    assert "Item 5, duplicate: its key 'a' is that of item 1" in text
    assert "/aihandoff/jobs?set=1&amp;state=queued" in html
    assert f'href="/aihandoff/sets/{found.set_id}"' in bob.get("/aihandoff/jobs/1").text
    jobs = Page(bob.get("/aihandoff/jobs?set=1&state=review").text).text
    assert ("job 1" in jobs, "job 2" in jobs) == (True, False)


def test_programs_read_sets(login: Login, ledger: Ledger) -> None:
    found = made(ledger)
    bob = login("bob")
    body = bob.get(f"{API}/{found.set_id}").json()
    assert (body["phase"], body["jobs"], body["items"]) == ("drafting", 4, 5)
    assert body["states"] == {"queued": 2, "running": 1, "review": 1}
    assert (body["cost_usd"], body["left_out"]) == ("0.25", {"duplicate": 1})
    assert body["said"] == "2 queued, 1 running, 1 in review, 1 left out"
    assert [each["set_id"] for each in bob.get(API).json()["sets"]] == [found.set_id]
    assert bob.get(f"{API}?before=1").json() == {"sets": []}
    assert bob.get(f"{API}/9").status_code == 404
    assert len(bob.get("/aihandoff/api/v1/jobs?set=1").json()["jobs"]) == 4
    assert bob.get("/aihandoff/api/v1/jobs/1").json()["job"]["set_id"] == found.set_id


def test_a_set_of_a_dag_that_one_may_not_see_is_not_there(login: Login, ledger: Ledger, grant: Grant) -> None:
    found = made(ledger)
    grant("bob", "GET", "another_dag")
    bob = login("bob")
    assert bob.get(f"/aihandoff/sets/{found.set_id}").status_code == 404
    assert bob.get(f"{API}/{found.set_id}").json()["type"] == "set-not-found"
    assert bob.get(API).json() == {"sets": []}


def in_review(ledger: Ledger, found: JobSet | None, *keys: str, reason: str = "it is not sure") -> None:
    for key in keys:
        spec = job_spec(job_key=key, set_id=None if found is None else found.set_id)
        rules = ReviewRules(because={"policy": "plain@1", "reason": reason})
        ask(ledger, draft(ledger, spec, response_id=f"resp_{key}"), effect_plan(), rules=rules)


def test_the_bulk_review_is_about_one_set_and_groups_it_by_reason(login: Login, ledger: Ledger) -> None:
    found, bob = made(ledger), login("bob")
    in_review(ledger, None, "elsewhere")
    in_review(ledger, found, "x", "y")
    in_review(ledger, found, "z", reason="it is in the sample of 5.0 %")
    set_page = bob.get(f"/aihandoff/sets/{found.set_id}").text
    address = f"/aihandoff/bulk-review?by=outcome&set={found.set_id}"
    assert address.replace("&", "&amp;") in set_page
    assert "Review 4 jobs of this set" in set_page
    assert address.replace("&", "&amp;") in bob.get(f"/aihandoff/jobs?set={found.set_id}").text

    text = " ".join(Page(bob.get(address).text).text.split())
    assert f"Only set {found.set_id}" in text
    assert "plain@1: it is not sure 2" in text
    assert "plain@1: it is in the sample of … % 1" in text
    assert "elsewhere" not in text
    group = key_of("plain@1: it is not sure")
    confirm = bob.get(f"{address.replace('bulk-review?', 'bulk-review/all?')}&group={group}")
    assert f"Only set {found.set_id}" in Page(confirm.text).text
    form = Page(confirm.text).form
    assert form["set"] == str(found.set_id)
    done = bob.post("/aihandoff/bulk-review/all/decision", data={**form, "verdict": "approve", "count": "2"})
    assert "2 decisions recorded" in done.text
    approved = {job.job_key for job in ledger.jobs(states=[JobState.APPROVED])}
    assert approved == {"x", "y"}


def test_programs_list_the_reviews_of_one_set(login: Login, ledger: Ledger) -> None:
    found = made(ledger)
    in_review(ledger, None, "elsewhere")
    in_review(ledger, found, "x")
    listed = login("bob").get(f"/aihandoff/api/v1/reviews?set={found.set_id}").json()
    assert [each["job_key"] for each in listed["reviews"]] == ["x", "a"], "those first that have a plan to decide on"
    assert listed["total"] == 2


def test_a_set_is_paused_and_resumed_on_its_page(login: Login, ledger: Ledger) -> None:
    found, bob = made(ledger), login("bob")
    address = f"/aihandoff/sets/{found.set_id}"
    assert bob.post(f"{address}/pause", data={"reason": "wrong <b>prompt</b>"}).headers["location"] == address
    assert [pause.reason for pause in pauses_of(ledger, found.set_id)] == ["wrong <b>prompt</b>"]
    text = " ".join(Page(bob.get(address).text).text.split())
    assert "bob has paused it" in text
    assert "wrong <b>prompt</b>" in text
    assert "Resume this set" in text
    assert bob.post(f"{address}/resume", data={"reason": "it is right"}).headers["location"] == address
    assert pauses_of(ledger, found.set_id) == []
    assert "Pause this set" in bob.get(address).text


def test_programs_pause_and_resume_a_set(login: Login, ledger: Ledger) -> None:
    found, bob = made(ledger), login("bob")
    begun = bob.post(f"{API}/{found.set_id}/pause", json={"reason": "wrong prompt"}).json()
    assert (begun["set_id"], begun["dag_id"], begun["writes"]) == (found.set_id, found.dag_id, True)
    assert bob.get(f"{API}/{found.set_id}").json()["paused"] is True
    ended = bob.post(f"{API}/{found.set_id}/resume", json={"reason": "it is right"}).json()
    assert [each["ended_reason"] for each in ended["pauses"]] == ["it is right"]
    again = bob.post(f"{API}/{found.set_id}/resume", json={"reason": "it is right"})
    assert (again.status_code, again.json()["type"]) == (404, "pause-not-found")
    assert bob.post(f"{API}/{found.set_id}/pause", json={}).status_code == 422


def test_who_may_only_see_a_set_cannot_pause_it(login: Login, ledger: Ledger) -> None:
    found, vic = made(ledger), login("vic")
    assert "Pause this set" not in vic.get(f"/aihandoff/sets/{found.set_id}").text
    refused = vic.post(f"{API}/{found.set_id}/pause", json={"reason": "so"})
    assert (refused.status_code, refused.json()["type"]) == (403, "pause-forbidden")
    assert vic.post(f"/aihandoff/sets/{found.set_id}/pause", data={"reason": "so"}).status_code == 403
    assert ledger.pauses.find() == []


def test_the_page_of_a_set_leads_to_its_bulk_actions_and_names_the_slowest(login: Login, ledger: Ledger) -> None:
    found, bob = made(ledger), login("bob")
    html = bob.get(f"/aihandoff/sets/{found.set_id}").text
    text = " ".join(Page(html).text.split())
    assert "Slowest responses b sent" in text
    cancel = f"/aihandoff/bulk?state=queued&set={found.set_id}&action=cancel"
    assert cancel.replace("&", "&amp;") in html
    assert "Roll back" not in html, "nothing is written"
    shown = " ".join(Page(bob.get(cancel).text).text.split())
    assert "2 jobs" in shown


def test_the_page_of_a_set_leads_to_rolling_it_back(login: Login, ledger: Ledger) -> None:
    found, bob = made(ledger), login("bob")
    with cms() as target:
        plan = plan_of(target, "publish")
        for key in ("x", "y"):
            spec = job_spec(job_key=key, set_id=found.set_id)
            job = approve(ledger, ask(ledger, draft(ledger, spec, response_id=f"resp_{key}"), plan))
            confirm(ledger, job, plan)
        html = bob.get(f"/aihandoff/sets/{found.set_id}").text
        assert "Roll back what this set has written" in html
        link = f"/aihandoff/bulk?state=completed&state=applying&set={found.set_id}&action=roll+back"
        assert link.replace("&", "&amp;") in html
        preview = Page(bob.get(link).text)
        assert "2 jobs would be changed" in preview.text
        begun = bob.post("/aihandoff/bulk", data={**preview.form, "reason": "wrong labels", "count": "2"})
        assert begun.status_code == 303
        assert [each.method for each in target.received] == ["DELETE", "DELETE"]
    assert ledger.sets.total(found.set_id).states[JobState.ROLLED_BACK] == 2


def test_the_batches_of_a_set_are_shown_with_it(login: Login, ledger: Ledger) -> None:
    found = made(ledger)
    ledger.sets.sends_by(found.set_id, Transport.BATCH, "The outputs are wanted tomorrow.")
    batch = in_batch(ledger, found, 3, 4)
    ledger.batches.cancel_requested(batch, why="It would not be <i>done</i> in time.")
    bob = login("bob")
    text = " ".join(Page(bob.get(f"/aihandoff/sets/{found.set_id}").text).text.split())
    assert "in batches. The outputs are wanted tomorrow." in text
    assert "Batch 1 is being stopped: 2 requests · batch_1" in text
    assert "It would not be <i>done</i> in time." in text
    body = bob.get(f"{API}/{found.set_id}").json()
    assert (body["transport"], body["complete_by"]) == ("batch", None)
    (shown,) = body["batches"]
    assert (shown["batch_id"], shown["state"], shown["lines"], shown["provider_id"]) == (1, "running", 2, "batch_1")
    assert bob.get("/aihandoff/api/v1/jobs/3").json()["revisions"][0]["batch_id"] == 1
    assert "Its request is in batch 1 at OpenAI since" in Page(bob.get("/aihandoff/jobs/3").text).text
