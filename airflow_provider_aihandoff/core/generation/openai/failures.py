"""Classifies what the SDK raises: was a request sent, may it be sent again, what happened to a response. Pure."""

from __future__ import annotations

from typing import Any

import openai

from airflow_provider_aihandoff.core.backoff import retry_after_seconds
from airflow_provider_aihandoff.core.error_text import cleaned, said
from airflow_provider_aihandoff.core.generation.openai.error_codes import names_money
from airflow_provider_aihandoff.core.generation.openai.rate_headers import heard
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
_FINAL_CODES = frozenset({"access_terminated"})

_PAYMENT_REQUIRED = 402

#: What a server answers that has no conversations.
_NO_SUCH_API = frozenset({404, 405, 501})


def has_no_such_api(error: Exception) -> bool:
    """Whether an error says that the server has not got this part of the API."""
    return isinstance(error, openai.APIStatusError) and error.status_code in _NO_SUCH_API


def classify(error: Exception) -> SubmitFailure:
    """Say what an exception from ``responses.create`` means, with the SDK's own retries off."""
    if isinstance(error, openai.APIStatusError):
        return _classify_status(error)
    if isinstance(error, openai.APIConnectionError):  # its subclass APITimeoutError as well
        cause = type(error.__cause__).__name__
        # By name: the HTTP client is an internal part of the SDK.
        if cause in _BEFORE_SENDING:
            return SubmitFailure(Sent.NO, f"{type(error).__name__} ({cause}) before the request was sent")
        return SubmitFailure(Sent.UNKNOWN, f"{type(error).__name__} ({cause}) after the request was sent{_slow(error)}")
    if isinstance(error, openai.OpenAIError) and not isinstance(error, openai.APIError):
        return SubmitFailure(Sent.NEVER, said(error))  # credentials, before anything is sent
    if isinstance(error, (InvalidArguments, UnicodeEncodeError)):
        return SubmitFailure(Sent.NEVER, f"the request cannot be sent: {cleaned(str(error))}")
    return SubmitFailure(Sent.UNKNOWN, f"{type(error).__name__}: the answer could not be read")


def _slow(error: Exception) -> str:
    """What a create that is not answered in time hints at: in the background, an answer takes a moment."""
    if not isinstance(error, openai.APITimeoutError):
        return ""
    return ", as from a server without background mode, which answers when the work is done"


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
    code = f" {error.code}" if error.code else ""
    reason = f"OpenAI answered {status}{code}: {_message(error)}"
    if status in _GATEWAY_STATUSES:
        return SubmitFailure(Sent.UNKNOWN, reason)
    if error.code == "conversation_locked":
        return SubmitFailure(Sent.RUNS, reason)
    if _is_spent(error):
        return SubmitFailure(Sent.SPENT, reason)
    if status in _RETRIABLE_STATUSES and error.code not in _FINAL_CODES:
        headers = error.response.headers
        retry_after = retry_after_seconds(headers.get("retry-after"))
        return SubmitFailure(Sent.NO, reason, retry_after, heard=heard(status, headers, f"{status}{code}"))
    return SubmitFailure(Sent.NEVER, reason)


def _message(error: openai.APIStatusError) -> str:
    body: Any = error.body
    message = body.get("message") if isinstance(body, dict) else None
    return str(message or "no reason given")[:500].removesuffix(".")


def _is_spent(error: openai.APIStatusError) -> bool:
    """Whether a limit of money is reached, which a person has to raise."""
    if error.status_code != 429:
        return error.status_code == _PAYMENT_REQUIRED
    return any(names_money(name) for name in (error.code, error.type) if isinstance(name, str))
