"""The text that the stand-in's "model" answers with: a responder's, else one sampled from the schema.

The same input, instructions and schema give the same text, on every run and machine.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import to_jsonable_python

from airflow_provider_aihandoff.testing.create_request import CreateRequest
from airflow_provider_aihandoff.testing.json_schema_sampler import resolve, sample

_SENTENCES = (
    "The facts that were given point in one direction, and none of them contradicts another.",
    "Two points deserve a second look before anything is sent out.",
    "Nothing in the material suggests that the matter is urgent.",
    "The numbers are taken from the input as they stand and were not rounded.",
    "A short follow-up with the people concerned would settle what is still open.",
    "The next step is small, can be undone, and has an owner.",
)


@dataclass(frozen=True)
class ResponderRequest:
    """What a responder may read to decide its answer."""

    model: str
    instructions: str
    input_text: str
    """What the user wrote, without fault markers."""
    schema: Mapping[str, Any] | None
    """The JSON schema of the output; None when text is wanted."""
    metadata: Mapping[str, str]
    seed: str
    """The same for the same instructions, input and schema."""

    @property
    def property_names(self) -> frozenset[str]:
        """The properties of the object that the schema wants; empty when it wants none."""
        if self.schema is None:
            return frozenset()
        return frozenset(resolve(self.schema, self.schema).get("properties", ()))


Responder = Callable[[ResponderRequest], object]
"""Answers a request with a text, or with an object to be written as JSON; None leaves it to the next one."""


def responder_request(request: CreateRequest) -> ResponderRequest:
    """The view of `request` that responders get."""
    schema = request.format.schema_
    seeded_by = [request.instructions_text, request.input_text, schema]
    return ResponderRequest(
        model=request.model,
        instructions=request.instructions_text,
        input_text=request.input_text,
        schema=schema,
        metadata=request.metadata or {},
        seed=hashlib.sha256(json.dumps(seeded_by, sort_keys=True).encode()).hexdigest(),
    )


def output_text(request: CreateRequest, responders: Iterable[Responder]) -> str:
    """The output text for `request`: the first responder's that has one, else a sampled one.

    Raises:
        UnsupportedSchemaError: no responder answered, and the schema cannot be sampled.
    """
    asked = responder_request(request)
    for responder in responders:
        answer = responder(asked)
        if answer is not None:
            return answer if isinstance(answer, str) else _as_json(answer)
    if asked.schema is not None:
        return _as_json(sample(asked.schema, asked.seed))
    prose = _prose(asked)
    return _as_json({"answer": prose}) if request.format.type == "json_object" else prose


def _as_json(value: object) -> str:
    return json.dumps(to_jsonable_python(value), ensure_ascii=False)


def _prose(asked: ResponderRequest) -> str:
    topic = next((line.strip() for line in asked.input_text.splitlines() if line.strip()), "nothing")
    sentences = random.Random(asked.seed).sample(_SENTENCES, 3)  # noqa: S311
    return f"On the request “{topic[:120]}”: " + " ".join(sentences)
