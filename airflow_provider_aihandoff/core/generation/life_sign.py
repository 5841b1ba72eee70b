"""How long a response has been made, and how long ago it was last seen to run. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from airflow_provider_aihandoff.core.moments import lasting

#: As good as never, in seconds: for intervals that no span of time can be.
_NEVER = 1e9


@dataclass(frozen=True)
class LifeSign:
    """What the ledger knows of the life of the response that runs for a job.

    :param since: when its request was sent.
    :param last: when it was last seen to run: as it was sent, and whenever a triggerer has polled it since.
    :param now: by the database's clock.
    """

    job_id: int
    since: datetime
    last: datetime
    now: datetime

    def is_quiet(self, after: timedelta) -> bool:
        """Whether its last sign is older than that."""
        return self.now - self.last > after

    def said(self, after: timedelta) -> str:
        """As a sentence.

        :param after: from when on it counts as quiet.
        """
        working, silence = lasting(self.now - self.since), lasting(self.now - self.last)
        if self.is_quiet(after):
            return f"Working for {working}, no sign for {silence}."
        return f"Working for {working}, last sign {silence} ago."


def quiet_after(*, poll_interval: float, with_webhooks: float, sweep_interval: float) -> timedelta:
    """After how long without a sign a response counts as quiet: later than the next poll could be recorded.

    All in seconds.

    :param poll_interval: as long as it gets while no webhooks arrive, and ``with_webhooks`` while they do.
    :param sweep_interval: between two checks of a triggerer, which then records what it has seen.
    """
    return timedelta(seconds=min(1.2 * max(poll_interval, with_webhooks) + 2 * sweep_interval, _NEVER))
