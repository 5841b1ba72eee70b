"""People who act while a task waits, in threads of the tests."""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_provider_aihandoff.core.errors import LedgerUnavailable


def insist(act: Callable[[], object]) -> Callable[[], None]:
    """Act again for as long as the ledger is unavailable: on a busy machine it is, and a person would try again."""

    def acting() -> None:
        while True:
            try:
                act()
            except LedgerUnavailable:
                time.sleep(0.1)
            else:
                return

    return acting
