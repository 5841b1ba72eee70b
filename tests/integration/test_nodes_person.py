"""The person of a run on many nodes resolves what waits for one, from the logs outside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.states import EffectState, RevisionState
from nodes.person import resolve_writes, send_lost_requests_again
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec


def never() -> Iterable[Mapping[str, Any]]:
    pytest.fail("nothing waits, so that no log is to be read")


def with_lost_request(ledger: Ledger) -> Job:
    """A job whose request may have been accepted; it waits for the webhook until its deadline."""
    job = ledger.submission.open(job_spec(on_lost="wait")).job
    intent = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
    assert intent.token is not None
    ledger.submission.submission_lost(job.job_id, 1, token=intent.token, actor=TEST, reason="the worker was killed")
    return job


def response(job: Job) -> dict[str, Any]:
    return {"response": {"metadata": {"aihandoff_job": str(job.job_id), "aihandoff_revision": "1"}}}


def test_a_lost_request_of_which_openai_knows_nothing_is_sent_again(ledger: Ledger) -> None:
    job = with_lost_request(ledger)
    assert send_lost_requests_again(ledger, list) == {job.job_id}

    assert ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).token
    assert ledger.record(job.job_id).revisions[0].unknown_submissions == 1


def test_a_lost_request_that_has_a_response_waits_for_its_webhook(ledger: Ledger) -> None:
    job = with_lost_request(ledger)
    assert send_lost_requests_again(ledger, lambda: [{"response": {"metadata": {}}}, response(job)]) == set()
    assert ledger.record(job.job_id).revisions[0].state is RevisionState.SUBMITTING


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("APPLIED", EffectState.APPLIED), ("REFUSED", EffectState.PLANNED), (None, EffectState.PLANNED)],
)
def test_an_unknown_write_is_what_the_log_of_the_target_says(
    ledger: Ledger, outcome: str | None, state: EffectState
) -> None:
    plan = effect_plan()
    job = approve(ledger, ask(ledger, draft(ledger), plan))
    claim = ledger.effects.claim(job.job_id, plan, lease=timedelta(0), actor=TEST)
    ledger.effects.lose(claim, error="no answer", actor=TEST)
    request = {"idempotency_key": claim.effect.effect_key, "record_id": "post-1", "outcome": outcome}

    assert resolve_writes(ledger, lambda: [request] if outcome else []) == {job.job_id}
    assert ledger.record(job.job_id).effects[0].state is state


def test_where_nothing_waits_for_a_person_no_log_is_read(ledger: Ledger) -> None:
    approve(ledger, ask(ledger, draft(ledger), effect_plan()))
    assert resolve_writes(ledger, never) == send_lost_requests_again(ledger, never) == set()
