"""The pages of sets, and REST: how far a set has come, and the way to each of its jobs."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut, LeftOutItem, LeftOutReason
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.sets.transport import Transport
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.factories import OWNER, TEST, in_batch, job_spec, submit
from tests.integration.web.conftest import Grant, Login, Page

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
