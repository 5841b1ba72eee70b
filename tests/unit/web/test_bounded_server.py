"""The HTTP server of the receiver that runs alone. What strangers can do to it is tried on the running one."""

from __future__ import annotations

import gc

from starlette.applications import Starlette

from airflow_provider_aihandoff.web.bounded_server import BoundedServer


def test_what_the_process_has_imported_is_left_out_by_the_garbage_collector() -> None:
    gc.unfreeze()
    try:
        BoundedServer(Starlette(), log_config=None)
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()
