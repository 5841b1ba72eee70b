"""Why a call of the client has failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import httpx

from airflow_provider_aihandoff.client.values import JobRequest
from airflow_provider_aihandoff.core.backoff import retry_after_seconds


class ApiError(Exception):
    """The API has refused a call: "problem details" (RFC 9457).

    :param status: of the answer.
    :param type: names the kind of problem, such as ``key-used``; stable. Empty where something on the way has answered.
    :param detail: what happened, and what to do.
    :param errors: what is wrong with the request: ``field`` and ``message``.
    :param retry_after: seconds after which to try again; None where the answer does not say.
    """

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        retry_after: float | None = None,
    ) -> None:
        self.status, self.type, self.title, self.detail = status, type, title, detail
        self.errors, self.retry_after = tuple(errors), retry_after
        super().__init__(f"{status} {type}: {detail}" if type else f"{status} {title}")

    @classmethod
    def of(cls, answer: httpx.Response) -> Self:
        """The refusal that an answer is."""
        said: Any = None
        if answer.headers.get("content-type", "").startswith("application/problem+json"):
            with suppress(ValueError):
                said = answer.json()
        retry_after = retry_after_seconds(answer.headers.get("retry-after"))
        if not isinstance(said, dict):
            return cls(answer.status_code, "", answer.reason_phrase, "", retry_after=retry_after)
        return cls(
            answer.status_code,
            str(said.get("type", "")),
            str(said.get("title", "")),
            str(said.get("detail", "")),
            errors=said.get("errors", ()),
            retry_after=retry_after,
        )


class Unavailable(ConnectionError):
    """No answer came for as long as the client is patient, or only that it should be asked later.

    What was asked for may be recorded. Submit it again with the same key: it is the same request.
    """


class WaitTimeout(TimeoutError):
    """The request has not ended in time. It goes on.

    :param request: as it was seen last.
    """

    def __init__(self, request: JobRequest, seconds: float) -> None:
        self.request = request
        super().__init__(
            f"Request {request.request_id} ({request.type}) has not ended within {seconds:g} s: {request.said} It goes "
            "on; wait for it again."
        )
