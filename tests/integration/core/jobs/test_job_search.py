"""Each filter finds exactly its jobs, in pages that leave out none and repeat none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.errors import FilterRefused
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter, Need, Sort
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from tests.factories import LEASE, OWNER, TEST, approve, ask, effect_plan, job_spec, submit

Change = Callable[..., None]


@pytest.fixture
def change(conninfo: dict[str, Any]) -> Change:
    """Changes rows behind the code's back: what takes hours otherwise."""

    def run(statement: str, *values: Any) -> None:
        with psycopg.connect(**conninfo) as connection:
            assert connection.execute(statement, values).rowcount > 0

    return run


def found(ledger: Ledger, wanted: JobFilter, **more: Any) -> list[str]:
    return [job.job_key for job in ledger.search.page(wanted, **more)]


def in_review(ledger: Ledger, key: str, job_type: str = "ticket", cost: str | None = None, **owner: Any) -> Job:
    spec = job_spec(job_type=job_type, job_key=key, owner=replace(OWNER, **owner))
    revision = submit(ledger, spec, f"resp_{key}")
    cost_usd = None if cost is None else Decimal(cost)
    output = Output(ResponseStatus.COMPLETED, "A label.", cost_usd=cost_usd)
    job = ledger.outputs.store(revision.job_id, 1, output, actor=TEST)
    return ask(ledger, job)


def claimed(ledger: Ledger, key: str, **more: Any) -> Any:
    job = approve(ledger, in_review(ledger, key, **more))
    return ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)


def failed(ledger: Ledger, key: str, reason: str, actor: Actor = TEST) -> Job:
    revision = submit(ledger, job_spec(job_key=key), f"resp_{key}")
    ledger.outputs.fail(revision.job_id, 1, actor=actor, reason=reason, error={"kind": "refused"})
    return ledger.job(revision.job_id)


def test_names_find_their_jobs_alone(ledger: Ledger) -> None:
    in_review(ledger, "a:1", dag_id="tickets", task_id="label")
    in_review(ledger, "a:2", dag_id="tickets", task_id="reply")
    in_review(ledger, "b_1", job_type="note", dag_id="notes", run_id="manual__2")
    in_review(ledger, "bx1", job_type="note", dag_id="notes")
    submit(ledger, job_spec(job_key="c", requested_by="dora"), "resp_c")

    assert found(ledger, JobFilter()) == ["c", "bx1", "b_1", "a:2", "a:1"]
    assert found(ledger, JobFilter(sort=Sort.OLDEST)) == ["a:1", "a:2", "b_1", "bx1", "c"]
    assert found(ledger, JobFilter(job_type="note")) == ["bx1", "b_1"]
    assert found(ledger, JobFilter(key="a:")) == ["a:2", "a:1"]
    assert found(ledger, JobFilter(key="b_")) == ["b_1"], "an underscore is no wildcard"
    assert found(ledger, JobFilter(key="%")) == []
    assert found(ledger, JobFilter(dag_id="notes")) == ["bx1", "b_1"]
    assert found(ledger, JobFilter(run_id="manual__2")) == ["b_1"]
    assert found(ledger, JobFilter(dag_id="tickets", task_id="reply")) == ["a:2"]
    assert found(ledger, JobFilter(requester="dora")) == ["c"]
    assert found(ledger, JobFilter(states=(JobState.RUNNING, JobState.FAILED))) == ["c"]
    assert found(ledger, JobFilter(response_id="resp_a:1")) == ["a:1"]
    assert found(ledger, JobFilter(job_type="note", key="a")) == []
    assert found(ledger, JobFilter(), dag_ids=["tickets"]) == ["a:2", "a:1"]


def test_a_task_without_its_dag_is_refused(ledger: Ledger) -> None:
    with pytest.raises(FilterRefused, match="needs a Dag"):
        ledger.search.page(JobFilter(task_id="draft"))


def test_a_reviewer_finds_what_they_decided(ledger: Ledger) -> None:
    approve(ledger, in_review(ledger, "a"))
    in_review(ledger, "b")
    assert found(ledger, JobFilter(reviewer="bob")) == ["a"]
    assert found(ledger, JobFilter(reviewer="bo")) == []


def test_age_is_counted_from_when_a_job_was_made(ledger: Ledger, change: Change) -> None:
    for key in ("new", "old"):
        in_review(ledger, key)
    change("UPDATE aihandoff.jobs SET created_at = now() - interval '8 days' WHERE job_key = 'old'")
    week = timedelta(days=7)
    assert found(ledger, JobFilter(older_than=week)) == ["old"]
    assert found(ledger, JobFilter(newer_than=week)) == ["new"]
    assert found(ledger, JobFilter()) == ["new", "old"]


def test_cost_is_the_sum_of_what_is_known_of_all_revisions(ledger: Ledger, change: Change) -> None:
    in_review(ledger, "dear", cost="0.75")
    in_review(ledger, "cheap", cost="0.25")
    in_review(ledger, "unknown")
    twice = in_review(ledger, "twice", cost="0.30")
    assert twice.review_digest is not None
    change(
        """INSERT INTO aihandoff.revisions (job_id, number, author, author_kind, state, conn_id, request,
            request_digest, deadline, created_at, cost_usd)
        SELECT job_id, 2, 'model', 'model', 'failed', conn_id, request, request_digest, deadline, now(), 0.30
        FROM aihandoff.revisions WHERE job_id = %s""",
        twice.job_id,
    )
    assert found(ledger, JobFilter(sort=Sort.COST)) == ["dear", "twice", "cheap"]
    assert found(ledger, JobFilter(min_cost_usd=Decimal("0.5"))) == ["twice", "dear"]


def test_retries_are_requests_that_were_sent_again(ledger: Ledger) -> None:
    in_review(ledger, "once")
    job = ledger.submission.open(job_spec(job_key="again")).job
    for number in (1, 2):
        ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
        event_seq = ledger.job(job.job_id).event_seq
        assert ledger.abandoned.count_lost(job.job_id, 1, as_of=event_seq, actor=TEST, reason="it died")
        ledger.submission.resolve(job.job_id, send_again=True, seen=number, actor=TEST, why="nothing in the logs")
    ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
    submissions = ledger.revision(job.job_id, 1).submissions
    assert submissions > 1
    retries = {job.job_key: job.retries for job in ledger.search.page(JobFilter())}
    assert retries == {"once": 0, "again": submissions - 1}
    assert found(ledger, JobFilter(sort=Sort.RETRIES)) == ["again"]
    assert found(ledger, JobFilter(min_retries=submissions - 1)) == ["again"]
    assert found(ledger, JobFilter(min_retries=submissions)) == []


def test_an_external_id_finds_the_job_that_wrote_it(ledger: Ledger) -> None:
    ledger.effects.confirm(claimed(ledger, "a"), external_id="post-7", result=None, actor=TEST)
    ledger.effects.confirm(claimed(ledger, "b"), external_id="post-77", result=None, actor=TEST)
    (job,) = ledger.search.page(JobFilter(external_id="post-7"))
    assert (job.job_key, job.external_ids) == ("a", ["post-7"])


def test_a_list_has_the_addresses_of_the_records_in_the_order_of_their_ids(ledger: Ledger) -> None:
    linked = replace(effect_plan("a"), external_url="https://cms.example/posts/{external_id}")
    plans = [linked, effect_plan("b"), replace(linked, name="c", plan_digest="c")]
    job = approve(ledger, ask(ledger, in_review(ledger, "links"), *plans))
    for plan, external_id in zip(plans, ("a/1", "b-2", ".."), strict=True):
        claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id=external_id, result=None, actor=TEST)
    (found_job,) = ledger.search.page(JobFilter())
    assert found_job.external_ids == ["a/1", "b-2", ".."]
    assert found_job.external_links == ["https://cms.example/posts/a%2F1", None, None]
    assert ledger.search.by_id([job.job_id]) == [found_job]


def test_words_of_an_error_are_found_in_jobs_and_in_effects(ledger: Ledger) -> None:
    failed(ledger, "a", "the model refused: quota exceeded")
    ledger.effects.lose(claimed(ledger, "b"), error="ReadTimeout: the read timed out", actor=TEST)
    assert found(ledger, JobFilter(error="Quota")) == ["a"]
    assert found(ledger, JobFilter(error="timed readtimeout")) == ["b"]
    assert found(ledger, JobFilter(error="the")) == ["b", "a"]
    assert found(ledger, JobFilter(error="quota timed")) == []
    assert found(ledger, JobFilter(error="...")) == []


def test_an_error_of_any_length_can_be_recorded(ledger: Ledger) -> None:
    long = " ".join(f"word{number}" for number in range(400_000))
    failed(ledger, "a", f"first {long}")
    assert found(ledger, JobFilter(error="first word7")) == ["a"]


class TestNeeds:
    """What needs a person now."""

    def test_an_unknown_effect(self, ledger: Ledger) -> None:
        ledger.effects.lose(claimed(ledger, "a"), error="no answer", actor=TEST)
        claimed(ledger, "b")
        assert found(ledger, JobFilter(need=Need.UNKNOWN_EFFECT)) == ["a"]

    def test_a_failed_job_unless_a_person_failed_it_or_it_is_long_ago(self, ledger: Ledger, change: Change) -> None:
        failed(ledger, "a", "refused")
        failed(ledger, "b", "given up", actor=Actor.user("bob"))
        failed(ledger, "c", "refused")
        change("UPDATE aihandoff.jobs SET updated_at = now() - interval '15 days' WHERE job_key = 'c'")
        assert found(ledger, JobFilter(need=Need.FAILED)) == ["a"]

    def test_a_response_past_its_deadline(self, ledger: Ledger, change: Change) -> None:
        submit(ledger, job_spec(job_key="a"), "resp_a")
        submit(ledger, job_spec(job_key="b"), "resp_b")
        change("UPDATE aihandoff.revisions SET deadline = now() - interval '1 s' WHERE response_id = 'resp_a'")
        assert found(ledger, JobFilter(need=Need.PAST_DEADLINE)) == ["a"]

    def test_a_job_that_waits_after_a_lost_request(self, ledger: Ledger) -> None:
        submit(ledger, job_spec(job_key="b"), "resp_b")
        job = ledger.submission.open(job_spec(job_key="a")).job
        ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
        assert found(ledger, JobFilter(need=Need.HELD)) == []
        event_seq = ledger.job(job.job_id).event_seq
        assert ledger.abandoned.count_lost(job.job_id, 1, as_of=event_seq, actor=TEST, reason="it died")
        assert found(ledger, JobFilter(need=Need.HELD)) == ["a"]

    def test_a_review_that_is_overdue(self, ledger: Ledger, change: Change) -> None:
        in_review(ledger, "a")
        in_review(ledger, "b")
        change("UPDATE aihandoff.jobs SET review_deadline = now() - interval '1 s' WHERE job_key = 'a'")
        assert found(ledger, JobFilter(need=Need.REVIEW_OVERDUE)) == ["a"]

    def test_a_claim_that_has_expired(self, ledger: Ledger, change: Change) -> None:
        claimed(ledger, "a")
        claimed(ledger, "b")
        change(
            """UPDATE aihandoff.effects SET claim_until = now() - interval '1 s' FROM aihandoff.jobs
            WHERE jobs.job_id = effects.job_id AND job_key = 'a'"""
        )
        assert found(ledger, JobFilter(need=Need.CLAIM_EXPIRED)) == ["a"]

    def test_a_response_that_runs_far_longer_than_its_type_usually_does(self, ledger: Ledger, change: Change) -> None:
        for number in range(20):
            in_review(ledger, f"known:{number}")
        change("UPDATE aihandoff.revisions SET submitted_at = completed_at - interval '60 s'")
        for key, minutes in (("a", 4), ("b", 2)):
            submit(ledger, job_spec(job_type="ticket", job_key=key), f"resp_{key}")
            ago = datetime.now(UTC) - timedelta(minutes=minutes)
            change("UPDATE aihandoff.revisions SET submitted_at = %s WHERE response_id = %s", ago, f"resp_{key}")
        assert found(ledger, JobFilter(need=Need.SLOW_RESPONSE)) == ["a"]
        submit(ledger, job_spec(job_type="new", job_key="c"), "resp_c")
        change("UPDATE aihandoff.revisions SET submitted_at = now() - interval '1 day' WHERE response_id = 'resp_c'")
        assert found(ledger, JobFilter(need=Need.SLOW_RESPONSE)) == ["a"], "of its type, nothing is known"


@pytest.mark.parametrize("sort", Sort)
def test_pages_leave_out_no_job_and_repeat_none(ledger: Ledger, change: Change, sort: Sort) -> None:
    for number in range(7):
        in_review(ledger, f"{number}", cost="0.5" if number % 2 else "0.25")
    change("UPDATE aihandoff.jobs SET created_at = date_trunc('day', created_at), retries = 1 + job_id %% 2")
    whole = found(ledger, JobFilter(sort=sort))
    pages: list[str] = []
    after = None
    while page := ledger.search.page(JobFilter(sort=sort), after=after, limit=2):
        pages += [job.job_key for job in page]
        after = page[-1].job_id
    assert pages == whole
    assert sorted(pages) == list("0123456")


def test_a_page_after_a_job_that_is_not_there_is_empty(ledger: Ledger) -> None:
    in_review(ledger, "a")
    assert found(ledger, JobFilter(), after=99) == []


def test_the_newest_webhook_of_a_job_is_named(ledger: Ledger) -> None:
    submit(ledger, job_spec(job_key="a"), "resp_a")
    submit(ledger, job_spec(job_key="b"), "resp_b")
    event = {"type": "response.completed", "data": {"id": "resp_a"}}
    receipt = ledger.inbox.receive(Delivery("wh_1", "openai_default", "response.completed", "resp_a", event))
    times = {job.job_key: job.last_webhook_at for job in ledger.search.page(JobFilter())}
    assert times == {"a": receipt.entry.received_at, "b": None}


def test_what_needs_a_person_is_counted_up_to_a_bound(ledger: Ledger) -> None:
    for number in range(5):
        failed(ledger, f"{number}", "refused")
    ledger.effects.lose(claimed(ledger, "a"), error="no answer", actor=TEST)
    nothing = dict.fromkeys(Need, 0)
    dag_ids = [OWNER.dag_id]
    counts = ledger.search.count_needs(dag_ids, at_most=100)
    assert counts == {**nothing, Need.FAILED: 5, Need.UNKNOWN_EFFECT: 1}
    assert ledger.search.count_needs(dag_ids, at_most=3)[Need.FAILED] == 3
    assert ledger.search.count_needs([], at_most=3) == nothing
