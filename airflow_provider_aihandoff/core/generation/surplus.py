"""Cancels a response that no revision waits for, and records what it has cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ProviderError, ResponseNotFound
from airflow_provider_aihandoff.core.generation.stop import cancel, record_cost
from airflow_provider_aihandoff.core.generation.surplus_store import Surplus
from airflow_provider_aihandoff.core.models import Actor

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger

_REASON = "no revision waits for this response"


def settle_surplus(ledger: Ledger, provider: ModelProvider, surplus: Surplus, *, actor: Actor) -> str:
    """Cancel a response, and record what it has cost. Safe to repeat.

    :return: what became of it, as text.
    :raises ProviderError: OpenAI does not say; the next run of the reconciler asks again.
    """
    response = cancel(provider, surplus.response_id)
    if response is None:
        try:
            response = provider.retrieve(surplus.response_id)
        except ResponseNotFound:
            ledger.surplus.settle(surplus, actor=actor, reason=f"{_REASON}, and it is gone", detail={"status": "gone"})
            return "OpenAI no longer has it"
    if not response.ended:
        raise ProviderError(f"OpenAI has not stopped {surplus.response_id} yet.", remedy="The next run asks again.")
    revision = ledger.revision(surplus.job_id, surplus.number)
    if surplus.is_current:
        record_cost(ledger, provider, revision, response, actor=actor)
    else:
        cost_usd = provider.price(response, revision.request)
        detail = {"status": response.status, "usage": response.usage, "cost_usd": cost_usd}
        ledger.surplus.settle(surplus, actor=actor, reason=_REASON, detail=detail)
    return f"it is {response.status}, and its cost is on the record"
