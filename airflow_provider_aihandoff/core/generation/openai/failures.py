"""Tells apart what can go wrong when a request is sent: was it sent, may it be sent again. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import openai


class Sent(StrEnum):
    """What is known of a create that raised."""

    NO = "no"  # no response was created, and the same request may succeed later
    NEVER = "never"  # no response was created, and the same request would be refused again
    UNKNOWN = "unknown"  # a response may have been created


class InvalidArguments(TypeError):
    """The SDK has no such argument."""


@dataclass(frozen=True)
class SubmitFailure:
    """Why a request brought no response id.

    :param retry_after: seconds that OpenAI asked to wait, if it did.
    """

    sent: Sent
    reason: str
    retry_after: float | None = None


#: What the SDK's HTTP client raises before a request has left.
_BEFORE_SENDING = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "InvalidURL",
        "LocalProtocolError",  # such as a line break in an API key
        "PoolTimeout",
        "ProxyError",
        "UnsupportedProtocol",
    }
)

#: A gateway's words about a server behind it: that one may have accepted the request.
_GATEWAY_STATUSES = frozenset({408, 502, 504, *range(520, 531)})
_RETRIABLE_STATUSES = frozenset({409, 429, 500, 503})

#: Codes of a 429 that waiting does not cure.
_FINAL_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "access_terminated"})


def classify(error: Exception) -> SubmitFailure:
    """Say what an exception from ``responses.create`` means, with the SDK's own retries off."""
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error)
    if isinstance(error, openai.APIConnectionError):  # its subclass APITimeoutError as well
        cause = type(error.__cause__).__name__
        # By name, since the SDK's HTTP client is its own matter.
        never_left = cause in _BEFORE_SENDING
        return SubmitFailure(
            Sent.NO if never_left else Sent.UNKNOWN,
            f"{type(error).__name__} ({cause}) {'before' if never_left else 'after'} the request was sent",
        )
    if isinstance(error, openai.OpenAIError) and not isinstance(error, openai.APIError):
        return SubmitFailure(Sent.NEVER, f"{type(error).__name__}: {error}")  # credentials, before anything is sent
    if isinstance(error, (InvalidArguments, UnicodeEncodeError)):
        return SubmitFailure(Sent.NEVER, f"the request cannot be sent: {error}")
    return SubmitFailure(Sent.UNKNOWN, f"{type(error).__name__}: the answer could not be read")


def _classify_status(error: openai.APIStatusError) -> SubmitFailure:
    status = error.status_code
    reason = f"OpenAI answered {status} {error.code or ''}: {_message(error)}".replace(" :", ":")
    if status in _GATEWAY_STATUSES:
        return SubmitFailure(Sent.UNKNOWN, reason)
    if status in _RETRIABLE_STATUSES and error.code not in _FINAL_CODES:
        return SubmitFailure(Sent.NO, reason, _retry_after(error))
    return SubmitFailure(Sent.NEVER, reason)


def _message(error: openai.APIStatusError) -> str:
    body: Any = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or "no reason given")[:500]


def _retry_after(error: openai.APIStatusError) -> float | None:
    try:
        return max(0.0, float(error.response.headers.get("retry-after", "")))
    except ValueError:
        return None
