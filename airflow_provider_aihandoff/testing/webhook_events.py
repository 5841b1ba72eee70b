"""Which webhooks a response causes, when, and what is kept of each attempt. Pure: nothing is sent from here.

Everything follows from the response, ids included, so that a stand-in that starts again from its state file
sends what is missing under the ids that it used before.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_aihandoff.testing.batch_lifecycle import StoredBatch, batch_ends_at, batch_status_at
from airflow_provider_aihandoff.testing.lifecycle import FINISHED_STATUSES, StoredResponse, ends_at, status_at

Kind = Literal["normal", "duplicate", "again", "forged", "stale", "direct"]

# Answered with any status, these have done what they are for.
_SENT_ONCE = frozenset({"forged", "stale", "direct"})

_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0
_GIVEN_UP_AFTER_SECONDS = 72 * 3600.0


class WebhookAttempt(BaseModel):
    """One attempt to deliver an event, in the order in which they ended."""

    model_config = ConfigDict(frozen=True)

    webhook_id: str
    """The header `webhook-id`: the same on each attempt, and what a receiver tells duplicates by."""
    event_type: str
    """Such as `response.completed`."""
    response_id: str | None
    """`data.id` of the event; None where it has none."""
    at: float
    """Unix time of the answer by the stand-in's clock, in seconds."""
    status: int | None
    """HTTP status of the answer; None when there was none in time."""
    kind: Kind
    """`normal`; `duplicate`, `again`, `forged` and `stale` by the fault of that name; `direct` when a test sent it."""
    last: bool
    """Whether no other attempt follows: it was delivered, given up, or is not repeated."""


class WebhooksReport(BaseModel):
    """What was sent, and what is still to be sent. A deleted response has nothing to be sent."""

    pending: int
    """Deliveries that are neither delivered nor given up; those of a response that has not ended yet included."""
    due: int
    """Those of them whose time has come: under way, waiting for a worker or for their next attempt."""
    attempts: list[WebhookAttempt]


class DirectEvent(BaseModel):
    """An event that a test wants to be sent now."""

    model_config = ConfigDict(extra="forbid")

    type: str
    data: dict[str, Any] = Field(default_factory=dict)
    webhook_id: str | None = None
    """A new one by default."""


class DeliveryKey(NamedTuple):
    """What names one delivery for as long as the stand-in's state lasts."""

    response_id: str
    webhook_id: str
    kind: Kind


@dataclass(frozen=True)
class Delivery:
    """One event to be delivered once."""

    response_id: str
    webhook_id: str
    event_type: str
    due_at: float
    """Unix time of the first attempt."""
    payload: str
    """The body, the same bytes on each attempt."""
    kinds: tuple[Kind, ...]
    """What is sent one after the other, each when the one before was answered; the last is the delivery itself."""

    @property
    def key(self) -> DeliveryKey:
        """The name of this delivery."""
        return DeliveryKey(self.response_id, self.webhook_id, self.kinds[-1])


def deliveries(response: StoredResponse) -> list[Delivery]:
    """What is to be delivered for `response`, as far as its end is known now."""
    end = ends_at(response)
    fault = response.faults.webhook
    if end is None or fault == "none" or response.deleted or not response.background:
        return []
    status = status_at(response, end)
    if status not in FINISHED_STATUSES:
        return []

    def delivery(*kinds: Kind, number: int = 1) -> Delivery:
        event_type = f"response.{status}"
        name = f"{response.id} {event_type} {number}"
        return Delivery(
            response_id=response.id,
            webhook_id=_id("wh", name),
            event_type=event_type,
            due_at=end + response.faults.webhook_delay,
            payload=event_body(_id("evt", name), event_type, end, {"id": response.id}),
            kinds=kinds,
        )

    match fault:
        case "duplicate":
            return [delivery("normal"), delivery("duplicate")]
        case "again":
            return [delivery("normal"), delivery("again", number=2)]
        case "forged" | "stale":
            return [delivery(fault, "normal")]
    return [delivery("normal")]


def batch_deliveries(batch: StoredBatch) -> list[Delivery]:
    """What is to be delivered for `batch`, as far as its end is known now."""
    end = batch_ends_at(batch)
    event_type = f"batch.{batch_status_at(batch, end)}"
    name = f"{batch.id} {event_type}"
    payload = event_body(_id("evt", name), event_type, end, {"id": batch.id})
    return [Delivery(batch.id, _id("wh", name), event_type, end, payload, ("normal",))]


def event_body(event_id: str, event_type: str, created_at: float, data: dict[str, Any]) -> str:
    """The JSON of an event, as OpenAI sends it."""
    event = {"object": "event", "id": event_id, "type": event_type, "created_at": int(created_at), "data": data}
    return json.dumps(event)


def is_done(kind: Kind, status: int | None) -> bool:
    """Whether the answer `status` (None: no answer) needs no other attempt."""
    return status is not None and (kind in _SENT_ONCE or 200 <= status < 300)


def next_attempt_at(due_at: float, failed_at: float, attempts: int) -> float | None:
    """When a delivery that failed `attempts` times is tried again; None when it is given up. Unix times."""
    wait = min(_FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 10), _LONGEST_RETRY_SECONDS)
    again_at = failed_at + wait
    return again_at if again_at - due_at <= _GIVEN_UP_AFTER_SECONDS else None


def _id(prefix: str, name: str) -> str:
    return f"{prefix}_{hashlib.sha256(f'{prefix} {name}'.encode()).hexdigest()[:32]}"
