"""What an exception of the SDK says about a create: exceptions that real HTTP has raised, as far as it can."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai import OpenAI

from airflow_provider_aihandoff.core.generation.openai.failures import (
    InvalidArguments,
    asking_failed,
    classify,
)
from airflow_provider_aihandoff.core.generation.provider import (
    CredentialsRefused,
    ProviderError,
    ProviderUnreachable,
    ResponseNotFound,
    Sent,
    SubmitFailure,
)
from airflow_provider_aihandoff.testing import OpenAIStandIn


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with OpenAIStandIn().serve() as running:
        yield running.base_url


def create(base_url: str, fault: str = "", *, api_key: str = "any", timeout: float = 5.0) -> SubmitFailure:
    """Send one request and classify what it raises."""
    with OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=timeout) as client:
        try:
            answer = client.responses.create(
                model="gpt-5.2", input="Hello.", background=True, metadata={"standin": f"{fault} times=9"}
            )
        except Exception as error:  # noqa: BLE001 - whichever it is, it is what is tested
            return classify(error)
    raise AssertionError(f"no error, but {answer!r}")


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class TestAnswers:
    @pytest.mark.parametrize(
        ("fault", "sent"),
        [
            ("create=429", Sent.NO),
            ("create=500", Sent.NO),
            ("create=503", Sent.NO),
            ("create=429_quota", Sent.SPENT),
            ("create=429_spend", Sent.SPENT),
            ("create=400", Sent.NEVER),
        ],
    )
    def test_an_answer_of_openai_says_that_there_is_no_response(self, base_url: str, fault: str, sent: Sent) -> None:
        failure = create(base_url, fault)
        assert failure.sent is sent
        assert failure.reason.startswith(f"OpenAI answered {fault[7:10]}")

    def test_a_used_up_quota_is_distinguished_from_a_rate_limit(self, base_url: str) -> None:
        assert "insufficient_quota" in create(base_url, "create=429_quota").reason


class TestNoAnswer:
    @pytest.mark.parametrize("fault", ["create=timeout_after_accept", "create=drop_after_accept"])
    def test_a_request_that_was_accepted_without_an_answer_is_unknown(self, base_url: str, fault: str) -> None:
        failure = create(base_url, fault, timeout=1.0)
        assert (failure.sent, "after the request was sent" in failure.reason) == (Sent.UNKNOWN, True)

    def test_a_refused_connection_has_sent_nothing(self, closed_port: int) -> None:
        failure = create(f"http://127.0.0.1:{closed_port}/v1")
        assert (failure.sent, "before the request was sent" in failure.reason) == (Sent.NO, True)

    def test_a_host_that_does_not_exist_has_sent_nothing(self) -> None:
        assert create("http://nowhere.invalid/v1").sent is Sent.NO

    def test_a_connection_that_is_never_accepted_has_sent_nothing(self) -> None:
        with socket.socket() as full, socket.socket() as first:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            first.connect(full.getsockname())  # takes the only place in the queue
            with socket.socket() as second:
                second.setblocking(False)
                second.connect_ex(full.getsockname())
                failure = create(f"http://127.0.0.1:{full.getsockname()[1]}/v1", timeout=0.3)
        assert (failure.sent, "ConnectTimeout" in failure.reason) == (Sent.NO, True)

    def test_a_key_that_is_not_valid_in_a_header_has_sent_nothing(self, base_url: str) -> None:
        assert create(base_url, api_key="key\n").sent is Sent.NO

    def test_an_invalid_address_has_sent_nothing(self) -> None:
        assert create("ftp://127.0.0.1/v1").sent is Sent.NO


def status_error(status: int, body: dict[str, Any] | None = None, **headers: str) -> openai.APIStatusError:
    answer: Any = httpx.Response(status, headers=headers, request=httpx.Request("POST", "http://x/v1/responses"))
    return openai.APIStatusError("said", response=answer, body=body)


class TestStatuses:
    @pytest.mark.parametrize("status", [408, 502, 504, 520, 524, 529])
    def test_a_gateway_cannot_speak_for_the_server_behind_it(self, status: int) -> None:
        assert classify(status_error(status)).sent is Sent.UNKNOWN

    @pytest.mark.parametrize("status", [409, 429, 500, 503])
    def test_a_request_with_a_temporary_error_can_be_sent_again(self, status: int) -> None:
        assert classify(status_error(status)).sent is Sent.NO

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
    def test_a_request_with_a_permanent_error_cannot_be_sent_again(self, status: int) -> None:
        assert classify(status_error(status)).sent is Sent.NEVER

    @pytest.mark.parametrize(
        ("value", "seconds"),
        [("7", 7.0), ("0.5", 0.5), ("-3", None), ("nan", None), ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0), ("", None)],
    )
    def test_the_wait_that_openai_asks_for_is_read(self, value: str, seconds: float | None) -> None:
        headers: dict[str, Any] = {"retry-after": value}
        assert classify(status_error(429, **headers)).retry_after == seconds

    @pytest.mark.parametrize(
        "code",
        [
            "insufficient_quota",
            "billing_hard_limit_reached",
            "project_spend_limit_exceeded",
            "organization_spend_limit_exceeded",
            "monthly_budget_exceeded",
            "account_usage_limit_reached",
        ],
    )
    def test_a_limit_of_money_is_distinguished_from_one_of_speed(self, code: str) -> None:
        by_code, by_type = status_error(429, {"code": code}), status_error(429, {"type": code})
        for error in (by_code, by_type):
            assert classify(error).sent is Sent.SPENT

    @pytest.mark.parametrize("code", ["rate_limit_exceeded", "project_rate_limit_exceeded", "requests", "tokens", None])
    def test_a_limit_of_speed_is_waited_out(self, code: str | None) -> None:
        assert classify(status_error(429, {"code": code, "type": "tokens"})).sent is Sent.NO

    def test_a_server_that_wants_to_be_paid_is_not_asked_again(self) -> None:
        assert classify(status_error(402)).sent is Sent.SPENT

    def test_the_words_of_the_provider_stay_as_they_are_but_for_the_full_stop(self) -> None:
        said = classify(status_error(400, {"code": "bad", "message": "Give one of : a, b."})).reason
        assert said == "OpenAI answered 400 bad: Give one of : a, b"

    def test_a_body_that_is_no_error_object_has_no_reason(self) -> None:
        assert classify(status_error(400)).reason == "OpenAI answered 400: no reason given"


class TestOthers:
    def test_missing_credentials_are_final(self) -> None:
        assert classify(openai.OpenAIError("no key")).sent is Sent.NEVER

    def test_arguments_that_the_sdk_does_not_know_are_final(self) -> None:
        assert classify(InvalidArguments("unexpected keyword 'temprature'")).sent is Sent.NEVER

    def test_a_text_that_cannot_be_encoded_is_final(self) -> None:
        with pytest.raises(UnicodeEncodeError) as lone_surrogate:
            "\ud800".encode()
        assert classify(lone_surrogate.value).sent is Sent.NEVER

    @pytest.mark.parametrize("error", [ValueError("bad JSON"), TypeError("?"), KeyError("id"), RuntimeError("?")])
    def test_everything_else_may_have_been_sent(self, error: Exception) -> None:
        assert classify(error).sent is Sent.UNKNOWN


class TestAsking:
    """What an exception of a call about one response says about the response."""

    def raised(self, status: int) -> ProviderError:
        answer: Any = httpx.Response(status, request=httpx.Request("GET", "http://x/v1/responses/resp_1"))
        kind = {401: openai.AuthenticationError, 404: openai.NotFoundError}.get(status, openai.APIStatusError)
        return asking_failed(kind("said", response=answer, body=None), "resp_1")

    def test_a_response_that_is_not_found_has_an_error_of_its_own(self) -> None:
        assert isinstance(self.raised(404), ResponseNotFound)
        assert not isinstance(self.raised(410), ResponseNotFound)

    def test_refused_credentials_have_an_error_of_their_own(self) -> None:
        assert isinstance(self.raised(401), CredentialsRefused)

    def test_a_connection_without_an_answer_has_an_error_of_its_own(self) -> None:
        request: Any = httpx.Request("GET", "http://x/v1/responses/resp_1")  # the SDK may use another client
        for error in (openai.APIConnectionError(request=request), openai.APITimeoutError(request=request)):
            failed = asking_failed(error, "resp_1")
            assert isinstance(failed, ProviderUnreachable)
            assert type(error).__name__ in failed.what

    @pytest.mark.parametrize("status", [400, 403, 429, 500, 503])
    def test_any_other_answer_is_named_by_its_status(self, status: int) -> None:
        failed = self.raised(status)
        assert type(failed) is ProviderError
        assert failed.what == f"OpenAI answered {status} for resp_1."

    def test_the_body_of_an_error_is_not_repeated(self) -> None:
        failed = asking_failed(ValueError("Bearer s3cr3t"), "resp_1")
        assert type(failed) is ProviderError
        assert "s3cr3t" not in str(failed)

    def test_an_error_of_ours_stays_what_it_is(self) -> None:
        error = ResponseNotFound("gone.")
        assert asking_failed(error, "resp_1") is error
