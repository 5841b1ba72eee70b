"""Asks OpenAI whose response a webhook speaks of, where the ledger cannot tell. One request a look.

Ours: its job adopts it, which closes the window in which a worker dies between OpenAI's answer and the commit of the
response id. Somebody else's: foreign. Gone: it stays in quarantine, for a person.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.generation.openai.outcome import terminal_status
from airflow_provider_aihandoff.core.generation.openai.pricing import price, read_usage
from airflow_provider_aihandoff.core.generation.openai.request import OWN_METADATA
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, InboxEntry
from airflow_provider_aihandoff.core.states import Disposition

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

#: The id of a job, or the number of a revision, as metadata names it.
_NUMBER = re.compile(r"[1-9][0-9]{0,17}", re.ASCII)


def look_up(ledger: Ledger, webhook_id: str, client: OpenAI) -> InboxEntry:
    """Take the one next step for a webhook in quarantine, or a late one whose cost is not known. Safe to repeat.

    :param client: of the webhook's connection; its own retries are off.
    :return: the webhook as it is now.
    :raises LedgerUnavailable: nothing was recorded; it is due again.
    """
    entry = ledger.inbox.correlate(webhook_id)
    if entry.poll_at is None or entry.response_id is None:
        return entry
    response = _retrieve(client, entry.response_id)
    if isinstance(response, str):
        return ledger.inbox.polled(webhook_id, note=response, again=True)
    if entry.disposition is Disposition.LATE:
        return _record_cost(ledger, entry, response)
    return _find_owner(ledger, entry, response)


def _retrieve(client: OpenAI, response_id: str) -> Any:
    """The response; or in words why it cannot be had."""
    reached("receive.retrieve", "before call")
    try:
        response = client.responses.retrieve(response_id)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is recorded, and asked again later
        status = getattr(error, "status_code", None)
        return f"asking OpenAI: {type(error).__name__}" + (f" ({status})" if status else "")
    if terminal_status(response, response_id) is None:
        return "asking OpenAI: the answer is no response that has ended"
    reached("receive.retrieve", "after call")
    return response


def _find_owner(ledger: Ledger, entry: InboxEntry, response: Any) -> InboxEntry:
    metadata = getattr(response, "metadata", None)
    named = metadata if isinstance(metadata, Mapping) else {}
    job, revision, ledger_id = (str(named.get(name, "")) for name in OWN_METADATA)
    if ledger_id != ledger.ledger_id() or not (_NUMBER.fullmatch(job) and _NUMBER.fullmatch(revision)):
        whose = "another ledger" if ledger_id else "another application"
        return ledger.inbox.foreign(entry.webhook_id, note=f"its response belongs to {whose}")
    # The price of a completion window is only known for a request that the ledger holds: an orphan's is the full one.
    output = Output(response.status, usage=read_usage(response), cost_usd=price(response, {}))
    found = ledger.inbox.adopt(
        entry.webhook_id,
        job_id=int(job),
        number=int(revision),
        created_at=_created_at(response),
        output=output,
        actor=Actor.webhook(entry.conn_id),
    )
    log.warning("The response %s names job %s, which did not know it: %s.", entry.response_id, job, found.disposition)
    return found


def _created_at(response: Any) -> datetime | None:
    """When OpenAI says that it created a response."""
    try:
        return datetime.fromtimestamp(response.created_at, UTC)
    except (AttributeError, TypeError, ValueError, OverflowError, OSError):
        return None


def _record_cost(ledger: Ledger, entry: InboxEntry, response: Any) -> InboxEntry:
    """Put what a response has cost that was given up on its job's record."""
    from airflow_provider_aihandoff.core.generation.stop import record_cost

    assert entry.job_id is not None
    for revision in ledger.record(entry.job_id).revisions:
        if revision.response_id == entry.response_id:
            record_cost(ledger, revision, response, actor=Actor.webhook(entry.conn_id))
    note = "OpenAI names no usage" if read_usage(response) is None else "its cost is on the record"
    return ledger.inbox.polled(entry.webhook_id, note=note, again=False)
