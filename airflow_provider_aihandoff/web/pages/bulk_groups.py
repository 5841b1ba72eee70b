"""The groups of a bulk review, and the jobs of one: all of them, however many, narrowed by what their outputs hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.pages.bulk_table import GroupBy, group_of, key_of, shape_of
from airflow_provider_aihandoff.web.pages.facets import Facet, FacetCounts, matches
from airflow_provider_aihandoff.web.pages.review_queue import Queue


@dataclass(frozen=True)
class Groups:
    """The groups of the review queue.

    :param names: the name of the group of each job, by its id, in the order of the queue.
    :param group: the key of the one that is shown; None for none.
    """

    names: dict[int, str]
    group: str | None

    @cached_property
    def name(self) -> str | None:
        """The name of the group that is shown."""
        return next((name for name in self.sizes if key_of(name) == self.group), None)

    @cached_property
    def sizes(self) -> Counter[str]:
        """How many jobs each group has."""
        return Counter(self.names.values())

    @property
    def members(self) -> list[int]:
        """The jobs of the group that is shown."""
        name = self.name
        return [] if name is None else [job_id for job_id, each in self.names.items() if each == name]


@dataclass(frozen=True)
class Members:
    """The jobs of one group, narrowed by the chosen values.

    :param digests: the review digest of each, by its id, in the order of the queue.
    :param facets: of these jobs.
    :param uncounted: how many jobs of the group have an output too large to be counted; no value narrows to them.
    """

    digests: dict[int, str | None]
    facets: list[Facet]
    uncounted: int

    @cached_property
    def ids(self) -> list[int]:
        """The jobs, in the order of the queue."""
        return list(self.digests)


def groups_of(ledger: Ledger, queue: Queue, scope: schemas.BulkScope) -> Groups:
    """Put the review queue into groups. Where there is one group alone, it is shown."""
    read: dict[int, str] = {}
    if scope.by is GroupBy.SHAPE:
        for plan in ledger.review_queue.plans(queue.ids):
            if queue.digests.get(plan.job_id, plan.review_digest) == plan.review_digest:  # as the queue was read
                read[plan.job_id] = shape_of(plan.effects)
    else:
        for group, _ in queue.groups:
            read |= dict.fromkeys(group.job_ids, group_of(scope.by, group))
    names = {job_id: read[job_id] for job_id in queue.ids if job_id in read}
    keys = [key_of(name) for name in dict.fromkeys(names.values())]
    only = keys[0] if len(keys) == 1 else None
    return Groups(names, scope.group if scope.group in keys else only)


def narrowed(ledger: Ledger, members: Sequence[int], scope: schemas.BulkScope) -> Members:
    """The jobs of a group that have the chosen values, and how many of them have which."""
    counts, found, uncounted = FacetCounts(), dict[int, str | None](), 0
    for each in ledger.review_queue.outputs(members):
        uncounted += each.large
        if matches(each.output, scope.chosen):
            found[each.job_id] = each.review_digest
            counts.add(each.output)
    digests = {job_id: found[job_id] for job_id in members if job_id in found}
    return Members(digests, counts.facets(), uncounted)
