"""What waits in a triggerer goes on behind a pooler too: at once where it passes notifications on, else at a sweep."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger
from tests import factories
from tests.factories import job_spec
from tests.integration.operators.conftest import postgres_connection
from tests.pgbouncer import pgbouncer

SAID = "leads through a pooler that passes on no notifications"


async def seconds_to_fire(ledger: Ledger, number: int = 1) -> float:
    """How long after the webhook of its response a trigger fires."""
    revision = factories.submit(ledger, job_spec(job_key=f"job {number}"), f"resp_{number}")
    trigger = OpenAIBackgroundResponseTrigger(
        job_id=revision.job_id,
        revision=1,
        response_id=f"resp_{number}",
        openai_conn_id="openai_default",
        ledger_conn_id="aihandoff_ledger",
        deadline=factories.in_an_hour().isoformat(),
        not_before=ledger.now().isoformat(),
        poll_interval=3600,
    )

    async def fire() -> float:
        async for _ in trigger.run():
            return time.monotonic()
        raise AssertionError

    firing = asyncio.create_task(fire())
    await asyncio.sleep(4)
    event = {"type": "response.completed", "data": {"id": f"resp_{number}"}}
    delivery = Delivery(f"wh_{number}", "openai_default", "response.completed", f"resp_{number}", event)
    sent = time.monotonic()
    await asyncio.to_thread(ledger.inbox.receive, delivery)
    async with asyncio.timeout(30):
        return await firing - sent


@pytest.mark.usefixtures("connections")
async def test_in_transaction_mode_it_says_so_once_and_the_sweep_sees_every_change(
    ledger: Ledger,
    conninfo: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__SWEEP_INTERVAL", "2")
    with pgbouncer(conninfo) as through:
        monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", postgres_connection(through))
        for number in (1, 2):
            assert await seconds_to_fire(ledger, number) < 20
    assert caplog.text.count(SAID) == 1
    assert "sweep_interval = 2 s" in caplog.text


@pytest.mark.usefixtures("connections")
async def test_in_session_mode_notifications_come_and_nothing_is_said(
    ledger: Ledger,
    conninfo: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__SWEEP_INTERVAL", "3600")
    with pgbouncer(conninfo, "session") as through:
        monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", postgres_connection(through))
        assert await seconds_to_fire(ledger) < 20
    assert SAID not in caplog.text
