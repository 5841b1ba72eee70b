"""What threads of a set's task do together, without a ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.sets.shared_steps import SharedSteps
from airflow_provider_aihandoff.core.sets.together import Wish


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
