"""Whatever a stranger sends, it is refused in one way and leaves nothing."""

from __future__ import annotations

import json
import time
from typing import Any

from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.ledger import Ledger
from tests.integration.web.webhooks.conftest import (
    BODY,
    JSON,
    PATH,
    rows,
    send,
)
from tests.unit.core.webhooks.signing import OTHER_SECRET, raw, signed


def forgeries() -> dict[str, dict[str, str]]:
    """Headers that replace those of a signed webhook."""
    now = int(time.time())
    return {
        "unsigned": {"webhook_signature": ""},
        "another secret": {"webhook_signature": signed(BODY, OTHER_SECRET)["webhook-signature"]},
        "another id": {"webhook_id": "wh_2"},
        "no comma": {"webhook_signature": "v1"},
        "not base64": {"webhook_signature": "v1,!!!!"},
        "not ascii": {"webhook_signature": "v1,\xe9"},
        "not a time": {"webhook_timestamp": "now"},
        "stale": signed(BODY, at=now - 400),
        "early": signed(BODY, at=now + 400),
    }


def test_every_forged_webhook_gets_the_same_answer_and_stores_nothing(
    openai: TestClient, conninfo: dict[str, Any]
) -> None:
    answers = []
    for name, headers in forgeries().items():
        own = {key.replace("_", "-"): value for key, value in headers.items()}
        answer = openai.post(PATH, content=BODY, headers=raw({**JSON, **signed(BODY), **own}))
        assert answer.status_code == 400, name
        answers.append(answer)
    answers += [
        openai.post(PATH, content=BODY, headers=JSON),
        send(openai, b"\xff\xfe"),
        send(openai, b"[]"),
        send(openai, b'{"type": 7}'),
        send(openai, b"[" * 50_000),
        send(openai, b""),
    ]
    assert {answer.status_code for answer in answers} == {400}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].headers["content-type"] == "application/problem+json"
    assert rows(conninfo) == []


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters()), inner, max_size=3),
    max_leaves=8,
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.one_of(st.sampled_from(["response.completed", "response.failed"]), ANY_JSON),
        "data": st.one_of(st.fixed_dictionaries({"id": st.text(st.characters()) | ANY_JSON}), ANY_JSON),
        "id": ANY_JSON,
    },
)
ON_ONE_LEDGER = settings(
    max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@ON_ONE_LEDGER
@given(
    body=st.binary(max_size=300),
    headers=st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "webhook-signature", "content-length", "x-other"]),
        st.one_of(
            st.from_regex(rb"[^\x00\r\n]{0,80}", fullmatch=True),
            st.from_regex(rb"v1,[A-Za-z0-9+/]{43}=", fullmatch=True),
            st.just(str(int(time.time())).encode()),
        ),
    ),
)
def test_any_unsigned_request_is_refused_and_stores_nothing(
    openai: TestClient, conninfo: dict[str, Any], body: bytes, headers: dict[str, bytes]
) -> None:
    sent = [*raw(JSON), *((name.encode(), value) for name, value in headers.items())]
    assert openai.post(PATH, content=body, headers=sent).status_code in (400, 413)
    assert rows(conninfo) == []


@ON_ONE_LEDGER
@given(event=st.one_of(EVENTS, ANY_JSON), webhook_id=st.from_regex(r"[!-~]{1,256}", fullmatch=True))
def test_any_signed_request_is_recorded_or_refused_without_an_error(
    openai: TestClient, ledger: Ledger, event: Any, webhook_id: str
) -> None:
    body = json.dumps(event).encode()
    answer = openai.post(PATH, content=body, headers={**JSON, **signed(body, webhook_id=webhook_id)})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert ledger.inbox.read(webhook_id).deliveries >= 1
