"""Signs as OpenAI does, written down a second time: not with the package that verifies."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

SECRET = "whsec_" + base64.b64encode(b"the secret of these tests").decode()
OTHER_SECRET = "whsec_" + base64.b64encode(b"another one, that rotates").decode()

Headers = list[tuple[bytes, bytes]]


def signature(body: bytes, *, webhook_id: str, at: int, secret: str = SECRET) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{webhook_id}.{at}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(mac.digest()).decode()}"


def signed(body: bytes, *secrets: str, webhook_id: str = "wh_1", at: int | None = None) -> dict[str, str]:
    """The headers of a webhook that is signed with each of these secrets."""
    at = int(time.time()) if at is None else at
    signatures = [signature(body, webhook_id=webhook_id, at=at, secret=secret) for secret in secrets or (SECRET,)]
    return {"webhook-id": webhook_id, "webhook-timestamp": str(at), "webhook-signature": " ".join(signatures)}


def raw(headers: dict[str, str]) -> Headers:
    """As a server hands them on."""
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
