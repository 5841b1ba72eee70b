"""Where webhooks go: signs one by the Standard Webhooks specification, posts it, and says what was answered."""

from __future__ import annotations

import asyncio
import os
import secrets as randomness
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import httpx
from standardwebhooks.webhooks import EmptyWebhookSecretError, Webhook

from airflow_provider_aihandoff.testing.webhook_events import Kind

_ANSWERED_WITHIN_SECONDS = 5.0
# Twice what the specification tolerates.
_STALE_SECONDS = 600

_USER_AGENT = "airflow-provider-aihandoff-stand-in"


class WebhookEndpoint:
    """The receiver of the stand-in's webhooks.

    Args:
        url: an absolute `http` or `https` URL.
        secrets: each delivery is signed with all of them, as while a secret is rotated; `whsec_` and base64.

    Raises:
        ValueError: the URL is none that can be posted to, or there is no secret to sign with.
    """

    def __init__(self, url: str, secrets: Sequence[str]) -> None:
        _check_url(url)
        if not secrets:
            raise ValueError(f"Webhooks to {url} need a secret to sign them with, such as whsec_c2VjcmV0.")
        self._url = url
        self._signers = [_signer(secret, number) for number, secret in enumerate(secrets, 1)]

    async def post(self, client: httpx.AsyncClient, kind: Kind, webhook_id: str, payload: str) -> int | None:
        """Send once, a redirect not followed; the HTTP status of the answer, None when there was none in time."""
        signers = [Webhook(randomness.token_bytes(24))] if kind == "forged" else self._signers
        headers = _headers(signers, webhook_id, payload, _timestamp(kind))
        try:
            async with (
                asyncio.timeout(_ANSWERED_WITHIN_SECONDS),
                client.stream("POST", self._url, content=payload.encode(), headers=headers) as answer,
            ):
                await answer.aread()  # lets the connection be used again
                return answer.status_code
        except (httpx.HTTPError, TimeoutError):
            return None


def new_client(keep_alive: int) -> httpx.AsyncClient:
    """A client for `post`: straight to the receiver, whatever proxies the environment names.

    `SSL_CERT_FILE` names the authorities to trust, where the receiver's certificate is from one of your own.
    """
    limits = httpx.Limits(max_keepalive_connections=keep_alive)
    authorities = os.environ.get("SSL_CERT_FILE")
    verify = ssl.create_default_context(cafile=authorities) if authorities else True
    return httpx.AsyncClient(trust_env=False, follow_redirects=False, limits=limits, verify=verify)


def _check_url(url: str) -> None:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not a URL to send webhooks to: {error}.") from error
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise ValueError(f"{url!r} is not a URL to send webhooks to: it needs http:// or https:// and a host.")


def _signer(secret: str, number: int) -> Webhook:
    """Raises ValueError without the secret in it: it may end in a log."""
    try:
        return Webhook(secret)
    except (ValueError, EmptyWebhookSecretError) as error:
        raise ValueError(f"Webhook secret {number} is empty or not base64.") from error


def _timestamp(kind: Kind) -> int:
    """By the machine's clock, not the stand-in's: the receiver compares it with its own."""
    return int(time.time()) - (_STALE_SECONDS if kind == "stale" else 0)


def _headers(signers: Sequence[Webhook], webhook_id: str, payload: str, timestamp: int) -> dict[str, str]:
    signed_at = datetime.fromtimestamp(timestamp, tz=UTC)
    return {
        "content-type": "application/json",
        "user-agent": _USER_AGENT,
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signer.sign(webhook_id, signed_at, payload) for signer in signers),
    }
