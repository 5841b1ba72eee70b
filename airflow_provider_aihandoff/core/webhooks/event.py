"""What a verified webhook says: from its bytes to a delivery for the inbox. Pure.

Only ``type`` and ``data.id`` are read, without the SDK's classes: they decode an event of a type that is new
to them as some other.
"""

from __future__ import annotations

import re

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.core.webhooks.signature import Reason, Rejected

#: Characters of an event's type, and of a response id, at most.
MAX_NAME = 256

#: An id ends up in the path of a request to OpenAI.
_RESPONSE_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.:~-]{{0,{MAX_NAME - 1}}}")


def parse(webhook_id: str, conn_id: str, body: bytes) -> Delivery:
    """Return the delivery that a verified body is.

    :raises Rejected: it is not an event: not a JSON object, or not one that can be kept exactly.
    """
    try:
        event = strict_json.loads(body, unique_keys=True)
    except strict_json.NotJson:
        raise Rejected(Reason.MALFORMED) from None
    if not isinstance(event, dict):
        raise Rejected(Reason.MALFORMED)
    event_type = event.get("type")
    if not isinstance(event_type, str) or not 0 < len(event_type) <= MAX_NAME:
        raise Rejected(Reason.MALFORMED)
    return Delivery(
        webhook_id=webhook_id,
        conn_id=conn_id,
        event_type=event_type,
        response_id=_response_id(event.get("data")),
        body=event,
    )


def _response_id(data: object) -> str | None:
    """The id that an event names; None where it names none that a response could have."""
    named = data.get("id") if isinstance(data, dict) else None
    return named if isinstance(named, str) and _RESPONSE_ID.fullmatch(named) else None
