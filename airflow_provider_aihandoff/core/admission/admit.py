"""Whether a request to the model, or an external write, may be sent now: asked in the transaction that permits it.

So the answer holds for the whole fleet, whatever dies: nothing is permitted that the ledger does not have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID, uuid4

from airflow_provider_aihandoff.core.admission import pause_store, spending_limit_store
from airflow_provider_aihandoff.core.admission.hold import Admitted, Hold, Refusal
from airflow_provider_aihandoff.core.budgets.reserve import reserve
from airflow_provider_aihandoff.core.database.connection import LedgerConnection, Signal
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.models import Effect, EffectPlan, Job, Revision
from airflow_provider_aihandoff.core.rates import rate_store
from airflow_provider_aihandoff.core.rates.rate_store import Ask, RateHold, RateRefusal

T = TypeVar("T")

#: What is undone where a later one holds what the ones before have let through. What is kept is committed with the
#: transaction: to release a savepoint takes one more message, while others wait for what is locked.
_TRY, _GIVE_BACK = "SAVEPOINT admission", "ROLLBACK TO SAVEPOINT admission"
_PERMIT, _UNDO_PERMIT = "SAVEPOINT permission", "ROLLBACK TO SAVEPOINT permission"


@dataclass(frozen=True)
class Permitted:
    """A request may be sent now.

    :param revision: as the permission has left it.
    :param finds_out: it finds out whether a limit of money is still reached.
    """

    revision: Revision
    finds_out: bool


def admit_request(
    connection: LedgerConnection,
    job: Job,
    revision: Revision,
    worst: WorstCase,
    permit: Callable[[], Revision],
    *,
    token: UUID,
    at: datetime,
    tokens: int = 0,
) -> Hold | Refusal | Permitted:
    """Whether the request of a revision may be sent now. Where it may, it is, and what it can cost is reserved.

    Asked in this order: pauses, the provider's spending limits, budgets, limits of speed. What one of them has given
    is given back where a later one holds the request.

    :param worst: what it can need at most.
    :param permit: writes down the permission. What all requests take from is taken after it, so that the others wait
        for the commit alone; where another one was sooner, the permission is undone.
    :param token: of the permission.
    :param at: the database's clock.
    :param tokens: how many it counts for in limits of tokens.
    """
    said = connection.said()
    admitted = admit_in_batch(connection, job, revision, worst, at=at, token=token)
    if not isinstance(admitted, Admitted):
        return admitted
    permitted = _in_time(connection, Ask.of_request(job, revision, tokens), permit)
    if isinstance(permitted, Revision):
        return Permitted(permitted, admitted.finds_out)
    _give_back(connection, said)
    return _said(connection, permitted)


def admit_in_batch(
    connection: LedgerConnection,
    job: Job,
    revision: Revision,
    worst: WorstCase,
    *,
    at: datetime,
    token: UUID | None = None,
) -> Hold | Refusal | Admitted:
    """The same for a request in a batch: limits of speed are not about it, since a provider has others for batches.

    :param worst: what it can need at most, at the price of a batch.
    :param token: of the permission; None for one in a batch, which has one permission for all its requests.
    """
    if paused := pause_store.hold_of_request(connection, job, revision):
        return paused
    connection.execute(_TRY)
    said = connection.said()
    admitted = spending_limit_store.admit(connection, job, revision, at=at)
    if isinstance(admitted, Hold):
        return admitted
    if full := reserve(connection, job, revision, worst, token=token or uuid4(), at=at):
        # A budget that is full stays locked where nothing was taken before: room that is made meanwhile wakes the job.
        if admitted.finds_out:
            _give_back(connection, said)
        return full
    return admitted


def _give_back(connection: LedgerConnection, said: tuple[set[int], list[Signal]]) -> None:
    """Undo what was let through, and tell no one of it."""
    connection.execute(_GIVE_BACK)
    connection.forget(said)


def admit_write(
    connection: LedgerConnection, job: Job, effect: Effect, plan: EffectPlan, permit: Callable[[], Effect]
) -> Hold | Effect:
    """Whether an effect may be sent now. Where it may, it is.

    :param permit: as in :func:`admit_request`.
    :return: the effect as the permission has left it; or why it is held.
    """
    if paused := pause_store.hold_of_write(connection, job, effect):
        return paused
    permitted = _in_time(connection, Ask.of_write(job, effect, plan), permit)
    if isinstance(permitted, Effect):
        return permitted
    said = _said(connection, permitted)
    assert not isinstance(said, Refusal), "a write has one size, and no bound in the ledger"
    return said


def _in_time(connection: LedgerConnection, ask: Ask, permit: Callable[[], T]) -> T | RateHold | RateRefusal:
    """Permit something where its limits of speed have room; otherwise say which one holds it."""
    asked = rate_store.ask(connection, ask)
    if not isinstance(asked, list):
        return asked
    if not asked:
        return permit()
    said = connection.said()
    connection.execute(_PERMIT)
    permitted = permit()
    held = rate_store.take(connection, ask, asked)
    if held is None:
        return permitted
    connection.execute(_UNDO_PERMIT)
    connection.forget(said)
    return held


def _said(connection: LedgerConnection, held: RateHold | RateRefusal) -> Hold | Refusal:
    if isinstance(held, RateHold):
        held = rate_store.still_held(connection, held)
    if isinstance(held, RateRefusal):
        return Refusal("rate limit", held.why, held.remedy)
    rate_store.keep_wait(connection, held)
    return Hold("rate", str(held.limit.limit_id), held.why, held.until)
