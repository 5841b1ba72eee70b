"""What a bulk action would stop and write, and what its jobs have cost: read before it is confirmed. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from airflow_provider_aihandoff.core.amounts import count, dollars
from airflow_provider_aihandoff.core.bulk.bulk_plan import PlannedStep
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction, TypicalCost

#: Reasons of refusals that are named; the others are counted together.
MAX_REASONS = 20


@dataclass(frozen=True)
class Totals:
    """The sums of a bulk action. Jobs that are refused are in :attr:`refusals` alone.

    :param cost_usd: what the jobs have cost so far, as far as it is known, in US dollars.
    :param unpriced: how many of their responses were billed at a price that is unknown.
    :param responses: how many responses that run are stopped, or may be, by the type of their jobs.
    :param typical: what one response of these types has cost, where that is known.
    :param writes: how many external writes it makes, by the kind of target.
    :param unsent: how many planned writes are never sent.
    :param stays: how many applied writes stay as they are.
    :param answers: of how many attempts it records the outcome.
    :param voided: how many approvals do not count any more.
    :param kept: how many approvals still count.
    :param refusals: why nothing is done, as a sentence, and to how many jobs.
    """

    cost_usd: Decimal
    unpriced: int
    responses: Mapping[str, int]
    typical: Mapping[str, TypicalCost]
    writes: Mapping[str, int]
    unsent: int
    stays: int
    answers: int
    voided: int
    kept: int
    refusals: Mapping[str, int]


def total(steps: Sequence[PlannedStep], typical: Sequence[TypicalCost]) -> Totals:
    """Add up what the steps of a bulk action would do.

    :param typical: what one response costs, of the types of :func:`stopped_types`.
    """
    done = [step for step in steps if not step.refused]
    return Totals(
        cost_usd=sum((step.found.cost_usd for step in done), Decimal(0)),
        unpriced=sum(step.found.unpriced for step in done),
        responses=Counter(step.job.job_type for step in done if step.impact.stops),
        typical={each.job_type: each for each in typical},
        writes=Counter(kind for step in done for kind in step.impact.writes),
        unsent=sum(step.impact.unsent for step in done),
        stays=sum(step.impact.stays for step in done),
        answers=sum(step.impact.answers for step in done),
        voided=sum(step.impact.voided for step in done),
        kept=sum(step.impact.kept for step in done),
        refusals=_reasons(Counter(step.words for step in steps if step.refused)),
    )


def stopped_types(steps: Sequence[PlannedStep]) -> set[str]:
    """The types of the jobs of which a response would be stopped."""
    return {step.job.job_type for step in steps if not step.refused and step.impact.stops}


def in_words(action: BulkAction, totals: Totals) -> list[str]:
    """What a bulk action would stop, write and have cost, as sentences."""
    if action is BulkAction.CANCEL:
        said = [*_stopped(totals, "stopped"), *_left(totals)]
    elif action is BulkAction.ROLL_BACK:
        said = [_written(totals)]
    elif action is BulkAction.RECONCILE:
        said = _stopped(totals, "stopped where no task waits for them")
    elif action is BulkAction.REASSIGN:
        said = [f"{_are(totals.voided, 'approval')} void then, and {_stay(totals.kept, 'approval')}."]
    elif action is BulkAction.RESOLVE_APPLIED:
        said = [f"{_count_as(totals.answers)} as applied, and {_are(totals.answers)} never sent again."]
    else:
        said = [f"{_count_as(totals.answers)} as not applied: the tasks that wait for them send them again."]
    return [*said, _so_far(totals)]


def _stopped(totals: Totals, how: str) -> list[str]:
    number = sum(totals.responses.values())
    if not number:
        return ["No response runs: nothing is stopped at the model provider."]
    return [
        f"{count(number, 'response')} {'runs and is' if number == 1 else 'run and are'} {how}. What each has used by "
        "then is billed.",
        *(_typical(job_type, totals.typical.get(job_type)) for job_type in sorted(totals.responses)),
    ]


def _typical(job_type: str, typical: TypicalCost | None) -> str:
    if typical is None:
        return f"What one response of the type {job_type} costs is unknown."
    return (
        f"One response of the type {job_type} has cost {dollars(typical.median)} in the median, and at most "
        f"{dollars(typical.highest)} (of {typical.known} that are known)."
    )


def _left(totals: Totals) -> list[str]:
    said = [f"{_are(totals.unsent, 'planned write')} never sent."] if totals.unsent else []
    return said + ([f"{_stay(totals.stays, 'applied write')}."] if totals.stays else [])


def _written(totals: Totals) -> str:
    kinds = ", ".join(f"{kind}: {number}" for kind, number in sorted(totals.writes.items()))
    number = sum(totals.writes.values())
    return f"{count(number, 'external write')} {'is' if number == 1 else 'are'} made, to undo earlier ones ({kinds})."


def _so_far(totals: Totals) -> str:
    unknown = f", and {count(totals.unpriced, 'response')} of an unknown price" if totals.unpriced else ""
    return f"The model has cost {dollars(totals.cost_usd)} for these jobs so far, as far as it is known{unknown}."


def _are(number: int, noun: str = "") -> str:
    verb = "is" if number == 1 else "are"
    return f"{count(number, noun)} {verb}" if noun else verb


def _stay(number: int, noun: str) -> str:
    return f"{count(number, noun)} {'stays' if number == 1 else 'stay'}"


def _count_as(number: int) -> str:
    return f"{count(number, 'write')} {'counts' if number == 1 else 'count'}"


def _reasons(counted: Counter[str]) -> dict[str, int]:
    """The most frequent reasons, and the others together."""
    named = dict(counted.most_common(MAX_REASONS))
    if others := counted.total() - sum(named.values()):
        named["Other reasons: see the jobs."] = others
    return named
