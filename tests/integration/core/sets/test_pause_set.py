"""A pause of one set holds its requests and its writes, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.errors import EffectHeld, PauseNotFound
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.sets.pause_set import pause_set, pauses_of, resume_set
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, job_spec

BOB = Actor.user("bob")


def made(ledger: Ledger, key: str = "nightly") -> JobSet:
    return ledger.sets.open(SetSpec("publishing", key, "alice", OWNER, timedelta(hours=1)), LeftOut())


def job_of(ledger: Ledger, key: str, found: JobSet | None) -> Job:
    return ledger.submission.open(job_spec(job_key=key, set_id=None if found is None else found.set_id)).job


def is_held(ledger: Ledger, job: Job) -> bool:
    return ledger.submission.intend(job.job_id, job.revision, actor=TEST, lease=LEASE).token is None


def test_a_pause_of_a_set_holds_its_requests_alone_until_it_is_resumed(ledger: Ledger) -> None:
    one, other = made(ledger), made(ledger, "another")
    mine, of_other, alone = job_of(ledger, "a", one), job_of(ledger, "b", other), job_of(ledger, "c", None)
    pause = pause_set(ledger, one, reason="wrong prompt", actor=BOB)
    assert str(pause.scope) == f"Dag {one.dag_id}, set {one.set_id}"
    assert (is_held(ledger, mine), is_held(ledger, of_other), is_held(ledger, alone)) == (True, False, False)
    assert ledger.pauses.held(pause).requests == 1
    assert [each.pause_id for each in pauses_of(ledger, one.set_id)] == [pause.pause_id]
    assert pauses_of(ledger, other.set_id) == []
    assert ledger.sets.total(one.set_id).held == 1

    (ended,) = resume_set(ledger, one, reason="the prompt is right", actor=BOB)
    assert (ended.pause_id, ended.ended_by) == (pause.pause_id, BOB)
    assert not is_held(ledger, mine)
    assert ledger.sets.total(one.set_id).held == 0


def test_a_pause_of_a_set_holds_its_writes(ledger: Ledger) -> None:
    one, other, plan = made(ledger), made(ledger, "another"), effect_plan()
    jobs = [
        approve(ledger, ask(ledger, draft(ledger, job_spec(job_key=key, set_id=found.set_id), response_id=key), plan))
        for key, found in (("a", one), ("b", other))
    ]
    pause_set(ledger, one, reason="wrong labels", actor=BOB)
    with pytest.raises(EffectHeld, match="wrong labels"):
        ledger.effects.claim(jobs[0].job_id, plan, lease=LEASE, actor=TEST)
    assert ledger.effects.claim(jobs[1].job_id, plan, lease=LEASE, actor=TEST).effect.attempt == 1


def test_a_set_that_is_not_paused_by_itself_cannot_be_resumed(ledger: Ledger) -> None:
    found = made(ledger)
    ledger.pauses.begin(Scope(), writes=True, reason="an incident", actor=BOB)
    with pytest.raises(PauseNotFound, match="is not paused by itself"):
        resume_set(ledger, found, reason="so", actor=BOB)
    assert len(ledger.pauses.find()) == 1, "what is about more than the set stays in force"
