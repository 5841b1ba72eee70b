"""The review queue: the jobs that wait for a decision, as one user sees them, and bulk decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_aihandoff.core.errors import StaleBulkDecision
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, PendingReview
from airflow_provider_aihandoff.core.review.rules import has_voted, rules_of
from airflow_provider_aihandoff.web.api.schemas import BulkVerdict
from airflow_provider_aihandoff.web.auth import Viewer, visible_dag_ids


@dataclass(frozen=True)
class QueuedReview:
    """A job that waits for a decision.

    :param why_not: why the viewer may not decide on it; None where they may.
    :param voted: the viewer has approved its current version, and more approvals are needed.
    """

    review: PendingReview
    why_not: str | None
    voted: bool

    @property
    def mine(self) -> bool:
        """Whether it waits for the viewer, and has a plan to decide on."""
        return self.review.review_digest is not None and self.why_not is None and not self.voted

    @property
    def votes(self) -> list[str]:
        """Who has approved its current version."""
        return [voter.label for voter in self.review.voters]

    @property
    def approvals(self) -> int:
        """How many approvals it needs."""
        return rules_of(self.review).approvals


def review_queue(
    ledger: Ledger, viewer: Viewer, dag_id: str | None = None, run_id: str | None = None
) -> list[QueuedReview]:
    """The jobs that wait for a decision, as far as the viewer may see them: theirs first, and the oldest first.

    :param dag_id: only jobs of this Dag.
    :param run_id: only jobs of this run.
    """
    pending = ledger.reviews.pending(dag_ids=visible_dag_ids(ledger, viewer, dag_id), run_id=run_id)
    why_not = viewer.why_not_each(pending)
    found = [QueuedReview(review, why_not[review.job_id], has_voted(viewer.actor, review.voters)) for review in pending]
    return sorted(found, key=lambda queued: not queued.mine)


def decide_in_bulk(
    ledger: Ledger, viewer: Viewer, choices: Sequence[tuple[int, str]], verdict: BulkVerdict, comment: str | None
) -> list[Job]:
    """Record one decision for each of many jobs, or none.

    :param choices: ``(job id, review digest)``.
    :raises StaleBulkDecision: some of them have changed, or the viewer may not decide on them; it says which.
    """
    ids = [job_id for job_id, _ in choices]
    dags = {job.job_id: job.dag_id for job in ledger.search.by_id(ids)}
    visible, answerable = set(viewer.visible(set(dags.values()))), set(viewer.answerable(set(dags.values())))
    refused = {
        job_id: "there is no such job, or you may not see it." for job_id in ids if dags.get(job_id) not in visible
    }
    refused |= {
        job_id: "you can see it, but you cannot decide on it."
        for job_id in ids
        if job_id not in refused and dags[job_id] not in answerable
    }
    if refused:
        raise StaleBulkDecision(
            f"you may not decide on {len(refused)} of {len(ids)} jobs.",
            stale=refused,
            written="No decision was recorded. No external write was made.",
            remedy="Remove these jobs and send the others again.",
        )
    return ledger.reviews.decide_many(choices, verdict, person=viewer.person, comment=comment)
