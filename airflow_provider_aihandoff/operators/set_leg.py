"""What one leg of the task that drafts a set works with, and how far it has come."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.generation.provider import ProviderFor
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Owner, Revision
    from airflow_provider_aihandoff.core.sets.flight import Flight
    from airflow_provider_aihandoff.core.sets.shared_steps import SharedSteps

#: After so many requests of one leg that are held, or that the provider does not take now, it sends no more: the others
#: would fare the same. They are sent when one of these may be.
_ENOUGH = 32

#: Of how many responses that run a leg keeps what the ledger says of them, so that it need not be read again: a set
#: that has more in flight needs no more memory.
_KEPT = 2_000

#: Characters of the request of one that is kept at most: a large one is read again.
_KEPT_LENGTH = 10_000

#: Seconds after which it reads again in the ledger what has ended.
_READ_EVERY = 1.0

#: After these, a request is not in flight, or no longer.
_NOT_IN_FLIGHT = frozenset({"held", "not taken", "failed", "attached", "taken", "too late"})


@dataclass
class Leg:
    """What one leg of the task works with.

    :param steps: what its threads do together.
    :param flight: the responses that run for it.
    :param asking: held while a response is asked about: no more are at the same time than requests are sent.
    :param patience: seconds for which it goes on while no response ends.
    :param outcomes: what became of each piece of work, counted.
    :param dropped: the jobs of which no request can be made in this leg.
    :param taking: the jobs whose responses are being asked about, or taken.
    :param in_flight: how many requests of the set are sent and have no answer.
    :param running: the revisions that were sent in this leg, by the id of their job; not more than :data:`_KEPT`.
    :param ended: the responses of which the ledger has said that they have ended, and that are not handed over yet.
    :param ended_after: the last job of that page, after which the next one begins; 0 where there is none.
    :param is_tired: nothing has ended for so long that the task is to wait deferred.
    :param seen: the revisions, by the id of their job, whose responses were seen to run.
    :param progress_at: when something was sent or taken last, by the monotonic clock.
    """

    context: Context
    ledger: Ledger
    provider_for: ProviderFor
    owner: Owner
    has_effects: bool
    steps: SharedSteps
    flight: Flight
    asking: threading.Semaphore
    patience: float
    outcomes: Counter[str] = field(default_factory=Counter)
    dropped: set[int] = field(default_factory=set)
    taking: set[int] = field(default_factory=set)
    in_flight: int = 0
    running: dict[int, Revision] = field(default_factory=dict)
    ended: deque[tuple[int, int]] = field(default_factory=deque)
    ended_after: int = 0
    is_tired: bool = False
    progress_at: float = field(default_factory=time.monotonic)
    seen: dict[int, int] = field(default_factory=dict)
    _read_at: float = field(default_factory=time.monotonic)
    _noted_at: float = field(default_factory=time.monotonic)

    def count(self, outcome: str) -> None:
        """Count what a piece of work came to. Called by the thread that hands the work over."""
        self.outcomes[outcome] += 1
        self.in_flight -= outcome in _NOT_IN_FLIGHT
        if outcome in ("sent", "taken"):
            self.progress_at = time.monotonic()

    def runs(self, revision: Revision) -> None:
        """The response of a revision runs. Called by the thread that has sent it, or asked about it."""
        if len(self.running) < _KEPT and len(str(revision.request)) <= _KEPT_LENGTH:
            self.running[revision.job_id] = revision

    def revision(self, job_id: int, number: int) -> Revision:
        """A revision, as it was when its response was last known to run; or else as the ledger has it now."""
        known = self.running.pop(job_id, None)
        return known if known is not None and known.number == number else self.steps.revision(job_id, number)

    def count_in_batch(self, outcome: str) -> None:
        """Count what became of a request that was to go into a batch: it is not in flight by itself."""
        self.outcomes[outcome] += 1
        if outcome == "sent":
            self.progress_at = time.monotonic()

    def take_seen(self) -> dict[int, int]:
        """The responses that were seen to run, when it is time to record that; none before."""
        from airflow_provider_aihandoff.operators.responding import NOTE_EVERY

        now = time.monotonic()
        if now - self._noted_at < NOTE_EVERY:
            return {}
        self._noted_at, seen, self.seen = now, self.seen, {}
        return seen

    def reads_again(self) -> bool:
        """Whether it is time to read again in the ledger what has ended; if so, that counts."""
        now = time.monotonic()
        if now - self._read_at < _READ_EVERY:
            return False
        self._read_at = now
        return True

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
