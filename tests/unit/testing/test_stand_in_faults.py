from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    OpenAI,
    RateLimitError,
)
from openai.types.responses import Response

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer, faults
from airflow_provider_aihandoff.testing.faults import Faults, FaultSyntaxError, read_faults, take_markers_out

from .conftest import Clock

Create = Callable[..., Response]


def statuses(stand_in: OpenAIStandIn) -> list[int | None]:
    return [request.status for request in stand_in.requests()]


class TestVocabulary:
    def test_every_word_and_value_is_documented(self) -> None:
        table = faults.__doc__ or ""
        values = (faults.CreateFault, faults.RetrieveFault, faults.WebhookFault)
        listed = [*(word for literal in values for word in get_args(literal)), *Faults.model_fields]
        assert [word for word in listed if word not in table] == []

    def test_faults_come_from_the_metadata(self, create: Create, client: OpenAI) -> None:
        response = create(metadata={"standin": "delay=0 status=failed", "job": "1"})
        assert client.responses.retrieve(response.id).status == "failed"

    def test_faults_come_from_a_marker_in_the_instructions(self, create: Create, client: OpenAI) -> None:
        response = create(instructions="Be brief. [[standin: delay=0]]")
        assert client.responses.retrieve(response.id).status == "completed"

    def test_a_marker_wins_over_the_metadata(self, finish: Create) -> None:
        response = finish("[[standin: status=incomplete]]", metadata={"standin": "status=failed"})
        assert response.status == "incomplete"

    def test_a_marker_is_not_part_of_what_the_model_reads(self, finish: Create) -> None:
        marked, plain = finish("Say hello. [[standin: id=7]]"), finish("Say hello.")
        assert (marked.output_text, marked.usage) == (plain.output_text, plain.usage)

    @pytest.mark.parametrize(
        "marker",
        [
            "[[standin: colour=red]]",
            "[[standin: times=0]]",
            "[[standin: stuck]]",
            "[[standin: text=don't]]",
            "[[standin: a",
        ],
    )
    def test_a_marker_that_is_not_understood_is_refused(self, create: Create, marker: str) -> None:
        with pytest.raises(BadRequestError) as refused:
            create(marker)
        assert refused.value.code == "unknown_stand_in_fault"

    def test_brackets_inside_quotes_do_not_end_a_marker(self) -> None:
        rest, contents = take_markers_out("""a [[standin: text='[["b"]]' delay=1]] c""")
        assert rest == "a  c"
        assert read_faults(contents) == Faults(text='[["b"]]', delay=1)

    def test_a_word_that_cannot_stand_alone_is_refused(self) -> None:
        with pytest.raises(FaultSyntaxError, match="needs a value"):
            read_faults(["delay"])


class TestEndings:
    def test_delay_is_from_create_to_end(self, create: Create, client: OpenAI, clock: Clock) -> None:
        response_id = create("[[standin: delay=60]]").id
        clock.advance(59)
        assert client.responses.retrieve(response_id).status == "in_progress"
        clock.advance(1)
        assert client.responses.retrieve(response_id).status == "completed"

    def test_failed_has_an_error_code_and_no_output(self, finish: Create) -> None:
        response = finish("[[standin: status=failed error_code=rate_limit_exceeded]]")
        assert (response.status, response.output, response.usage) == ("failed", [], None)
        assert response.error is not None
        assert response.error.code == "rate_limit_exceeded"

    def test_incomplete_is_cut_short_and_still_billed(self, finish: Create) -> None:
        whole, part = finish("Say hello."), finish("Say hello. [[standin: status=incomplete]]")
        assert part.status == "incomplete"
        assert part.incomplete_details is not None
        assert part.incomplete_details.reason == "max_output_tokens"
        assert whole.output_text.startswith(part.output_text)
        assert 0 < len(part.output_text) < len(whole.output_text)
        assert part.usage is not None

    def test_a_content_filter_leaves_nothing_and_bills_all_the_same(self, finish: Create) -> None:
        response = finish("[[standin: status=incomplete reason=content_filter]]")
        assert response.output == []
        assert response.usage is not None

    def test_cancelled_without_a_cancel(self, finish: Create) -> None:
        assert finish("[[standin: status=cancelled]]").status == "cancelled"

    @pytest.mark.parametrize("status", ["queued", "in_progress"])
    def test_stuck_is_for_ever_until_a_cancel(self, create: Create, client: OpenAI, clock: Clock, status: str) -> None:
        response_id = create(f"[[standin: stuck={status}]]").id
        clock.advance(1_000_000)
        assert client.responses.retrieve(response_id).status == status
        assert client.responses.cancel(response_id).status == "cancelled"
        assert client.responses.retrieve(response_id).status == "cancelled"

    @pytest.mark.parametrize(
        ("word", "status"), [("unknown_status", "suspended"), ("unknown_status=expired", "expired")]
    )
    def test_an_unknown_status_is_shown_as_it_is(self, finish: Create, word: str, status: str) -> None:
        response = finish(f"[[standin: {word}]]")
        assert (response.status, response.output, response.usage) == (status, [], None)

    def test_a_refusal_has_no_output_text(self, finish: Create) -> None:
        response = finish("[[standin: refusal='Not that.']]")
        assert (response.status, response.output_text) == ("completed", "")
        assert response.to_dict()["output"][0]["content"] == [{"type": "refusal", "refusal": "Not that."}]  # type: ignore[index]
        assert response.usage is not None
        assert response.usage.output_tokens - response.usage.output_tokens_details.reasoning_tokens == 3

    def test_a_refusal_can_stand_alone(self, finish: Create) -> None:
        content = finish("[[standin: refusal]]").to_dict()["output"][0]["content"]  # type: ignore[index]
        assert "can't help" in content[0]["refusal"]

    def test_text_is_the_output_whatever_the_schema_says(self, finish: Create) -> None:
        schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
        text = {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}}
        assert finish("""[[standin: text='{"title": ']]""", text=text).output_text == '{"title": '

    def test_an_empty_text_is_a_message_all_the_same(self, finish: Create) -> None:
        response = finish("[[standin: text=]]")
        assert (len(response.output), response.output_text) == (1, "")

    def test_usage_can_be_null(self, finish: Create) -> None:
        response = finish("[[standin: usage=null]]")
        assert (response.status, response.usage) == ("completed", None)

    def test_complete_after_cancel_says_cancelled_once_and_completed_ever_after(
        self, create: Create, client: OpenAI
    ) -> None:
        response_id = create("[[standin: complete_after_cancel]]").id
        assert client.responses.cancel(response_id).status == "cancelled"
        response = client.responses.retrieve(response_id)
        assert response.status == "completed"
        assert response.output_text
        assert response.usage is not None
        assert response.completed_at is not None


class TestCreate:
    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [
            ("400", 400, "invalid_prompt"),
            ("429", 429, "rate_limit_exceeded"),
            ("429_quota", 429, "insufficient_quota"),
            ("500", 500, None),
            ("503", 503, "server_overloaded"),
        ],
    )
    def test_the_first_creates_fail_and_make_nothing(
        self, create: Create, stand_in: OpenAIStandIn, fault: str, status: int, code: str | None
    ) -> None:
        asked = f"Say hello. [[standin: create={fault} times=2]]"
        for _ in range(2):
            with pytest.raises(APIStatusError) as failed:
                create(asked)
            assert (failed.value.status_code, failed.value.code) == (status, code)
        assert stand_in.responses().responses == []
        created = create(asked)
        assert [report.response["id"] for report in stand_in.responses().responses] == [created.id]
        assert [request.fault for request in stand_in.requests()] == [f"create={fault}"] * 2 + [None]

    def test_a_rate_limit_says_when_to_come_back(self, create: Create) -> None:
        with pytest.raises(RateLimitError) as failed:
            create("[[standin: create=429]]")
        assert failed.value.response.headers["retry-after"] == "1"

    def test_html_is_a_page_with_status_200(self, create: Create, stand_in: OpenAIStandIn) -> None:
        page: Any = create("[[standin: create=html]]")
        assert isinstance(page, str)
        assert page.startswith("<!doctype html>")
        assert stand_in.responses().responses == []

    def test_timeout_after_accept_leaves_an_orphan(
        self, create: Create, stand_in: OpenAIStandIn, client: OpenAI
    ) -> None:
        asked = "Say hello. [[standin: create=timeout_after_accept]]"
        with pytest.raises(APITimeoutError):
            create(asked, timeout=1, metadata={"job": "7"})
        second = create(asked, metadata={"job": "7"})
        orphan, kept = stand_in.responses().responses
        assert kept.response["id"] == second.id != orphan.response["id"]
        assert orphan.response["metadata"] == {"job": "7"}
        assert client.responses.retrieve(orphan.response["id"]).status == "queued"
        assert statuses(stand_in)[0] is None

    def test_drop_after_accept_leaves_an_orphan(self, create: Create, stand_in: OpenAIStandIn) -> None:
        with pytest.raises(APIConnectionError):
            create("[[standin: create=drop_after_accept]]")
        [orphan] = stand_in.responses().responses
        [logged] = stand_in.requests()
        assert (logged.status, logged.response_id, logged.fault) == (
            None,
            orphan.response["id"],
            "create=drop_after_accept",
        )

    def test_the_sdks_own_retries_pay_twice(self, server: RunningServer, stand_in: OpenAIStandIn) -> None:
        with OpenAI(base_url=server.base_url, api_key="any", max_retries=1) as client:
            client.responses.create(model="m", input="[[standin: create=drop_after_accept]]", background=True)
        assert len(stand_in.responses().responses) == stand_in.responses().creates == 2

    def test_other_inputs_are_counted_apart(self, create: Create) -> None:
        for text in ("one", "two"):
            with pytest.raises(APIStatusError):
                create(f"{text} [[standin: create=500]]")

    def test_inputs_with_the_same_fault_id_are_counted_together(self, create: Create) -> None:
        with pytest.raises(APIStatusError):
            create("one [[standin: create=500 id=outage]]")
        create("two [[standin: create=500 id=outage]]")


class TestRetrieve:
    @pytest.mark.parametrize("status", [404, 429, 500, 503])
    def test_the_first_retrieves_of_each_response_fail(
        self, create: Create, client: OpenAI, stand_in: OpenAIStandIn, status: int
    ) -> None:
        for _ in range(2):
            response_id = create(f"[[standin: retrieve={status} times=2]]").id
            for _ in range(2):
                with pytest.raises(APIStatusError) as failed:
                    client.responses.retrieve(response_id)
                assert failed.value.status_code == status
            assert client.responses.retrieve(response_id).status == "queued"
        faulty = [request.fault for request in stand_in.requests() if request.fault]
        assert faulty == [f"retrieve={status}"] * 4

    def test_faults_can_wait_for_the_end(self, create: Create, client: OpenAI, clock: Clock) -> None:
        response_id = create("[[standin: retrieve=404 when=finished]]").id
        assert client.responses.retrieve(response_id).status == "queued"
        clock.advance(10)
        with pytest.raises(APIStatusError):
            client.responses.retrieve(response_id)
        assert client.responses.retrieve(response_id).status == "completed"

    def test_html_reaches_the_caller_as_text(self, finish: Create) -> None:
        assert isinstance(finish("[[standin: retrieve=html]]"), str)

    def test_null_output_breaks_output_text(self, create: Create, client: OpenAI, clock: Clock) -> None:
        response_id = create("[[standin: retrieve=null_output]]").id
        assert client.responses.retrieve(response_id).output == []
        clock.advance(10)
        broken: Any = client.responses.retrieve(response_id)
        assert (broken.status, broken.output) == ("completed", None)
        with pytest.raises(TypeError):
            _ = broken.output_text
        assert client.responses.retrieve(response_id).output_text

    def test_wrong_id_is_of_another_response(self, create: Create, client: OpenAI) -> None:
        response_id = create("[[standin: retrieve=wrong_id]]").id
        assert client.responses.retrieve(response_id).id != response_id
        assert client.responses.retrieve(response_id).id == response_id

    def test_drop_is_a_connection_error(self, create: Create, client: OpenAI, stand_in: OpenAIStandIn) -> None:
        response_id = create("[[standin: retrieve=drop]]").id
        with pytest.raises(APIConnectionError):
            client.responses.retrieve(response_id)
        assert client.responses.retrieve(response_id).id == response_id
        assert statuses(stand_in) == [200, None, 200]


def test_faults_are_kept_out_of_the_output_of_a_schema(finish: Create) -> None:
    schema = {
        "type": "object",
        "properties": {"title": {"type": "string"}, "body": {"type": "string"}, "tagline": {"type": "string"}},
        "required": ["title", "body", "tagline"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "note", "schema": schema, "strict": True}}
    note = json.loads(finish("Write the note for trail-lamp [[standin: id=1]].", text=text).output_text)
    assert "Trail Lamp" in note["title"]
    assert "standin" not in json.dumps(note)
