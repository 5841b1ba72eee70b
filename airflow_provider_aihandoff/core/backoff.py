"""How long to wait before trying again: exponential, capped, with jitter.

Full jitter, as in "Exponential Backoff And Jitter" (Marc Brooker, AWS Architecture Blog, 2015): many that failed
together do not come back together.
"""

from __future__ import annotations

import math
import random
import re

#: Decimal seconds. RFC 9110 has whole ones; some servers send parts of a second.
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?", re.ASCII)

#: Not for secrets: it spreads load.
_random = random.SystemRandom()


def backoff(failures: int, *, base: float, cap: float) -> float:
    """Seconds to wait after this many failures in a row (1 or more): up to ``base`` doubled each time, at most ``cap``.

    At least half of it, so that a wait is never nothing.
    """
    ceiling = min(cap, base * 2 ** min(failures - 1, 30))
    return _random.uniform(ceiling / 2, ceiling)


def jittered(interval: float) -> float:
    """An interval of polling, up to a fifth shorter or longer."""
    return _random.uniform(0.8 * interval, 1.2 * interval)


def retry_after_seconds(header: str | None) -> float | None:
    """Seconds until the time that the field ``Retry-After`` names (RFC 9110, 10.2.3); None where it names none.

    :param header: a number of seconds, or a date, which may have passed; None where the answer had no such field.
    """
    from urllib3.exceptions import InvalidHeader
    from urllib3.util import Retry

    if header is None:
        return None
    if _SECONDS.fullmatch(header.strip()):
        seconds = float(header)
        return seconds if math.isfinite(seconds) else None
    try:
        return float(Retry().parse_retry_after(header))
    except (InvalidHeader, ValueError, OverflowError):
        return None
