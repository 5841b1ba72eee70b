"""A reviewer changes the output in a form: nothing typed is lost, and what is saved is what was typed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.rules import Person, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.api import schemas
from tests.factories import approve, ask, draft
from tests.integration.web import showcase
from tests.integration.web.conftest import Login, Page
from tests.integration.web.showcase import NOTE


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return showcase.note(ledger, rules=ReviewRules())


def _page(client: TestClient, job: Job) -> Page:
    return Page(client.get(f"/aihandoff/jobs/{job.job_id}/edit").text)


def _post(client: TestClient, job: Job, form: dict[str, str], do: str = "save") -> Any:
    return client.post(f"/aihandoff/jobs/{job.job_id}/edit", data={**form, "do": do})


def _send(client: TestClient, job: Job, output: Any, **body: Any) -> Any:
    path = f"/aihandoff/api/v1/jobs/{job.job_id}/revisions"
    return client.post(path, json={"digest": job.review_digest, "output": output, **body})


def _current(ledger: Ledger, job: Job) -> Any:
    record = ledger.record(job.job_id)
    return record.revision.author, record.revision.output


def test_an_edit_is_a_revision_by_that_person_and_the_original_stays(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    page = _page(bob, job)
    answer = _post(bob, job, {**page.form, "value/title": "A <b>quiet</b> kettle", "value/price": "39.5"})
    assert (answer.status_code, answer.headers["location"]) == (303, f"/aihandoff/jobs/{job.job_id}")
    assert _current(ledger, job) == ("bob", {**NOTE, "title": "A <b>quiet</b> kettle", "price": 39.5})
    record = ledger.record(job.job_id)
    assert record.revisions[0].output == NOTE
    assert record.job.state is JobState.REVIEW
    assert record.job.review_digest is None


def test_untouched_fields_stay_byte_for_byte(login: Login, ledger: Ledger) -> None:
    output = {**NOTE, "body": "\n\nOne\r\ntwo\rthree \u202e \x00 end\n", "tagline": "  "}
    job = showcase.note(ledger, output=output, rules=ReviewRules())
    bob = login("bob")
    _post(bob, job, {**_page(bob, job).form, "value/title": "New"})
    assert _current(ledger, job) == ("bob", {**output, "title": "New"})


def test_a_page_without_a_plan_says_so_and_refreshes(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    _post(bob, job, {**_page(bob, job).form, "value/title": "New"})
    shown = bob.get(f"/aihandoff/jobs/{job.job_id}")
    assert "has not been rendered yet" in shown.text
    assert _refreshes(shown.text) == ["5"]
    assert "approve" not in Page(shown.text).buttons
    assert _refreshes(bob.get(f"/aihandoff/jobs/{job.job_id}?paused").text) == []
    assert bob.get(f"/aihandoff/jobs/{job.job_id}/edit").status_code == 303
    ask(ledger, ledger.job(job.job_id))
    assert _refreshes(bob.get(f"/aihandoff/jobs/{job.job_id}").text) == []


def _refreshes(html: str) -> list[str | None]:
    """After how many seconds a page refreshes. It has the script for that only if it does."""
    page = Page(html)
    seconds = [item["data-refresh"] for item in page.all("p") if "data-refresh" in item]
    assert len(page.all("script")) == len(seconds)
    return seconds


def test_an_invalid_edit_is_refused_and_no_text_is_lost(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    typed = {**_page(bob, job).form, "value/title": "Kept <i>title</i>", "value/price": "cheap"}
    answer = _post(bob, job, typed)
    page = Page(answer.text)
    assert answer.status_code == 422
    assert "One field is not valid. Nothing was saved." in page.text
    assert "Enter a number, such as 12 or 0.5." in page.text
    assert page.form["value/title"] == "Kept <i>title</i>"
    assert page.form["value/price"] == "cheap"
    assert page.field("digest") == job.review_digest
    answer = _post(bob, job, {**typed, "value/price": "-1"})
    assert "It must be at least 0." in Page(answer.text).text
    assert _current(ledger, job) == ("model", NOTE)


def test_checking_an_edit_saves_nothing(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    answer = _post(bob, job, {**_page(bob, job).form, "value/title": "New"}, do="check")
    assert "The form is valid" in answer.text
    assert Page(answer.text).form["value/title"] == "New"
    assert _current(ledger, job) == ("model", NOTE)


def test_the_enter_key_saves_nothing(login: Login, job: Job) -> None:
    buttons = [button.get("value") for button in _page(login("bob"), job).all("button")]
    assert buttons[0] == "check"  # the first button of a form is the one that Enter presses


def test_rows_are_added_and_removed_without_a_script(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    page = Page(_post(bob, job, {**_page(bob, job).form, "value/title": "New"}, do="add value/figures").text)
    page = Page(_post(bob, job, page.form, do="remove value/figures/0").text)
    page = Page(_post(bob, job, page.form, do="add value/colours").text)
    row = {"value/figures/301/region": "East", "value/figures/301/sales": "7", "value/figures/301/trend": "new"}
    assert _current(ledger, job) == ("model", NOTE)
    _post(bob, job, {**page.form, **row, "value/colours/301": "red"})
    figures = [NOTE["figures"][1], {"region": "East", "sales": 7, "trend": "new"}]  # type: ignore[index]
    colours = [*NOTE["colours"], "red"]  # type: ignore[misc]
    assert _current(ledger, job) == ("bob", {**NOTE, "title": "New", "figures": figures, "colours": colours})


def test_a_text_output_is_edited_as_text(login: Login, ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger, output="A kettle.\nIt boils."))
    bob = login("bob")
    page = _page(bob, job)
    assert page.form["value"] == "A kettle.\nIt boils."
    _post(bob, job, {**page.form, "value": "A kettle.\r\nIt sings."})
    assert _current(ledger, job) == ("bob", "A kettle.\nIt sings.")


def test_a_large_text_is_edited(login: Login, ledger: Ledger) -> None:
    text = "\n".join(f"word{number}" for number in range(20_000))
    job = ask(ledger, draft(ledger, output=text))
    bob = login("bob")
    _post(bob, job, {**_page(bob, job).form, "value": f"{text}\nend"})
    assert _current(ledger, job) == ("bob", f"{text}\nend")
    page = bob.get(f"/aihandoff/jobs/{job.job_id}/compare")
    assert "unchanged characters" in page.text
    assert len(page.text) < 20_000


def test_an_unchanged_edit_is_not_saved(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    answer = _post(bob, job, _page(bob, job).form)
    assert "There is nothing to save" in answer.text
    assert len(ledger.record(job.job_id).revisions) == 1


def test_an_edit_on_top_of_another_users_edit_keeps_every_word_and_shows_theirs(
    login: Login, ledger: Ledger, job: Job
) -> None:
    bob = login("bob")
    page = _page(bob, job)
    showcase.edited(ledger, job)
    answer = _post(bob, job, {**page.form, "value/title": "Bob's title", "value/price": "1"})
    shown = Page(answer.text)
    assert answer.status_code == 409
    assert "Your changes were not saved" in shown.text
    assert "it replaces revision 2" in shown.text
    assert f"/aihandoff/jobs/{job.job_id}/compare?old=1&new=2" in [link["href"] for link in shown.all("a")]
    assert shown.form["value/title"] == "Bob's title"
    assert _current(ledger, job)[0] == "carol"
    # A reviewer who has seen that may save all the same: on what the job is now.
    assert _post(bob, job, shown.form).status_code == 303
    assert _current(ledger, job) == ("bob", {**NOTE, "title": "Bob's title", "price": 1})


def test_an_edit_of_a_job_that_is_approved_by_now_is_shown_to_copy(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    page = _page(bob, job)
    approve(ledger, job)
    answer = _post(bob, job, {**page.form, "value/title": "Too late"})
    assert answer.status_code == 409
    assert "it is approved" in answer.text
    assert Page(answer.text).form["value/title"] == "Too late"
    assert "save" not in Page(answer.text).buttons
    assert ledger.job(job.job_id).state is JobState.APPROVED


def test_an_approval_of_an_output_that_was_edited_is_refused(login: Login, ledger: Ledger, job: Job) -> None:
    showcase.edited(ledger, job)
    form = {"verdict": "approve", "digest": str(job.review_digest), "comment": "Fine."}
    answer = login("bob").post(f"/aihandoff/jobs/{job.job_id}/decision", data=form)
    assert answer.status_code == 409
    assert "the output changed" in answer.text
    assert "Fine." in answer.text
    assert ledger.job(job.job_id).state is JobState.REVIEW


def test_only_one_of_a_concurrent_edit_and_approval_counts(login: Login, ledger: Ledger, job: Job) -> None:
    bob, carol = login("bob"), login("carol")
    form = {**_page(bob, job).form, "value/title": "Edited"}
    decision = {"verdict": "approve", "digest": str(job.review_digest)}
    with ThreadPoolExecutor(2) as pool:
        edit = pool.submit(_post, bob, job, form)
        approval = pool.submit(carol.post, f"/aihandoff/jobs/{job.job_id}/decision", data=decision)
    assert sorted((edit.result().status_code, approval.result().status_code)) == [303, 409]
    now = ledger.job(job.job_id)
    assert (now.state, now.revision) in ((JobState.APPROVED, 1), (JobState.REVIEW, 2))


def test_a_double_click_saves_once(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob")
    form = {**_page(bob, job).form, "value/title": "New"}
    assert [_post(bob, job, form).status_code for _ in range(2)] == [303, 303]
    assert len(ledger.record(job.job_id).revisions) == 2


@pytest.mark.parametrize(
    ("username", "rules"),
    [("vic", ReviewRules()), ("carol", ReviewRules(approvers=showcase.Approvers(users=("bob",))))],
)
def test_a_user_who_may_not_decide_may_not_edit(
    login: Login, ledger: Ledger, username: str, rules: ReviewRules
) -> None:
    job = showcase.note(ledger, rules=rules)
    client = login(username)
    form = {**_page(login("bob"), job).form, "value/title": "New"}
    assert client.get(f"/aihandoff/jobs/{job.job_id}/edit").status_code == 403
    posted = _post(client, job, form)
    assert posted.status_code == 403
    assert "New" in Page(posted.text).text
    assert _send(client, job, {**NOTE, "title": "New"}).status_code == 403
    assert _current(ledger, job) == ("model", NOTE)


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "http://evil.test"}, {}])
def test_another_site_cannot_make_a_browser_edit(
    login: Login, ledger: Ledger, job: Job, headers: dict[str, str]
) -> None:
    form = {**_page(login("bob"), job).form, "value/title": "Evil"}
    bob = login("bob", headers=headers)
    assert _post(bob, job, form).status_code == 403
    assert _send(bob, job, {**NOTE, "title": "Evil"}).status_code == 403
    assert _current(ledger, job) == ("model", NOTE)


@pytest.mark.parametrize(
    "change",
    [
        {"digest": "x"},
        {"revision": "0"},
        {"revision": "no"},
        {"do": "delete everything"},
        {"do": "add other"},
        {"do": "remove value/\x00"},
    ],
)
def test_a_malformed_form_is_refused(login: Login, ledger: Ledger, job: Job, change: dict[str, str]) -> None:
    bob = login("bob")
    form = {**_page(bob, job).form, "do": "save", "value/title": "Kept", **change}
    answer = bob.post(f"/aihandoff/jobs/{job.job_id}/edit", data=form)
    assert answer.status_code == 422
    assert "Kept" in answer.text
    assert _current(ledger, job) == ("model", NOTE)


def test_a_form_that_is_too_large_is_refused(login: Login, job: Job) -> None:
    bob = login("bob")
    answer = _post(bob, job, {"value": "x" * (16 * 2**20)})
    assert answer.status_code == 413


def test_a_program_edits_an_output(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob", bearer=True)
    answer = _send(bob, job, {**NOTE, "title": "By a program"})
    assert answer.status_code == 200
    assert answer.json()["job"]["review_digest"] is None
    assert [item["author"] for item in answer.json()["revisions"]] == ["model", "bob"]
    documented = schemas.JobRecord.model_validate_json(answer.content)
    assert documented.model_dump(mode="json") == answer.json()
    first = bob.get(f"/aihandoff/api/v1/jobs/{job.job_id}/revisions/1").json()
    assert first["output"] == NOTE
    assert bob.get(f"/aihandoff/api/v1/jobs/{job.job_id}/revisions/9").status_code == 404


def test_an_invalid_edit_by_rest_is_refused_with_field_errors(login: Login, ledger: Ledger, job: Job) -> None:
    bob = login("bob", bearer=True)
    answer = _send(bob, job, {**NOTE, "price": -1, "colours": [7]})
    assert answer.status_code == 422
    assert {error["field"] for error in answer.json()["errors"]} == {"output.price", "output.colours.0"}
    assert _send(bob, job, NOTE).json()["type"] == "cannot-change"
    stale = _send(bob, job, {**NOTE, "title": "x"}, digest="0" * 64)
    assert (stale.json()["type"], stale.json()["digest"]) == ("stale-decision", job.review_digest)
    assert _current(ledger, job) == ("model", NOTE)


class TestCompare:
    def test_words_that_changed_are_marked(self, login: Login, ledger: Ledger, job: Job) -> None:
        showcase.edited(ledger, job)
        answer = login("vic").get(f"/aihandoff/jobs/{job.job_id}/compare")
        page = Page(answer.text)
        assert "From revision 1, by the model" in page.text
        assert "to revision 2, by carol" in page.text
        assert '<ins><span class="hidden">added: </span> quiet<' in answer.text
        assert "Unchanged: Tagline, Price, Colours, Figures, Warning." in page.text

    def test_any_two_revisions_can_be_compared(self, login: Login, ledger: Ledger, job: Job) -> None:
        now = showcase.edited(ledger, job)
        ledger.reviews.edit(job.job_id, digest=str(now.review_digest), output=NOTE, person=Person("bob"))
        vic = login("vic")
        assert "The two revisions are the same." in vic.get(f"/aihandoff/jobs/{job.job_id}/compare?old=1&new=3").text
        assert "From revision 2, by carol" in vic.get(f"/aihandoff/jobs/{job.job_id}/compare?old=2&new=3").text
        assert vic.get(f"/aihandoff/jobs/{job.job_id}/compare?old=99&new=-1").status_code == 422
        assert vic.get(f"/aihandoff/jobs/{job.job_id}/compare?old=99").status_code == 200

    def test_a_single_revision_has_nothing_to_compare(self, login: Login, job: Job) -> None:
        assert "only one revision" in login("vic").get(f"/aihandoff/jobs/{job.job_id}/compare").text
