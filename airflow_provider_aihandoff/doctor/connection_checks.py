"""Examines the connections to model providers: whether the API answers, and whether webhooks can be verified."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from uuid import uuid4

from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.generation.provider import (
    CredentialsRefused,
    ProviderFor,
    ProviderUnreachable,
    ResponseNotFound,
)
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.webhooks.keys import NoConnection
from airflow_provider_aihandoff.core.webhooks.signature import SecretRefused, Verifier
from airflow_provider_aihandoff.doctor.finding import Finding, Level
from airflow_provider_aihandoff.hooks.webhook_secrets import SECRETS_KEY, read_secrets

#: No response has this id: that the provider says so shows that it can be reached, and costs nothing.
_NO_RESPONSE = "resp_aihandoff_doctor"

#: An event that means nothing to any job: the inbox records it as ignored.
_EVENT = "aihandoff.doctor"

_DELIVERED_WITHIN = 10.0

_POLLS = "Without webhooks, responses are polled: answers come later, and the response of a lost request is not found."


def check_provider(conn_id: str, provider_for: ProviderFor) -> Finding:
    """Whether the API behind a connection answers, and accepts its credentials."""
    subject = f"connection {conn_id}"
    try:
        provider_for(conn_id).retrieve(_NO_RESPONSE)
    except ResponseNotFound:
        return Finding(Level.OK, subject, "The API answers, and accepts the credentials.")
    except CredentialsRefused as error:
        fix = f"Put a valid API key into the connection {conn_id!r}."
        return Finding(Level.ERROR, subject, _sentence(error.what), "No job of this connection can run.", fix)
    except ProviderUnreachable as error:
        fix = "Check the connection's host, and the network from here to it."
        return Finding(Level.ERROR, subject, _sentence(error.what), "No job of this connection can run.", fix)
    except HandoffError as error:
        why = "Polls of responses may fail in the same way."
        return Finding(Level.WARNING, subject, _sentence(error.what), why, "Try again; then ask the provider.")
    except Exception as error:  # noqa: BLE001 - Airflow's error of a missing connection, or one of its backend
        what = f"The connection cannot be used: {type(error).__name__}."
        fix = f"Define the connection {conn_id!r} of the type OpenAI here."
        return Finding(Level.ERROR, subject, what, "No job of this connection can run.", fix)
    return Finding(Level.WARNING, subject, f"The API has a response {_NO_RESPONSE!r}.", "It answers anything.", "")


def check_secrets(conn_id: str) -> Finding:
    """Whether the webhooks of a connection could be verified. Never shows a secret."""
    subject = f"webhooks of {conn_id}"
    try:
        Verifier(read_secrets(conn_id))
    except NoConnection:
        fix = f"Define the connection {conn_id!r}, or take it out of [aihandoff] webhook_conn_ids."
        return Finding(Level.ERROR, subject, "There is no such connection.", "Its webhooks are refused.", fix)
    except SecretRefused as error:
        fix = f"Put the signing secret into {SECRETS_KEY} in the extra of the connection {conn_id!r}."
        return Finding(Level.WARNING, subject, _sentence(error.what), _POLLS, fix)
    return Finding(Level.OK, subject, "Its webhook secrets can be used.")


def check_delivery(url: str, conn_id: str, ledger: Ledger) -> Finding:
    """Send a signed event to the public URL of the receiver, and find it in the inbox.

    :param url: such as ``https://airflow.example.com/aihandoff/webhooks/openai/openai_default``.
    """
    import requests
    from standardwebhooks.webhooks import Webhook

    subject, webhook_id = "webhook delivery", f"wh_doctor_{uuid4().hex}"
    now = datetime.now(UTC)
    body = json.dumps({"object": "event", "id": webhook_id, "type": _EVENT, "created_at": int(now.timestamp())})
    signature = Webhook(str(read_secrets(conn_id)[0])).sign(webhook_id, now, body)
    headers = {
        "Content-Type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": signature,
    }
    try:
        answer = requests.post(url, body, headers=headers, timeout=_DELIVERED_WITHIN, allow_redirects=False)
    except requests.RequestException as error:
        what = f"A signed test event could not be delivered to {url}: {type(error).__name__}."
        fix = "Check the address, the proxy before it, and whether the receiver runs."
        return Finding(Level.ERROR, subject, what, _POLLS, fix)
    if not 200 <= answer.status_code < 300:
        what = f"A signed test event was answered with {answer.status_code} at {url}."
        fix = "400: the secrets or the clocks here and at the receiver differ. 404: the path ends with the connection."
        return Finding(Level.ERROR, subject, what, _POLLS, fix)
    if not _arrived(ledger, webhook_id):
        what = f"A signed test event was accepted at {url}, and is not in the inbox of this ledger."
        return Finding(Level.ERROR, subject, what, _POLLS, "Let the receiver use the same ledger as this command.")
    return Finding(Level.OK, subject, "A signed test event came through the public URL into the inbox.")


def check_arrivals(conn_id: str, ledger: Ledger) -> Finding:
    """When the last webhook of a connection came."""
    subject, last = f"webhooks of {conn_id}", ledger.inbox.last_received(conn_id)
    if last is not None:
        return Finding(Level.OK, subject, f"The last one came at {last.isoformat(timespec='seconds')}.")
    fix = f"Add the receiver's address for {conn_id!r} at the provider, for the events of responses."
    return Finding(Level.WARNING, subject, "None has ever come.", _POLLS, fix)


def _arrived(ledger: Ledger, webhook_id: str) -> bool:
    until = time.monotonic() + _DELIVERED_WITHIN
    while True:
        try:
            ledger.inbox.read(webhook_id)
        except HandoffError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.2)
        else:
            return True


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}".rstrip(".") + "."
