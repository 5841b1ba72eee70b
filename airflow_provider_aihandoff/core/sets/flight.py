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

#: Until anything is known: seconds that the model is expected to take, how much later the next ones are asked about,
#: and seconds between two questions.
_FIRST, _GROWTH, _FIRST_EVERY = 0.5, 1.1, 0.25

#: What an answer, and a question without one, change in what is expected: one question in eleven finds none.
_HIT, _MISS = 0.998, 1.02

#: The same where the model takes unevenly long and more questions may find no answer: two in three. Most are taken much
#: sooner by that.
_HIT_WITH_ROOM, _MISS_WITH_ROOM = 0.98, 1.01

#: How much the newest answer counts in how often one differs from the one before; and from where on the model takes
#: unevenly long. Where it does not, all are answered from some age on, and none before.
_NEWEST, _UNEVEN = 0.02, 0.05

#: After what part of its age a response is asked about again that had not ended: before any has, and later; and after
#: how many seconds at least.
_LATER_AT_FIRST, _LATER, _LATER_AT_LEAST = 0.5, 0.1, 0.5


@dataclass(frozen=True, order=True)
class Due:
    """A response to ask about.

    :param sent_at: when it was sent for, by the flight's clock.
    :param again: it was asked about before.
    :param asked_at: when it is asked about, by the same clock; 0 before :meth:`Flight.asks` has said so.
    """

    sent_at: float
    job_id: int
    number: int
    again: bool = False
    asked_at: float = 0.0

    @property
    def age(self) -> float:
        """Seconds since it was sent for, when it is asked about."""
        return self.asked_at - self.sent_at


class Flight:
    """The responses that run for one leg of a task. Safe to share between threads.

    :param clock: seconds of a clock that goes on evenly.
    :param misses: how many questions a second may find that their response has not ended.
    :param at_once: how many may be asked at the same time: so many may find that, where none did for a while.
    """

    def __init__(self, clock: Callable[[], float], misses: float, at_once: int) -> None:
        self._clock, self._misses, self._at_once = clock, misses, at_once
        self._lock = threading.Lock()
        self._new: deque[Due] = deque()
        self._again: list[tuple[float, Due]] = []
        self._expected, self._expected_since, self._is_known = _FIRST, clock(), False
        self._not_ended_by = 0.0
        self._had_ended, self._differing = True, 0.0
        self._asked_at = clock() - _FIRST
        self._allowed, self._allowed_at, self._asking = float(at_once), clock(), 0

    def __len__(self) -> int:
        """How many are not being asked about at this moment."""
        with self._lock:
            return len(self._new) + len(self._again)

    def sent(self, job_id: int, number: int) -> None:
        """A response runs from now on."""
        with self._lock:
            self._new.append(Due(self._clock(), job_id, number))

    def due(self) -> Iterator[Due]:
        """Those to ask about now, each as soon as the worker can: see :meth:`asks`."""
        while (found := self._next()) is not None:
            yield found

    def _next(self) -> Due | None:
        with self._lock:
            now = self._clock()
            self._allowed = min(self._at_once, self._allowed + (now - self._allowed_at) * self._misses)
            self._allowed_at = now
            if self._allowed < 1 or (not self._is_known and now < self._asked_at + _FIRST_EVERY):
                return None
            if self._new and self._new[0].sent_at + self._expected <= now:
                found = self._new.popleft()
            elif self._again and self._again[0][0] <= now:
                found = heapq.heappop(self._again)[1]
            else:
                return None
            self._asked_at = now
            return found

    def later(self, due: Due) -> None:
        """One that was due cannot be asked about by now: it is due again a moment later."""
        with self._lock:
            heapq.heappush(self._again, (self._clock() + _LATER_AT_LEAST, due))

    def asks(self, due: Due) -> Due | None:
        """One that was due is asked about now: some time later, where the worker is busy.

        :return: it, as of now; what becomes of it is for :meth:`runs` or :meth:`ended`. None where it will be due again
            later: others have not ended at its age meanwhile.
        """
        with self._lock:
            now = self._clock()
            if self._allowed >= self._asking + 1 and (due.again or due.sent_at + self._expected <= now):
                self._asking += 1
                return replace(due, asked_at=now)
            heapq.heappush(self._again, (due.sent_at + self._expected, due))
            return None

    def runs(self, asked: Due) -> None:
        """A response that was asked about has not ended."""
        with self._lock:
            now = self._clock()
            self._allowed -= 1
            self._asking -= 1
            self._note(asked, ended=False)
            if self._counts(asked):
                if self._is_known:  # however late it is asked about: it may be one that takes much longer than others
                    self._expect(self._expected * (_MISS_WITH_ROOM if self._has_room else _MISS))
                else:
                    self._expect(max(self._expected, asked.age * _GROWTH))
            if not asked.again:
                self._not_ended_by = max(self._not_ended_by, asked.age)
            pause = max(_LATER_AT_LEAST, (_LATER if self._is_known else _LATER_AT_FIRST) * asked.age)
            heapq.heappush(self._again, (now + pause, replace(asked, again=True)))

    def ended(self, asked: Due) -> None:
        """A response that was asked about has ended."""
        with self._lock:
            self._asking -= 1
            if not self._is_known and self._not_ended_by:
                # It has grown past what the first ones took: the others are asked about from where none had ended.
                self._expect(min(self._expected, self._not_ended_by * _MISS))
                self._again = [(min(at, each.sent_at + self._expected), each) for at, each in self._again]
                heapq.heapify(self._again)
            self._is_known = True
            self._note(asked, ended=True)
            if self._counts(asked):  # one that was asked about late has taken its age at most: that says little
                self._expect(min(self._expected, asked.age * (_HIT_WITH_ROOM if self._has_room else _HIT)))

    @property
    def _has_room(self) -> bool:
        """Whether more questions may find no answer than do, and are worth it."""
        return self._differing > _UNEVEN and self._allowed >= self._at_once / 2

    def _note(self, asked: Due, *, ended: bool) -> None:
        if not asked.again:
            self._differing += _NEWEST * ((ended is not self._had_ended) - self._differing)
            self._had_ended = ended

    def _counts(self, asked: Due) -> bool:
        """Whether what became of a question changes what is expected.

        The first one of those that were asked by that does; the others were asked too early, or too late, with it. One
        that was asked about before says nothing about the others.
        """
        return asked.asked_at >= self._expected_since and not asked.again

    def _expect(self, seconds: float) -> None:
        """Expect the others to take so long."""
        if seconds != self._expected:
            self._expected, self._expected_since = seconds, self._clock()
