"""Classifies what the SDK raises: was a request sent, may it be sent again, what happened to a response. Pure."""

from __future__ import annotations

from typing import Any

import openai

from airflow_provider_aihandoff.core.error_text import cleaned, said
from airflow_provider_aihandoff.core.generation.provider import (
    CredentialsRefused,
    ProviderError,
    ProviderUnreachable,
    ResponseNotFound,
    Sent,
    SubmitFailure,
)


class InvalidArguments(TypeError):
    """The SDK has no such argument."""


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


#: What a server answers that has no conversations.
_NO_SUCH_API = frozenset({404, 405, 501})


def has_no_conversations(error: Exception) -> bool:
    """Whether an error of creating a conversation says that the server has none."""
    return isinstance(error, openai.APIStatusError) and error.status_code in _NO_SUCH_API


def classify(error: Exception) -> SubmitFailure:
    """Say what an exception from ``responses.create`` means, with the SDK's own retries off."""
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error)
    if isinstance(error, openai.APIConnectionError):  # its subclass APITimeoutError as well
        cause = type(error.__cause__).__name__
        # By name: the HTTP client is an internal part of the SDK.
        never_left = cause in _BEFORE_SENDING
        return SubmitFailure(
            Sent.NO if never_left else Sent.UNKNOWN,
            f"{type(error).__name__} ({cause}) {'before' if never_left else 'after'} the request was sent",
        )
    if isinstance(error, openai.OpenAIError) and not isinstance(error, openai.APIError):
        return SubmitFailure(Sent.NEVER, said(error))  # credentials, before anything is sent
    if isinstance(error, (InvalidArguments, UnicodeEncodeError)):
        return SubmitFailure(Sent.NEVER, f"the request cannot be sent: {cleaned(str(error))}")
    return SubmitFailure(Sent.UNKNOWN, f"{type(error).__name__}: the answer could not be read")


def asking_failed(error: Exception, response_id: str) -> ProviderError:
    """Say what an exception of a call about one response means."""
    remedy = "Asking again is safe."
    if isinstance(error, ProviderError):
        return error
    if isinstance(error, openai.NotFoundError):
        return ResponseNotFound(f"OpenAI does not find the response {response_id} (404).", remedy=remedy)
    if isinstance(error, openai.AuthenticationError):
        return CredentialsRefused(
            f"OpenAI refuses the credentials ({error.status_code}).", remedy="Check the connection."
        )
    if isinstance(error, openai.APIConnectionError):
        return ProviderUnreachable(f"OpenAI did not answer ({type(error).__name__}).", remedy=remedy)
    if isinstance(error, openai.APIStatusError):
        return ProviderError(f"OpenAI answered {error.status_code} for {response_id}.", remedy=remedy)
    return ProviderError(f"asking OpenAI for {response_id} failed ({type(error).__name__}).", remedy=remedy)


def _classify_status(error: openai.APIStatusError) -> SubmitFailure:
    status = error.status_code
    reason = f"OpenAI answered {status} {error.code or ''}: {_message(error)}".replace(" :", ":")
    if status in _GATEWAY_STATUSES:
        return SubmitFailure(Sent.UNKNOWN, reason)
    if error.code == "conversation_locked":
        return SubmitFailure(Sent.RUNS, reason)
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
