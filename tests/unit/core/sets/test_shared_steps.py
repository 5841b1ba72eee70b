"""What threads of a set's task do together, without a ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.sets.shared_steps import SharedSteps, SharedWrites
from airflow_provider_aihandoff.core.sets.together import Wish
from airflow_provider_aihandoff.core.sets.written_together import WriteWish, Written


def test_the_time_of_a_permission_begins_when_there_is_room_to_send() -> None:
    def intend(wishes: Sequence[Wish], **_: Any) -> list[Intent]:
        return [Intent(SimpleNamespace(), wish.token) for wish in wishes]  # type: ignore[arg-type]

    ledger: Any = SimpleNamespace(together=SimpleNamespace(read=None, intend=intend, submitted=None, store=None))
    steps = SharedSteps(ledger, actor=None, lease=timedelta(45), most=1, complete=True)  # type: ignore[arg-type]
    is_sending, goes_on = threading.Event(), threading.Event()

    def first() -> None:
        with steps.sending(1):
            steps.intend(1, 1)
            is_sending.set()
            assert goes_on.wait(10)

    def second() -> Intent:
        with steps.sending(2):
            return steps.intend(2, 1)

    with ThreadPoolExecutor(2) as threads:
        threads.submit(first)
        assert is_sending.wait(10)
        waits = threads.submit(second)
        while not steps._intend._is_led:
            pass
        time.sleep(0.05)
        ended = time.monotonic()
        goes_on.set()
        asked = waits.result(10).asked
        assert asked is not None
        assert asked >= ended


class Writes:
    """The ledger's steps for writes of many jobs, which note who shares one."""

    def __init__(self) -> None:
        self.shared: list[list[int]] = []

    def claim(self, wishes: Sequence[WriteWish], **_: Any) -> list[Any]:
        self.shared.append(sorted(wish.job_id for wish in wishes))
        return [SimpleNamespace(effect=SimpleNamespace(effect_id=wish.job_id)) for wish in wishes]

    def confirm(self, written: Sequence[Written], **_: Any) -> list[Any]:
        self.shared.append(sorted(each.claim.effect.effect_id for each in written))
        return [each.claim.effect for each in written]


def shared_writes(writes: Writes, monkeypatch: pytest.MonkeyPatch) -> SharedWrites:
    """For four at the same time, which wait long for others."""
    ledger: Any = SimpleNamespace(written_together=writes)
    steps = SharedWrites(ledger, actor=None, most=4)  # type: ignore[arg-type]
    for combiner in (steps._claim, steps._confirm):
        monkeypatch.setattr(combiner, "_patience", 30.0)
    return steps


def claim(steps: SharedWrites, job_id: int) -> Any:
    return steps.claim(job_id, None, lease=timedelta(0), actor=None)  # type: ignore[arg-type]


def test_writes_that_are_about_to_be_made_are_claimed_together_and_confirmed_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writes = Writes()
    steps = shared_writes(writes, monkeypatch)
    steps.others = lambda: 3

    def write(job_id: int) -> None:
        with steps.writing(job_id):
            steps.confirm(claim(steps, job_id), external_id=None, result=None, actor=None)  # type: ignore[arg-type]

    with ThreadPoolExecutor(3) as threads:
        assert [*threads.map(write, (1, 2, 3), timeout=20)] == [None] * 3
    assert writes.shared == [[1, 2, 3], [1, 2, 3]]


def test_a_claim_does_not_wait_for_writes_that_are_being_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes()
    steps = shared_writes(writes, monkeypatch)
    steps.others = lambda: 1
    began = time.monotonic()
    with steps.writing(1):
        claim(steps, 1)
        steps.others = lambda: 2
        claim(steps, 2)
    assert writes.shared == [[1], [2]]
    assert time.monotonic() - began < 20


def test_a_write_that_has_ended_without_a_confirmation_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes()
    steps = shared_writes(writes, monkeypatch)
    with steps.writing(1):
        claim(steps, 1)
    assert not steps._sending
