"""A conversation of the stand-in takes one response at a time, and shows what has ended in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from airflow_provider_aihandoff.testing import OpenAIStandIn


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> Iterator[OpenAI]:
    with (
        OpenAIStandIn(delay_seconds=10, clock=clock).serve() as running,
        OpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
    ):
        yield client


def ask(client: OpenAI, conversation: str, words: str = "", **more: Any) -> Any:
    return client.responses.create(
        model="gpt-5.2", input="Write.", background=True, conversation=conversation, metadata={"standin": words}, **more
    )


def written(client: OpenAI, conversation: str) -> list[str]:
    """Who wrote each item, the oldest first."""
    return [str(getattr(item, "role", "")) for item in client.conversations.items.list(conversation, order="asc")]


def test_a_conversation_takes_one_response_at_a_time(client: OpenAI, clock: Clock) -> None:
    conversation = client.conversations.create().id
    first = ask(client, conversation)
    assert first.conversation.id == conversation
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, conversation)
    assert (refused.value.code, refused.value.param) == ("conversation_locked", "conversation")
    clock.now += 11
    assert ask(client, conversation).id != first.id


def test_its_items_are_there_once_the_response_has_ended(client: OpenAI, clock: Clock) -> None:
    conversation = client.conversations.create().id
    ask(client, conversation)
    assert written(client, conversation) == []
    clock.now += 11
    assert written(client, conversation) == ["user", "assistant"]
    newest_first = client.conversations.items.list(conversation)
    assert getattr(newest_first.data[0], "role", "") == "assistant"


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_response_that_did_not_complete_leaves_no_items_and_no_lock(
    client: OpenAI, clock: Clock, status: str
) -> None:
    conversation = client.conversations.create().id
    ask(client, conversation, f"status={status}")
    clock.now += 11
    assert written(client, conversation) == []
    ask(client, conversation)


def test_the_items_fail_as_often_as_a_request_asks_for_it(client: OpenAI) -> None:
    conversation = client.conversations.create().id
    ask(client, conversation, "items=503 times=2")
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            written(client, conversation)
    assert written(client, conversation) == []


def test_an_unknown_conversation_is_not_found(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        written(client, "conv_0")
    with pytest.raises(openai.NotFoundError):
        ask(client, "conv_0")


def test_a_request_goes_on_from_a_conversation_or_from_a_response(client: OpenAI) -> None:
    conversation = client.conversations.create().id
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, conversation, previous_response_id="resp_0")
    assert refused.value.param == "previous_response_id"


def test_conversations_outlive_a_restart(tmp_path: Path) -> None:
    state = tmp_path / "state.jsonl"
    conversation = ""
    for _ in range(2):
        with (
            OpenAIStandIn(delay_seconds=60, state_file=state).serve() as running,
            OpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
        ):
            if not conversation:
                conversation = client.conversations.create().id
                ask(client, conversation)
            with pytest.raises(openai.BadRequestError, match="operating on this conversation"):
                ask(client, conversation)


def test_a_server_may_have_none(clock: Clock) -> None:
    with (
        OpenAIStandIn(conversations=False).serve() as running,
        OpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
        pytest.raises(openai.NotFoundError),
    ):
        client.conversations.create()
