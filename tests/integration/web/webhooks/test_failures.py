"""A ledger that is unavailable, and what the log and the metrics say."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.webhooks.inbox_batch import InboxBatches
from airflow_provider_aihandoff.core.webhooks.intake import PAUSE
from airflow_provider_aihandoff.web.api.webhook_receiver import Receiver
from tests.failing_database import failing
from tests.integration.web.webhooks.conftest import (
    BODY,
    EVENT,
    UseLedger,
    assert_nothing_secret,
    lines,
    send,
)
from tests.recorder import recording
from tests.unit.core.webhooks.signing import OTHER_SECRET, signed


@pytest.fixture
def end_pause(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Ends the pause after a failure of the ledger, which lasts until then however slow the machine is."""
    now = [1000.0]
    monkeypatch.setattr(receiver._intake, "_clock", lambda: sum(now))
    return lambda: now.append(PAUSE)


def test_an_unavailable_ledger_is_a_quick_503(
    openai: TestClient,
    use_ledger: UseLedger,
    conninfo: dict[str, Any],
    end_pause: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    use_ledger({**conninfo, "port": 1})
    body = json.dumps({**EVENT, "note": "the merger is off"}).encode()
    started = time.monotonic()
    for _ in range(10):
        answer = send(openai, body)
        assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (503, True)
        assert answer.headers["content-type"] == "application/problem+json"
    assert time.monotonic() - started < 20  # a moment; a pool that waits for its connection takes 30 s
    (line,) = lines(caplog)
    assert "cannot be recorded" in line
    assert "merger" not in caplog.text
    assert_nothing_secret(caplog.text, body)
    use_ledger(conninfo)
    end_pause()
    assert send(openai, body).status_code == 200


def test_a_broken_ledger_connection_is_a_503_and_recovers(
    openai: TestClient,
    monkeypatch: pytest.MonkeyPatch,
    end_pause: Callable[[], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: Any) -> Any:
        raise psycopg.OperationalError("out of disk while writing 'the merger is off'")

    with monkeypatch.context() as patch:
        patch.setattr(InboxBatches, "receive", fail)
        assert send(openai).status_code == 503
    assert send(openai).status_code == 503  # for a second, nothing is tried
    assert "merger" not in caplog.text
    end_pause()
    assert send(openai).status_code == 200


def test_a_ledger_without_its_schema_is_a_503(
    openai: TestClient, use_ledger: UseLedger, empty_conninfo: dict[str, Any], end_pause: Callable[[], None]
) -> None:
    use_ledger(empty_conninfo)
    assert send(openai).status_code == 503
    schema.upgrade(empty_conninfo)
    end_pause()
    assert send(openai).status_code == 200


def test_a_missing_ledger_connection_is_a_503_for_webhooks(openai: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_AIHANDOFF_LEDGER")
    assert send(openai).status_code == 503


def test_rejections_are_logged_once_without_content_and_then_counted(
    openai: TestClient, receiver: Receiver, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    headers = {"webhook_signature": signed(BODY, OTHER_SECRET)["webhook-signature"]}
    for number in range(20):
        assert send(openai, webhook_id=f"wh_secret_{number}", **headers).status_code == 400
    assert lines(caplog) == ["Answered a webhook for openai_default with 400: signature."]
    monkeypatch.setattr(receiver._tally, "_clock", lambda: time.monotonic() + 61)
    assert send(openai, **headers).status_code == 400
    assert lines(caplog)[1:] == [
        "Answered a webhook for openai_default with 400: signature. (19 more times since the last such line)"
    ]
    assert "wh_secret" not in caplog.text
    assert_nothing_secret(caplog.text, BODY)


def test_unknown_connection_names_are_neither_logged_nor_stored(
    openai: TestClient, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(20):
        send(openai, path=f"/aihandoff/webhooks/openai/made_up_{number}")
    assert len(lines(caplog)) == 1
    assert "made_up" not in lines(caplog)[0]
    assert len(receiver._tally._kinds) == 1


def test_outcomes_are_counted_and_the_first_delivery_with_its_delay(openai: TestClient) -> None:
    dated = json.dumps({**EVENT, "created_at": int(time.time()) - 90}).encode()
    with recording() as recorded:
        assert send(openai, dated).status_code == 200
        assert send(openai, dated).status_code == 200
        assert send(openai, webhook_id="forged").status_code == 400
        assert send(openai, path="/aihandoff/webhooks/openai/made_up").status_code == 404
    assert [(labels["conn_id"], labels["outcome"]) for labels, _ in recorded.of(signals.WEBHOOKS)] == [
        ("openai_default", "quarantined"),
        ("openai_default", "duplicate"),
        ("openai_default", "rejected"),
        ("others", "rejected"),
    ]
    ((labels, delay),) = recorded.of(signals.WEBHOOK_DELAY)
    assert labels == {"conn_id": "openai_default"}
    assert 89 <= delay < 150


@pytest.mark.parametrize("state", ["25006", "40P01", "53100", "55P03", "57014", "42501"])
def test_whatever_the_database_answers_is_a_503_and_the_webhook_comes_again(
    openai: TestClient, conninfo: dict[str, Any], end_pause: Callable[[], None], state: str
) -> None:
    with failing(conninfo, "inbox", state, on="INSERT"):
        assert send(openai).status_code == 503
    end_pause()
    assert send(openai).status_code == 200


def test_a_table_that_is_locked_is_a_503_within_seconds(
    openai: TestClient, conninfo: dict[str, Any], end_pause: Callable[[], None]
) -> None:
    with psycopg.connect(**conninfo) as psql:
        psql.execute("LOCK TABLE aihandoff.inbox")
        began = time.monotonic()
        assert send(openai).status_code == 503
        assert time.monotonic() - began < 20
    end_pause()
    assert send(openai).status_code == 200
