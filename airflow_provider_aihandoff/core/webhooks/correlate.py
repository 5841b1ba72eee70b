"""Asks OpenAI whose response a webhook is about, where the ledger does not know. One request each time.

Ours: its job adopts it, which closes the window in which a worker dies between OpenAI's answer and the commit of the
response id. Of another application or ledger: foreign. Not found: it stays in quarantine, for a person.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.provider import (
    OWN_METADATA,
    ModelProvider,
    ModelResponse,
    ProviderError,
    ProviderFor,
)
from airflow_provider_aihandoff.core.generation.stop import record_cost
from airflow_provider_aihandoff.core.generation.surplus import settle_surplus
from airflow_provider_aihandoff.core.models import Actor, InboxEntry
from airflow_provider_aihandoff.core.states import Disposition

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger

log = logging.getLogger(__name__)

#: The id of a job, or the number of a revision, as metadata names it.
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


def replay(ledger: Ledger, webhook_id: str, provider_for: ProviderFor, *, actor: Actor) -> InboxEntry:
    """Process a webhook that had no effect again, and poll its response, once.

    Where its connection cannot be used from here, that is recorded, and it is polled again later.

    :return: the webhook as it is now.
    :raises WebhookNotFound: the inbox has none with this id.
    :raises WebhookSettled: it was applied, or is known to change nothing.
    :raises LedgerUnavailable: it is not known what was recorded; to send it again is safe.
    """
    entry = ledger.inbox.replay(webhook_id, actor=actor)
    if entry.poll_at is None:
        return entry
    try:
        provider = provider_for(entry.conn_id)
    except Exception as error:  # noqa: BLE001 - a connection that is gone, or wrong
        note = f"the connection {entry.conn_id} could not be used to ask about it: {type(error).__name__}"
        return ledger.inbox.polled(webhook_id, note=note, again=True)
    return find_owner(ledger, webhook_id, provider)


def find_owner(ledger: Ledger, webhook_id: str, provider: ModelProvider) -> InboxEntry:
    """Take the one next step for a webhook in quarantine, or a late one whose cost is not known. Safe to repeat.

    :param provider: of the webhook's connection.
    :return: the webhook as it is now.
    :raises LedgerUnavailable: nothing was recorded; it is due again.
    """
    entry = ledger.inbox.correlate(webhook_id)
    if entry.poll_at is None or entry.response_id is None:
        return entry
    response = _retrieve(provider, entry.response_id)
    if isinstance(response, str):
        return ledger.inbox.polled(webhook_id, note=response, again=True)
    if entry.disposition is Disposition.LATE:
        return _record_cost(ledger, provider, entry, response)
    return _give_to_owner(ledger, provider, entry, response)


def _retrieve(provider: ModelProvider, response_id: str) -> ModelResponse | str:
    """The response, which has ended; or as text why it cannot be read."""
    reached("receive.retrieve", "before call")
    try:
        response = provider.retrieve(response_id)
    except ProviderError as error:  # recorded, and asked again later
        return error.what.rstrip(".")
    if not response.ended:
        return "OpenAI says that it has not ended"
    reached("receive.retrieve", "after call")
    return response


def _give_to_owner(ledger: Ledger, provider: ModelProvider, entry: InboxEntry, response: ModelResponse) -> InboxEntry:
    job, revision, ledger_id = (response.metadata.get(name, "") for name in OWN_METADATA)
    if ledger_id != ledger.ledger_id() or not (_NUMBER.fullmatch(job) and _NUMBER.fullmatch(revision)):
        whose = "another ledger" if ledger_id else "another application"
        return ledger.inbox.foreign(entry.webhook_id, note=f"its response belongs to {whose}")
    # The price of a completion window is only known for a request that the ledger has: an orphan's is the full one.
    output = Output(response.status, usage=response.usage, cost_usd=provider.price(response, {}))
    found = ledger.inbox.adopt(
        entry.webhook_id,
        job_id=int(job),
        number=int(revision),
        created_at=response.created_at,
        output=output,
        actor=Actor.webhook(entry.conn_id),
    )
    log.warning("The response %s names job %s, which did not know it: %s.", entry.response_id, job, found.disposition)
    if found.job_id is not None:
        _stop_the_other(ledger, provider, found)
    return found


def _stop_the_other(ledger: Ledger, provider: ModelProvider, entry: InboxEntry) -> None:
    """Cancel the responses that the one of a webhook has replaced. The reconciler does it where this fails."""
    assert entry.job_id is not None
    for surplus in ledger.surplus.of_job(entry.job_id):
        if surplus.conn_id != entry.conn_id:
            continue
        try:
            settle_surplus(ledger, provider, surplus, actor=Actor.webhook(entry.conn_id))
        except ProviderError as error:
            log.warning("%s", error)


def _record_cost(ledger: Ledger, provider: ModelProvider, entry: InboxEntry, response: ModelResponse) -> InboxEntry:
    """Put what a response has cost that was given up on its job's record."""
    assert entry.job_id is not None
    for revision in ledger.record(entry.job_id).revisions:
        if revision.response_id == entry.response_id:
            record_cost(ledger, provider, revision, response, actor=Actor.webhook(entry.conn_id))
    note = "OpenAI reports no usage" if response.usage is None else "its cost is on the record"
    return ledger.inbox.polled(entry.webhook_id, note=note, again=False)
