"""An API server follows the ledger behind a pooler too, whatever session each of its checks gets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web.front_door import follow
from airflow_provider_aihandoff.web.front_door.follow import Doorkeeper
from tests.factories import ask, draft, job_spec
from tests.integration.operators.conftest import postgres_connection
from tests.pgbouncer import busy, pgbouncer

#: More often than statements are run before they are prepared.
CHECKS = 12


async def test_in_transaction_mode_one_connection_is_enough_for_all_checks(
    ledger: Ledger,
    conninfo: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    job = draft(ledger, job_spec(job_type="note", job_key="kettle"))
    monkeypatch.setattr(follow, "_CHECK", follow._GATHER + 0.05)
    checks = asyncio.Semaphore(0)
    read = Doorkeeper._read

    async def counted(*arguments: Any) -> Any:
        found = await read(*arguments)
        checks.release()
        return found

    monkeypatch.setattr(Doorkeeper, "_read", staticmethod(counted))
    with pgbouncer(conninfo) as through, busy(through):
        monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", postgres_connection(through))
        doorkeeper = Doorkeeper(lambda: 0, lambda: None, lambda _: 0, lambda _: None)
        async with doorkeeper.watching(job.job_id, str(job.event_seq)) as watch:
            async with asyncio.timeout(60):
                for _ in range(CHECKS):
                    await checks.acquire()
            await asyncio.to_thread(ask, ledger, job)
            assert await watch.wait(str(job.event_seq), 30)
        await doorkeeper.close()
    assert "cannot be followed" not in caplog.text
