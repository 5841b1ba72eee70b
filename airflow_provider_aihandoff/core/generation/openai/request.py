"""Builds the request of a revision, and the snapshot by which a job recognises its own work. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.arguments import identifier, json_value
from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.generation.provider import OWN_METADATA

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Arguments that decide how a request is processed and billed, not what the model is asked. A change in one of
#: them does not make it other work, so they are no part of the input snapshot.
PROCESSING_ARGUMENTS = frozenset(
    {
        "background_options",
        "metadata",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "stream",
    }
)

#: Arguments that the submit protocol sets itself.
RESERVED_ARGUMENTS = frozenset({"background", "store", "stream", "stream_options", "timeout"})

#: Arguments that a line of a batch cannot have: they are about how a single request is sent, or processed.
NOT_IN_BATCH = frozenset({"background_options", "extra_headers", "extra_query", "service_tier", "stream"})

#: Stands for a batch among the completion windows, of which OpenAI has none of this name.
BATCH_WINDOW = "batch"

#: Arguments that name something.
_NAMES = frozenset(
    {"model", "previous_response_id", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "service_tier"}
)

#: Arguments that are numbers.
_NUMBERS: Mapping[str, type[int] | type[float]] = {
    "max_output_tokens": int,
    "max_tool_calls": int,
    "temperature": float,
    "top_logprobs": int,
    "top_p": float,
}

#: How many pairs of metadata OpenAI takes, and how long each may be.
MAX_METADATA = 16
MAX_METADATA_NAME = 64
MAX_METADATA_VALUE = 512


def build_request(
    arguments: Mapping[str, Any], output_type: type[BaseModel] | None, *, stream: bool = False
) -> dict[str, Any]:
    """Return the arguments of ``responses.create``, without what the submit protocol adds.

    :param arguments: by OpenAI's names; the ones that are None are left out.
    :param output_type: sent as a strict JSON schema.
    :param stream: its response can be watched while it is made.
    :raises RequestError: an argument is reserved, or two of them contradict each other.
    """
    request = {name: _checked(name, value) for name, value in arguments.items() if value is not None}
    # What is in `extra_body` overrides the other arguments.
    if reserved := sorted(RESERVED_ARGUMENTS & {*request, *(request.get("extra_body") or {})}):
        raise RequestError(
            f"{', '.join(reserved)} cannot be set: a job always runs in the background, is stored, and is sent "
            "within the time that the submit protocol allows. The operator has an argument of its own for stream."
        )
    if "metadata" in (request.get("extra_body") or {}):
        raise RequestError("metadata cannot be set in extra_body: it would replace the pairs that name the job.")
    metadata = request.get("metadata", {})
    _check_metadata(metadata)
    if output_type is not None:
        text = dict(request.get("text") or {})
        if "format" in text:
            raise RequestError("Give either output_type or response_kwargs['text']['format'], not both.")
        request["text"] = {**text, "format": _strict_format(output_type)}
    if stream:
        _check_streams(request)
        request["stream"] = True
    return request


def _check_streams(request: Mapping[str, Any]) -> None:
    options = {**request, **(request.get("extra_body") or {})}.get("background_options")
    window = options.get("completion_window") if isinstance(options, Mapping) else None
    if window not in (None, "soonest"):
        raise RequestError(
            f"stream=True cannot be set with the completion window {window!r}: OpenAI streams no such response."
        )


def _checked(name: str, value: Any) -> Any:
    """An argument as OpenAI takes it: a text or a number, where a template may have made something else of it.

    :raises RequestError: it is neither, or cannot be kept as JSON.
    """
    return identifier(name, value) if name in _NAMES else json_value(name, _as_number(name, value))


def _as_number(name: str, value: Any) -> Any:
    """The number that a template has rendered to a text, where OpenAI takes nothing but a number.

    :raises RequestError: it is none.
    """
    kind = _NUMBERS.get(name)
    if kind is None or not isinstance(value, (str, bool)):
        return value
    try:
        if isinstance(value, bool):
            raise ValueError
        number = kind(value)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise RequestError(f"{name} must be {what}, not {value!r}.") from None
    return number


def _check_metadata(metadata: Mapping[str, Any]) -> None:
    room = MAX_METADATA - len(OWN_METADATA)
    if len(metadata) > room:
        raise RequestError(f"metadata has {len(metadata)} pairs; {room} fit with the ones that name the job.")
    for name, value in metadata.items():
        if name in OWN_METADATA:
            raise RequestError(f"metadata {name!r} is reserved: it names the job.")
        if len(name) > MAX_METADATA_NAME:
            raise RequestError(f"the metadata name {name!r} has more than {MAX_METADATA_NAME} characters.")
        if not isinstance(value, str) or len(value) > MAX_METADATA_VALUE:
            raise RequestError(f"metadata {name!r} must be a text of at most {MAX_METADATA_VALUE} characters.")


def _strict_format(output_type: type[BaseModel]) -> dict[str, Any]:
    """The strict schema, as the SDK makes it for a foreground request; a new dict each time."""
    made: dict[str, Any] = json.loads(_strict_format_json(output_type))
    return made


@lru_cache(maxsize=256)
def _strict_format_json(output_type: type[BaseModel]) -> str:
    """The same as JSON. Private to the SDK: a test watches over it."""
    from openai.lib._parsing._responses import type_to_text_format_param

    return json.dumps(type_to_text_format_param(output_type))


def input_snapshot(request: Mapping[str, Any]) -> dict[str, Any]:
    """What the model is asked: the request without how it is processed."""
    return {name: value for name, value in request.items() if name not in PROCESSING_ARGUMENTS}


def output_schema(request: Mapping[str, Any]) -> Any:
    """The strict JSON schema that a request asks the output to match; None where it has none."""
    text = request.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    return form.get("schema") if isinstance(form, dict) else None


def may_have_conversation(request: Mapping[str, Any]) -> bool:
    """Whether a request can run in a conversation that is made for it: it goes on from no other response."""
    given = {*request, *(request.get("extra_body") or {})}
    return not given & {"conversation", "previous_response_id"}


def submission(
    request: Mapping[str, Any], metadata: Mapping[str, str], conversation_id: str | None = None
) -> dict[str, Any]:
    """The request as it is sent: in the background, stored, and with metadata by which an orphan can be matched."""
    conversation = {} if conversation_id is None else {"conversation": conversation_id}
    own = {"background": True, "store": True, "metadata": {**request.get("metadata", {}), **metadata}}
    return {**request, **conversation, **own}


def batch_body(request: Mapping[str, Any], metadata: Mapping[str, str]) -> dict[str, Any]:
    """The request as the body of a line in a batch, with metadata by which its response can be matched.

    :raises RequestError: it has arguments that no line of a batch can have.
    """
    body = {**request, **(request.get("extra_body") or {})}
    body.pop("extra_body", None)
    if wrong := sorted(NOT_IN_BATCH & body.keys()):
        raise RequestError(
            f"{', '.join(wrong)} cannot be in a request of a batch.",
            remedy='Leave it out, or use transport="background".',
        )
    return {**body, "store": True, "metadata": {**request.get("metadata", {}), **metadata}}


def in_batch(request: Mapping[str, Any]) -> dict[str, Any]:
    """The request with the window in which a batch is answered: what decides its price."""
    return {**request, "background_options": {"completion_window": BATCH_WINDOW}}
