"""Whether a request to the model, or an external write, may be sent now: asked in the transaction that permits it.

So the answer holds for the whole fleet, whatever dies: nothing is permitted that the ledger does not have.
"""

from __future__ import annotations

from datetime import datetime

from psycopg import Rollback, Transaction

from airflow_provider_aihandoff.core.admission import pause_store, spending_limit_store
from airflow_provider_aihandoff.core.admission.hold import Admitted, Hold, Refusal
from airflow_provider_aihandoff.core.budgets.reserve import reserve
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.models import Effect, EffectPlan, Job, Revision
from airflow_provider_aihandoff.core.rates import rate_store
from airflow_provider_aihandoff.core.rates.rate_store import Ask, RateHold, RateRefusal


def admit_request(
    connection: LedgerConnection, job: Job, revision: Revision, worst: WorstCase, *, at: datetime, tokens: int = 0
) -> Hold | Refusal | Admitted:
    """Whether the request of a revision may be sent now. Where it may, it is, and what it can cost is reserved.

    Asked in this order: pauses, the provider's spending limits, budgets, limits of speed. What one of them has given
    is given back where a later one holds the request.

    :param worst: what it can need at most.
    :param at: the database's clock.
    :param tokens: how many it counts for in limits of tokens.
    """
    if paused := pause_store.hold_of_request(connection, job, revision):
        return paused
    full: Hold | Refusal | None = None
    slow: RateHold | RateRefusal | None = None
    with connection.transaction() as taken:
        admitted = spending_limit_store.admit(connection, job, revision, at=at)
        if isinstance(admitted, Hold):
            return admitted
        full = reserve(connection, job, revision, worst, at=at)
        if full is None:
            slow = rate_store.take(connection, Ask.of_request(job, revision, tokens))
        # A budget that is full stays locked where nothing was taken before: room that is made meanwhile wakes the job.
        if slow is not None or (full is not None and admitted.finds_out):
            _give_back(taken)
    if slow is not None:
        return _said(connection, slow)
    return full or admitted


def hold_of_write(connection: LedgerConnection, job: Job, effect: Effect, plan: EffectPlan) -> Hold | None:
    """Why an effect may not be sent now; None where it may, and is."""
    if paused := pause_store.hold_of_write(connection, job, effect):
        return paused
    held = rate_store.take(connection, Ask.of_write(job, effect, plan))
    said = None if held is None else _said(connection, held)
    assert not isinstance(said, Refusal), "a write has one size, and no bound in the ledger"
    return said


def _give_back(taken: Transaction) -> None:
    """Undo what the ones before have given: a later one holds it."""
    raise Rollback(taken)


def _said(connection: LedgerConnection, held: RateHold | RateRefusal) -> Hold | Refusal:
    if isinstance(held, RateRefusal):
        return Refusal("rate limit", held.why, held.remedy)
    rate_store.keep_wait(connection, held)
    return Hold("rate", str(held.limit.limit_id), held.why, held.until)
