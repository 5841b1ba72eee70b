"""From the bytes of a verified webhook to what the inbox keeps."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.strict_json import MAX_DEPTH
from airflow_provider_aihandoff.core.webhooks.event import MAX_NAME, parse
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.core.webhooks.signature import Reason, Rejected

EVENT = {
    "object": "event",
    "id": "evt_1",
    "type": "response.completed",
    "created_at": 1_700_000_000,
    "data": {"id": "resp_1"},
}


def read(event: object) -> Delivery:
    return parse("wh_1", "openai_default", event if isinstance(event, bytes) else json.dumps(event).encode())


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_an_event_is_kept_whole_with_its_type_and_the_response_that_it_names() -> None:
    assert read(EVENT) == Delivery("wh_1", "openai_default", "response.completed", "resp_1", EVENT)


def test_an_unknown_event_type_is_kept_as_it_is() -> None:
    assert read({**EVENT, "type": "response.paused"}).event_type == "response.paused"


@pytest.mark.parametrize(
    "data",
    [
        None,
        "resp_1",
        ["resp_1"],
        {},
        {"id": None},
        {"id": 7},
        {"id": ["resp_1"]},
        {"id": ""},
        {"id": "r" * (MAX_NAME + 1)},
        {"id": "resp_\x00"},
        {"id": "resp_\ud800"},
        {"id": "../files/file_1"},
        {"id": ".."},
        {"id": "resp_1?x=1"},
        {"id": "resp_1\n"},
    ],
)
def test_an_event_that_names_no_possible_response_is_kept_without_one(data: object) -> None:
    delivery = read({**EVENT, "data": data})
    assert delivery.response_id is None
    assert delivery.body["data"] == data


def test_an_event_without_data_is_kept() -> None:
    assert read({"type": "batch.completed"}).response_id is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"{}",
        b"{",
        b"not json",
        b'{"type": null}',
        b'{"type": 7}',
        b'{"type": ""}',
        b'{"type": ["response.completed"]}',
        json.dumps({"type": "t" * (MAX_NAME + 1)}).encode(),
        b'{"type": "a", "type": "b"}',
        b'{"type": "a", "data": {"id": "resp_1", "id": "resp_2"}}',
        b'{"type": "a", "n": NaN}',
        b'{"type": "a", "n": Infinity}',
        b'{"type": "a", "n": -Infinity}',
        b'{"type": "a", "n": 1e999}',
        b'{"type": "a", "n": ' + b"9" * 5000 + b"}",
        b'{"type": "a"} {"type": "b"}',
        b'\xef\xbb\xbf{"type": "a"}',
        '{"type": "a"}'.encode("utf-16"),
        b'{"type": "\x00"}',
        b'{"type": "a", "n": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
        b"[" * 60_000,
        json.dumps({"type": "a", "n": nested(MAX_DEPTH)}).encode(),
    ],
)
def test_a_body_that_is_not_an_event_is_malformed(body: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        read(body)
    assert caught.value.reason is Reason.MALFORMED
    assert caught.value.__cause__ is None


def test_an_event_may_nest_far_deeper_than_those_of_openai() -> None:
    assert read({"type": "a", "n": nested(MAX_DEPTH - 2)}).body["n"] == nested(MAX_DEPTH - 2)


def test_text_that_a_database_cannot_hold_is_kept_in_the_body() -> None:
    event = {**EVENT, "note": "\x00\ud800", "\udfff": 1}
    assert read(event).body == event


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
)


@given(st.one_of(st.binary(), JSON.map(lambda value: json.dumps(value).encode())))
def test_every_body_is_an_event_that_can_be_written_or_malformed(body: bytes) -> None:
    try:
        delivery = read(body)
    except Rejected:
        return
    canonical_json(delivery.body)


@given(st.dictionaries(st.text(st.characters()), JSON), JSON, JSON)
def test_every_object_with_a_type_can_be_written(event: dict[str, Any], data: object, event_id: object) -> None:
    try:
        delivery = read({**event, "type": "response.completed", "data": data, "id": event_id})
    except Rejected:
        return
    assert delivery.event_type == "response.completed"
    canonical_json(delivery.body)
