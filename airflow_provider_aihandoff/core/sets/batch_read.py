"""Takes the next step for a batch that was sent: ask about it, stop it, read its results; also beside others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.generation.batch_provider import BatchStatus, LineResult, batches_of
from airflow_provider_aihandoff.core.generation.outcome import read_output
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, ProviderError
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.sets.batch_record import RESULTS_WITHIN, Batch, BatchState, read_custom_id
from airflow_provider_aihandoff.core.sets.batch_send import recover
from airflow_provider_aihandoff.core.sets.batch_store import Result

if TYPE_CHECKING:
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.ledger import Ledger

log = logging.getLogger(__name__)

#: How many results are stored in one transaction.
TAKEN_TOGETHER = 50

#: Why a batch is stopped at the deadline of its requests.
_DEADLINE = "The deadline of its requests has passed."

#: What is said of the requests that a batch has not run, by how it ended.
_NOT_RUN = {
    BatchStatus.COMPLETED: "Its batch has ended without a result of it.",
    BatchStatus.FAILED: "Its batch was refused, and nothing of it was run.",
    BatchStatus.EXPIRED: "Its batch expired before it was run.",
    BatchStatus.CANCELLED: "Its batch was stopped before it was run.",
}


def advance(
    ledger: Ledger,
    provider: ModelProvider,
    batch: Batch,
    *,
    output_type: type[BaseModel] | None,
    actor: Actor,
    stop: str | None = None,
    late_only: bool = False,
) -> Batch:
    """Take the steps for a batch that can be taken now. Safe to repeat, and beside another process that does the same.

    :param stop: why it is to be stopped, as a sentence; None: only at its deadline. What it has run is kept.
    :param late_only: leave the outputs that a task can take to the task.
    :return: the batch as it is now.
    :raises ProviderError: the provider could not be asked, or its results not be read.
    """
    if batch.state in (BatchState.FILLING, BatchState.CREATING):
        batch = recover(ledger, provider, batch, actor=actor)
        if batch.state is BatchState.CREATING:
            _give_up_if_late(ledger, batch, actor)
    if batch.state is BatchState.RUNNING:
        ledger.batches.run(batch, actor=actor)
        batch = _ask(ledger, provider, batch, stop, actor)
    if batch.state is BatchState.ENDED:
        batch = _read(ledger, provider, batch, output_type, actor, late_only=late_only)
    return batch


def _ask(ledger: Ledger, provider: ModelProvider, batch: Batch, stop: str | None, actor: Actor) -> Batch:
    """Ask whether a batch has ended; ask to stop it, if it is to be stopped, and was not yet."""
    assert batch.provider_id is not None
    api, provider_id = batches_of(provider), batch.provider_id
    now = ledger.now()
    try:
        model = api.retrieve(provider_id)
        late = _DEADLINE if now >= batch.deadline else None
        if not model.ended and (why := stop or late or _wanted_before(batch)):
            # Asked again where it did not listen: a process may have died before the request.
            if batch.cancelled_at is None:
                batch = ledger.batches.cancel_requested(batch, why=why)
            if model.status is not BatchStatus.CANCELLING:
                reached("batch.stop", "before call")
                model = api.cancel(provider_id) or model
                reached("batch.stop", "after call")
    except ProviderError:
        _give_up_if_late(ledger, batch, actor)
        raise
    if model.ended:
        return ledger.batches.ended(batch, model)
    ledger.batches.polled(batch, model)
    _give_up_if_late(ledger, batch, actor)
    return batch


def _wanted_before(batch: Batch) -> str | None:
    """Why it was to be stopped before now, if it was."""
    return None if batch.cancelled_at is None else batch.why


def _give_up_if_late(ledger: Ledger, batch: Batch, actor: Actor) -> None:
    """Wait no longer for the results of a batch, long after their deadline: what comes later is recorded as late."""
    if ledger.now() >= batch.deadline + RESULTS_WITHIN:
        why = f"no result of {batch.label} has come within {RESULTS_WITHIN} after it"
        ledger.batches.give_up(batch, actor=actor, why=why)


def _read(
    ledger: Ledger,
    provider: ModelProvider,
    batch: Batch,
    output_type: type[BaseModel] | None,
    actor: Actor,
    *,
    late_only: bool,
) -> Batch:
    """Store the results of a batch that has ended, and free what it has not run."""
    api = batches_of(provider)
    for file_id in batch.result_files:
        reached("batch.results", "before call")
        lines = iter(api.results(file_id))
        while page := list(islice(lines, TAKEN_TOGETHER)):
            results = list(_results(provider, batch, page, output_type))
            ledger.batches.take(batch, results, actor=actor, late_only=late_only)
        reached("batch.results", "after call")
    if late_only and ledger.batches.has_open(batch):
        return batch
    assert batch.provider_status is not None
    ledger.batches.rest(batch, actor=actor, why=_NOT_RUN.get(batch.provider_status, _NOT_RUN[BatchStatus.COMPLETED]))
    return ledger.batches.done(batch)


def _results(
    provider: ModelProvider, batch: Batch, lines: Iterable[LineResult], output_type: type[BaseModel] | None
) -> Iterator[Result]:
    """What some lines say, in the words of the ledger. A line that was not run says nothing."""
    for line in lines:
        named = read_custom_id(line.custom_id)
        if named is None or named[2] != batch.batch_id:
            log.warning("A result of %s names no request of it: %r.", batch.label, line.custom_id)
            continue
        job_id, number, _ = named
        if line.response is not None and line.response.ended:
            cost_usd = provider.price(line.response, provider.in_batch({}))
            output, why = read_output(line.response, output_type, cost_usd)
            yield Result(job_id, number, line.response.id, output, {}, why or None)
        elif line.was_run:
            kind = "refused request" if line.is_final else "failed"
            error = {"kind": kind, "code": line.code, "message": line.reason, "final": line.is_final}
            yield Result(job_id, number, None, None, error, f"{line.reason}.", is_paid=line.is_paid)


def stops_at(batch: Batch) -> datetime:
    """When a batch is to be stopped, or given up where it was asked to stop; by the database's clock."""
    return batch.deadline if batch.cancelled_at is None else batch.deadline + RESULTS_WITHIN
