"""Adds the span of a review, which has ended: from asking people until the decision, however many days lie between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core import spans

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Job


def add_review_span(ledger: Ledger, job: Job) -> None:
    """Add the span of a job's review, if there was one. Names no one."""
    if not spans.is_used() or job.review_asked_at is None:
        return
    decisions = ledger.record(job.job_id).decisions
    if not decisions:
        return
    decision = decisions[-1]
    attributes: dict[str, spans.Value | None] = {
        "aihandoff.job.type": job.job_type,
        "aihandoff.revision": decision.revision,
        "aihandoff.decision.verdict": decision.verdict,
        "aihandoff.decision.by": decision.decided_by_kind,
    }
    spans.ended("aihandoff.review", ledger, job.job_id, attributes, began=job.review_asked_at, at=decision.created_at)
