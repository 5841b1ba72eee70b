"""What a request to OpenAI's Responses API says to the model, as messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_aihandoff.core.generation.provider import Message, Part, Prompt

#: The kinds of parts that are texts.
_TEXTS = frozenset({"input_text", "output_text", "text"})


def prompt_of(request: Mapping[str, Any]) -> Prompt:
    """The instructions and the input of a request. What is neither a text nor a message is named by its type alone."""
    instructions, asked = request.get("instructions"), request.get("input")
    items = asked if isinstance(asked, list) else [] if asked is None else [{"role": "user", "content": asked}]
    system = (Part("text", instructions),) if isinstance(instructions, str) and instructions else ()
    return Prompt(system, tuple(map(_message, items)))


def _message(item: Any) -> Message:
    if not isinstance(item, Mapping) or "content" not in item:
        kind = item.get("type") if isinstance(item, Mapping) else None
        return Message("tool", (Part(str(kind or "unknown")),))
    content = item["content"]
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return Message(str(item.get("role") or "user"), tuple(map(_part, parts)))


def _part(part: Any) -> Part:
    if not isinstance(part, Mapping):
        return Part("unknown")
    kind, text = str(part.get("type") or "unknown"), part.get("text")
    return Part("text", text) if kind in _TEXTS and isinstance(text, str) else Part(kind)
