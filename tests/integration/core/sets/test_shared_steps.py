"""Steps of many jobs of a set in one transaction: for each what the step of a single job does, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.submission_store import Intent, Opened
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from airflow_provider_aihandoff.core.sets.set_record import LeftOut
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.sets.shared_steps import SharedSteps
from airflow_provider_aihandoff.core.sets.together import Answer, Left, Wish
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus, RevisionState
from tests.factories import CHEAP, LEASE, OWNER, TEST, job_spec
from tests.integration.core.webhooks.inboxes import deliver
from tests.waiting import until

COMPLETED = ResponseStatus.COMPLETED
FREE: dict[str, Any] = {"approval": "not required", "approval_reason": "it is a test"}


def opened(ledger: Ledger, number: int = 3, **changes: Any) -> list[Job]:
    """New jobs of a set."""
    found = ledger.sets.open(SetSpec("publishing", "nightly", "alice", OWNER, timedelta(hours=1)), LeftOut())
    specs = [job_spec(job_key=f"t{index}", set_id=found.set_id, **changes) for index in range(number)]
    made = ledger.submission.open_many(specs)
    return [each.job for each in made if isinstance(each, Opened)]


def wishes(jobs: Sequence[Job]) -> list[Wish]:
    return [Wish(job.job_id, job.revision, uuid4(), CHEAP.cost_usd) for job in jobs]


def permitted(ledger: Ledger, jobs: Sequence[Job], lease: timedelta = LEASE) -> list[Intent]:
    found = ledger.together.intend(wishes(jobs), actor=TEST, lease=lease)
    return [each for each in found if each is not None]


def answers(intents: Sequence[Intent]) -> list[Answer]:
    return [
        Answer(each.revision.job_id, each.revision.number, token, f"resp_{each.revision.job_id}", ResponseStatus.QUEUED)
        for each in intents
        if (token := each.token) is not None
    ]


def left(jobs: Sequence[Job], **output: Any) -> list[Left]:
    return [Left(job.job_id, 1, f"resp_{job.job_id}", Output(COMPLETED, "A kettle.", **output)) for job in jobs]


def running(ledger: Ledger, number: int = 3, **changes: Any) -> list[Job]:
    """Jobs whose responses run."""
    jobs = opened(ledger, number, **changes)
    assert None not in ledger.together.submitted(answers(permitted(ledger, jobs)), actor=TEST)
    return jobs


def unbroken(ledger: Ledger, jobs: Sequence[Job]) -> bool:
    records = [ledger.record(job.job_id) for job in jobs]
    return all(first_break(record.events, record.job) is None for record in records)


def test_jobs_go_from_intent_to_output_together_each_with_its_own_history(ledger: Ledger) -> None:
    jobs = running(ledger)
    done = ledger.together.store(left(jobs, cost_usd=Decimal("0.1")), actor=TEST, complete=False)
    assert [job.state for job in done if job is not None] == [JobState.REVIEW] * 3
    for job in jobs:
        record = ledger.record(job.job_id)
        events = [event.event for event in record.events]
        assert events == ["created", "submit intended", "submitted", "output stored"]
        assert (record.revision.output, record.revision.cost_usd) == ("A kettle.", Decimal("0.1"))
        assert (record.revision.submissions, record.revision.worst_cost_usd) == (1, CHEAP.cost_usd)
    assert unbroken(ledger, jobs)


def test_jobs_that_need_no_approval_and_have_no_effect_are_completed_at_once(ledger: Ledger) -> None:
    jobs = running(ledger, **FREE)
    done = ledger.together.store(left(jobs), actor=TEST, complete=True)
    assert [job.state for job in done if job is not None] == [JobState.COMPLETED] * 3
    (decision,) = ledger.record(jobs[0].job_id).decisions
    assert (decision.verdict, decision.decided_by, decision.comment) == (
        "approve",
        "approval not required",
        "it is a test",
    )
    assert unbroken(ledger, jobs)


def test_those_with_effects_are_approved(ledger: Ledger) -> None:
    done = ledger.together.store(left(running(ledger, **FREE)), actor=TEST, complete=False)
    assert [job.state for job in done if job is not None] == [JobState.APPROVED] * 3


def test_each_request_of_a_group_is_permitted_once(ledger: Ledger) -> None:
    jobs = opened(ledger)
    asked = wishes(jobs)
    first = ledger.together.intend(asked, actor=TEST, lease=LEASE)
    assert all(intent is not None and intent.token == wish.token for intent, wish in zip(first, asked, strict=True))
    assert [each.left > 3_000 for each in first if each is not None] == [True] * 3
    assert ledger.together.intend(wishes(jobs), actor=TEST, lease=LEASE) == [None] * 3
    again = ledger.together.intend(asked, actor=TEST, lease=LEASE)
    assert [each.token for each in again if each is not None] == [wish.token for wish in asked], (
        "its commit was in doubt"
    )
    assert all(each.left > 0 for each in again if each is not None)
    assert {ledger.revision(job.job_id, 1).submissions for job in jobs} == {1}


def test_a_group_that_dies_before_its_answers_leaves_an_unknown_submission_for_each(ledger: Ledger) -> None:
    jobs = opened(ledger)
    assert len(permitted(ledger, jobs, lease=timedelta(0))) == 3
    for job in jobs:
        ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE, worst=CHEAP)
        assert ledger.revision(job.job_id, 1).unknown_submissions == 1


def test_one_that_is_not_plain_holds_up_no_other(ledger: Ledger) -> None:
    jobs = opened(ledger)
    ledger.cancels.cancel(jobs[1].job_id, actor=TEST, reason="a test")
    found = ledger.together.intend(wishes(jobs), actor=TEST, lease=LEASE)
    assert [each is not None for each in found] == [True, False, True]


@pytest.mark.parametrize("what", ["pause", "budget", "limit", "bound of the job"])
def test_what_something_may_hold_is_left_to_the_step_of_a_single_job(ledger: Ledger, what: str) -> None:
    match what:
        case "pause":
            ledger.pauses.begin(Scope(conn_id="openai_default"), writes=False, reason="a test", actor=TEST)
        case "budget":
            ledger.budgets.add(checked_spec("all", Decimal(1), owner="alice"), why="a test", actor=TEST)
        case "limit":
            ledger.rate_limits.set(LimitKind.OPENAI, "openai_default", Measure.REQUESTS, 1, reason="a test", actor=TEST)
    bound: dict[str, Any] = {"max_cost_usd": Decimal(1)} if what == "bound of the job" else {}
    assert permitted(ledger, opened(ledger, **bound)) == []


def test_what_is_about_other_work_holds_nothing_up(ledger: Ledger) -> None:
    ledger.pauses.begin(Scope(job_type="report"), writes=False, reason="a test", actor=TEST)
    ledger.budgets.add(checked_spec("r", Decimal(1), scope={"job_type": "report"}, owner="a"), why="a test", actor=TEST)
    assert len(permitted(ledger, opened(ledger))) == 3


def test_an_answer_without_its_permission_is_left_to_the_step_of_a_single_job(ledger: Ledger) -> None:
    jobs = opened(ledger)
    given = answers(permitted(ledger, jobs))
    given[1] = replace(given[1], token=uuid4())
    found = ledger.together.submitted(given, actor=TEST)
    assert [each is not None for each in found] == [True, False, True]
    assert ledger.revision(jobs[1].job_id, 1).state is RevisionState.SUBMITTING


def test_ids_that_are_stored_again_change_nothing(ledger: Ledger) -> None:
    jobs = opened(ledger)
    given = answers(permitted(ledger, jobs))
    first = ledger.together.submitted(given, actor=TEST)
    assert ledger.together.submitted(given, actor=TEST) == first
    assert [event.event for event in ledger.record(jobs[0].job_id).events].count("submitted") == 1


def test_a_webhook_that_came_first_is_applied_when_the_id_is_stored(ledger: Ledger) -> None:
    jobs = opened(ledger)
    given = answers(permitted(ledger, jobs))
    deliver(ledger, "wh_1", given[0].response_id)
    steps = SharedSteps(ledger, actor=TEST, lease=LEASE, most=4, complete=False)
    for each in given:
        where = {"token": each.token, "response_id": each.response_id, "status": each.status, "actor": TEST}
        assert steps.submitted(each.job_id, each.number, **where) is not None  # type: ignore[arg-type]
    assert ledger.revision(jobs[0].job_id, 1).response_status is COMPLETED
    assert ledger.revision(jobs[1].job_id, 1).response_status is ResponseStatus.QUEUED


def test_outputs_are_stored_together_and_once(ledger: Ledger) -> None:
    jobs = running(ledger)
    first = left(jobs)
    other = [*first[:2], replace(first[2], response_id="resp_of_another")]
    assert [each is not None for each in ledger.together.store(other, actor=TEST, complete=False)] == [
        True,
        True,
        False,
    ]
    assert ledger.together.store(first[:2], actor=TEST, complete=False) == [None, None]
    assert ledger.job(jobs[2].job_id).state is JobState.RUNNING


def test_an_output_of_a_job_that_is_being_cancelled_is_left_to_the_step_of_a_single_job(ledger: Ledger) -> None:
    jobs = running(ledger, 1)
    ledger.cancels.cancel(jobs[0].job_id, actor=TEST, reason="a test")
    assert ledger.job(jobs[0].job_id).state is JobState.RUNNING
    steps = SharedSteps(ledger, actor=TEST, lease=LEASE, most=4, complete=False)
    (what,) = left(jobs)
    job = steps.store(what.job_id, 1, what.output, actor=TEST, reason=None, response_id=what.response_id)
    assert job.state is JobState.CANCELLED


def test_no_more_requests_have_a_permission_than_are_sent_at_once(ledger: Ledger) -> None:
    jobs = opened(ledger, 5)
    steps = SharedSteps(ledger, actor=TEST, lease=LEASE, most=2, complete=False)
    steps.others = lambda: 2
    may_end, permitted_ones = threading.Event(), list[int]()

    def send(job: Job) -> None:
        with steps.sending(job.job_id):
            steps.intend(job.job_id, 1, actor=TEST, lease=LEASE, worst=CHEAP)
            permitted_ones.append(job.job_id)
            assert may_end.wait(30)

    with ThreadPoolExecutor(5) as threads:
        sent = [threads.submit(send, job) for job in jobs]
        until(lambda: len(permitted_ones) == 2)
        submitting = [ledger.revision(job.job_id, 1).state is RevisionState.SUBMITTING for job in jobs]
        may_end.set()
        for each in sent:
            each.result(60)
    assert sum(submitting) == 2
    assert sorted(permitted_ones) == [job.job_id for job in jobs]


def test_what_a_budget_has_reserved_is_settled(ledger: Ledger) -> None:
    ledger.budgets.add(checked_spec("all", Decimal(1), owner="alice"), why="a test", actor=TEST)
    (job,) = opened(ledger, 1)
    steps = SharedSteps(ledger, actor=TEST, lease=LEASE, most=4, complete=False)
    intent = steps.intend(job.job_id, 1, actor=TEST, lease=LEASE, worst=CHEAP)
    (answer,) = answers([intent])
    where = {"token": answer.token, "response_id": answer.response_id, "status": answer.status, "actor": TEST}
    steps.submitted(job.job_id, 1, **where)  # type: ignore[arg-type]
    assert ledger.budgets.read("all").use.reserved_usd == CHEAP.cost_usd
    (what,) = left([job], cost_usd=Decimal("0.002"))
    steps.store(job.job_id, 1, what.output, actor=TEST, reason=None, response_id=what.response_id)
    use = ledger.budgets.read("all").use
    assert (use.reserved_usd, use.settled_usd) == (Decimal(0), Decimal("0.002"))


def test_a_group_that_the_database_refuses_is_done_one_by_one(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise psycopg.DataError("out of range")

    jobs = running(ledger, 1)
    monkeypatch.setattr(ledger.together, "store", refuse)
    steps = SharedSteps(ledger, actor=TEST, lease=LEASE, most=4, complete=False)
    (good,) = left(jobs)
    job = steps.store(good.job_id, 1, good.output, actor=TEST, reason=None, response_id=good.response_id)
    assert job.state is JobState.REVIEW
