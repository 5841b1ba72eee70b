"""The whole line on a real ledger, without Airflow: submit, store, ask, decide, claim, confirm."""

from __future__ import annotations

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan


def test_a_job_goes_from_draft_to_completed_and_its_history_is_unbroken(ledger: Ledger) -> None:
    job = draft(ledger)
    assert job.state is JobState.REVIEW
    job = approve(ledger, ask(ledger, job, effect_plan("store"), effect_plan("post")))
    assert job.state is JobState.APPROVED
    for name in ("store", "post"):
        claim = ledger.effects.claim(job.job_id, effect_plan(name), lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id=f"id-{name}", result={"status": 201}, actor=TEST)
    record = ledger.record(job.job_id)
    assert record.job.state is JobState.COMPLETED
    assert [effect.external_id for effect in record.effects] == ["id-store", "id-post"]
    assert [event.event for event in record.events] == [
        "created",
        "submit intended",
        "submitted",
        "output stored",
        "planned",
        "approved",
        "effect claimed",
        "effect applied",
        "effect claimed",
        "effect applied",
        "all applied",
    ]
    assert first_break(record.events) is None
