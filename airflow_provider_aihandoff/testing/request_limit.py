"""How many requests the stand-in takes in a minute, as its answers say in OpenAI's headers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from airflow_provider_aihandoff.testing.api_errors import ApiError

_PERIOD = 60.0


class RequestLimit:
    """Takes so many creates in any minute, and refuses the others with 429.

    Args:
        amount: how many.
        clock: the time, in Unix seconds.
    """

    def __init__(self, amount: int, clock: Callable[[], float]) -> None:
        self._amount = amount
        self._clock = clock
        self._taken: deque[float] = deque()

    def take(self) -> dict[str, str]:
        """Take one create, and return the headers of its answer.

        Raises:
            ApiError: 429, there were as many in the last minute.
        """
        now = self._clock()
        while self._taken and self._taken[0] <= now - _PERIOD:
            self._taken.popleft()
        if len(self._taken) < self._amount:
            self._taken.append(now)
            return self._headers(now)
        wait = self._taken[0] + _PERIOD - now
        raise ApiError(
            429,
            f"Rate limit reached for requests per min (RPM): limit {self._amount}. Please try again in {wait:.3f}s.",
            type="requests",
            code="rate_limit_exceeded",
            headers={**self._headers(now), "retry-after": str(int(wait) + 1)},
        )

    def _headers(self, now: float) -> dict[str, str]:
        reset = self._taken[-1] + _PERIOD - now
        return {
            "x-ratelimit-limit-requests": str(self._amount),
            "x-ratelimit-remaining-requests": str(self._amount - len(self._taken)),
            "x-ratelimit-reset-requests": f"{reset:.3f}s",
        }
