"""Reading a response that has ended, while the provider does not find it or answers oddly."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.generation.provider import ModelResponse, ProviderError, ResponseNotFound
from airflow_provider_aihandoff.core.generation.settle import READ_TRIES, ResponseUnreadable, read_ended
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.fake_provider import Answer, FakeProvider

WHOLE = ModelResponse("resp_1", ResponseStatus.COMPLETED, text="A kettle.")
WITHOUT_OUTPUT = ModelResponse("resp_1", ResponseStatus.COMPLETED)


@pytest.mark.parametrize(
    "first",
    [
        ResponseNotFound("not yet."),
        ProviderError("OpenAI answered 500."),
        ResponseStatus.RUNNING,
        WITHOUT_OUTPUT,
    ],
)
def test_a_response_that_cannot_be_read_yet_is_read_again_after_a_while(first: Answer) -> None:
    provider, slept = FakeProvider(first, first, WHOLE), list[float]()
    assert read_ended(provider, "resp_1", sleep=slept.append) == WHOLE
    assert (len(provider.calls), len(slept)) == (3, 2)
    assert 0.5 <= slept[0] <= 1.0


def test_a_completed_response_that_stays_without_an_output_is_taken_as_it_is() -> None:
    provider = FakeProvider(*[WITHOUT_OUTPUT] * READ_TRIES)
    assert read_ended(provider, "resp_1", sleep=lambda _: None) == WITHOUT_OUTPUT


@pytest.mark.parametrize("status", [ResponseStatus.FAILED, ResponseStatus.CANCELLED, ResponseStatus.INCOMPLETE])
def test_a_response_that_did_not_complete_needs_no_output(status: ResponseStatus) -> None:
    provider = FakeProvider(status)
    assert read_ended(provider, "resp_1", sleep=lambda _: None).status is status


@pytest.mark.parametrize("answer", [ProviderError("OpenAI answered 500."), ResponseStatus.RUNNING])
def test_a_response_that_stays_unreadable_is_an_error_that_says_why(answer: Answer) -> None:
    provider = FakeProvider(*[answer] * READ_TRIES)
    why = r"\(OpenAI answered 500\)" if isinstance(answer, ProviderError) else "no answer that can be used"
    with pytest.raises(ResponseUnreadable, match=why):
        read_ended(provider, "resp_1", sleep=lambda _: None)
    assert len(provider.calls) == READ_TRIES
