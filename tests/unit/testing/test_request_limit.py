"""The stand-in takes so many creates in a minute, and says so as OpenAI does."""

from __future__ import annotations

from openai import OpenAI

from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelResponse, Sent, SubmitFailure
from airflow_provider_aihandoff.testing import OpenAIStandIn

REQUEST = {"model": "gpt-5.2", "input": "Write a note."}


def test_each_answer_says_what_is_left_and_the_one_too_many_how_long_to_wait() -> None:
    now = [1000.0]
    stand_in = OpenAIStandIn(requests_per_minute=2, clock=lambda: now[0])
    with stand_in.serve() as server, OpenAI(base_url=server.base_url, api_key="test") as client:
        provider = OpenAIProvider(client)
        answers = []
        for _ in range(3):
            answers.append(provider.create(REQUEST, {}, timeout=5))
            now[0] += 10
        now[0] += 31
        answers.append(provider.create(REQUEST, {}, timeout=5))
    first, second, third, fourth = answers
    assert isinstance(first, ModelResponse)
    assert first.heard is not None
    assert (first.heard.requests, first.heard.wait) == (2, None)
    assert isinstance(second, ModelResponse)
    assert second.heard is not None
    assert second.heard.wait == 30.0  # none is left, and two come back within a minute
    assert isinstance(third, SubmitFailure)
    assert third.heard is not None
    assert (third.sent, third.heard.too_much, third.heard.wait) == (Sent.NO, True, 41.0)
    assert isinstance(fourth, ModelResponse)


def test_without_a_limit_nothing_is_said() -> None:
    with OpenAIStandIn().serve() as server, OpenAI(base_url=server.base_url, api_key="test") as client:
        answer = OpenAIProvider(client).create(REQUEST, {}, timeout=5)
    assert isinstance(answer, ModelResponse)
    assert answer.heard is None
