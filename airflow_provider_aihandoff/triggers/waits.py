"""What a trigger waits for, as the hub keeps it: a handful of ids, and a future."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import datetime


class Wait:
    """One trigger's wait. It ends once.

    :param job_id: the job whose notifications are about it.
    """

    __slots__ = ("_ended", "deadline", "job_id")

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        self.deadline: datetime | None = None
        """By the ledger's clock."""
        self._ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        """Whether it has ended, or no one waits any longer."""
        return self._ended.done()

    def end(self, status: str | None) -> None:
        """End the wait, if it has not ended; with None where its deadline has passed."""
        if not self._ended.done():
            self._ended.set_result(status)

    def result(self) -> Awaitable[str | None]:
        """What it ends with."""
        return self._ended


class ResponseWait(Wait):
    """A wait for the end of a response.

    :param poll_interval: seconds between the first polls of OpenAI while no webhooks arrive.
    """

    __slots__ = (
        "conn_id",
        "errors",
        "interval",
        "missing_since",
        "poll_at",
        "poll_interval",
        "response_id",
        "revision",
    )

    def __init__(self, job_id: int, revision: int, response_id: str, conn_id: str, poll_interval: float) -> None:
        super().__init__(job_id)
        self.revision = revision
        self.response_id = response_id
        self.conn_id = conn_id
        self.poll_interval = self.interval = poll_interval
        self.errors = 0
        self.missing_since: float | None = None
        self.poll_at = 0.0
        """By the event loop's clock."""


class ReviewWait(Wait):
    """A wait for a decision on one digest."""

    __slots__ = ("digest",)

    def __init__(self, job_id: int, digest: str) -> None:
        super().__init__(job_id)
        self.digest = digest


class EffectWait(Wait):
    """A wait for a change of one effect."""

    __slots__ = ("attempt", "effect_id", "state")

    def __init__(self, job_id: int, effect_id: int, state: str, attempt: int) -> None:
        super().__init__(job_id)
        self.effect_id = effect_id
        self.state = state
        self.attempt = attempt
