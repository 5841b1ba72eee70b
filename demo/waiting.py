"""Waiting for a condition with a deadline, instead of sleeping."""

import time
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")


def wait_until(
    condition: Callable[[], Result | None], what: str, timeout_seconds: float, every_seconds: float = 0.1
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
