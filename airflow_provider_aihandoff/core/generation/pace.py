"""How often OpenAI is asked: a token bucket, and whether webhooks make asking unnecessary. Pure: the time is given."""

from __future__ import annotations

from collections.abc import Mapping

#: How many times as long the interval between two polls of a response gets while no webhooks arrive.
POLL_STRETCH = 6.0


class TokenBucket:
    """Lets through ``rate`` a second on average, and at most ``burst`` at once.

    The leaky bucket as a meter, in its form as a virtual schedule (GCRA, ITU-T I.371).

    :param rate: per second; above 0.
    """

    def __init__(self, rate: float, burst: int) -> None:
        if not rate > 0:  # nor a NaN
            raise ValueError(f"The rate must be above 0, not {rate:g}.")
        self._interval = 1 / rate
        self._tolerance = (burst - 1) * self._interval
        self._next = float("-inf")

    def take(self, now: float) -> float:
        """Take one token, and return for how many seconds to wait before using it."""
        self._next = max(self._next, now)
        wait = max(0.0, self._next - self._tolerance - now)
        self._next += self._interval
        return wait


class WebhookWatch:
    """Which connections bring webhooks, so that polling can be seldom there.

    Silence belongs to a connection, not to a job: one job that takes an hour says nothing about the receiver.

    :param silence: seconds without a webhook after which a connection counts as silent.
    """

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._arriving: frozenset[str] = frozenset()

    @property
    def arriving(self) -> frozenset[str]:
        """The connections on which webhooks arrive."""
        return self._arriving

    def update(self, since: Mapping[str, float]) -> tuple[frozenset[str], frozenset[str]]:
        """Take in how many seconds ago each connection brought its newest webhook.

        :return: the connections that have begun to bring webhooks, and the ones that have fallen silent.
        """
        arriving = frozenset(conn_id for conn_id, seconds in since.items() if seconds < self._silence)
        begun, silent = arriving - self._arriving, self._arriving - arriving
        self._arriving = arriving
        return begun, silent
