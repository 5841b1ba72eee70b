"""The input and the output of a model call as attributes of its span: masked, of a bounded size, and valid JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_aihandoff.core.generation.openai.messages import prompt_of
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.generation.trace_content import MAX_PARTS, MAX_TEXT, content_attributes
from airflow_provider_aihandoff.core.states import ResponseStatus

C = ResponseStatus.COMPLETED


def attributes(request: dict[str, Any], clean: Any = str, **response: Any) -> dict[str, Any]:
    answer = ModelResponse("resp_1", **{"status": C, "text": "A kettle.", **response})
    found = content_attributes(prompt_of(request), answer, clean)
    return {name.removeprefix("gen_ai."): json.loads(text) for name, text in found.items()}


def test_a_text_and_its_instructions_are_messages() -> None:
    assert attributes({"input": "Write about the kettle.", "instructions": "Be brief."}) == {
        "system_instructions": [{"type": "text", "content": "Be brief."}],
        "input.messages": [{"role": "user", "parts": [{"type": "text", "content": "Write about the kettle."}]}],
        "output.messages": [
            {"role": "assistant", "parts": [{"type": "text", "content": "A kettle."}], "finish_reason": "stop"}
        ],
    }


def test_of_what_is_no_text_there_is_the_kind_alone() -> None:
    asked = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "What is this?"},
                {"type": "input_image", "image_url": "data:image/png;base64,secret"},
            ],
        },
        {"type": "function_call_output", "call_id": "call_1", "output": "secret"},
        "not an item",
        {"role": "user", "content": ["not a part"]},
    ]
    assert attributes({"input": asked})["input.messages"] == [
        {"role": "developer", "parts": [{"type": "text", "content": "Be brief."}]},
        {"role": "user", "parts": [{"type": "text", "content": "What is this?"}, {"type": "input_image"}]},
        {"role": "tool", "parts": [{"type": "function_call_output"}]},
        {"role": "tool", "parts": [{"type": "unknown"}]},
        {"role": "user", "parts": [{"type": "unknown"}]},
    ]


def test_each_text_is_cleaned_before_it_is_cut() -> None:
    long = "x" * (MAX_TEXT - 4) + " secret-password"
    found = attributes({"input": long}, lambda text: text.replace("secret-password", "***"))
    (message,) = found["input.messages"]
    assert message["parts"][0]["content"] == "x" * (MAX_TEXT - 4) + " ***"


def test_texts_are_cut_and_what_has_no_room_is_left_out() -> None:
    asked = [{"role": "user", "content": "ä" * (MAX_TEXT + 10)}, {"role": "user", "content": "another"}]
    found = attributes({"input": asked}, text="b" * (3 * MAX_TEXT))
    (message,) = found["input.messages"]
    assert message["parts"] == [{"type": "text", "content": "ä" * MAX_TEXT + "… (10 more characters)"}]
    assert found["output.messages"][0]["parts"][0]["content"].endswith(f"… ({2 * MAX_TEXT:,} more characters)")
    many = [{"role": "user", "content": "x"}] * (MAX_PARTS + 1)
    assert len(attributes({"input": many})["input.messages"]) == MAX_PARTS


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        ({}, "stop"),
        ({"text": None, "calls": ("search",)}, "tool_call"),
        ({"status": ResponseStatus.INCOMPLETE, "incomplete_reason": "max_output_tokens"}, "length"),
        ({"status": ResponseStatus.INCOMPLETE, "incomplete_reason": "content_filter"}, "content_filter"),
        ({"status": ResponseStatus.FAILED}, "error"),
    ],
)
def test_how_it_ended_is_said_in_the_words_of_the_conventions(response: dict[str, Any], reason: str) -> None:
    assert attributes({"input": "x"}, **response)["output.messages"][0]["finish_reason"] == reason


def test_a_refusal_is_a_text_and_what_is_not_there_has_no_attribute() -> None:
    found = attributes({"input": "x"}, text=None, refusal="I cannot help with that.")
    assert found["output.messages"][0]["parts"] == [{"type": "text", "content": "I cannot help with that."}]
    assert set(attributes({}, text=None)) == set()
