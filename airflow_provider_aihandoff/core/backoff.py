"""How long to wait before trying again: exponential, capped, with jitter.

Full jitter, as in "Exponential Backoff And Jitter" (Marc Brooker, AWS Architecture Blog, 2015): many that failed
together do not come back together.
"""

from __future__ import annotations

import random

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
