"""Pauses: what is permitted after one is held, what it is not about goes on, and after its end everything continues."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.errors import JobFailed, PauseNotFound
from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.jobs.cases import Case
from airflow_provider_aihandoff.core.jobs.explanation import case_of, explain
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus, RevisionState
from tests.factories import LEASE, TEST, job_spec, submit

BOB = Actor.terminal("bob")
EVERYTHING = Scope()


def opened(ledger: Ledger, key: str = "note:1", **changes: Any) -> Job:
    return ledger.submission.open(job_spec(job_key=key, **changes)).job


def intend(ledger: Ledger, job: Job) -> Intent:
    return ledger.submission.intend(job.job_id, job.revision, actor=TEST, lease=LEASE)


def pause(ledger: Ledger, scope: Scope = EVERYTHING, *, writes: bool = False) -> int:
    return ledger.pauses.begin(scope, writes=writes, reason="the model writes nonsense.", actor=BOB).pause_id


def events(ledger: Ledger, job: Job) -> list[str]:
    return [event.event for event in ledger.record(job.job_id).events]


def test_a_request_is_held_and_sent_when_the_pause_has_ended(ledger: Ledger) -> None:
    job = opened(ledger)
    pause_id = pause(ledger)

    held = intend(ledger, job)

    assert held.token is None
    assert (held.revision.state, held.revision.is_held) == (RevisionState.QUEUED, True)
    assert held.revision.submit_lease_until == held.revision.deadline
    assert held.wait == pytest.approx(3600, abs=60)
    assert held.revision.held_why == (
        "cli:bob has paused requests to the model (everything): the model writes nonsense."
    )
    record = ledger.record(job.job_id)
    assert case_of(record) is Case.PAUSED
    assert f"airflow aihandoff resume {pause_id} --reason REASON" in str(explain(record))

    ended = ledger.pauses.end(pause_id, reason="fixed", actor=Actor.user("alice"))
    assert (ended.ended_by, ended.ended_reason) == (Actor.user("alice"), "fixed")
    assert case_of(ledger.record(job.job_id)) is not Case.PAUSED
    sent = intend(ledger, job)
    assert sent.token is not None
    assert not sent.revision.is_held
    assert events(ledger, job) == ["created", "held", "submit intended"]


def test_asking_again_while_it_is_held_writes_no_second_line(ledger: Ledger) -> None:
    job = opened(ledger)
    pause(ledger)
    since = [intend(ledger, job).revision.held_since for _ in range(3)]
    assert len(set(since)) == 1
    assert events(ledger, job) == ["created", "held"]


def test_another_pause_holds_what_the_first_one_no_longer_does(ledger: Ledger) -> None:
    job = opened(ledger)
    first = pause(ledger)
    second = pause(ledger, Scope(job_type="publishing"))
    intend(ledger, job)
    ledger.pauses.end(first, reason="fixed", actor=BOB)
    held = intend(ledger, job)
    assert (held.token, held.revision.held_name) == (None, str(second))
    assert events(ledger, job) == ["created", "held", "held"]


@pytest.mark.parametrize(
    ("scope", "holds"),
    [
        (EVERYTHING, True),
        (Scope(conn_id="openai_default"), True),
        (Scope(conn_id="openai_other"), False),
        (Scope(job_type="publishing"), True),
        (Scope(job_type="tickets"), False),
        (Scope(dag_id="publishing"), True),
        (Scope(dag_id="tickets"), False),
        (Scope("openai_default", "publishing", "publishing"), True),
        (Scope("openai_default", "publishing", "tickets"), False),
    ],
    ids=str,
)
def test_a_pause_holds_what_matches_all_that_it_names(ledger: Ledger, scope: Scope, holds: bool) -> None:
    job = opened(ledger)
    pause(ledger, scope)
    assert (intend(ledger, job).token is None) is holds


def test_what_is_being_sent_when_a_pause_begins_is_recorded_as_ever(ledger: Ledger) -> None:
    job = opened(ledger)
    sending = intend(ledger, job)
    assert sending.token is not None
    pause(ledger)
    sent: dict[str, Any] = {
        "token": sending.token,
        "response_id": "resp_1",
        "status": ResponseStatus.QUEUED,
        "actor": TEST,
    }
    ledger.submission.submitted(job.job_id, 1, **sent)
    assert ledger.job(job.job_id).state is JobState.RUNNING
    pauses = ledger.pauses.find()
    assert ledger.pauses.held(pauses[0]).running == 1
    assert ledger.pauses.running(EVERYTHING) == [job.job_id]
    assert ledger.pauses.running(Scope(job_type="tickets")) == []


def test_a_lost_request_may_not_be_sent_again_during_a_pause(ledger: Ledger) -> None:
    job = opened(ledger, on_lost="resend")
    sending = intend(ledger, job)
    assert sending.token is not None
    ledger.submission.submission_lost(job.job_id, 1, token=sending.token, actor=TEST, reason="no answer")
    pause(ledger)
    held = intend(ledger, job)
    assert (held.token, held.revision.unknown_submissions) == (None, 1)
    assert case_of(ledger.record(job.job_id)) is Case.PAUSED


def test_a_job_that_is_held_until_its_deadline_fails_and_says_what_held_it(ledger: Ledger) -> None:
    job = opened(ledger, deadline=datetime.now(UTC) + timedelta(seconds=1))
    pause(ledger)
    intend(ledger, job)
    with ledger._database._pool.connection() as connection:
        connection.execute("UPDATE aihandoff.revisions SET deadline = clock_timestamp()")
    with pytest.raises(JobFailed, match="it was held: cli:bob has paused requests to the model"):
        intend(ledger, job)


def test_a_held_job_can_be_cancelled(ledger: Ledger) -> None:
    job = opened(ledger)
    pause(ledger)
    intend(ledger, job)
    ledger.cancels.cancel(job.job_id, actor=BOB, reason="no longer wanted")
    record = ledger.record(job.job_id)
    assert (record.job.state, record.revision.held_kind) == (JobState.CANCELLED, None)


def test_a_pause_is_listed_with_what_it_holds_until_it_ends(ledger: Ledger) -> None:
    pause_id = pause(ledger)
    for number in range(3):
        intend(ledger, opened(ledger, f"note:{number}"))
    (found,) = ledger.pauses.find()
    assert (found.by, str(found.scope), found.stops) == (BOB, "everything", "requests to the model")
    assert ledger.pauses.held(found).requests == 3
    ledger.pauses.end(pause_id, reason="fixed", actor=BOB)
    assert ledger.pauses.held(found).requests == 0
    assert ledger.pauses.find() == []
    (ended,) = ledger.pauses.find(ended=True)
    assert ended.ended_at is not None


def test_no_pause_in_force_is_left_out_of_the_list_however_many_there_are(ledger: Ledger) -> None:
    pauses = [pause(ledger, Scope(job_type=f"type {number}")) for number in range(102)]
    ledger.pauses.end(pauses[0], reason="fixed", actor=BOB)
    assert [each.pause_id for each in ledger.pauses.find(ended=True)] == [*pauses[:0:-1], pauses[0]]


def test_the_end_of_a_pause_is_recorded_once(ledger: Ledger) -> None:
    pause_id = pause(ledger)
    first = ledger.pauses.end(pause_id, reason="fixed", actor=BOB)
    assert ledger.pauses.end(pause_id, reason="again", actor=Actor.user("alice")) == first
    with pytest.raises(PauseNotFound, match="has no pause 99"):
        ledger.pauses.end(99, reason="fixed", actor=BOB)


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_a_pause_and_its_end_need_a_reason(ledger: Ledger, reason: str) -> None:
    with pytest.raises(ValueError, match="needs a reason"):
        ledger.pauses.begin(EVERYTHING, writes=False, reason=reason, actor=BOB)
    with pytest.raises(ValueError, match="needs a reason"):
        ledger.pauses.end(pause(ledger), reason=reason, actor=BOB)


def test_a_name_in_the_scope_must_not_be_empty(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="must not be empty"):
        ledger.pauses.begin(Scope(dag_id=""), writes=False, reason="stop", actor=BOB)


def test_a_job_that_runs_is_not_held(ledger: Ledger) -> None:
    revision = submit(ledger, job_spec())
    pause(ledger)
    assert not ledger.revision(revision.job_id, 1).is_held
