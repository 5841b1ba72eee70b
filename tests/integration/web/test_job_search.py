"""The page of all jobs: the address holds the filter, the files are safe to open, and no one sees what they may not."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.web.pages import job_search
from airflow_provider_aihandoff.web.pages.job_search import as_csv
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.integration.web.conftest import Grant, Login, Page

LIST = "/aihandoff/jobs"
API = "/aihandoff/api/v1/jobs"


def _in_review(ledger: Ledger, key: str, dag_id: str = OWNER.dag_id, job_type: str = "publishing") -> Job:
    spec = job_spec(job_key=key, job_type=job_type, owner=replace(OWNER, dag_id=dag_id))
    return ask(ledger, draft(ledger, spec, response_id=f"resp_{key}"))


def _keys(html: str) -> list[str]:
    return [line for line in Page(html).text.splitlines() if line.startswith("key-")]


def test_the_page_shows_what_its_address_asks_for_and_says_so(login: Login, ledger: Ledger) -> None:
    _in_review(ledger, "key-a", job_type="ticket")
    _in_review(ledger, "key-b")
    submit(ledger, job_spec(job_key="key-c", job_type="ticket"), "resp_c")
    bob = login("bob")
    assert _keys(bob.get(LIST).text) == ["key-c", "key-b", "key-a"]
    html = bob.get(f"{LIST}?type=ticket&state=review&key=&need=").text
    assert _keys(html) == ["key-a"]
    page = Page(html)
    assert page.field("type") == "ticket"
    assert page.form["state"] == "review"
    assert "state: review; type: ticket" in page.text
    links = [link["href"] or "" for link in page.all("a")]
    assert "/aihandoff/jobs.csv?state=review&type=ticket" in links


def test_a_filter_that_is_not_valid_is_refused_with_what_to_write(login: Login, ledger: Ledger) -> None:
    answer = login("bob").get(f"{LIST}?older_than=long")
    assert answer.status_code == 422
    assert "such as 7d" in answer.text
    problem = login("bob", bearer=True).get(f"{API}?older_than=long")
    assert (problem.status_code, problem.json()["type"]) == (422, "invalid-filter")


def test_a_filter_that_no_index_answers_says_what_it_needs(login: Login, ledger: Ledger) -> None:
    _in_review(ledger, "key-a")
    answer = login("bob").get(f"{LIST}?task_id=draft")
    assert (answer.status_code, _keys(answer.text)) == (422, [])
    assert "needs a Dag" in answer.text
    assert login("bob").get(f"{API}?task_id=draft").json()["type"] == "invalid-filter"
    assert _keys(login("bob").get(f"{LIST}?task_id=draft&dag_id={OWNER.dag_id}").text) == ["key-a"]


def test_pages_follow_each_other_with_the_same_filter(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_search, "PAGE_SIZE", 2)
    for number in range(5):
        _in_review(ledger, f"key-{number}")
    bob = login("bob")
    seen: list[str] = []
    address: str | None = f"{LIST}?sort=oldest&key=key-"
    while address:
        html = bob.get(address).text
        seen += _keys(html)
        links = [a["href"] or "" for a in Page(html).all("a")]
        address = next((link for link in links if "after=" in link and "paused" not in link), None)
    assert seen == [f"key-{number}" for number in range(5)]


def test_the_rest_api_and_the_files_take_the_same_filter(login: Login, ledger: Ledger) -> None:
    _in_review(ledger, "key-a", job_type="ticket")
    _in_review(ledger, "key-b")
    bob = login("bob")
    (job,) = bob.get(f"{API}?type=ticket&newer_than=1h").json()["jobs"]
    assert (job["job_key"], job["retries"], job["last_webhook_at"], job["external_ids"]) == ("key-a", 0, None, [])
    assert [each["job_key"] for each in bob.get(f"{LIST}.json?type=ticket").json()] == ["key-a"]
    answer = bob.get(f"{LIST}.csv?type=ticket")
    assert answer.headers["content-disposition"] == 'attachment; filename="jobs.csv"'
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert (row["job_key"], row["state"]) == ("key-a", "review")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_spreadsheet_runs_nothing_of_a_file(login: Login, ledger: Ledger, text: str) -> None:
    (row,) = csv.DictReader(
        io.StringIO(
            as_csv([{"job_key": text, "external_ids": [text], "retries": -1}], ["job_key", "external_ids", "retries"])
        )
    )
    assert (row["job_key"], row["external_ids"], row["retries"]) == (f"'{text}", f"'{text}", "-1")


def test_a_comma_or_a_line_end_in_a_key_stays_in_its_cell(login: Login, ledger: Ledger) -> None:
    (row,) = csv.DictReader(io.StringIO(as_csv([{"job_key": 'a,"b"\nc'}], ["job_key"])))
    assert row["job_key"] == 'a,"b"\nc'


def test_no_one_finds_a_job_that_they_may_not_see(login: Login, ledger: Ledger, grant: Grant) -> None:
    _in_review(ledger, "key-mine", dag_id="mine")
    _in_review(ledger, "key-other", dag_id="other")
    grant("bob", "GET", "mine")
    bob = login("bob")
    assert _keys(bob.get(LIST).text) == ["key-mine"]
    assert _keys(bob.get(f"{LIST}?dag_id=other").text) == []
    assert [job["job_key"] for job in bob.get(API).json()["jobs"]] == ["key-mine"]
    for form in ("csv", "json"):
        assert "key-other" not in bob.get(f"{LIST}.{form}").text


def test_the_page_and_the_files_need_a_login(stranger: Login, ledger: Ledger) -> None:
    for path in (LIST, f"{LIST}.csv", f"{LIST}.json"):
        assert stranger.get(path).status_code == 303  # type: ignore[attr-defined]


def test_a_text_of_the_filter_is_shown_as_text(login: Login, ledger: Ledger) -> None:
    html = login("bob").get(LIST, params={"type": "<script>alert(1)</script>"}).text
    assert "<script" not in html
    assert Page(html).field("type") == "<script>alert(1)</script>"


def _written(ledger: Ledger, key: str, external_id: str, url: str | None) -> Job:
    plan = replace(effect_plan(), external_url=url)
    job = approve(ledger, ask(ledger, draft(ledger, job_spec(job_key=key), response_id=f"resp_{key}"), plan))
    claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id=external_id, result=None, actor=TEST)
    return job


def test_the_id_of_a_record_is_a_link_where_its_author_says_where_it_is(login: Login, ledger: Ledger) -> None:
    job = _written(ledger, "key-a", "post <7>", "https://cms.example/posts/{external_id}")
    _written(ledger, "key-b", "post-8", None)
    own, bob = {"Sec-Fetch-Dest": "document"}, login("bob")
    link = "https://cms.example/posts/post%20%3C7%3E"
    for path in (LIST, f"{LIST}/{job.job_id}"):
        for headers, target in ((own, "_blank"), ({"Sec-Fetch-Dest": "iframe"}, None)):
            (found,) = [a for a in Page(bob.get(path, headers=headers).text).all("a") if "cms" in (a["href"] or "")]
            assert (found["href"], found["rel"], found.get("target")) == (link, "noopener noreferrer", target)
    text = Page(bob.get(LIST).text).text
    assert "post <7>" in text
    assert "post-8" in text
    links = {each["job_key"]: each["external_links"] for each in bob.get(API).json()["jobs"]}
    assert links == {"key-a": [link], "key-b": [None]}
    (effect,) = bob.get(f"{API}/{job.job_id}").json()["effects"]
    assert (effect["external_link"], "external_url" in effect) == (link, False)
    assert bob.get("/aihandoff/api/v1/effects").json()["effects"][-1]["external_link"] == link
    rows = list(csv.DictReader(io.StringIO(bob.get(f"{LIST}.csv").text)))
    assert [row["external_links"] for row in rows] == ["", link]


def test_an_address_that_was_changed_in_the_ledger_is_no_link(
    login: Login, ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    job = _written(ledger, "key-a", "post-7", "https://cms.example/posts/{external_id}")
    with psycopg.connect(**conninfo) as connection:
        connection.execute("UPDATE aihandoff.effects SET external_url = 'javascript:alert(1)//{external_id}'")
    for path in (LIST, f"{LIST}/{job.job_id}"):
        html = login("bob").get(path).text
        assert "javascript:" not in html
        assert "post-7" in Page(html).text
