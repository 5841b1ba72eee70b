"""A reviewer's request for changes: which response it goes on from, and the most that it can cost. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airflow_provider_aihandoff.core.generation.provider import ProviderFacts, WorstCase
from airflow_provider_aihandoff.core.models import Revision

#: Four bytes, as many as a character can have: a bound on its tokens.
_WIDEST = "\U0001f600"


def origin_of(before: Revision, read: Callable[[int], Revision]) -> Revision:
    """The revision whose response the model goes on from: the reviewed one, or the one by the model that it edits.

    :param read: returns a revision of the same job, by its number.
    """
    origin = before
    while origin.based_on is not None and origin.response_id is None:
        origin = read(origin.based_on)
    return origin


def context_tokens(facts: ProviderFacts, origin: Revision) -> int | None:
    """How many tokens a request reads that continues the response of a revision; None where that is not known."""
    tokens = facts.tokens(origin.usage or {})
    return None if tokens.input is None or tokens.output is None else tokens.input + tokens.output


def first_request_of(revisions: Sequence[Revision], based_on: int) -> Revision:
    """The revision that the model was first asked for, of those that a revision has come from; as the ledger keeps it.

    :param revisions: of one job, the oldest first.
    """
    return [each for each in revisions if each.based_on is None and each.number <= based_on][-1]


def worst_case_of_change(
    facts: ProviderFacts, revisions: Sequence[Revision], current: Revision, *, characters: int, hidden: bool
) -> WorstCase:
    """The most that a request for changes to a revision can cost, with a comment of so many characters.

    Whether the provider still has the response that it goes on from is found out when it is sent: the dearer way
    counts.

    :param revisions: of its job, the oldest first.
    :param hidden: the request has secrets that the ledger does not keep.
    """
    first = first_request_of(revisions, current.number)
    origin = origin_of(current, {each.number: each for each in revisions}.__getitem__)
    found = []
    for response_id in {origin.response_id, None}:
        request = facts.continued(first.request, changes=_WIDEST * characters, before=current, response_id=response_id)
        worst = facts.worst_case(
            request,
            expected_output_tokens=first.expected_output_tokens,
            context_tokens=None if response_id is None else context_tokens(facts, origin),
            hidden=hidden,
        )
        found.append(worst.or_at_most(first.unpriced_usd))
    return next((each for each in found if each.cost_usd is None), max(found, key=lambda each: each.cost_usd or 0))
