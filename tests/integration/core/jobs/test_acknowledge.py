"""A failed job that a person has seen needs no one any more, until it fails again; its history says who and why."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.errors import CannotAcknowledge
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.jobs.explanation import explain
from airflow_provider_aihandoff.core.jobs.job_filter import Need
from airflow_provider_aihandoff.core.jobs.needs import needs_of
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from tests.factories import LEASE, TEST, ask, draft, job_spec, submit

BOB = Actor.user("bob")


def failed(ledger: Ledger, response_id: str = "resp_1", actor: Actor = TEST) -> Job:
    """The job, whose next revision failed."""
    revision = submit(ledger, job_spec(), response_id)
    ledger.outputs.fail(revision.job_id, revision.number, actor=actor, reason="no quota", error={"kind": "failed"})
    return ledger.job(revision.job_id)


def needing(ledger: Ledger) -> int:
    return needs_of(ledger, None, silence=120).jobs[Need.FAILED]


def test_it_leaves_what_needs_a_person_and_stays_failed(ledger: Ledger) -> None:
    job = failed(ledger)
    assert needing(ledger) == 1
    after = ledger.acknowledgements.acknowledge(job.job_id, revision=1, actor=BOB, reason="a typo of the customer")
    assert (after.state, after.state_reason) == (JobState.FAILED, "no quota")
    assert needing(ledger) == 0


def test_its_history_says_who_when_and_why(ledger: Ledger) -> None:
    job = failed(ledger)
    ledger.acknowledgements.acknowledge(job.job_id, revision=1, actor=BOB, reason="a typo of the customer")
    record = ledger.record(job.job_id)
    last = record.events[-1]
    assert (last.event, last.by, last.reason) == ("acknowledged", BOB, "a typo of the customer")
    assert last.at == record.job.acknowledged_at
    assert first_break(record.events, record.job) is None
    words = explain(record)
    assert "The job failed at" in words.now
    assert "no quota" in words.now
    assert "Acknowledged by bob at" in words.now
    assert "a typo of the customer" in words.now
    assert "acknowledge" not in " ".join(map(str, words.steps))


def test_a_second_time_changes_nothing(ledger: Ledger) -> None:
    job = failed(ledger)
    first = ledger.acknowledgements.acknowledge(job.job_id, revision=1, actor=BOB, reason="a typo")
    again = ledger.acknowledgements.acknowledge(job.job_id, revision=1, actor=Actor.user("alice"), reason="another")
    assert again == first


def test_it_comes_back_when_it_fails_again(ledger: Ledger) -> None:
    job = failed(ledger)
    ledger.acknowledgements.acknowledge(job.job_id, revision=1, actor=BOB, reason="a typo")
    again = failed(ledger, "resp_2")
    assert (again.job_id, again.acknowledged_at) == (job.job_id, None)
    assert needing(ledger) == 1
    assert "acknowledged" not in explain(ledger.record(job.job_id)).now


def test_what_comes_late_and_what_attaches_does_not_bring_it_back(ledger: Ledger) -> None:
    job = failed(ledger)
    ledger.acknowledgements.acknowledge(job.job_id, revision=1, actor=BOB, reason="a typo")
    ledger.outputs.store(job.job_id, 1, Output(ResponseStatus.COMPLETED, "late", usage={"input_tokens": 1}), actor=TEST)
    assert ledger.record(job.job_id).events[-1].event == "output late"
    assert needing(ledger) == 0


def test_a_failure_that_was_not_seen_is_not_acknowledged(ledger: Ledger) -> None:
    job = failed(ledger)
    failed(ledger, "resp_2")
    with pytest.raises(CannotAcknowledge, match="failed again since you saw it: revision 2, and not 1"):
        ledger.acknowledgements.acknowledge(job.job_id, revision=1, actor=BOB, reason="a typo")
    assert needing(ledger) == 1


def test_only_a_failed_job_can_be(ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger))
    with pytest.raises(CannotAcknowledge, match="it is review: only a failed job") as error:
        ledger.acknowledgements.acknowledge(job.job_id, revision=1, actor=BOB, reason="a typo")
    assert "Nothing was recorded" in str(error.value)
    assert ledger.job(job.job_id) == job


def test_who_fails_a_job_has_seen_it(ledger: Ledger) -> None:
    job = ledger.submission.open(job_spec()).job
    intent = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
    assert intent.token is not None
    ledger.submission.submission_lost(job.job_id, 1, token=intent.token, actor=TEST, reason="a time-out")
    ledger.submission.resolve(job.job_id, send_again=False, seen=1, actor=BOB, why="not wanted any more")
    assert ledger.job(job.job_id).state is JobState.FAILED
    assert needing(ledger) == 0


def test_a_review_that_no_one_ended_in_time_needs_one_when_its_job_failed(ledger: Ledger) -> None:
    job = ask(ledger, draft(ledger), deadline=timedelta(0))
    assert job.review_digest is not None
    ledger.reviews.expire(job.job_id, digest=job.review_digest, fail=True)
    assert needing(ledger) == 1
