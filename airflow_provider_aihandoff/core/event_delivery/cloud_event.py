"""An event as it is sent: a CloudEvent 1.0 in structured mode, signed as Standard Webhooks has it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid5

from standardwebhooks.webhooks import Webhook

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.job_requests.job_request import Standing
from airflow_provider_aihandoff.core.webhooks.signature import SecretRefused, key_of

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"

#: Secrets that sign one event at most: the new one and the old one, while they are rotated.
MAX_SECRETS = 2

#: Bytes of an output, as JSON, that is put into an event; a larger one is left out.
MAX_RESULT = 262_144


@dataclass(frozen=True)
class OutgoingEvent:
    """A change of a job, or the end of a request without one, for one subscription.

    :param seq: of the line in the job's history; 0 of a request.
    :param at: when it changed.
    :param tries: how often sending it was begun, this time included.
    :param shows_result: its author puts the output into the event.
    :param result: the output; None also where it is larger than :data:`MAX_RESULT`, which ``result_bytes`` says.
    """

    delivery_id: int
    job_id: int | None
    request_id: UUID | None
    seq: int
    standing: Standing
    at: datetime
    tries: int
    job_type: str
    job_key: str
    shows_result: bool
    result: Any
    result_bytes: int | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "standing", Standing(self.standing))

    def event_id(self, ledger_id: UUID) -> str:
        """What identifies it everywhere: the same in each try, and after a replay."""
        of = f"request/{self.request_id}" if self.job_id is None else f"job/{self.job_id}"
        return str(uuid5(ledger_id, f"{of}/{self.seq}"))

    def body(self, ledger_id: UUID) -> bytes:
        """The same bytes in each try."""
        data: dict[str, Any] = {
            "request_id": self.request_id,
            "job_id": self.job_id,
            "type": self.job_type,
            "key": self.job_key,
            "state": self.standing.value,
            "seq": self.seq,
        }
        if self.shows_result:
            data["result"] = self.result
            data["result_left_out"] = self.result_bytes is not None and self.result_bytes > MAX_RESULT
        event = {
            "specversion": "1.0",
            "id": self.event_id(ledger_id),
            "source": f"urn:uuid:{ledger_id}",
            "type": f"aihandoff.job.{self.standing.value.replace(' ', '_')}",
            "subject": f"{quote(self.job_type, safe='')}/{quote(self.job_key, safe='')}",
            "time": self.at.astimezone(UTC).isoformat().replace("+00:00", "Z"),
            "datacontenttype": "application/json",
            "data": data,
        }
        return canonical_json(event).encode("ascii")


def signed_headers(event_id: str, body: bytes, secrets: Sequence[object], at: datetime) -> dict[str, str]:
    """The headers of one try: a signature by each of the newest secrets, of which the receiver knows one.

    :param secrets: as the connection has them, the newest first.
    :param at: when it is sent, by this machine's clock, as Standard Webhooks has it.
    :raises SecretRefused: there is none, or one of them cannot be used.
    """
    active = secrets[:MAX_SECRETS]
    if not active:
        raise SecretRefused("there is no secret.")
    names = [f"secret {number} of {len(active)}" for number, _ in enumerate(active, 1)]
    webhooks = [Webhook(key_of(secret, name)) for secret, name in zip(active, names, strict=True)]
    return {
        "content-type": CONTENT_TYPE,
        "webhook-id": event_id,
        "webhook-timestamp": str(int(at.timestamp())),
        "webhook-signature": " ".join(webhook.sign(event_id, at, body.decode("ascii")) for webhook in webhooks),
    }
