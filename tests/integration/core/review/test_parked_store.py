"""Which parked tasks have something to do, and which are forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job, Owner
from airflow_provider_aihandoff.core.review.required_action import required_action
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reviewers
from tests.factories import ask, draft, effect_plan

OWNER = Owner("publishing", "manual__1", "approve", -1, str(uuid4()), 1)


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return ask(ledger, draft(ledger))


def park(ledger: Ledger, job: Job, owner: Owner = OWNER, **times: datetime) -> None:
    now = ledger.now()
    when = {"not_before": now, "until": now + timedelta(hours=1), **times}
    ledger.parked_tasks.park(owner, job, required_action(job, [], "/aihandoff/jobs/1"), **when)


def due(ledger: Ledger, job_ids: list[int] | None = None) -> list[str]:
    return [str(each.ti_id) for each in ledger.parked_tasks.due(job_ids, 10)]


def decided(ledger: Ledger, job: Job) -> None:
    ledger.reviews.decide(job.job_id, "approve", digest=str(job.review_digest), person=Person("bob"))


def changed(ledger: Ledger, job: Job) -> None:
    ask(ledger, job, effect_plan(url="http://elsewhere"))


def reassigned(ledger: Ledger, job: Job) -> None:
    carol = Reviewers(Approvers(users=("carol",)))
    ledger.reassignments.reassign(job.job_id, carol, actor=Actor.user("bob"), reason="he is on holiday")


@pytest.mark.parametrize("happens", [decided, changed, reassigned])
def test_a_task_is_due_once_its_question_is_no_longer_asked_like_this(ledger: Ledger, job: Job, happens: Any) -> None:
    park(ledger, job)
    assert due(ledger) == []
    happens(ledger, job)
    assert due(ledger) == due(ledger, [job.job_id]) == [OWNER.ti_id]
    assert due(ledger, [job.job_id + 1]) == []


def test_a_task_is_due_when_its_time_has_come_and_never_before_the_minimum_wait(ledger: Ledger, job: Job) -> None:
    park(ledger, job, until=ledger.now())
    assert due(ledger) == [OWNER.ti_id]
    park(ledger, job, until=ledger.now(), not_before=ledger.now() + timedelta(hours=1))
    assert due(ledger) == []


def test_what_a_task_had_asked_is_read_until_it_is_forgotten(ledger: Ledger, job: Job) -> None:
    park(ledger, job)
    read = ledger.parked_tasks.read(OWNER.ti_id)
    assert read is not None
    assert (read.job_id, read.digest, read.owner) == (job.job_id, job.review_digest, OWNER)
    assert read.asked == required_action(job, [], "/aihandoff/jobs/1")
    assert ledger.parked_tasks.read(OWNER.ti_id) == read
    ledger.parked_tasks.remove([read])
    assert ledger.parked_tasks.read(OWNER.ti_id) is None


def test_a_task_that_airflow_does_not_know_is_kept_until_it_was_due_for_ten_minutes(ledger: Ledger, job: Job) -> None:
    park(ledger, job, until=ledger.now() - timedelta(minutes=9))
    ledger.parked_tasks.remove_unknown(ledger.parked_tasks.due(None, 10))
    assert due(ledger) == [OWNER.ti_id]
    park(ledger, job, until=ledger.now() - timedelta(minutes=11))
    ledger.parked_tasks.remove_unknown(ledger.parked_tasks.due(None, 10))
    assert due(ledger) == []


def test_what_is_parked_again_meanwhile_is_not_forgotten(ledger: Ledger, job: Job) -> None:
    park(ledger, job, until=ledger.now())
    (before,) = ledger.parked_tasks.due(None, 10)
    park(ledger, job, until=ledger.now())
    ledger.parked_tasks.remove([before])
    assert due(ledger) == [OWNER.ti_id]
    ledger.parked_tasks.remove(ledger.parked_tasks.due(None, 10))
    assert due(ledger) == []


def test_every_parked_task_is_read_page_by_page(ledger: Ledger, job: Job) -> None:
    owners = [replace(OWNER, map_index=number, ti_id=str(uuid4())) for number in range(5)]
    for owner in owners:
        park(ledger, job, owner)
    for size in (1, 2, 5, 10):
        read = [str(each.ti_id) for page in ledger.parked_tasks.pages(size) for each in page]
        assert sorted(read) == sorted(owner.ti_id for owner in owners)
    assert len(next(ledger.parked_tasks.pages(10, newer=60))) == 5
    assert [*ledger.parked_tasks.pages(10, newer=0)] == []
