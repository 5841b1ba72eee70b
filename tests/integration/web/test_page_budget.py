"""Whatever the ledger holds, a page shows so much of it, says what it leaves out, and leads to all of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from markdown_it import MarkdownIt

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.pages.bulk_table import key_of
from airflow_provider_aihandoff.web.render.budget import MAX_CHARACTERS, MAX_MARKDOWN, MAX_PARTS
from tests.factories import ask, draft, job_spec
from tests.integration.web.conftest import Login, Page

WARNING = "This page does not show all that you decide on: it leaves out"


def _edited(ledger: Ledger, job: Job, output: Any) -> Job:
    assert job.review_digest is not None
    ledger.reviews.edit(job.job_id, digest=job.review_digest, output=output, person=Person("carol"))
    return ask(ledger, ledger.job(job.job_id))


def test_the_markdown_of_all_revisions_has_one_budget(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[int] = []
    parse = MarkdownIt.parse

    def counted(self: MarkdownIt, src: str, env: Any = None) -> Any:
        parsed.append(len(src))
        return parse(self, src, env)

    monkeypatch.setattr(MarkdownIt, "parse", counted)
    line = "* **a** _b_ `c` [d](e)\n"
    job = ask(ledger, draft(ledger, output={"first": line * 1_000, "second": line * 4_000}))
    for number in range(3):
        job = _edited(ledger, job, {"first": line * 1_000, "second": line * 4_000 + str(number)})
    page = Page(login("bob").get(f"/aihandoff/jobs/{job.job_id}").text)
    assert 0 < sum(parsed) <= MAX_MARKDOWN
    assert page.text.count(line * 4_000) == 4  # as its source


def test_what_a_page_has_no_room_for_is_named_before_the_decision_and_found_as_text(
    login: Login, ledger: Ledger
) -> None:
    words = " ".join(f"word{number}" for number in range(400_000))
    assert len(words) > MAX_CHARACTERS
    job = ask(ledger, draft(ledger, output={"text": words, "last": "the last \u202e field"}))
    bob = login("bob")
    path = f"/aihandoff/jobs/{job.job_id}"
    answer = bob.get(path)
    page = Page(answer.text)
    assert len(answer.text) < 1.5 * MAX_CHARACTERS
    assert WARNING in page.text
    assert "more characters are left out of this page]" in page.text
    assert "exactly as planned" in page.text
    assert f"{path}/text" in [link["href"] for link in page.all("a")]
    whole = bob.get(f"{path}/text")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert words in whole.text
    assert "the last [U+202E] field" in whole.text
    assert str(job.review_digest) in whole.text
    assert "== Effect publish (http) ==" in whole.text
    form = {"verdict": "approve", "digest": str(job.review_digest)}
    assert bob.post(f"{path}/decision", data=form).status_code == 303
    assert ledger.job(job.job_id).state is JobState.APPROVED


def test_a_page_that_shows_everything_says_nothing_of_it(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    page = Page(login("bob").get(f"/aihandoff/jobs/{job.job_id}").text)
    assert "leaves out" not in page.text
    assert "exactly as shown" in page.text


def test_the_text_of_an_earlier_revision_can_be_read_too(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger, output={"text": "the first"}))
    job = _edited(ledger, job, {"text": "the second"})
    bob = login("bob")
    path = f"/aihandoff/jobs/{job.job_id}/text"
    assert "the second" in bob.get(path).text
    first = bob.get(f"{path}?revision=1").text
    assert "the first" in first
    assert str(job.review_digest) not in first
    assert bob.get(f"{path}?revision=9").status_code == 404


@pytest.mark.parametrize(
    "output",
    [
        [[number] for number in range(3 * MAX_PARTS)],
        {f"field {number}": number for number in range(3 * MAX_PARTS)},
        [{"a": number, "b": number} for number in range(3 * MAX_PARTS)],
    ],
    ids=["items", "fields", "table"],
)
def test_only_so_many_parts_are_laid_out(login: Login, ledger: Ledger, output: Any) -> None:
    job = ask(ledger, draft(ledger, output=output))
    bob = login("bob")
    page = Page(bob.get(f"/aihandoff/jobs/{job.job_id}").text)
    assert WARNING in page.text
    assert len(page.elements) < 8 * MAX_PARTS
    assert "leaves out" in page.text.split("History")[-1]


def test_a_comparison_says_what_it_leaves_out(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger, output={f"field {number}": number for number in range(2 * MAX_PARTS)}))
    job = _edited(ledger, job, {f"field {number}": -number - 1 for number in range(2 * MAX_PARTS)})
    page = Page(login("bob").get(f"/aihandoff/jobs/{job.job_id}/compare").text)
    assert "This page leaves out" in page.text
    assert f"/aihandoff/jobs/{job.job_id}/text?revision=2" in [link["href"] for link in page.all("a")]


def test_a_bulk_review_selects_no_job_that_it_does_not_show_in_full(login: Login, ledger: Ledger) -> None:
    large = "word " * (MAX_CHARACTERS // 2)
    jobs = [
        ask(ledger, draft(ledger, job_spec(job_key=f"post:{number}"), {"text": f"{number} {large}"}, f"resp_{number}"))
        for number in range(3)
    ]
    small = job_spec(job_key="small", job_type="other")
    ask(ledger, draft(ledger, small, {"text": "short"}, "resp_small"))
    bob = login("bob")
    group = key_of(jobs[0].job_type)
    page = Page(bob.get(f"/aihandoff/bulk-review?by=type&group={group}&select=all").text)
    boxes = [item for item in page.all("input") if item.get("type") == "checkbox"]
    assert [item["value"] for item in boxes] == [f"{jobs[0].job_id}:{jobs[0].review_digest}"]
    assert "checked" not in boxes[0]
    words = " ".join(page.text.split())
    assert "not shown in full" in words
    assert "3 jobs of this group wait for you, on all pages." in words
    assert "Next jobs" in words
    assert "on exactly what this page shows" not in words
    page = Page(bob.get(f"/aihandoff/bulk-review?by=type&group={key_of('other')}&select=all").text)
    assert [item for item in page.all("input") if item.get("type") == "checkbox" and "checked" in item]
    assert "on exactly what this page shows" in page.text


def test_a_form_with_too_many_rows_is_refused_and_shown_back(login: Login, ledger: Ledger) -> None:
    schema = {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}
    request = {"model": "m", "text": {"format": {"type": "json_schema", "name": "rows", "schema": schema}}}
    job = ask(ledger, draft(ledger, replace(job_spec(), request=request), [["a"]]))
    bob = login("bob")
    path = f"/aihandoff/jobs/{job.job_id}/edit"
    form = Page(bob.get(path).text).form
    rows = " ".join(map(str, range(600)))
    many = {"rows:value": rows} | {f"rows:value/{row}": rows for row in range(600)}
    answer = bob.post(path, data={**form, **many, "value/0/0": "my text", "do": "save"})
    assert answer.status_code == 409
    page = Page(answer.text)
    assert "too many inputs to show. Nothing was saved." in page.text
    assert "my text" in page.text
    assert ledger.job(job.job_id).revision == 1
