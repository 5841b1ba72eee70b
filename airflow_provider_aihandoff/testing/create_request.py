"""The body of `POST /v1/responses`: what the real API refuses, and what the rest of the stand-in reads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from airflow_provider_aihandoff.core.generation.openai import strict_schema
from airflow_provider_aihandoff.testing.api_errors import ApiError
from airflow_provider_aihandoff.testing.faults import Faults, FaultSyntaxError, read_faults, take_markers_out

_FAULTS_METADATA_KEY = "standin"

_ERROR_CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    "greater_than_equal": "integer_below_min_value",
    "less_than_equal": "integer_above_max_value",
    "string_pattern_mismatch": "invalid_value",
    "too_long": "object_above_max_properties",
    "string_too_long": "string_above_max_length",
    "literal_error": "invalid_value",
}


class _Part(BaseModel):
    """Takes no number that is written as a text, and no parameter that the API does not know."""

    model_config = ConfigDict(strict=True, extra="forbid")


class TextFormat(_Part):
    """`text.format`."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, Field(pattern=rf"^{strict_schema.NAME.pattern}$")] | None = None
    description: str | None = None
    schema_: dict[str, JsonValue] | None = Field(default=None, alias="schema")
    strict: bool | None = None


class TextConfig(_Part):
    """`text`."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(_Part):
    """`reasoning`."""

    context: Literal["auto", "current_turn", "all_turns"] | None = None
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    mode: str | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class BackgroundOptions(_Part):
    """`background_options`."""

    completion_window: Literal["soonest", "2h", "8h"] = "soonest"


Object = dict[str, JsonValue]

MetadataKey = Annotated[str, Field(max_length=64)]
MetadataValue = Annotated[str, Field(max_length=512)]


class CreateRequest(_Part):
    """The parameters of the API, each with its type. What is in tools, prompts and the like is not checked."""

    model: str = Field(min_length=1)
    input: str | list[dict[str, JsonValue]]
    instructions: str | None = None
    metadata: Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)] | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, JsonValue] | None = None
    background: bool | None = None
    store: bool | None = None
    stream: bool | None = None
    text: TextConfig | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    background_options: BackgroundOptions | None = None
    reasoning: Reasoning | None = None
    max_output_tokens: Annotated[int, Field(ge=16)] | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncation: Literal["auto", "disabled"] | None = None
    parallel_tool_calls: bool | None = None
    tools: list[Object] | None = None
    tool_choice: str | Object | None = None
    include: list[str] | None = None
    prompt: Object | None = None
    context_management: list[Object] | None = None
    moderation: Object | None = None
    image: Object | None = None
    access_programs: JsonValue = None
    prompt_cache_key: Annotated[str, Field(max_length=64)] | None = None
    prompt_cache_retention: Literal["in_memory", "24h"] | None = None
    prompt_cache_options: Object | None = None
    safety_identifier: Annotated[str, Field(max_length=64)] | None = None
    stream_options: Object | None = None
    user: str | None = None

    @property
    def conversation_id(self) -> str | None:
        """The conversation in which the response runs."""
        if isinstance(self.conversation, dict):
            return str(self.conversation.get("id"))
        return self.conversation

    @property
    def format(self) -> TextFormat:
        """What the output must look like."""
        return (self.text and self.text.format) or TextFormat(type="text")

    def after(self, history: list[dict[str, JsonValue]]) -> CreateRequest:
        """The same request with the input items that came before it in its conversation."""
        return self.model_copy(update={"input": [*history, *self.input_items]})

    @property
    def input_items(self) -> list[dict[str, JsonValue]]:
        """The input as a list of items."""
        return [{"role": "user", "content": self.input}] if isinstance(self.input, str) else self.input

    @property
    def faults(self) -> Faults:
        """The faults that the metadata, the instructions and the input name.

        Raises:
            ApiError: 400, a word or a value is not in the vocabulary.
        """
        try:
            from_metadata = (self.metadata or {}).get(_FAULTS_METADATA_KEY, "")
            from_markers = [
                content
                for text in (self.instructions or "", *_texts(self.input))
                for content in take_markers_out(text)[1]
            ]
            return read_faults([from_metadata, *from_markers])
        except FaultSyntaxError as error:
            raise ApiError(400, str(error), code="unknown_stand_in_fault") from error

    @property
    def instructions_text(self) -> str:
        """The instructions without fault markers."""
        return take_markers_out(self.instructions or "")[0]

    @property
    def input_text(self) -> str:
        """What the user wrote, without fault markers: the text of every input item with the role `user`."""
        value = self.input
        if not isinstance(value, str):
            value = [item for item in value if item.get("role") == "user"] or value
        return take_markers_out("\n\n".join(_texts(value)))[0]


def parse_create_request(body: bytes) -> CreateRequest:
    """Read and check the body of a create.

    Raises:
        ApiError: 400, with the parameter at fault.
    """
    try:
        request = CreateRequest.model_validate_json(body)
    except ValidationError as error:
        raise _as_api_error(error) from error
    _check_background(request)
    _check_format(request.format)
    return request


def _as_api_error(error: ValidationError) -> ApiError:
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "We could not parse the JSON body of your request.")
    nested = first["loc"][0] in {"metadata", "text", "background_options", "reasoning"}
    param = ".".join(map(str, first["loc"] if nested else first["loc"][:1]))
    if first["type"] == "missing":
        message = f"Missing required parameter: '{param}'."
    elif first["type"] == "extra_forbidden":
        message = f"Unknown parameter: '{param}'."
    else:
        message = f"Invalid value for '{param}': {first['msg']}."
    return ApiError(400, message, param=param, code=_ERROR_CODES.get(first["type"], "invalid_type"))


def _check_background(request: CreateRequest) -> None:
    window = request.background_options and request.background_options.completion_window
    if request.stream and not request.background:
        raise ApiError(
            400, "The stand-in streams background responses alone.", param="stream", code="unsupported_parameter"
        )
    if request.stream and window in {"2h", "8h"}:
        raise ApiError(400, f"The completion window '{window}' cannot be streamed.", param="stream")
    if request.conversation is not None and request.previous_response_id is not None:
        raise ApiError(
            400,
            "Mutually exclusive parameters: 'conversation' and 'previous_response_id'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
    if request.background and request.store is False:
        raise ApiError(400, "Background mode requires 'store' to be true.", param="store")
    if window in {"2h", "8h"} and not request.background:
        raise ApiError(
            400,
            f"The completion window '{window}' requires 'background' to be true.",
            param="background_options.completion_window",
        )


def _check_format(text_format: TextFormat) -> None:
    if text_format.type != "json_schema":
        return
    for param, value in (("name", text_format.name), ("schema", text_format.schema_)):
        if value is None:
            raise ApiError(
                400,
                f"Missing required parameter: 'text.format.{param}'.",
                param=f"text.format.{param}",
                code="missing_required_parameter",
            )
    refusal = strict_schema.refusal_of(text_format.schema_) if text_format.strict else None
    if refusal is not None:
        path, why = refusal
        raise ApiError(
            400,
            f"Invalid schema for response_format '{text_format.name}': In context={path!r}, {why}.",
            param="text.format.schema",
            code="invalid_json_schema",
        )


def _texts(value: object) -> list[str]:
    """The texts in an input: a string, or items whose `content` is a string or parts with a `text`."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [text for entry in value for text in _texts(entry)]
    if isinstance(value, dict):
        return _texts(value.get("content", value.get("text")))
    return []
