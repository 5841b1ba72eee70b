"""The events of a response that was created with `stream`: which ones there are, and when each is due.

They follow from the stored response alone, so that a stream can be read as often as wanted, from any event on. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from airflow_provider_aihandoff.testing.lifecycle import (
    FINISHED_STATUSES,
    StoredResponse,
    as_json,
    ends_at,
    starts_at,
    status_at,
    written_text,
)

# How much of the time between the start and the end goes to the summary of the reasoning, and where its text ends.
_THINKING_ENDS, _WRITING_ENDS = 0.3, 0.9

_SUMMARY = "**Reading the request** I check what is asked, the form of the answer, and what must not be in it."

# About what OpenAI sends as one delta: a word with the space before it, or a part of a long one.
_TOKEN = re.compile(r"\s*\S{1,8}|\s+")


class StreamEvent(NamedTuple):
    """One event of a stream."""

    at: float
    """Unix time at which it is due."""
    content: dict[str, Any]

    @property
    def number(self) -> int:
        """Its `sequence_number`."""
        return int(self.content["sequence_number"])


def events_of(response: StoredResponse) -> list[StreamEvent]:
    """All events of `response`, in their order; those after the end of a cancelled one are left out."""
    timed = list(_timed(response))
    end = ends_at(response)
    if response.cancelled_at is not None:
        timed = [(at, event) for at, event in timed if at < response.cancelled_at]
    elif response.faults.stuck == "queued":
        timed = timed[:2]
    if end is not None and status_at(response, end) in FINISHED_STATUSES - {"cancelled"}:
        status = status_at(response, end)
        timed.append((end, {"type": f"response.{status}", "response": as_json(response, status)}))
    return [StreamEvent(at, {**event, "sequence_number": number}) for number, (at, event) in enumerate(timed)]


def _timed(response: StoredResponse) -> Iterator[tuple[float, dict[str, Any]]]:
    accepted, start = response.accepted_at, starts_at(response)
    span = accepted + response.delay_seconds - start
    queued = as_json(response, "queued")
    yield accepted, {"type": "response.created", "response": queued}
    yield accepted, {"type": "response.queued", "response": queued}
    yield start, {"type": "response.in_progress", "response": as_json(response, "in_progress")}
    name = response.id.removeprefix("resp_")
    yield from _reasoning(f"rs_{name}", start, start + _THINKING_ENDS * span)
    text = written_text(response)
    if text:
        yield from _message(f"msg_{name}", text, start + _THINKING_ENDS * span, start + _WRITING_ENDS * span)


def _reasoning(item_id: str, begins: float, ends: float) -> Iterator[tuple[float, dict[str, Any]]]:
    place = {"item_id": item_id, "output_index": 0, "summary_index": 0}
    item = {"id": item_id, "type": "reasoning", "summary": []}
    yield begins, {"type": "response.output_item.added", "output_index": 0, "item": item}
    part = {"type": "summary_text", "text": ""}
    yield begins, {"type": "response.reasoning_summary_part.added", **place, "part": part}
    for at, delta in _spread(_SUMMARY, begins, ends):
        yield at, {"type": "response.reasoning_summary_text.delta", **place, "delta": delta}
    whole = {"type": "summary_text", "text": _SUMMARY}
    yield ends, {"type": "response.reasoning_summary_text.done", **place, "text": _SUMMARY}
    yield ends, {"type": "response.reasoning_summary_part.done", **place, "part": whole}
    yield ends, {"type": "response.output_item.done", "output_index": 0, "item": {**item, "summary": [whole]}}


def _message(item_id: str, text: str, begins: float, ends: float) -> Iterator[tuple[float, dict[str, Any]]]:
    place = {"item_id": item_id, "output_index": 1, "content_index": 0}
    item: dict[str, Any] = {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress"}
    part = {"type": "output_text", "annotations": [], "logprobs": []}
    yield begins, {"type": "response.output_item.added", "output_index": 1, "item": {**item, "content": []}}
    yield begins, {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
    for at, delta in _spread(text, begins, ends):
        yield at, {"type": "response.output_text.delta", **place, "delta": delta, "logprobs": []}
    whole = {**part, "text": text}
    yield ends, {"type": "response.output_text.done", **place, "text": text, "logprobs": []}
    yield ends, {"type": "response.content_part.done", **place, "part": whole}
    done = {**item, "status": "completed", "content": [whole]}
    yield ends, {"type": "response.output_item.done", "output_index": 1, "item": done}


def _spread(text: str, begins: float, ends: float) -> Iterator[tuple[float, str]]:
    tokens = _TOKEN.findall(text)
    for number, token in enumerate(tokens, start=1):
        yield begins + (ends - begins) * number / len(tokens), token
