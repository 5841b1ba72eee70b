"""Reads what the SDK returns into values of ours. Pure.

An answer is read defensively: servers answer with HTML pages, null outputs, other ids and states that do not exist yet.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow_provider_aihandoff.core.generation.openai.tools import with_tool_calls
from airflow_provider_aihandoff.core.generation.provider import ModelResponse, ProviderError
from airflow_provider_aihandoff.core.states import ResponseStatus

log = logging.getLogger(__name__)

_STATUSES = {
    "queued": ResponseStatus.QUEUED,
    "in_progress": ResponseStatus.RUNNING,
    "completed": ResponseStatus.COMPLETED,
    "failed": ResponseStatus.FAILED,
    "cancelled": ResponseStatus.CANCELLED,
    "incomplete": ResponseStatus.INCOMPLETE,
}

#: Error codes and reasons with which the same request would end the same way.
_FINAL_CODES = frozenset({"invalid_prompt", "content_filter", "refusal", "image_content_policy_violation"})


def response_id_of(answer: Any) -> str | None:
    """The id of a response; None where the answer is no response."""
    response_id = getattr(answer, "id", None)
    return response_id if isinstance(response_id, str) and response_id else None


def read_response(answer: Any, response_id: str) -> ModelResponse:
    """What an answer of OpenAI says about a response.

    :param response_id: the id that was asked for.
    :raises ProviderError: the answer is no response, or another one.
    """
    if response_id_of(answer) != response_id:
        raise ProviderError(f"asked OpenAI for {response_id}, got something else.", remedy="Asking again is safe.")
    status = _status(answer, response_id)
    text, refusal = _final_text(getattr(answer, "output", None))
    error_code = _text_at(answer, "error", "code")
    reason = _text_at(answer, "incomplete_details", "reason")
    return ModelResponse(
        id=response_id,
        status=status,
        text=text,
        refusal=refusal,
        error_code=error_code,
        error_message=_text_at(answer, "error", "message"),
        incomplete_reason=reason,
        is_final=_is_final(status, refusal, error_code, reason),
        usage=with_tool_calls(_usage(answer), getattr(answer, "output", None)),
        model=_text_at(answer, "model"),
        service_tier=_text_at(answer, "service_tier"),
        metadata=_metadata(answer),
        created_at=_created_at(answer),
    )


def _status(answer: Any, response_id: str) -> ResponseStatus:
    named = getattr(answer, "status", None)
    status = _STATUSES.get(named) if isinstance(named, str) else None
    if status is None:
        log.warning("The response %s has a status that is not known here: %r; waiting on.", response_id, named)
    return status or ResponseStatus.RUNNING


def _is_final(status: ResponseStatus, refusal: str | None, error_code: str | None, reason: str | None) -> bool:
    if status is ResponseStatus.COMPLETED:
        return refusal is not None
    code = {ResponseStatus.FAILED: error_code, ResponseStatus.INCOMPLETE: reason}.get(status)
    return code in _FINAL_CODES


def _final_text(output: Any) -> tuple[str | None, str | None]:
    """The text of the final answer, and the refusal if there is one. Comments before it are left out.

    The text is None where there is no output at all: for a moment, a response that completed can come without it.
    """
    if output is None:
        return None, None
    texts: list[str] = []
    refusal: str | None = None
    for item in _items(output):
        if getattr(item, "type", None) != "message" or getattr(item, "phase", None) not in (None, "final_answer"):
            continue
        for part in _items(getattr(item, "content", None)):
            if getattr(part, "type", None) == "output_text":
                texts.append(str(getattr(part, "text", None) or ""))
            elif getattr(part, "type", None) == "refusal":
                refusal = str(getattr(part, "refusal", None) or "")
    return "".join(texts), refusal


def _items(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _text_at(answer: Any, *names: str) -> str | None:
    """A text of the answer; None where there is none, or something else in its place."""
    for name in names:
        answer = getattr(answer, name, None)
    return answer if isinstance(answer, str) and answer else None


def _usage(answer: Any) -> dict[str, Any] | None:
    """The usage that a response names, as JSON; None where it names none, or something else in its place."""
    usage: Any = getattr(answer, "usage", None)
    dumped: Any = usage.model_dump(mode="json") if hasattr(usage, "model_dump") else usage
    return dumped if isinstance(dumped, dict) else None


def _metadata(answer: Any) -> dict[str, str]:
    metadata = getattr(answer, "metadata", None)
    return {str(name): str(value) for name, value in metadata.items()} if isinstance(metadata, Mapping) else {}


def _created_at(answer: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(answer.created_at, UTC)
    except (AttributeError, TypeError, ValueError, OverflowError, OSError):
        return None
