"""The input and the output of a model call as attributes of its span, by OpenTelemetry's conventions for GenAI. Pure.

Only for who has switched it on. Each attribute is a JSON text of a bounded size, since a span has no structured values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from airflow_provider_aihandoff.core.generation.provider import Message, ModelResponse, Part, Prompt
from airflow_provider_aihandoff.core.states import ResponseStatus

#: Characters of text, and parts, in one attribute. What is beyond them is cut off, and left out.
MAX_TEXT, MAX_PARTS = 8_192, 100

#: What the conventions call the ends of a response.
_STOPPED = {"max_output_tokens": "length", "content_filter": "content_filter"}

Clean = Callable[[str], str]


def content_attributes(prompt: Prompt, response: ModelResponse, clean: Clean) -> dict[str, str]:
    """The attributes for what was said to a model, and what it answered.

    :param clean: masks the secrets in a text.
    """
    said = {
        "gen_ai.system_instructions": _Bounded(clean).parts(prompt.instructions),
        "gen_ai.input.messages": _Bounded(clean).messages(prompt.messages),
        "gen_ai.output.messages": _Bounded(clean).messages(_answer(response), finish_reason=_finish_reason(response)),
    }
    return {name: json.dumps(value, ensure_ascii=False) for name, value in said.items() if value}


class _Bounded:
    """One attribute, for which there is only so much room."""

    def __init__(self, clean: Clean) -> None:
        self._clean, self._text, self._parts = clean, MAX_TEXT, MAX_PARTS

    def messages(self, messages: Sequence[Message], **more: str) -> list[dict[str, Any]]:
        """So many messages as there is room for, each with further fields."""
        kept = ((message, self.parts(message.parts)) for message in messages)
        return [{"role": message.role, "parts": parts, **more} for message, parts in kept if parts]

    def parts(self, parts: Sequence[Part]) -> list[dict[str, str]]:
        """So many parts as there is room for."""
        return list(self._each(parts))

    def _each(self, parts: Sequence[Part]) -> Iterator[dict[str, str]]:
        for part in parts:
            if self._parts <= 0 or self._text <= 0:
                return
            self._parts -= 1
            yield {"type": part.kind} if part.text is None else {"type": "text", "content": self._cut(part.text)}

    def _cut(self, text: str) -> str:
        whole = self._clean(text)
        kept, left_out = whole[: self._text], len(whole) - self._text
        self._text -= len(kept)
        return kept if left_out <= 0 else f"{kept}… ({left_out:,} more characters)"


def _answer(response: ModelResponse) -> list[Message]:
    texts = [text for text in (response.text, response.refusal) if text]
    calls = [Part("tool_call") for _ in response.calls]
    parts = (*(Part("text", text) for text in texts), *calls)
    return [Message("assistant", parts)] if parts else []


def _finish_reason(response: ModelResponse) -> str:
    if response.status is ResponseStatus.COMPLETED:
        return "tool_call" if response.calls else "stop"
    return _STOPPED.get(response.incomplete_reason or "", "error")
