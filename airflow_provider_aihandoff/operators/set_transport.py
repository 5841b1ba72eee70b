"""How the draft task of a set sends its requests: what its author may say of it, and the steps for its batches."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_aihandoff.core.sets.transport import COMPLETION_WINDOWS, Transport, cheapest, moves_at
from airflow_provider_aihandoff.core.states import JobState

if TYPE_CHECKING:
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.generation.provider import ProviderFor
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor
    from airflow_provider_aihandoff.core.sets.set_record import JobSet

log = logging.getLogger(__name__)

#: What an author may name.
Named = Literal["background", "batch"]

#: Why what is late is stopped.
_LATE = "It would not be done in time: what is left is sent in the background."


def checked_transport(
    transport: Named | None, complete_by: timedelta | datetime | None, processing: Mapping[str, Any]
) -> Transport | None:
    """The transport that an author has named; None where it is chosen by ``complete_by``.

    :param processing: the arguments that say how OpenAI processes a single response; None of those that are not set.
    :raises ValueError: they contradict each other.
    """
    if transport not in (None, "background", "batch"):
        raise ValueError(f"transport must be 'background' or 'batch', not {transport!r}.")
    if transport is not None and complete_by is not None:
        raise ValueError("Give either transport or complete_by, which chooses it.")
    if isinstance(complete_by, datetime) and complete_by.tzinfo is None:
        raise ValueError("complete_by must be a timedelta, or a datetime with a time zone.")
    if complete_by is not None or transport == "batch":
        named = "complete_by" if complete_by is not None else 'transport="batch"'
        for name, value in processing.items():
            if value is not None:
                raise ValueError(f"{name} cannot be set with {named}, which decides how a request is processed.")
    if complete_by is not None:
        return None
    return Transport(transport or "background")


def choose(ledger: Ledger, found: JobSet, named: Transport | None) -> JobSet:
    """How the requests of a set are sent now, recorded with why; said where it is new.

    :param named: by its author.
    """
    if named is not None or found.complete_by is None:
        transport, why = named or Transport.BACKGROUND, None
    else:
        transport, why = cheapest(found.complete_by, ledger.now())
    if (found.transport, found.transport_why is None) != (transport, why is None):
        log.info("%s: requests are sent by the transport %r. %s", found.label, transport.value, why or "")
        return ledger.sets.sends_by(found.set_id, transport, why)
    return found


def processed(request: dict[str, Any], transport: Transport) -> dict[str, Any]:
    """A request as it is sent by itself: with its completion window, if it has one."""
    if transport not in COMPLETION_WINDOWS:
        return request
    return {**request, "background_options": {"completion_window": transport.value}}


def is_late(ledger: Ledger, found: JobSet) -> bool:
    """Whether what is not done by now is to be moved to background responses."""
    return found.complete_by is not None and ledger.now() >= moves_at(found.complete_by)


def advance_batches(
    ledger: Ledger,
    provider_for: ProviderFor,
    found: JobSet,
    *,
    output_type: type[BaseModel] | None,
    actor: Actor,
) -> bool:
    """Take the next step for each batch of a set.

    :return: whether one has to be tried again after a while.
    """
    from airflow_provider_aihandoff.core.generation.provider import ProviderError
    from airflow_provider_aihandoff.core.sets.batch_read import advance

    again = False
    for batch in ledger.batches.open_of_set(found.set_id):
        stop = _LATE if batch.set_id == found.set_id and is_late(ledger, found) else None
        try:
            after = advance(ledger, provider_for(batch.conn_id), batch, output_type=output_type, actor=actor, stop=stop)
        except ProviderError as error:
            log.warning("%s: %s", batch.label, error.what)
            again = True
        else:
            if after.state is not batch.state:
                log.info("%s is %s.", after.label, after.in_words())
    return again


def stop_late_windows(ledger: Ledger, provider_for: ProviderFor, found: JobSet, *, actor: Actor) -> None:
    """Cancel the responses of a completion window that are late.

    What has ended by itself is taken, and what was stopped gets a new revision, in the background.
    """
    from airflow_provider_aihandoff.core.generation.stop import cancel, record_cost

    for row in ledger.sets.waiting(found.set_id, ended=False):
        if row.response_id is None:
            continue
        revision = ledger.revision(row.job_id, row.number)
        window = (revision.request.get("background_options") or {}).get("completion_window")
        if window not in {each.value for each in COMPLETION_WINDOWS}:
            continue
        provider = provider_for(row.conn_id)
        response = cancel(provider, row.response_id)
        if response is None or not response.ended:
            continue  # it may be paid: it is waited for
        if response.ended_by_itself:
            ledger.sets.record_ended([(row.job_id, row.number, response.status)], actor=actor)
            continue
        ledger.outputs.fail(
            row.job_id,
            row.number,
            actor=actor,
            reason=_LATE,
            error={"kind": "cancelled"},
            status=response.status,
            response_id=row.response_id,
        )
        record_cost(ledger, provider, revision, response, actor=actor)


def complete_approved(ledger: Ledger, set_id: int, *, actor: Actor) -> None:
    """End the jobs of a set that need no approval, and have nothing to write."""
    after = 0
    while page := ledger.sets.jobs(set_id, [JobState.APPROVED], after=after):
        for job in page:
            ledger.effects.complete_without_effects(job.job_id, actor=actor)
        after = page[-1].job_id
