"""What an answer of OpenAI says about the limits of its project."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.generation.openai.rate_headers import heard, span
from airflow_provider_aihandoff.core.rates.slowdown import Heard

FULL = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0s"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("6m0s", 360.0), ("120ms", 0.12), ("1.5s", 1.5), ("1h2m3s", 3723.0), ("1d", 86_400.0)]
)
def test_a_span_is_read_as_openai_writes_it(text: str, seconds: float) -> None:
    assert span(text) == pytest.approx(seconds)


@given(st.text(max_size=20))
def test_what_is_no_span_is_none(text: str) -> None:
    assert (span(text) or 0) >= 0
    assert span(f"{text} ") is None


def test_a_refused_request_says_how_long_to_wait() -> None:
    assert heard(429, {"retry-after": "7"}, "429 slow") == Heard(too_much=True, wait=7.0, said="429 slow")
    assert heard(429, {}) == Heard(too_much=True)
    assert heard(429, {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "20s"}) == Heard(True, 20.0)


def test_an_overloaded_server_asks_for_a_pause_alone() -> None:
    assert heard(503, {"retry-after": "7"}) == Heard(wait=7.0)
    assert heard(503, {}) is None


def test_the_last_request_of_a_limit_asks_for_the_time_until_the_next_one() -> None:
    assert heard(200, FULL) == Heard(wait=1.0, requests=60)
    assert heard(200, {**FULL, "x-ratelimit-remaining-requests": "5"}) == Heard(requests=60)


def test_headers_that_say_nothing_are_left_out() -> None:
    assert heard(200, {}) is None
    assert heard(200, {"x-ratelimit-limit-requests": "many", "x-ratelimit-reset-requests": "soon"}) is None
