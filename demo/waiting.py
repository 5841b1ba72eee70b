"""Waiting for a condition with a deadline, instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

PROCESS_SECONDS = 60.0
"""How long one process of this machine may take to start or to end. Like the next, it is a bound, not an expectation:
an idle machine needs a fraction of it, and a busy one much more than that."""
AIRFLOW_SECONDS = 300.0
"""How long a step of a whole Airflow may take: a command, a component, a task, the stop of the demo."""


def wait_until(
    condition: Callable[[], Result | None],
    what: str,
    timeout_seconds: float = AIRFLOW_SECONDS,
    every_seconds: float = 0.1,
) -> Result:
    """Call `condition` until it returns something true, and return that.

    :raises TimeoutError: when the time has passed; the message says what was waited for.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() >= deadline:
            raise TimeoutError(f"Waited {timeout_seconds:g} s for {what}, in vain.")
        time.sleep(every_seconds)
