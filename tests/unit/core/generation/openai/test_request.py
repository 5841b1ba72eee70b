from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from airflow_provider_aihandoff.core.generation.openai.request import (
    MAX_METADATA,
    PROCESSING_ARGUMENTS,
    RESERVED_ARGUMENTS,
    RequestError,
    batch_body,
    build_request,
    input_snapshot,
    submission,
)
from airflow_provider_aihandoff.core.generation.provider import OWN_METADATA, own_metadata

BASE = {"model": "gpt-5.2", "input": "Write."}


class Line(BaseModel):
    sku: str
    amount: int = 1


class Order(BaseModel):
    title: str
    lines: list[Line]
    note: str | None = None


class TestArguments:
    def test_arguments_that_are_none_are_left_out_and_empty_ones_are_kept(self) -> None:
        assert build_request({**BASE, "tools": None, "instructions": ""}, None) == {**BASE, "instructions": ""}

    @pytest.mark.parametrize("name", sorted(RESERVED_ARGUMENTS))
    def test_arguments_of_the_submit_protocol_cannot_be_set(self, name: str) -> None:
        with pytest.raises(RequestError, match=name):
            build_request({**BASE, name: False}, None)

    @pytest.mark.parametrize("name", ["background", "store", "metadata"])
    def test_arguments_of_the_submit_protocol_cannot_be_set_in_the_extra_body(self, name: str) -> None:
        with pytest.raises(RequestError, match=name):
            build_request({**BASE, "extra_body": {name: {}}}, None)

    def test_an_argument_that_the_sdk_does_not_know_can_be_sent_in_the_extra_body(self) -> None:
        assert build_request({**BASE, "extra_body": {"novelty": 1}}, None)["extra_body"] == {"novelty": 1}

    def test_a_number_that_a_template_made_a_text_is_sent_as_a_number(self) -> None:
        arguments = {**BASE, "max_output_tokens": "500", "max_tool_calls": " 3 ", "temperature": "0.5", "top_p": 1}
        request = build_request(arguments, None)
        assert request == {**BASE, "max_output_tokens": 500, "max_tool_calls": 3, "temperature": 0.5, "top_p": 1}

    @pytest.mark.parametrize(
        ("name", "value"), [("max_output_tokens", "many"), ("max_output_tokens", ""), ("max_tool_calls", True)]
    )
    def test_a_text_that_is_no_number_is_refused_by_name(self, name: str, value: Any) -> None:
        with pytest.raises(RequestError, match=f"{name} must be a whole number, not {value!r}"):
            build_request({**BASE, name: value}, None)

    def test_a_stream_is_processing_and_no_part_of_what_the_model_is_asked(self) -> None:
        request = build_request(BASE, None, stream=True)
        assert request == {**BASE, "stream": True}
        assert input_snapshot(request) == input_snapshot(build_request(BASE, None))
        assert submission(request, {})["stream"] is True
        with pytest.raises(RequestError, match="stream cannot be in a request of a batch"):
            batch_body(request, {})

    @pytest.mark.parametrize("where", ["arguments", "extra_body"])
    def test_a_response_with_a_completion_window_is_not_streamed(self, where: str) -> None:
        window = {"background_options": {"completion_window": "2h"}}
        arguments = {**BASE, **(window if where == "arguments" else {"extra_body": window})}
        build_request(arguments, None)
        with pytest.raises(RequestError, match="completion window '2h'"):
            build_request(arguments, None, stream=True)
        build_request({**BASE, "background_options": {"completion_window": "soonest"}}, None, stream=True)

    def test_the_arguments_that_were_given_are_not_changed(self) -> None:
        arguments: dict[str, Any] = {**BASE, "text": {"verbosity": "low"}}
        build_request(arguments, Order)
        assert arguments == {**BASE, "text": {"verbosity": "low"}}


class TestMetadata:
    def test_metadata_may_have_as_many_pairs_as_openai_takes_minus_those_that_name_the_job(self) -> None:
        room = MAX_METADATA - len(OWN_METADATA)
        pairs = {f"k{number}": "v" * 512 for number in range(room)}
        request = build_request({**BASE, "metadata": pairs}, None)
        sent = submission(request, own_metadata(1, 1, "L"))["metadata"]
        assert len(sent) == MAX_METADATA
        with pytest.raises(RequestError, match=f"{room + 1} pairs"):
            build_request({**BASE, "metadata": {**pairs, "more": "v"}}, None)

    @pytest.mark.parametrize(
        ("pair", "problem"),
        [
            ({"a": "v" * 513}, "at most 512"),
            ({"a": 1}, "must be a text"),
            ({"a" * 65: "v"}, "more than 64"),
            ({"aihandoff_job": "7"}, "reserved"),
        ],
    )
    def test_a_pair_that_openai_would_refuse_or_that_is_ours_is_refused(
        self, pair: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(RequestError, match=problem):
            build_request({**BASE, "metadata": pair}, None)

    def test_a_request_names_job_revision_and_ledger_runs_in_the_background_and_is_stored(self) -> None:
        sent = submission({**BASE, "metadata": {"team": "docs"}}, own_metadata(7, 2, "5f0c"))
        assert sent == {
            **BASE,
            "background": True,
            "store": True,
            "metadata": {
                "team": "docs",
                "aihandoff_job": "7",
                "aihandoff_revision": "2",
                "aihandoff_ledger": "5f0c",
            },
        }


class TestOutputType:
    def test_an_output_type_is_sent_as_a_strict_schema_that_allows_nothing_else(self) -> None:
        output_format = build_request(dict(BASE), Order)["text"]["format"]
        assert (output_format["type"], output_format["name"], output_format["strict"]) == ("json_schema", "Order", True)
        schema = output_format["schema"]
        assert schema["additionalProperties"] is False
        assert schema["required"] == ["title", "lines", "note"]
        assert schema["$defs"]["Line"]["required"] == ["sku", "amount"]

    def test_an_output_type_keeps_the_other_settings_of_the_text(self) -> None:
        assert build_request({**BASE, "text": {"verbosity": "low"}}, Order)["text"]["verbosity"] == "low"

    def test_an_output_type_cannot_be_given_together_with_a_format(self) -> None:
        with pytest.raises(RequestError, match="not both"):
            build_request({**BASE, "text": {"format": {"type": "text"}}}, Order)


class TestSnapshot:
    @pytest.mark.parametrize("name", sorted(PROCESSING_ARGUMENTS))
    def test_how_a_request_is_processed_does_not_make_it_other_work(self, name: str) -> None:
        assert input_snapshot({**BASE, name: "x"}) == BASE

    @pytest.mark.parametrize("name", ["instructions", "tools", "reasoning", "text", "max_output_tokens", "model"])
    def test_a_different_question_to_the_model_makes_it_other_work(self, name: str) -> None:
        assert input_snapshot({**BASE, name: "x"}) != BASE
