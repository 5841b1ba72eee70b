"""Reads what OpenAI answers into values of ours. Pure.

An answer is read defensively: servers answer with HTML pages, null outputs, other ids and states that do not exist yet.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from airflow_provider_aihandoff.core.generation.openai.error_codes import names_money
from airflow_provider_aihandoff.core.generation.openai.json_answer import field_of
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices, with_tool_calls
from airflow_provider_aihandoff.core.generation.provider import ModelResponse, ProviderError
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.core.strict_json import is_shallow
from airflow_provider_aihandoff.core.text import plain

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
_FINAL_CODES = frozenset(
    {"invalid_prompt", "content_filter", "refusal", "image_content_policy_violation", "max_output_tokens"}
)

#: Items of an output that ask the caller for something, which no one here answers.
_CALLS = frozenset(
    {
        "apply_patch_call",
        "computer_call",
        "custom_tool_call",
        "function_call",
        "local_shell_call",
        "mcp_approval_request",
        "shell_call",
    }
)

#: How many tools of a response are named, and how long a name may be.
_MAX_NAMES, _MAX_NAME = 10, 80

#: Characters of a response id, which is part of a URL.
_MAX_ID = 256


def response_id_of(answer: Any) -> str | None:
    """The id of a response; None where the answer is no response."""
    response_id = field_of(answer, "id")
    if not isinstance(response_id, str) or not 0 < len(response_id) <= _MAX_ID:
        return None
    return response_id if response_id.isascii() and response_id.isprintable() else None


def read_response(answer: Any, response_id: str, tool_prices: ToolPrices | None = None) -> ModelResponse:
    """What an answer of OpenAI says about a response.

    :param response_id: the id that was asked for.
    :param tool_prices: those of OpenAI's tools that are known.
    :raises ProviderError: the answer is no response, or another one.
    """
    if response_id_of(answer) != response_id:
        raise ProviderError(f"asked OpenAI for {response_id}, got something else.", remedy="Asking again is safe.")
    status = _status(answer, response_id)
    said = _said(field_of(answer, "output"))
    error_code = _text_at(answer, "error", "code")
    reason = _text_at(answer, "incomplete_details", "reason")
    return ModelResponse(
        id=response_id,
        status=status,
        **said,
        error_code=error_code,
        error_message=_text_at(answer, "error", "message"),
        incomplete_reason=reason,
        is_final=_is_final(status, said, error_code, reason),
        is_spent=error_code is not None and names_money(error_code),
        usage=with_tool_calls(_usage(answer), field_of(answer, "output"), tool_prices),
        model=_text_at(answer, "model"),
        service_tier=_text_at(answer, "service_tier"),
        metadata=_metadata(answer),
        created_at=_created_at(answer),
    )


def read_items(page: Any, conversation_id: str) -> ModelResponse | None:
    """What the items of a conversation, the oldest first, say about the response that has ended in it.

    They have what the model wrote, but neither the id nor the usage of the response.

    :return: with the id of the conversation; None where there is nothing that the model wrote.
    :raises ProviderError: the answer is no list of items.
    """
    items = field_of(page, "data")
    if not isinstance(items, list):
        raise ProviderError(
            f"asked OpenAI for the items of {conversation_id}, got something else.", remedy="Asking again is safe."
        )
    written = [item for item in items if _is_written_by_model(item)]
    if not written:
        return None
    said = _said(written)
    stopped = any(field_of(item, "status") == "incomplete" for item in written)
    status = ResponseStatus.INCOMPLETE if stopped else ResponseStatus.COMPLETED
    return ModelResponse(conversation_id, status, **said, is_final=_is_final(status, said, None, None))


def _is_written_by_model(item: Any) -> bool:
    kind = field_of(item, "type")
    if kind == "message":
        return bool(field_of(item, "role") == "assistant")
    return isinstance(kind, str) and kind.endswith(("_call", "_approval_request"))


def _status(answer: Any, response_id: str) -> ResponseStatus:
    named = field_of(answer, "status")
    status = _STATUSES.get(named) if isinstance(named, str) else None
    if status is None:
        log.warning("The response %s has a status that is not known here: %r; waiting on.", response_id, named)
    return status or ResponseStatus.RUNNING


def _is_final(status: ResponseStatus, said: Mapping[str, Any], error_code: str | None, reason: str | None) -> bool:
    if status is ResponseStatus.COMPLETED:
        return said["refusal"] is not None or bool(said["calls"])
    code = {ResponseStatus.FAILED: error_code, ResponseStatus.INCOMPLETE: reason}.get(status)
    return code in _FINAL_CODES


def _said(output: Any) -> dict[str, Any]:
    """What an output says, as the fields of a :class:`ModelResponse`: its text and last message, a refusal, or calls.

    Comments before the final answer are left out. The text is None where there is no output at all: for a moment, a
    response that completed can come without it.
    """
    texts: list[str] = []
    refusal: str | None = None
    for item in _items(output):
        if not _is(item, "message") or field_of(item, "phase") not in (None, "final_answer"):
            continue
        parts = _items(field_of(item, "content"))
        texts.append("".join(str(field_of(part, "text") or "") for part in parts if _is(part, "output_text")))
        for part in parts:
            if _is(part, "refusal"):
                refusal = str(field_of(part, "refusal") or "")
    text = None if output is None else "".join(texts)
    last_message = texts[-1] if len(texts) > 1 else None
    return {"text": text, "last_message": last_message, "refusal": refusal, "calls": () if text else _calls(output)}


def _calls(output: Any) -> tuple[str, ...]:
    """The tools that an output asks the caller for, by name, each once."""
    names: dict[str, None] = {}
    for item in _items(output):
        kind = field_of(item, "type")
        if isinstance(kind, str) and kind in _CALLS:
            known = (_text_at(item, "server_label"), _text_at(item, "name"))
            names[plain(".".join(name for name in known if name) or kind)[:_MAX_NAME]] = None
    return tuple(names)[:_MAX_NAMES]


def _is(part: Any, kind: str) -> bool:
    return bool(field_of(part, "type") == kind)


def _items(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _text_at(answer: Any, *names: str) -> str | None:
    """A text of the answer; None where there is none, or something else in its place."""
    for name in names:
        answer = field_of(answer, name)
    return answer if isinstance(answer, str) and answer else None


def _usage(answer: Any) -> dict[str, Any] | None:
    """The usage that a response names, as JSON; None where it names none, or something else in its place."""
    usage: Any = field_of(answer, "usage")
    try:
        dumped: Any = usage.model_dump(mode="json") if hasattr(usage, "model_dump") else usage
    except ValueError:  # it is nested too deeply, or is not valid JSON
        return None
    return dumped if isinstance(dumped, dict) and is_shallow(dumped) else None


def _metadata(answer: Any) -> dict[str, str]:
    metadata = field_of(answer, "metadata")
    return {str(name): str(value) for name, value in metadata.items()} if isinstance(metadata, Mapping) else {}


def _created_at(answer: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(field_of(answer, "created_at"), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
