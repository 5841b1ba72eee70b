"""Whether a webhook comes from OpenAI: its signature, by the Standard Webhooks specification. Pure.

The `standardwebhooks` package does the arithmetic. This module keeps from it what it was not made for: several secrets,
secrets that would verify anything, and headers that make it fail instead of refuse.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Sequence
from enum import StrEnum

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from airflow_provider_aihandoff.core.errors import HandoffError

#: Seconds that the timestamp of a webhook may lie in the past or in the future.
TOLERANCE = 300

#: Signatures of one webhook at most: the sender has one for each of its active secrets.
MAX_SIGNATURES = 16

#: Bytes of a secret at least. The specification asks for 24; below 16 it could be guessed.
MIN_SECRET_BYTES = 16

#: What one header may be at all. An attacker writes them, so they are bounded before anything else is done.
_FORMS = {
    b"webhook-id": re.compile(rb"[!-~]{1,256}"),
    b"webhook-timestamp": re.compile(rb"[1-9][0-9]{0,11}"),
    b"webhook-signature": re.compile(rb"[ -~]{1,4096}"),
}
#: 32 bytes of HMAC-SHA256, in base64.
_SIGNATURE = re.compile(r"v1,[A-Za-z0-9+/]{43}=")


class Reason(StrEnum):
    """Why a webhook is refused. For the log and the metrics; its sender does not see it."""

    MISSING_HEADER = "missing header"
    STALE = "stale timestamp"
    SIGNATURE = "signature"
    MALFORMED = "malformed"


class Rejected(Exception):
    """The webhook is refused. Carries nothing that its sender wrote."""

    def __init__(self, reason: Reason) -> None:
        self.reason = reason
        super().__init__(reason.value)


class SecretRefused(HandoffError):
    """A webhook secret cannot be used: anyone could forge what it verifies, or it would verify nothing."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what, written="", remedy="Copy the signing secret that OpenAI showed for the webhook: `whsec_` and base64."
        )


class Verifier:
    """Verifies the webhooks of one connection, against every secret that is active.

    :param secrets: each `whsec_` and base64, or base64 alone; several while a secret is rotated.
    :raises SecretRefused: one of them cannot be used. The message says which, never its value.
    """

    def __init__(self, secrets: Sequence[object]) -> None:
        if not secrets:
            raise SecretRefused("there is no webhook secret.")
        self._webhooks = [
            Webhook(key_of(secret, f"webhook secret {position} of {len(secrets)}"))
            for position, secret in enumerate(secrets, 1)
        ]

    def verify(self, body: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the ``webhook-id`` of a webhook that one of the secrets has signed.

        :param body: the bytes as they came.
        :param headers: the names and values as they came; names in any case.
        :raises Rejected: it was not signed, or not lately.
        """
        signed = _read(headers)
        try:
            text = body.decode()
        except UnicodeDecodeError:
            raise Rejected(Reason.MALFORMED) from None
        # Every secret is tried, so that the time it takes does not reveal which one it was.
        matches = sum(_is_signed(webhook, text, signed) for webhook in self._webhooks)
        if not matches:
            raise Rejected(Reason.SIGNATURE)
        return signed["webhook-id"]


def key_of(secret: object, name: str) -> bytes:
    """The key that a secret stands for. Stricter than the package, which drops what is not base64.

    :param name: how the message names the secret, whose value it never has.
    :raises SecretRefused: it cannot be used.
    """
    if not isinstance(secret, str):
        raise SecretRefused(f"{name} is not a text.")
    encoded = secret.removeprefix("whsec_")
    if not encoded:
        raise SecretRefused(f"{name} is empty.")
    try:
        padding = "" if encoded.endswith("=") else "=" * (-len(encoded) % 4)
        key = base64.b64decode(encoded + padding, validate=True)
    except ValueError:
        raise SecretRefused(f"{name} is not base64.") from None
    if len(key) < MIN_SECRET_BYTES:
        raise SecretRefused(f"{name} has {len(key)} bytes; below {MIN_SECRET_BYTES}, it could be guessed.")
    return key


def _read(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers that the signature is about, each one there once and within its bounds."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        lower = name.lower()
        if lower not in _FORMS:
            continue
        if lower in found:
            raise Rejected(Reason.MALFORMED)
        found[lower] = value
    if not all(found.get(name) for name in _FORMS):
        raise Rejected(Reason.MISSING_HEADER)
    if not all(form.fullmatch(found[name]) for name, form in _FORMS.items()):
        raise Rejected(Reason.MALFORMED)
    signed = {name.decode("ascii"): value.decode("ascii") for name, value in found.items()}
    if abs(time.time() - int(signed["webhook-timestamp"])) > TOLERANCE:
        raise Rejected(Reason.STALE)
    signed["webhook-signature"] = _signatures(signed["webhook-signature"])
    return signed


def _signatures(header: str) -> str:
    """The signatures of the version that is known here. Those of other versions are ignored."""
    signatures = header.split(" ")
    known = [signature for signature in signatures if _SIGNATURE.fullmatch(signature)]
    if not known or len(signatures) > MAX_SIGNATURES:
        raise Rejected(Reason.MALFORMED)
    return " ".join(known)


def _is_signed(webhook: Webhook, text: str, headers: dict[str, str]) -> bool:
    try:
        webhook.verify(text, headers, json_parse=False)
    except WebhookVerificationError:
        return False
    except (ValueError, TypeError, OverflowError):
        # Other releases of the package may raise where this one does not: that is no reason for a 500.
        raise Rejected(Reason.MALFORMED) from None
    return True
