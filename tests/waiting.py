"""Waits until something is so, for tests of what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], object], within: float = 30) -> None:
    """Wait for `condition`."""
    ends = time.monotonic() + within
    while not condition():
        assert time.monotonic() < ends, "It did not become so in time."
        time.sleep(0.005)
