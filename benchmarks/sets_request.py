"""What both sides of the benchmark of sets ask for, and what they write."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel, Field

MODEL = "gpt-5-mini"
INSTRUCTIONS = "Label this support ticket, and suggest a reply."


class Label(BaseModel):
    """What the model answers: the stand-in knows it."""

    category: str
    priority: str
    confidence: float = Field(ge=0, le=1)
    sensitive: bool
    suggested_reply: str


@cache
def _format() -> Any:
    from openai.lib._parsing._responses import type_to_text_format_param

    return type_to_text_format_param(Label)


def request_of(item: dict[str, str]) -> dict[str, Any]:
    """The request of an item, as OpenAI's SDK takes it."""
    return {"model": MODEL, "instructions": INSTRUCTIONS, "input": item["text"], "text": {"format": _format()}}


def message_of(reply: str) -> dict[str, str]:
    """What is written to the target."""
    return {"channel": "benchmark", "text": reply or "no reply"}
