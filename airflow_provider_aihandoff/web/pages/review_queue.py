"""Whose turn it is: what waits for a decision, as one person sees it, and deciding on many jobs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from airflow_provider_aihandoff.core.errors import StaleBatch
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, PendingReview
from airflow_provider_aihandoff.core.review.rules import distinct, rules_of
from airflow_provider_aihandoff.web.api.schemas import BatchVerdict
from airflow_provider_aihandoff.web.auth import Viewer, visible_dag_ids


@dataclass(frozen=True)
class Turn:
    """A job that waits for a decision.

    :param why_not: why the viewer may not decide on it; None where they may.
    :param voted: the viewer has approved what it says now, and others have to as well.
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
        """Who has approved what it says now."""
        return [voter.label for voter in distinct(self.review.voters)]

    @property
    def approvals(self) -> int:
        """How many have to approve it."""
        return rules_of(self.review).approvals


def turns(ledger: Ledger, viewer: Viewer, dag_id: str | None = None, run_id: str | None = None) -> list[Turn]:
    """What waits for a decision and the viewer may see: theirs first, and the one that waits longest first.

    :param dag_id: only jobs of this Dag.
    :param run_id: only jobs of this run.
    """
    pending = ledger.reviews.pending(dag_ids=visible_dag_ids(ledger, viewer, dag_id), run_id=run_id)
    why_not = viewer.why_not_each(pending)
    found = [Turn(review, why_not[review.job_id], viewer.actor in review.voters) for review in pending]
    return sorted(found, key=lambda turn: not turn.mine)


def decide_together(
    ledger: Ledger, viewer: Viewer, choices: Sequence[tuple[int, str]], verdict: BatchVerdict, comment: str | None
) -> list[Job]:
    """Record one answer to many jobs, or none.

    :param choices: ``(job id, review digest)``.
    :raises StaleBatch: some of them are not what was seen any more, or not the viewer's to decide on; it says which.
    """
    ids = [job_id for job_id, _ in choices]
    dags = {job.job_id: job.dag_id for job in ledger.summaries(job_ids=ids, limit=len(ids))}
    visible, answerable = set(viewer.visible(set(dags.values()))), set(viewer.answerable(set(dags.values())))
    refused = {job_id: "there is no such job that you may see." for job_id in ids if dags.get(job_id) not in visible}
    refused |= {
        job_id: "you may see it, but not decide on it."
        for job_id in ids
        if job_id not in refused and dags[job_id] not in answerable
    }
    if refused:
        raise StaleBatch(
            f"{len(refused)} of {len(ids)} jobs are not yours to decide on.",
            stale=refused,
            written="None of the decisions was recorded, and nothing was written outside.",
            remedy="Leave these out.",
        )
    return ledger.reviews.decide_many(choices, verdict, person=viewer.person, comment=comment)
