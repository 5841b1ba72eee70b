"""The lists of jobs: what waits longest comes first, and what a job costs and writes is said or said to be unknown."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from airflow_provider_aihandoff.web.pages import job_list
from airflow_provider_aihandoff.web.render.formatting import cost, job_cost
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.integration.web.conftest import Login, Page


def _draft(ledger: Ledger, key: str, run_id: str = OWNER.run_id) -> Job:
    spec = job_spec(job_key=key, owner=replace(OWNER, run_id=run_id))
    return ask(ledger, draft(ledger, spec, response_id=f"resp_{key}"))


def _unknown(ledger: Ledger, key: str) -> Job:
    job = approve(ledger, _draft(ledger, key))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.lose(claim, error="no answer", actor=TEST)
    return job


def _done(ledger: Ledger, key: str) -> Job:
    job = approve(ledger, _draft(ledger, key))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="id-1", result=None, actor=TEST)
    return job


def _keys(html: str) -> list[str]:
    return [line for line in Page(html).text.splitlines() if line.startswith("key-")]


def test_a_job_is_found_under_every_run_that_made_or_attached_to_it(login: Login, ledger: Ledger) -> None:
    runs = ["manual__1", "manual__2", "manual__3"]
    spec = job_spec(job_key="key-1")
    made = ledger.submission.open(replace(spec, owner=replace(OWNER, run_id=runs[0]))).job
    ledger.submission.open(replace(spec, owner=replace(OWNER, run_id=runs[1])))
    ledger.submission.open(replace(spec, owner=replace(OWNER, dag_id="another", run_id=runs[2])))
    other = ledger.submission.open(job_spec(job_key="key-2", owner=replace(OWNER, run_id="manual__4"))).job
    bob = login("bob")

    def found(run_id: str) -> list[int]:
        return [job["job_id"] for job in bob.get(f"/aihandoff/api/v1/jobs?run_id={run_id}").json()["jobs"]]

    assert [found(run_id) for run_id in runs] == [[made.job_id]] * 3
    assert (found("manual__4"), found("manual__5")) == ([other.job_id], [])
    assert ledger.search.count_open(run_id=runs[0])["queued"] == 1
    assert [job.job_id for job in ledger.jobs(run_id=runs[0])] == [made.job_id]


def test_a_review_is_found_under_the_run_that_made_its_job(login: Login, ledger: Ledger) -> None:
    job = _draft(ledger, "key-1", "manual__1")
    ledger.submission.open(job_spec(job_key="key-1", owner=replace(OWNER, run_id="manual__2")))
    reviews = login("bob").get("/aihandoff/api/v1/reviews?run_id=manual__1").json()["reviews"]
    assert [review["job_id"] for review in reviews] == [job.job_id]


@pytest.mark.parametrize(
    ("tab", "said"),
    [
        ("review", "The review queue is empty"),
        ("progress", "No jobs are in progress"),
        ("unknown", "There are no unknown effects"),
        ("done", "No jobs are done yet"),
        ("all", "There are no jobs"),
    ],
)
def test_an_empty_list_says_so(login: Login, ledger: Ledger, tab: str, said: str) -> None:
    assert said in login("bob").get(f"/aihandoff/?tab={tab}").text


def test_each_job_is_in_the_list_of_its_state(login: Login, ledger: Ledger) -> None:
    _draft(ledger, "key-old")
    _done(ledger, "key-done")
    _unknown(ledger, "key-unknown")
    submit(ledger, job_spec(job_key="key-running"), "resp_running")
    _draft(ledger, "key-new")
    bob = login("bob")
    found = {tab: _keys(bob.get(f"/aihandoff/?tab={tab}").text) for tab in job_list.Tab}
    assert found == {
        "review": ["key-old", "key-new"],
        "progress": ["key-running", "key-unknown"],
        "unknown": ["key-unknown"],
        "done": ["key-done"],
        "all": ["key-new", "key-running", "key-unknown", "key-done", "key-old"],
    }
    text = Page(bob.get("/aihandoff/").text).text
    assert "In review 2" in text
    assert "In progress 2" in text
    assert "Unknown effects 1" in text


def test_a_run_shows_its_own_jobs(login: Login, ledger: Ledger) -> None:
    _draft(ledger, "key-1", "scheduled__2026-07-20T06:00:00+00:00")
    _draft(ledger, "key-2", "manual__1")
    bob = login("bob")
    query = {"tab": "all", "dag_id": OWNER.dag_id, "run_id": "scheduled__2026-07-20T06:00:00+00:00"}
    page = bob.get("/aihandoff/", params=query)
    assert _keys(page.text) == ["key-1"]
    assert "In review 1" in Page(page.text).text
    tabs = [link["href"] or "" for link in Page(page.text).all("a") if "tab=done" in (link["href"] or "")]
    assert "run_id=scheduled__2026-07-20T06%3A00%3A00%2B00%3A00" in tabs[0]
    assert [job["job_key"] for job in bob.get("/aihandoff/api/v1/jobs", params=query).json()["jobs"]] == ["key-1"]


def test_list_pages_have_no_gaps(login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_list, "PAGE_SIZE", 2)
    for number in range(5):
        _draft(ledger, f"key-{number}")
    bob = login("bob")
    keys = [f"key-{number}" for number in range(5)]
    for tab, order in (("review", keys), ("all", keys[::-1])):
        seen, address = [], f"/aihandoff/?tab={tab}"
        while address:
            html = bob.get(address).text
            seen += _keys(html)
            links = [link["href"] or "" for link in Page(html).all("a")]
            address = next(
                (link for link in links if "paused" not in link and ("after=" in link or "page=" in link)), ""
            )
        assert seen == order
    assert "No more jobs" in bob.get("/aihandoff/?page=99").text
    assert "No more jobs" in bob.get("/aihandoff/?tab=all&after=1").text


def test_the_api_lists_newest_first_page_by_page(login: Login, ledger: Ledger) -> None:
    for number in range(3):
        _draft(ledger, f"key-{number}")
    submit(ledger, job_spec(job_key="key-running"), "resp_running")
    bob = login("bob", bearer=True)
    first = bob.get("/aihandoff/api/v1/jobs?state=review&limit=2").json()
    assert [job["job_key"] for job in first["jobs"]] == ["key-2", "key-1"]
    rest = bob.get(f"/aihandoff/api/v1/jobs?state=review&limit=2&after={first['next']}").json()
    assert ([job["job_key"] for job in rest["jobs"]], rest["next"]) == (["key-0"], None)
    both = bob.get("/aihandoff/api/v1/jobs?state=review&state=running").json()["jobs"]
    assert {job["state"] for job in both} == {"review", "running"}
    assert (
        both[0] | {"effects": 0, "unknown_effects": 0, "unpriced": 0, "cost_usd": None, "without_tools": 0} == both[0]
    )


def _price(ledger: Ledger, key: str, *costs: str | None) -> Job:
    """A job with one revision a cost, all but the last one failed."""
    job = None
    for number, price in enumerate(costs):
        revision = submit(ledger, job_spec(job_key=key), f"resp_{key}_{number}")
        last = number == len(costs) - 1
        output = Output(
            ResponseStatus.COMPLETED if last else ResponseStatus.FAILED,
            "A kettle." if last else None,
            error=None if last else {"kind": "failed"},
            cost_usd=None if price is None else Decimal(price),
        )
        job = ledger.outputs.store(revision.job_id, revision.number, output, actor=TEST)
    assert job is not None
    return job


def test_an_unknown_cost_is_never_shown_as_zero(login: Login, ledger: Ledger) -> None:
    bob = login("bob")
    prices = {
        ("0.0123",): "$0.0123",
        (None,): "price unknown",
        ("0.01", "0.02"): "$0.0300",
        (None, "0.02"): "at least $0.0200",
    }
    for number, (costs, said) in enumerate(prices.items()):
        job = _price(ledger, f"key-{number}", *costs)
        assert job.state is JobState.REVIEW
        assert said in Page(bob.get(f"/aihandoff/jobs/{job.job_id}").text).text
        summary = next(item for item in ledger.search.page(JobFilter()) if item.job_id == job.job_id)
        assert cost(summary.cost_usd, summary.unpriced) == said == job_cost(ledger.record(job.job_id).revisions)
    text = Page(bob.get("/aihandoff/").text).text
    assert all(said in text for said in prices.values())


def test_a_cost_without_the_tools_that_were_called_says_so(login: Login, ledger: Ledger) -> None:
    revision = submit(ledger, job_spec(job_key="key-1"), "resp_1")
    usage = {"input_tokens": 1000, "output_tokens": 20, "tool_calls": {"file_search_call": 1, "web_search_call": 2}}
    output = Output(ResponseStatus.COMPLETED, "A kettle.", usage=usage, cost_usd=Decimal("0.0123"))
    job = ledger.outputs.store(revision.job_id, 1, output, actor=TEST)
    bob = login("bob")
    assert "$0.0123, without tools" in Page(bob.get("/aihandoff/").text).text
    page = Page(bob.get(f"/aihandoff/jobs/{job.job_id}").text).text
    assert "$0.0123, without tools" in page
    assert "1,000 in, 20 out" in page
    assert "file search: 1, web search: 2 (not in the cost)" in page
    (item,) = bob.get("/aihandoff/api/v1/jobs").json()["jobs"]
    assert (item["cost_usd"], item["without_tools"]) == ("0.0123", 1)


def test_a_job_that_waits_for_its_plan_says_so(login: Login, ledger: Ledger) -> None:
    draft(ledger)
    assert "no plan yet" in login("bob").get("/aihandoff/").text


def test_an_unknown_effect_is_loud_on_its_job(login: Login, ledger: Ledger) -> None:
    job = _unknown(ledger, "key-unknown")
    bob = login("bob")
    page = Page(bob.get(f"/aihandoff/jobs/{job.job_id}").text)
    effect = ledger.record(job.job_id).effects[0]
    assert "The effect publish may have been applied" in page.text
    assert f"airflow aihandoff effects resolve {effect.effect_id} --not-applied" in page.text
    assert effect.effect_key in page.text
    assert "1 unknown of 1" in Page(bob.get("/aihandoff/?tab=unknown").text).text
