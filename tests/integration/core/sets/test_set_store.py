"""Sets on a real ledger: opened in bulk, counted from their jobs, and read by what is to be done."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.errors import HandoffError, JobCancelled, RequestError, SetNotFound
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.submission_store import Opened
from airflow_provider_aihandoff.core.jobs.attach import Attachment
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import JobSpec
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut, LeftOutItem, LeftOutReason
from airflow_provider_aihandoff.core.sets.set_store import SetSpec, Undecided
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from tests.factories import CHEAP, LEASE, OWNER, TEST, approve, ask, draft, job_spec

SPEC = SetSpec("publishing", "nightly", "alice", OWNER, timedelta(hours=1))


@pytest.fixture
def job_set(ledger: Ledger) -> JobSet:
    return ledger.sets.open(SPEC, LeftOut())


def specs(job_set: JobSet, *keys: str) -> list[JobSpec]:
    return [job_spec(job_key=key, set_id=job_set.set_id, deadline=job_set.deadline) for key in keys]


def opened(ledger: Ledger, job_set: JobSet, *keys: str) -> list[Opened]:
    found = ledger.submission.open_many(specs(job_set, *keys))
    assert all(isinstance(each, Opened) for each in found)
    return [each for each in found if isinstance(each, Opened)]


def send(ledger: Ledger, each: Opened, response_id: str) -> None:
    job = each.job
    intent = ledger.submission.intend(job.job_id, job.revision, actor=TEST, lease=LEASE, worst=CHEAP)
    assert intent.token is not None
    ledger.submission.submitted(
        job.job_id,
        job.revision,
        token=intent.token,
        response_id=response_id,
        status=ResponseStatus.QUEUED,
        actor=TEST,
    )


def fail(ledger: Ledger, each: Opened, **error: object) -> None:
    output = Output(ResponseStatus.COMPLETED, error={"kind": "mismatch", **error})
    ledger.outputs.store(each.job.job_id, each.job.revision, output, actor=TEST, reason="it does not match")


def test_jobs_that_are_opened_in_bulk_are_ordinary_jobs_that_name_their_set(ledger: Ledger, job_set: JobSet) -> None:
    made = opened(ledger, job_set, "c", "a", "b")
    assert [each.job.job_key for each in made] == ["c", "a", "b"]
    assert {each.next for each in made} == {Attachment.SUBMIT}
    for each in made:
        record = ledger.record(each.job.job_id)
        assert record.job.set_id == job_set.set_id
        assert (record.revision.state, record.revision.deadline) == ("queued", job_set.deadline)
        assert first_break(record.events, record.job) is None
        alone = ledger.submission.open(job_spec(job_key=each.job.job_key, owner=replace(OWNER, try_number=2)))
        assert alone.job.job_id == each.job.job_id
        assert alone.job.set_id == job_set.set_id, "a task for it alone leaves it in its set"


def test_those_that_exist_are_attached_to_and_one_that_is_refused_holds_up_no_other(
    ledger: Ledger, job_set: JobSet
) -> None:
    stored = draft(ledger, job_spec(job_key="stored"))
    gone = ledger.submission.open(job_spec(job_key="gone")).job
    ledger.cancels.cancel(gone.job_id, actor=TEST, reason="a test")
    found = ledger.submission.open_many([*specs(job_set, "new", "stored", "gone"), job_spec(job_key="")])
    new, known, cancelled, nameless = found
    assert isinstance(new, Opened)
    assert isinstance(known, Opened)
    assert (known.next, known.job.job_id, known.job.set_id) == (Attachment.DONE, stored.job_id, job_set.set_id)
    assert isinstance(cancelled, JobCancelled)
    assert isinstance(nameless, RequestError)
    assert ledger.job(gone.job_id).set_id is None


def test_opening_again_makes_no_job_twice(ledger: Ledger, job_set: JobSet) -> None:
    first = opened(ledger, job_set, "a", "b")
    again = opened(ledger, job_set, "a", "b", "c")
    assert [each.job.job_id for each in again][:2] == [each.job.job_id for each in first]
    assert ledger.sets.total(job_set.set_id).jobs == 3


def test_a_set_is_found_by_its_key_and_a_retry_does_not_move_its_deadline(ledger: Ledger, job_set: JobSet) -> None:
    left_out = LeftOut()
    left_out.add(LeftOutItem(2, LeftOutReason.DUPLICATE, "its key is taken"))
    again = ledger.sets.open(replace(SPEC, deadline=timedelta(hours=9)), left_out)
    assert (again.set_id, again.deadline, again.items) == (job_set.set_id, job_set.deadline, None)
    assert ledger.sets.opened(job_set.set_id, 5, left_out).without_job.number == 1
    other = ledger.sets.open(replace(SPEC, owner=replace(OWNER, run_id="manual__2")), LeftOut())
    assert other.set_id == job_set.set_id
    assert other.deadline > job_set.deadline, "another run has its own time"
    with pytest.raises(SetNotFound):
        ledger.sets.read(99)


def test_its_counts_are_those_of_its_jobs(ledger: Ledger, job_set: JobSet) -> None:
    queued, running, failed, stored = opened(ledger, job_set, "a", "b", "c", "d")
    draft(ledger, job_spec(job_key="of no set"), response_id="resp_0")
    for number, each in enumerate((running, failed, stored), start=1):
        send(ledger, each, f"resp_{number}")
    fail(ledger, failed)
    ledger.outputs.store(stored.job.job_id, 1, Output(ResponseStatus.COMPLETED, "Text"), actor=TEST)
    total = ledger.sets.total(job_set.set_id)
    assert dict(total.states) == {
        JobState.QUEUED: 1,
        JobState.RUNNING: 1,
        JobState.FAILED: 1,
        JobState.REVIEW: 1,
    }
    assert (dict(total.failures), total.drafted, total.jobs) == ({"mismatch": 1}, 2, 4)
    assert ledger.sets.in_flight(job_set.set_id) == 1
    found = ledger.search.page(JobFilter(set_id=job_set.set_id, states=(JobState.QUEUED,)))
    assert [each.job_id for each in found] == [queued.job.job_id]
    assert [each.set_id for each in ledger.sets.newest(dag_ids=["publishing"])] == [job_set.set_id]
    assert ledger.sets.newest(dag_ids=["other"]) == []


def test_what_may_be_sent_is_what_is_queued_and_what_may_have_another_revision(ledger: Ledger, job_set: JobSet) -> None:
    queued, mismatched, final, exhausted = opened(ledger, job_set, "a", "b", "c", "d")
    for number, each in enumerate((mismatched, final, exhausted), start=1):
        send(ledger, each, f"resp_{number}")
    fail(ledger, mismatched)
    fail(ledger, final, final=True)
    fail(ledger, exhausted)
    again = ledger.submission.open(replace(specs(job_set, "d")[0], max_revisions=2))
    send(ledger, again, "resp_9")
    fail(ledger, again)

    def keys(*, retries: bool = True, incomplete: bool = False) -> list[str]:
        found = ledger.sets.sendable(job_set.set_id, limit=10, retries=retries, incomplete=incomplete)
        return [each.job_key for each in found]

    assert keys() == ["a", "b"]
    assert keys(retries=False) == ["a"]
    ledger.submission.intend(queued.job.job_id, 1, actor=TEST, lease=LEASE, worst=CHEAP)
    assert keys(retries=False) == [], "another attempt is sending it"
    assert [each.job_id for each in ledger.sets.waiting(job_set.set_id)] == [queued.job.job_id]


def test_that_responses_have_ended_is_recorded_together_and_once(ledger: Ledger, job_set: JobSet) -> None:
    made = opened(ledger, job_set, "a", "b", "c")
    for number, each in enumerate(made, start=1):
        send(ledger, each, f"resp_{number}")
    ledger.outputs.store(made[2].job.job_id, 1, Output(ResponseStatus.COMPLETED, "Text"), actor=TEST)
    ended = [(each.job.job_id, 1, ResponseStatus.COMPLETED) for each in made]
    assert ledger.sets.record_ended([*ended, (999, 1, ResponseStatus.FAILED)], actor=TEST) == 2
    assert ledger.sets.record_ended(ended, actor=TEST) == 0
    assert ledger.sets.ended(job_set.set_id) == [(made[0].job.job_id, 1), (made[1].job.job_id, 1)]
    for each in made:
        record = ledger.record(each.job.job_id)
        assert first_break(record.events, record.job) is None
    assert [event.event for event in ledger.record(made[0].job.job_id).events][-1] == "response ended"
    assert ledger.sets.waiting(job_set.set_id, ended=False) == []


def test_many_jobs_take_few_round_trips_and_none_is_lost(ledger: Ledger, job_set: JobSet) -> None:
    keys = [f"k{number}" for number in range(300)]
    assert len({each.job.job_id for each in opened(ledger, job_set, *keys)}) == 300
    pages, after = 0, 0
    while page := ledger.sets.jobs(job_set.set_id, [JobState.QUEUED], after=after, limit=100):
        pages, after = pages + 1, page[-1].job_id
    assert pages == 3


def test_two_that_open_the_same_jobs_at_once_make_each_once(ledger: Ledger, job_set: JobSet) -> None:
    found = ledger.submission.open_many(specs(job_set, "b", "a"))
    other = ledger.submission.open_many(specs(job_set, "a", "b"))
    assert not any(isinstance(each, HandoffError) for each in (*found, *other))
    assert ledger.sets.total(job_set.set_id).jobs == 2


def test_it_says_how_many_jobs_wait_for_a_decision(ledger: Ledger, job_set: JobSet) -> None:
    decided, asked, changed, unasked = (
        draft(ledger, each, response_id=f"resp_{each.job_key}")
        for each in specs(job_set, "decided", "asked", "changed", "unasked")
    )
    approve(ledger, ask(ledger, decided))
    waiting = [ask(ledger, job) for job in (asked, changed)]
    ledger.reviews.decide(
        changed.job_id,
        "request changes",
        digest=str(waiting[1].review_digest),
        person=Person("bob"),
        comment="Shorter.",
    )
    assert ledger.sets.undecided(job_set.set_id) == Undecided(asked=2, unasked=1)
    assert unasked.state is JobState.REVIEW
