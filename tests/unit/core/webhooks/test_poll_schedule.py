"""Polls of OpenAI are few at a time, and none of them can hurt the receiver."""

from __future__ import annotations

import asyncio
import threading

import pytest

from airflow_provider_aihandoff.core.webhooks import poll_schedule
from airflow_provider_aihandoff.core.webhooks.poll_schedule import AT_ONCE, MAX_WAITING, PollSchedule


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll_schedule, "DELAY", 0.01)


async def test_a_poll_is_made_after_a_moment() -> None:
    made: list[tuple[str, str]] = []
    running = PollSchedule(lambda *args: made.append(args))
    assert running.start("openai_default", "wh_1")
    assert made == []
    await asyncio.gather(*running._tasks)
    assert made == [("openai_default", "wh_1")]
    assert running._tasks == set()


async def test_few_polls_are_made_at_a_time_and_few_wait() -> None:
    gate, lock = threading.Event(), threading.Lock()
    inside: list[int] = []
    most: list[int] = []

    def poll(conn_id: str, webhook_id: str) -> None:
        with lock:
            inside.append(1)
            most.append(len(inside))
        gate.wait(60)
        with lock:
            inside.pop()

    running = PollSchedule(poll)
    started = [running.start("openai_default", f"wh_{number}") for number in range(MAX_WAITING + 5)]
    assert started == [True] * MAX_WAITING + [False] * 5
    async with asyncio.timeout(60):
        while len(inside) < AT_ONCE:  # noqa: ASYNC110  threads fill it, and it is no event
            await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*running._tasks)
    assert max(most) == AT_ONCE
    assert len(most) == MAX_WAITING
    assert running.start("openai_default", "wh_1")


async def test_a_poll_that_fails_is_logged_by_its_class_alone(caplog: pytest.LogCaptureFixture) -> None:
    def poll(conn_id: str, webhook_id: str) -> None:
        raise RuntimeError("secret words")

    PollSchedule(poll).start("openai_default", "wh_1")
    await asyncio.sleep(0.1)
    assert caplog.messages == ["Polling the response of webhook wh_1 failed: RuntimeError."]
    assert "secret words" not in caplog.text
