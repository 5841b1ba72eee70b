"""When a worker asks about the responses that it has sent for, while it still works on their set. Pure.

It learns how long the model takes, and asks about a response when it is about due: so most questions find an answer,
which is taken at once. Those that find none make the next ones later, and are no more a second than a triggerer polls.
"""

from __future__ import annotations

import heapq
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

#: Seconds that the model is expected to take before anything is known, and how much later one asks until it is.
_FIRST, _GROWTH = 0.5, 1.25

#: What an answer, and a question without one, change in what is expected: one question in eleven finds none. Where more
#: may, it is every other one: where some answers take much longer than others, most are taken much sooner by that.
_HIT, _MISS, _HIT_WITH_ROOM = 0.998, 1.02, 0.98

#: After what part of its age a response is asked about again that had not ended: before any has, and later; and after
#: how many seconds at least.
_LATER_AT_FIRST, _LATER, _LATER_AT_LEAST = 0.5, 0.1, 0.5

#: How many questions without an answer may come at once, where there were none for a while.
_MISSES_AT_ONCE = 16.0


@dataclass(frozen=True, order=True)
class Due:
    """A response to ask about.

    :param sent_at: when it was sent for, by the flight's clock.
    :param again: it was asked about before.
    """

    sent_at: float
    job_id: int
    number: int
    again: bool = False


class Flight:
    """The responses that run for one leg of a task. Safe to share between threads.

    :param clock: seconds of a clock that goes on evenly.
    :param misses: how many questions a second may find that their response has not ended.
    """

    def __init__(self, clock: Callable[[], float], misses: float) -> None:
        self._clock, self._misses = clock, misses
        self._lock = threading.Lock()
        self._new: deque[Due] = deque()
        self._again: list[tuple[float, Due]] = []
        self._expected, self._is_known = _FIRST, False
        self._not_ended_by = 0.0
        self._allowed, self._allowed_at = _MISSES_AT_ONCE, clock()

    def __len__(self) -> int:
        """How many are not being asked about at this moment."""
        with self._lock:
            return len(self._new) + len(self._again)

    def sent(self, job_id: int, number: int) -> None:
        """A response runs from now on."""
        with self._lock:
            self._new.append(Due(self._clock(), job_id, number))

    def due(self) -> Iterator[Due]:
        """Those to ask about now. Each is asked about once, until :meth:`runs` says that it has not ended."""
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> Due | None:
        with self._lock:
            now = self._clock()
            self._allowed = min(_MISSES_AT_ONCE, self._allowed + (now - self._allowed_at) * self._misses)
            self._allowed_at = now
            if self._allowed < 1:
                return None
            if self._new and self._new[0].sent_at + self._expected <= now:
                return self._new.popleft()
            if self._again and self._again[0][0] <= now:
                return heapq.heappop(self._again)[1]
            return None

    def runs(self, asked: Due) -> None:
        """A response that was asked about has not ended."""
        with self._lock:
            now = self._clock()
            age = now - asked.sent_at
            self._allowed -= 1
            if not asked.again:  # one that takes much longer than the others says nothing about these
                later = age * (_MISS if self._is_known else _GROWTH)
                self._expected = max(self._expected, later)
                self._not_ended_by = max(self._not_ended_by, age)
            pause = max(_LATER_AT_LEAST, (_LATER if self._is_known else _LATER_AT_FIRST) * age)
            heapq.heappush(self._again, (now + pause, replace(asked, again=True)))

    def ended(self) -> None:
        """A response that was asked about has ended."""
        with self._lock:
            if not self._is_known and self._not_ended_by:
                # It has grown past what the first ones took: the others are asked about from where none had ended.
                self._expected = min(self._expected, self._not_ended_by * _MISS)
                self._again = [(min(at, each.sent_at + self._expected), each) for at, each in self._again]
                heapq.heapify(self._again)
            self._is_known = True
            self._expected *= _HIT_WITH_ROOM if self._allowed >= _MISSES_AT_ONCE / 2 else _HIT
