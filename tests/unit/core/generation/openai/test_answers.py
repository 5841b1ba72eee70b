from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.generation.openai.answers import read_response
from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
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

    @pytest.mark.parametrize("answer", ["<html>", None, {"id": "resp_1"}, response(id="resp_2"), response(id=None)])
    def test_an_answer_that_is_not_this_response_is_not_believed(self, answer: Any) -> None:
        with pytest.raises(ProviderError, match="got something else"):
            read_response(answer, "resp_1")


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
        assert why == "the output does not match Note: 1 problems"
        assert digest(error)

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
        assert error == {"kind": "incomplete", "code": "max_output_tokens", "text": "A ket"}
        assert why == "the response is incomplete: max_output_tokens"
        assert not is_final(error)

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
