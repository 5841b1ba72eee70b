from __future__ import annotations

from collections.abc import Callable

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response

from airflow_provider_aihandoff.testing import OpenAIStandIn, ResponderRequest

from .conftest import Clock

Create = Callable[..., Response]


def test_a_response_is_queued_then_in_progress_then_completed_by_the_clock(
    create: Create, client: OpenAI, clock: Clock
) -> None:
    response_id = create().id
    seen = []
    for _ in range(5):
        seen.append(client.responses.retrieve(response_id).status)
        clock.advance(2.5)
    assert seen == ["queued", "in_progress", "in_progress", "in_progress", "completed"]


def test_a_completed_response_has_a_message_usage_and_the_time_of_its_end(finish: Create, clock: Clock) -> None:
    response = finish("Say hello.", instructions="Be brief.")
    message = response.output[0]
    assert message.type == "message"
    assert (message.role, message.status) == ("assistant", "completed")
    assert message.content[0].type == "output_text"
    assert response.completed_at == clock.now
    usage = response.usage
    assert usage is not None
    assert usage.input_tokens == 5  # 19 characters
    assert usage.output_tokens > usage.output_tokens_details.reasoning_tokens > 0
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


def test_a_long_prompt_is_partly_cached(finish: Create) -> None:
    short, long = finish("hi").usage, finish("hi " * 4000).usage
    assert short is not None
    assert long is not None
    assert short.input_tokens_details.cached_tokens == 0
    assert 0 < long.input_tokens_details.cached_tokens < long.input_tokens


def test_the_same_input_gives_the_same_text_and_another_input_another(finish: Create) -> None:
    first, again, other = finish("Cats").output_text, finish("Cats").output_text, finish("Dogs").output_text
    assert first == again != other
    assert "Cats" in first


def test_the_same_input_gives_the_same_document_and_another_input_another(finish: Create) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"type": "number"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    text = {"format": {"type": "json_schema", "name": "number", "schema": schema, "strict": True}}
    first, again, other = (finish(about, text=text).output_text for about in ("Cats", "Cats", "Dogs"))
    assert first == again != other


def test_json_mode_answers_json(finish: Create) -> None:
    assert finish("Cats, as JSON", text={"format": {"type": "json_object"}}).output_text.startswith("{")


def test_a_cancelled_response_stays_cancelled_and_a_second_cancel_says_so(
    create: Create, client: OpenAI, clock: Clock
) -> None:
    response_id = create().id
    assert client.responses.cancel(response_id).status == "cancelled"
    assert client.responses.cancel(response_id).status == "cancelled"
    clock.advance(100)
    ended = client.responses.retrieve(response_id)
    assert (ended.status, ended.output, ended.usage) == ("cancelled", [], None)


def test_a_cancel_after_the_end_answers_the_finished_response(finish: Create, client: OpenAI) -> None:
    assert client.responses.cancel(finish().id).status == "completed"


@pytest.mark.parametrize("status", [400, 409])
def test_a_cancel_after_the_end_can_be_refused(status: int, clock: Clock) -> None:
    stand_in = OpenAIStandIn(cancel_finished_status=status, delay_seconds=0, clock=clock)  # type: ignore[arg-type]
    with stand_in.serve() as server, OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        response = client.responses.create(model="m", input="i", background=True)
        with pytest.raises(APIStatusError) as refused:
            client.responses.cancel(response.id)
        running = client.responses.create(model="m", input="[[standin: delay=9]]", background=True)
        for _ in range(2):
            assert client.responses.cancel(running.id).status == "cancelled"
    assert refused.value.status_code == status


def test_a_response_that_does_not_run_in_the_background_cannot_be_cancelled(client: OpenAI) -> None:
    response = client.responses.create(model="m", input="i")
    with pytest.raises(BadRequestError):
        client.responses.cancel(response.id)


def test_a_deleted_response_is_gone_for_the_client_only(
    create: Create, client: OpenAI, stand_in: OpenAIStandIn
) -> None:
    response_id = create().id
    client.responses.delete(response_id)
    for ask in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(NotFoundError):
            ask(response_id)
    assert [report.deleted for report in stand_in.responses().responses] == [True]


def test_an_unknown_id_answers_404_in_openais_words(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="Response with id 'resp_none' not found"):
        client.responses.retrieve("resp_none")


def test_the_users_responders_come_first_and_a_responder_may_return_none(clock: Clock) -> None:
    def greet(request: ResponderRequest) -> object:
        return {"greeting": request.input_text, "to": dict(request.metadata)} if request.metadata else None

    stand_in = OpenAIStandIn(responders=[greet, lambda _request: "I am second."], delay_seconds=0, clock=clock)
    with stand_in.serve() as server, OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        greeted = client.responses.create(model="m", input="hi [[standin: id=1]]", metadata={"name": "Ada"})
        second = client.responses.create(model="m", input="hi")
    assert greeted.output_text == '{"greeting": "hi", "to": {"name": "Ada"}}'
    assert second.output_text == "I am second."


def test_a_responder_that_raises_is_named_in_the_answer_and_nothing_is_created(clock: Clock) -> None:
    def broken(_request: ResponderRequest) -> object:
        raise LookupError("no such ticket")

    stand_in = OpenAIStandIn(responders=[broken], clock=clock)
    with (
        stand_in.serve() as server,
        OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
        pytest.raises(APIStatusError, match="no such ticket"),
    ):
        client.responses.create(model="m", input="i", background=True)
    assert [request.status for request in stand_in.requests()] == [500]
    assert stand_in.responses().responses == []
