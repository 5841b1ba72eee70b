"""Makes `time.sleep` work where libfaketime sets the clock; Python imports this by its name when it starts.

Since 3.11, `time.sleep` sleeps until a moment of the monotonic clock. libfaketime 0.9.10 takes it for a moment of the
clock that it sets, and each call fails with EINVAL.
"""

import threading
import time
from typing import SupportsIndex


def _sleep(seconds: float | SupportsIndex, /) -> None:
    threading.Event().wait(float(seconds))


time.sleep = _sleep
