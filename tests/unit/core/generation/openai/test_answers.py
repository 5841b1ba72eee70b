from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.generation.openai.answers import read_response, response_id_of
from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
from airflow_provider_aihandoff.core.generation.openai.json_answer import json_of
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
from airflow_provider_aihandoff.core.generation.outcome import Output, is_final, read_output
from airflow_provider_aihandoff.core.generation.provider import ProviderError
from airflow_provider_aihandoff.core.states import ResponseStatus

USAGE = {
    "input_tokens": 1_000_000,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 0,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 1_000_000,
}


class Note(BaseModel):
    title: str
    score: float = 0.0


def message(*parts: Mapping[str, Any], phase: str | None = None) -> dict[str, Any]:
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": list(parts)}
    return {**item, "phase": phase} if phase else item


def text(value: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": value, "annotations": []}


def response(*items: Any, **changes: Any) -> Response:
    """A response as the SDK builds it from an answer: without any check."""
    body = {"id": "resp_1", "status": "completed", "model": "gpt-5.2", "output": list(items), "usage": USAGE}
    return Response.construct(**{**body, **changes})


def output_of(answer: Response, output_type: type[BaseModel] | None = None) -> tuple[Output, str]:
    """What the ledger stores of an answer of the SDK."""
    read = read_response(answer, "resp_1")
    return read_output(read, output_type, OpenAIFacts().price(read, {}))


def error_of(answer: Response, output_type: type[BaseModel] | None = None) -> tuple[dict[str, Any], str]:
    output, why = output_of(answer, output_type)
    assert output.output is None
    assert output.error is not None
    return output.error, why


class TestStatus:
    @pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "incomplete"])
    def test_a_response_that_has_ended_says_how(self, status: str) -> None:
        read = read_response(response(status=status), "resp_1")
        assert (read.status, read.ended) == (ResponseStatus(status), True)

    @pytest.mark.parametrize("status", ["completed", "failed", "incomplete"])
    def test_a_cancelled_response_has_not_ended_on_its_own(self, status: str) -> None:
        assert read_response(response(status=status), "resp_1").ended_by_itself
        assert not read_response(response(status="cancelled"), "resp_1").ended_by_itself
        assert not read_response(response(status="queued"), "resp_1").ended_by_itself

    @pytest.mark.parametrize(
        ("status", "ours"),
        [("queued", "queued"), ("in_progress", "running"), ("suspended", "running"), (None, "running"), (7, "running")],
    )
    def test_a_response_that_runs_or_has_a_new_status_has_not_ended(self, status: Any, ours: str) -> None:
        read = read_response(response(status=status), "resp_1")
        assert (read.status, read.ended) == (ResponseStatus(ours), False)

    def test_a_status_that_is_not_known_here_is_in_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        read_response(response(status="in_progress"), "resp_1")
        assert caplog.text == ""
        read_response(response(status="suspended"), "resp_1")
        assert "'suspended'" in caplog.text

    @pytest.mark.parametrize("answer", ["<html>", None, ["resp_1"], {"id": "resp_2"}, response(id=None)])
    def test_an_answer_that_is_not_this_response_is_not_believed(self, answer: Any) -> None:
        with pytest.raises(ProviderError, match="got something else"):
            read_response(answer, "resp_1")


class TestJson:
    @pytest.mark.parametrize(
        "changes", [{}, {"metadata": {"a": "b"}, "created_at": 1_700_000_000}, {"status": "queued"}]
    )
    def test_says_the_same_as_what_the_sdk_makes_of_it(self, changes: dict[str, Any]) -> None:
        items = [message(text("A comment."), phase="commentary"), message(text('{"title": "a"}'))]
        built = response(*items, **changes)
        read = read_response(built.to_dict(), "resp_1")
        assert read.usage == USAGE
        assert replace(read, usage=None) == replace(read_response(built, "resp_1"), usage=None)

    @pytest.mark.parametrize("content", [b"<html>", b"", b'{"id": "resp_1"', b"\xff"])
    def test_is_none_where_the_answer_is_none(self, content: bytes) -> None:
        assert json_of(content) is None

    def test_has_null_in_the_place_of_what_is_no_number(self) -> None:
        assert json_of(b'{"usage": {"input_tokens": NaN}}') == {"usage": {"input_tokens": None}}


class TestTools:
    def items(self, *kinds: str) -> list[Any]:
        return [SimpleNamespace(type=kind) for kind in kinds]

    def test_calls_that_are_billed_beside_the_tokens_are_counted(self) -> None:
        kinds = ("web_search_call", "reasoning", "web_search_call", "code_interpreter_call", "new_call", "message")
        read = read_response(response(output=self.items(*kinds), usage={"input_tokens": 1}), "resp_1")
        assert read.usage is not None
        assert read.usage["tool_calls"] == {"code_interpreter_call": 1, "new_call": 1, "web_search_call": 2}

    def test_calls_that_another_system_makes_are_not(self) -> None:
        kinds = ("function_call", "custom_tool_call", "mcp_call", "computer_call")
        read = read_response(response(output=self.items(*kinds), usage={"input_tokens": 1}), "resp_1")
        assert "tool_calls" not in (read.usage or {})

    def test_those_with_a_configured_price_are_part_of_the_cost_and_the_others_stay_without(self) -> None:
        usage = {"input_tokens": 1000, "output_tokens": 100}
        kinds = ("web_search_call", "web_search_call", "file_search_call")
        prices = ToolPrices.of_text('{"web_search": 0.01}')
        read = read_response(response(output=self.items(*kinds), usage=usage, model="gpt-5.2"), "resp_1", prices)
        assert read.usage is not None
        assert read.usage["tool_calls"] == {"file_search_call": 1}
        assert read.usage["priced_tool_calls"] == {"web_search_call": 2}
        whole, tokens = OpenAIFacts.with_prices(prices).price(read, {}), OpenAIFacts().price(read, {})
        assert whole is not None
        assert tokens is not None
        assert whole - tokens == Decimal("0.02")

    def test_they_make_no_usage_where_there_is_none(self) -> None:
        assert read_response(response(output=self.items("web_search_call"), usage=None), "resp_1").usage is None


class TestEverythingElse:
    def test_metadata_and_the_time_of_creation_are_read(self) -> None:
        read = read_response(response(metadata={"a": "b"}, created_at=1_700_000_000), "resp_1")
        assert read.metadata == {"a": "b"}
        assert read.created_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)

    @pytest.mark.parametrize("value", [None, "x", [], 10**20])
    def test_fields_of_an_unexpected_type_are_left_out(self, value: Any) -> None:
        odd = {"metadata": value, "created_at": value, "error": value, "incomplete_details": value, "usage": value}
        read = read_response(response(**odd), "resp_1")
        assert (read.metadata, read.error_code, read.incomplete_reason, read.usage) == ({}, None, None, None)
        assert read.created_at is None

    @pytest.mark.parametrize("output", ["<html>", 7, {"type": "message"}, [None, "x", 7]])
    def test_an_output_that_is_no_list_of_messages_has_no_text(self, output: Any) -> None:
        assert read_response(response(output=output), "resp_1").text == ""

    def test_a_missing_output_is_distinguished_from_an_empty_one(self) -> None:
        assert read_response(response(output=None), "resp_1").text is None
        assert read_response(response(), "resp_1").text == ""


class TestOutput:
    def test_a_text_is_the_output_with_usage_and_cost(self) -> None:
        output, why = output_of(response(message(text("A kettle."))), None)
        assert (output.status, output.output, output.error, why) == ("completed", "A kettle.", None, "")
        assert output.usage is not None
        assert output.usage["input_tokens"] == 1_000_000
        assert output.cost_usd == Decimal("1.75")

    def test_an_output_type_is_parsed(self) -> None:
        output, _ = output_of(response(message(text('{"title": "Kettle"}'))), Note)
        assert output.output == {"title": "Kettle", "score": 0.0}

    def test_parts_and_messages_are_joined_in_order(self) -> None:
        output, _ = output_of(response(message(text("a"), text("b")), message(text("c"))), None)
        assert output.output == "abc"

    def test_of_two_messages_that_are_each_a_whole_answer_the_last_one_is_taken(self) -> None:
        answer = response(message(text('{"title": "Draft"}')), message(text('{"title": "Kettle"}')))
        output, why = output_of(answer, Note)
        assert (output.output, why) == ({"title": "Kettle", "score": 0.0}, "")

    def test_an_answer_in_parts_is_joined_even_if_the_last_part_is_json_itself(self) -> None:
        answer = response(message(text('{"title": "Kettle", "score":')), message(text("1.5}")))
        assert output_of(answer, Note)[0].output == {"title": "Kettle", "score": 1.5}

    @pytest.mark.parametrize(
        "said",
        [
            '```json\n{"title": "Kettle"}\n```',
            '\n```\r\n{"title": "Kettle"}\r\n```\n',
            '``` JSON\n{"title": "Kettle"}```',
        ],
    )
    def test_json_in_a_block_of_code_is_read(self, said: str) -> None:
        assert output_of(response(message(text(said))), Note)[0].output == {"title": "Kettle", "score": 0.0}

    def test_a_block_of_code_within_other_words_is_not_an_answer(self) -> None:
        error, _ = error_of(response(message(text('Here:\n```json\n{"title": "Kettle"}\n```'))), Note)
        assert error["kind"] == "mismatch"

    def test_a_text_keeps_its_block_of_code(self) -> None:
        said = '```json\n{"title": "Kettle"}\n```'
        assert output_of(response(message(text(said))), None)[0].output == said

    def test_comments_before_the_answer_are_not_part_of_it(self) -> None:
        answer = response(
            {"type": "reasoning", "id": "r", "summary": []},
            message(text("Let me look. "), phase="commentary"),
            message(text("A kettle."), phase="final_answer"),
        )
        output, _ = output_of(answer, None)
        assert output.output == "A kettle."

    @pytest.mark.parametrize("said", ["nul \x00", "lone \ud800 surrogate", "x" * 1_000_000])
    def test_a_text_is_taken_exactly_as_it_is(self, said: str) -> None:
        output, _ = output_of(response(message(text(said))), None)
        assert output.output == said


class TestMismatch:
    @pytest.mark.parametrize(
        "said",
        [
            '{"title": 7}',
            '{"title": "Kettle"',
            "A kettle.",
            '{"title": "\\ud800"}',
            '{"title": "\ud800"}',
            '{"title": "x", "score": NaN}',
            '{"title": "x", "score": Infinity}',
        ],
    )
    def test_a_text_that_is_not_the_output_type_is_kept_with_what_is_wrong(self, said: str) -> None:
        error, why = error_of(response(message(text(said))), Note)
        assert error["kind"] == "mismatch"
        assert error["text"] == said
        assert error["problems"]
        assert why.startswith("the output does not match Note: ")
        assert digest(error)

    def test_the_reason_of_a_mismatch_names_each_field_and_what_is_wrong_with_it(self) -> None:
        _, why = error_of(response(message(text('{"title": 7, "score": "high"}'))), Note)
        assert why == (
            "the output does not match Note: title: Input should be a valid string; "
            "score: Input should be a valid number, unable to parse string as a number"
        )

    def test_the_reason_of_a_mismatch_is_one_line_of_bounded_length(self) -> None:
        class Strict(BaseModel):
            model_config = ConfigDict(extra="forbid")

        said = json.dumps({f"{number}\n{'x' * 1000}": 1 for number in range(100)})
        _, why = error_of(response(message(text(said))), Strict)
        assert "\n" not in why
        assert why.endswith("; and 95 more")
        assert len(why) < 1200

    def test_an_answer_that_is_nested_too_deeply_is_refused_with_words(self) -> None:
        class Deep(BaseModel):
            tree: Any

        error, why = error_of(response(message(text('{"tree": ' + "[" * 900 + "]" * 900 + "}"))), Deep)
        assert error["kind"] == "mismatch"
        assert why == "the output does not match Deep: output: Not valid JSON: it is nested more than 64 levels deep."

    def test_a_mismatch_does_not_repeat_what_was_said_in_its_reason(self) -> None:
        _, why = error_of(response(message(text('{"title": 7, "secret": "s3cr3t"}'))), Note)
        assert "s3cr3t" not in why


class TestNoOutput:
    def test_a_refusal_is_kept_and_final(self) -> None:
        answer = response(message({"type": "refusal", "refusal": "I'm sorry."}))
        assert error_of(answer, Note) == (
            {"kind": "refusal", "text": "I'm sorry.", "final": True},
            "the model refused",
        )
        assert is_final(error_of(answer)[0])

    def test_a_refusal_counts_even_with_a_text(self) -> None:
        answer = response(message(text("Well."), {"type": "refusal", "refusal": "No."}))
        assert error_of(answer)[0]["kind"] == "refusal"

    @pytest.mark.parametrize(
        "items",
        [
            {"output": None},
            {"output": []},
            {"output": [message(text(""))]},
            {"output": [message(text(None))]},
            {"output": [message(text("…"), phase="commentary")]},
            {"output": [{"type": "message", "content": None}]},
        ],
    )
    def test_a_completed_response_without_a_text_is_empty(self, items: dict[str, Any]) -> None:
        error, why = error_of(response(**items), Note)
        assert (error, why) == ({"kind": "empty"}, "the response completed without a text")
        assert not is_final(error)

    @pytest.mark.parametrize(
        ("items", "tools"),
        [
            ([{"type": "function_call", "name": "get_weather", "arguments": "{}", "call_id": "c"}], ["get_weather"]),
            (
                [{"type": "mcp_approval_request", "server_label": "wiki", "name": "search", "arguments": "{}"}],
                ["wiki.search"],
            ),
            ([{"type": "computer_call", "call_id": "c"}], ["computer_call"]),
            (
                [
                    {"type": "function_call", "name": "a\x00", "arguments": "{}"},
                    {"type": "function_call", "name": "a\x00", "arguments": "{}"},
                    {"type": "custom_tool_call", "name": "b" * 900, "input": ""},
                    message(text("")),
                ],
                ["a\ufffd", "b" * 80],
            ),
        ],
    )
    @pytest.mark.parametrize("output_type", [None, Note])
    def test_a_response_that_only_asks_for_tools_is_final_and_names_them(
        self, items: list[dict[str, Any]], tools: list[str], output_type: type[BaseModel] | None
    ) -> None:
        error, why = error_of(response(*items), output_type)
        assert error == {"kind": "tool call", "tools": tools, "final": True}
        assert why == f"the model asked for a tool that a job cannot run for it: {', '.join(tools)}"

    def test_a_text_beside_a_tool_call_is_the_answer(self) -> None:
        call = {"type": "function_call", "name": "save", "arguments": "{}", "call_id": "c"}
        assert output_of(response(call, message(text("A kettle."))), None)[0].output == "A kettle."

    def test_a_failed_response_says_its_code_and_message(self) -> None:
        answer = response(status="failed", error={"code": "server_error", "message": "Try again."})
        error, why = error_of(answer)
        assert (error["kind"], error["code"], why) == ("failed", "server_error", "OpenAI: server_error: Try again.")
        assert not is_final(error)

    def test_a_failed_response_without_an_error_is_unknown(self) -> None:
        assert error_of(response(status="failed", error=None))[0]["code"] == "unknown"

    def test_a_prompt_that_is_refused_is_final(self) -> None:
        error, _ = error_of(response(status="failed", error={"code": "invalid_prompt", "message": "x"}))
        assert is_final(error)

    def test_an_incomplete_response_keeps_the_text_that_there_is(self) -> None:
        answer = response(
            message(text("A ket")), status="incomplete", incomplete_details={"reason": "max_output_tokens"}
        )
        error, why = error_of(answer)
        assert error == {"kind": "incomplete", "code": "max_output_tokens", "text": "A ket", "final": True}
        assert why == "the response is incomplete: max_output_tokens"

    def test_a_response_that_is_incomplete_for_another_reason_may_end_otherwise(self) -> None:
        assert not is_final(error_of(response(status="incomplete", incomplete_details={"reason": "new"}))[0])

    def test_a_content_filter_is_final(self) -> None:
        error, _ = error_of(response(status="incomplete", incomplete_details={"reason": "content_filter"}))
        assert is_final(error)

    def test_a_cancelled_response_has_no_output(self) -> None:
        error, why = error_of(response(message(text("A ket")), status="cancelled"))
        assert (error["kind"], why) == ("cancelled", "the response was cancelled at OpenAI")

    @pytest.mark.parametrize("status", ["failed", "incomplete", "cancelled"])
    def test_a_failed_response_is_billed_all_the_same(self, status: str) -> None:
        output, _ = output_of(response(status=status), None)
        assert output.cost_usd == Decimal("1.75")


class TestUsage:
    @pytest.mark.parametrize("usage", [None, "n/a", []])
    def test_an_output_without_a_bill_is_stored_with_the_price_unknown(self, usage: Any) -> None:
        output, _ = output_of(response(message(text("A kettle.")), usage=usage), None)
        assert (output.output, output.usage, output.cost_usd) == ("A kettle.", None, None)

    def test_a_usage_that_is_nested_too_deeply_is_not_stored(self) -> None:
        usage: Any = 1
        for _ in range(900):
            usage = {"more": usage}
        output, _ = output_of(response(message(text("A kettle.")), usage=usage), None)
        assert (output.output, output.usage) == ("A kettle.", None)


@pytest.mark.parametrize("named", ["", "resp_\x00", "resp_\ud800", "resp_\n", "r" * 257, 7, None])
def test_an_id_that_cannot_be_part_of_a_url_is_no_response(named: Any) -> None:
    assert response_id_of(response(id=named)) is None
