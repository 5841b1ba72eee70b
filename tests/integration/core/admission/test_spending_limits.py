"""A limit of money: what one job learned, all of its connection know; one at a time finds out whether it is reached."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.admission.spending_limit_store import FIRST_TRY, LAST_TRY, TURN
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.jobs.cases import Case
from airflow_provider_aihandoff.core.jobs.explanation import case_of, explain
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from tests.factories import TEST, job_spec, submit
from tests.integration.core.admission.test_pauses import intend, opened

SAID = "OpenAI answered 429 insufficient_quota: check your plan."


def refused(ledger: Ledger, job: Job) -> None:
    """The request of a job is sent, and OpenAI says that the limit is reached."""
    token = intend(ledger, job).token
    assert token is not None
    ledger.submission.not_submitted(job.job_id, job.revision, token=token, actor=TEST, reason=SAID, spent=True)


def accepted(ledger: Ledger, job: Job) -> None:
    intent = intend(ledger, job)
    assert intent.token is not None
    ledger.submission.submitted(
        job.job_id,
        job.revision,
        token=intent.token,
        response_id=f"resp_{job.job_id}",
        status=ResponseStatus.QUEUED,
        actor=TEST,
        finds_out=intent.finds_out,
    )


def pass_time(ledger: Ledger, by: timedelta) -> None:
    """Let so much time pass until the next try."""
    with psycopg.connect(**ledger._database.conninfo) as connection:
        connection.execute("UPDATE aihandoff.spending_limits SET try_at = try_at - %s", [by])


def wait(ledger: Ledger) -> timedelta:
    (limit,) = ledger.spending_limits.find()
    return limit.try_at - ledger.now()


def test_all_jobs_of_the_connection_are_held_and_no_other(ledger: Ledger) -> None:
    first, second = opened(ledger, "note:1"), opened(ledger, "note:2")
    other = opened(ledger, "note:3", conn_id="openai_other")
    refused(ledger, first)

    assert [intend(ledger, job).token for job in (first, second)] == [None, None]
    assert intend(ledger, other).token is not None
    (limit,) = ledger.spending_limits.find()
    assert (limit.conn_id, limit.said, limit.tries) == ("openai_default", SAID, 1)
    record = ledger.record(second.job_id)
    assert case_of(record) is Case.SPENT
    assert "check your plan." in str(explain(record))
    assert "airflow aihandoff spending-limits try openai_default" in str(explain(record))
    assert (record.revision.submissions, record.revision.unknown_submissions) == (0, 0)


def test_one_request_at_a_time_finds_out_at_growing_intervals(ledger: Ledger) -> None:
    jobs = [opened(ledger, f"note:{number}") for number in range(3)]
    refused(ledger, jobs[0])
    expected = FIRST_TRY
    for _ in range(6):
        assert wait(ledger) == pytest.approx(expected, abs=timedelta(seconds=30))
        pass_time(ledger, expected)
        # It is the first one's, also while it sends; the others have to wait.
        assert intend(ledger, jobs[1]).token is None
        refused(ledger, jobs[0])
        expected = min(LAST_TRY, 2 * expected)
    assert wait(ledger) == pytest.approx(LAST_TRY, abs=timedelta(seconds=30))
    assert all(intend(ledger, job).token is None for job in jobs)


def test_a_request_that_is_accepted_lets_all_others_continue(ledger: Ledger) -> None:
    jobs = [opened(ledger, f"note:{number}") for number in range(3)]
    refused(ledger, jobs[0])
    for job in jobs:
        intend(ledger, job)
    pass_time(ledger, FIRST_TRY)
    accepted(ledger, jobs[0])
    assert ledger.spending_limits.find() == []
    assert not ledger.record(jobs[1].job_id).revision.is_held
    assert all(intend(ledger, job).token is not None for job in jobs[1:])


def test_another_job_finds_out_where_the_first_one_does_not(ledger: Ledger) -> None:
    first, second = opened(ledger, "note:1"), opened(ledger, "note:2")
    refused(ledger, first)
    pass_time(ledger, FIRST_TRY + TURN)
    intent = intend(ledger, second)
    assert (intent.token is not None, intent.finds_out) == (True, True)
    assert intend(ledger, first).token is None


def test_refusals_at_the_same_time_count_as_one(ledger: Ledger) -> None:
    jobs = [opened(ledger, f"note:{number}") for number in range(4)]
    tokens = [intend(ledger, job).token for job in jobs]
    for job, token in zip(jobs, tokens, strict=True):
        assert token is not None
        ledger.submission.not_submitted(job.job_id, 1, token=token, actor=TEST, reason=SAID, spent=True)
    (limit,) = ledger.spending_limits.find()
    assert (limit.tries, limit.try_job_id) == (1, jobs[0].job_id)


def test_an_answer_that_was_on_its_way_lifts_no_limit(ledger: Ledger) -> None:
    first, second = opened(ledger, "note:1"), opened(ledger, "note:2")
    token = intend(ledger, second).token
    assert token is not None
    refused(ledger, first)
    sent: dict[str, Any] = {"token": token, "response_id": "resp_2", "status": ResponseStatus.QUEUED, "actor": TEST}
    ledger.submission.submitted(second.job_id, 1, **sent)
    assert len(ledger.spending_limits.find()) == 1


def test_a_person_who_has_raised_it_lets_the_one_that_waits_longest_find_out(ledger: Ledger) -> None:
    first, second = opened(ledger, "note:1"), opened(ledger, "note:2")
    refused(ledger, first)
    intend(ledger, second)
    ledger.cancels.cancel(first.job_id, actor=TEST, reason="no longer wanted")
    limit = ledger.spending_limits.try_now("openai_default")
    assert limit is not None
    assert limit.try_job_id == second.job_id
    accepted(ledger, second)
    assert ledger.spending_limits.find() == []
    assert ledger.spending_limits.try_now("openai_default") is None


def test_a_response_that_fails_for_it_holds_the_others_too(ledger: Ledger) -> None:
    revision = submit(ledger, job_spec())
    error = {"kind": "failed", "code": "insufficient_quota", "spent": True}
    output = Output(ResponseStatus.FAILED, error=error)
    reason = "OpenAI: insufficient_quota: check your plan"
    job = ledger.outputs.store(revision.job_id, 1, output, actor=TEST, reason=reason)
    assert job.state is JobState.FAILED
    held = intend(ledger, opened(ledger, "note:2"))
    assert (held.token, held.revision.held_kind) == (None, "spending limit")
