"""The review queue: the jobs that wait for a decision, as one user sees them, and bulk decisions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from airflow_provider_aihandoff.core.errors import StaleBulkDecision
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, PendingReview, QueueGroup
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
        """Who has approved its current version, as far as the viewer may know that yet."""
        if self.is_blind:
            return []
        return [voter.label for voter in self.review.voters]

    @property
    def is_blind(self) -> bool:
        """Whether the viewer is not to know yet who has approved it."""
        return rules_of(self.review).is_blind and not self.voted

    @property
    def approvals(self) -> int:
        """How many approvals it needs."""
        return rules_of(self.review).approvals


@dataclass(frozen=True)
class Queue:
    """The jobs that wait for a decision, as far as the viewer may see them.

    :param groups: those of like jobs, and whether they wait for the viewer.
    """

    groups: Sequence[tuple[QueueGroup, bool]]

    @cached_property
    def ids(self) -> list[int]:
        """The ids of all jobs: those first that wait for the viewer, and of these the oldest first."""
        placed = (
            (not mine, place, job_id)
            for group, mine in self.groups
            for place, job_id in zip(group.places, group.job_ids, strict=True)
        )
        return [job_id for _, _, job_id in sorted(placed)]

    @property
    def mine(self) -> int:
        """How many of them wait for the viewer."""
        return sum(len(group.job_ids) for group, mine in self.groups if mine)

    @cached_property
    def mine_ids(self) -> frozenset[int]:
        """The ids of those that wait for the viewer."""
        return frozenset(self.ids[: self.mine])

    @cached_property
    def digests(self) -> dict[int, str | None]:
        """The review digest of each job, where they were asked for."""
        return {
            job_id: digest
            for group, _ in self.groups
            for job_id, digest in zip(group.job_ids, group.digests, strict=False)
        }


def review_queue(
    ledger: Ledger,
    viewer: Viewer,
    dag_id: str | None = None,
    run_id: str | None = None,
    *,
    set_id: int | None = None,
    digests: bool = False,
) -> Queue:
    """The jobs that wait for a decision, as far as the viewer may see them: who may decide is asked once a group.

    :param dag_id: only jobs of this Dag.
    :param run_id: only jobs of this run.
    :param set_id: only jobs of this set.
    :param digests: the review digest of each as well.
    """
    dag_ids = visible_dag_ids(ledger, viewer, dag_id)
    groups = ledger.review_queue.groups(dag_ids=dag_ids, run_id=run_id, set_id=set_id, digests=digests)
    why_not = viewer.why_not_each(groups)
    return Queue(
        [
            (group, group.planned and why is None and not has_voted(viewer.actor, group.voters))
            for group, why in zip(groups, why_not, strict=True)
        ]
    )


def queued(ledger: Ledger, viewer: Viewer, job_ids: Sequence[int]) -> list[QueuedReview]:
    """Those of the jobs that still wait for a decision, in this order."""
    found = {review.job_id: review for review in ledger.reviews.pending_of(job_ids)}
    reviews = [found[job_id] for job_id in job_ids if job_id in found]
    return [
        QueuedReview(review, why, has_voted(viewer.actor, review.voters))
        for review, why in zip(reviews, viewer.why_not_each(reviews), strict=True)
    ]


def decide_in_bulk(
    ledger: Ledger, viewer: Viewer, choices: Sequence[tuple[int, str]], verdict: BulkVerdict, comment: str | None
) -> list[Job]:
    """Record one decision for each of many jobs, or none.

    :param choices: ``(job id, review digest)``.
    :return: the jobs as they are now, without their input and permissions.
    :raises StaleBulkDecision: some of them have changed, or the viewer may not decide on them; it says which.
    """
    ids = [job_id for job_id, _ in choices]
    dags = ledger.review_queue.dags(ids)
    refused = dict(_refused(viewer, ids, dags))
    if refused:
        raise StaleBulkDecision(
            f"you may not decide on {len(refused)} of {len(ids)} jobs.",
            stale=refused,
            written="No decision was recorded. No external write was made.",
            remedy="Remove these jobs and send the others again.",
        )
    return ledger.reviews.decide_many(choices, verdict, person=viewer.person, comment=comment)


def _refused(viewer: Viewer, ids: Iterable[int], dags: dict[int, str]) -> Iterator[tuple[int, str]]:
    """Why the viewer may not decide on some of the jobs, whatever their authors say."""
    visible, answerable = set(viewer.visible(set(dags.values()))), set(viewer.answerable(set(dags.values())))
    for job_id in ids:
        if dags.get(job_id) not in visible:
            yield job_id, "there is no such job, or you may not see it."
        elif dags[job_id] not in answerable:
            yield job_id, "you can see it, but you cannot decide on it."
