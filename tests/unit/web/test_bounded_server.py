"""The HTTP server of the receiver that runs alone. What strangers can do to it is tried on the running one."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette

from airflow_provider_aihandoff.web.bounded_server import BoundedServer


def test_what_the_process_has_imported_is_left_out_by_the_garbage_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []

    async def startup(_: uvicorn.Server, sockets: Any = None) -> None:
        frozen.append(gc.get_freeze_count())

    monkeypatch.setattr(uvicorn.Server, "startup", startup)
    gc.unfreeze()
    try:
        asyncio.run(BoundedServer(Starlette(), log_config=None).startup())
    finally:
        gc.unfreeze()
    assert frozen[0] > 10_000
