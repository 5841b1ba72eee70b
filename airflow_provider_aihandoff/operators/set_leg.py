"""What one leg of the task that drafts a set works with, and how far it has come."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.generation.provider import ProviderFor
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Owner
    from airflow_provider_aihandoff.core.sets.shared_steps import SharedSteps
    from airflow_provider_aihandoff.operators.set_answers import Answers

#: After so many requests of one leg that are held, or that the provider does not take now, it sends no more: the others
#: would fare the same. They are sent when one of these may be.
_ENOUGH = 32

#: After these, a request is not in flight, or no longer.
_NOT_IN_FLIGHT = frozenset({"held", "not taken", "failed", "attached", "taken", "too late"})


@dataclass
class Leg:
    """What one leg of the task works with.

    :param complete: a job that needs no approval has no effect either: it is completed.
    :param steps: what its threads do together.
    :param answers: what the responses of the set have left.
    :param patience: seconds for which it goes on while no response ends.
    :param in_flight: how many requests of the set are sent and have no answer.
    :param outcomes: what became of each piece of work, counted.
    :param dropped: the jobs of which no request can be made in this leg.
    :param is_tired: nothing has ended for so long that the task is to wait deferred.
    :param progress_at: when something was sent or taken last, by the monotonic clock.
    """

    context: Context
    ledger: Ledger
    provider_for: ProviderFor
    owner: Owner
    complete: bool
    steps: SharedSteps
    answers: Answers
    patience: float
    in_flight: int
    outcomes: Counter[str] = field(default_factory=Counter)
    dropped: set[int] = field(default_factory=set)
    is_tired: bool = False
    progress_at: float = field(default_factory=time.monotonic)

    def count(self, outcome: str) -> None:
        """Count what a piece of work came to. Called by the thread that hands the work over."""
        self.outcomes[outcome] += 1
        self.in_flight -= outcome in _NOT_IN_FLIGHT
        if outcome in ("sent", "taken"):
            self.progress_at = time.monotonic()

    def count_in_batch(self, outcome: str) -> None:
        """Count what became of a request that was to go into a batch: it is not in flight by itself."""
        self.outcomes[outcome] += 1
        if outcome == "sent":
            self.progress_at = time.monotonic()

    def stops(self) -> bool:
        """Whether no more is sent in this leg."""
        return self.outcomes["held"] + self.outcomes["not taken"] >= _ENOUGH

    @property
    def cannot_send(self) -> bool:
        """Whether nothing is sent in this leg that was not sent before it."""
        return self.is_tired or self.stops() or self.outcomes["not taken"] > 0

    @property
    def tries_again(self) -> bool:
        """Whether something is to be tried again, of which nothing else tells when."""
        return self.outcomes["not taken"] + self.outcomes["unreadable"] > 0
