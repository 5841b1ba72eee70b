"""A stored response and its life by the clock: queued, in progress, ended. Pure: the time is an argument."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue

from airflow_provider_aihandoff.testing.faults import Faults

FINISHED_STATUSES = frozenset({"completed", "failed", "cancelled", "incomplete"})

# The part of its time that a response spends in `queued`.
_QUEUED_SHARE = 0.25

_CHARACTERS_PER_TOKEN = 4
_SMALLEST_CACHED_PROMPT = 1024
_CACHED_IN_STEPS_OF = 128

_SERVED_TIER = {"auto": "default", "fast": "priority"}

_ECHOED_WITH_DEFAULTS: dict[str, JsonValue] = {
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


class StoredResponse(BaseModel):
    """What the stand-in keeps of one response; everything that a client sees follows from it and the time."""

    model_config = ConfigDict(frozen=True)

    id: str
    request: dict[str, JsonValue]
    """The body of the create."""
    input_text: str
    """Instructions and input, as they are counted in tokens."""
    output_text: str
    """What the response completes with."""
    faults: Faults
    accepted_at: float
    """Unix time, in seconds."""
    delay_seconds: float
    """From acceptance to the end."""
    conversation_id: str | None = None
    cancelled_at: float | None = None
    """Unix time of the first cancel that came before the end."""
    deleted: bool = False

    @property
    def background(self) -> bool:
        """Whether the client did not wait for the output."""
        return self.request.get("background") is True

    @property
    def streams(self) -> bool:
        """Whether its events can be read as they come."""
        return self.request.get("stream") is True

    @property
    def retrievable(self) -> bool:
        """Whether a client can get, cancel or delete it."""
        return not self.deleted and self.request.get("store") is not False


def ends_at(response: StoredResponse) -> float | None:
    """Unix time at which `response` takes its last status; None when it is stuck."""
    if response.cancelled_at is not None:
        return response.cancelled_at
    if response.faults.stuck:
        return None
    return response.accepted_at + response.delay_seconds


def status_at(response: StoredResponse, now: float) -> str:
    """The status that a retrieve at `now` (Unix time) shows."""
    faults = response.faults
    if response.cancelled_at is not None:
        return "completed" if faults.complete_after_cancel else "cancelled"
    end = ends_at(response)
    if end is not None and now >= end:
        return faults.unknown_status or faults.status or "completed"
    return "queued" if faults.stuck == "queued" or now < starts_at(response) else "in_progress"


def starts_at(response: StoredResponse) -> float:
    """Unix time at which `response` is `in_progress`, unless it is stuck in `queued`."""
    return response.accepted_at + response.delay_seconds * _QUEUED_SHARE


def written_text(response: StoredResponse) -> str:
    """The text that `response` has written when it ends by itself; empty where the model refuses."""
    if response.faults.refusal is not None:
        return ""
    return _text_when(response, "incomplete" if response.faults.status == "incomplete" else "completed")


def as_json(response: StoredResponse, status: str) -> dict[str, Any]:
    """The Response object of OpenAI's API, in `status`."""
    request = response.request
    end = ends_at(response)
    return {
        "id": response.id,
        "object": "response",
        "created_at": int(response.accepted_at),
        "status": status,
        "background": response.background,
        "conversation": None if response.conversation_id is None else {"id": response.conversation_id},
        "completed_at": int(end) if status == "completed" and end is not None else None,
        "error": _error(response) if status == "failed" else None,
        "incomplete_details": {"reason": response.faults.reason} if status == "incomplete" else None,
        "metadata": request.get("metadata") or {},
        "model": request["model"],
        "output": _output(response, status),
        "service_tier": _service_tier(request),
        "store": request.get("store") is not False,
        "text": _text_config(request.get("text")),
        "usage": _usage(response, status),
        **{name: _or_default(request.get(name), default) for name, default in _ECHOED_WITH_DEFAULTS.items()},
    }


def output_items(response: StoredResponse, now: float) -> list[dict[str, Any]]:
    """What a response leaves in its conversation: nothing before its end, nor where it failed or was cancelled."""
    status = status_at(response, now)
    return _output(response, status) if status in {"completed", "incomplete"} else []


def _or_default(value: JsonValue, default: JsonValue) -> JsonValue:
    return default if value is None else value


def _text_config(asked: JsonValue) -> dict[str, JsonValue]:
    return {"format": {"type": "text"}, "verbosity": "medium", **(asked if isinstance(asked, dict) else {})}


def _service_tier(request: dict[str, JsonValue]) -> str:
    asked = str(request.get("service_tier") or "auto")
    return _SERVED_TIER.get(asked, asked)


def _error(response: StoredResponse) -> dict[str, str]:
    return {"code": response.faults.error_code, "message": "Injected by the stand-in."}


def _text_when(response: StoredResponse, status: str) -> str:
    """The output text of `response` in `status`: cut short when it is incomplete."""
    text = response.output_text
    if status == "completed":
        return text
    if status == "incomplete" and response.faults.reason != "content_filter":
        return text[: len(text) // 2]
    return ""


def _output(response: StoredResponse, status: str) -> list[dict[str, Any]]:
    text = _text_when(response, status)
    if response.faults.refusal is not None and status == "completed":
        content: dict[str, Any] = {"type": "refusal", "refusal": response.faults.refusal}
    elif text or status == "completed":
        content = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    else:
        return []
    return [
        {
            "id": "msg_" + response.id.removeprefix("resp_"),
            "type": "message",
            "role": "assistant",
            "status": "incomplete" if status == "incomplete" else "completed",
            "content": [content],
        }
    ]


def _usage(response: StoredResponse, status: str) -> dict[str, Any] | None:
    if status not in {"completed", "incomplete"} or response.faults.usage == "null":
        return None
    written = response.faults.refusal or _text_when(response, status)
    input_tokens = tokens_of(response.input_text)
    reasoning_tokens = tokens_of(response.output_text) // 2
    output_tokens = tokens_of(written) + reasoning_tokens
    cached = input_tokens // 2 // _CACHED_IN_STEPS_OF * _CACHED_IN_STEPS_OF
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": cached if input_tokens >= _SMALLEST_CACHED_PROMPT else 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": input_tokens + output_tokens,
    }


def tokens_of(text: str) -> int:
    """How many tokens a text has."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)
