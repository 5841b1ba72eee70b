"""Writes what keeps happening into the log once, and then its count once a minute."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass

log = logging.getLogger(__name__)

#: Seconds between two lines of one kind.
INTERVAL = 60.0


@dataclass
class _Kind:
    level: int
    message: str
    due: float
    more: int = 0


class Tally:
    """Lines for the log, of a few kinds. Not for several threads.

    What was counted is written with the first line of any kind, or the first :meth:`flush`, after the minute is over.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kinds: dict[Hashable, _Kind] = {}

    def note(self, kind: Hashable, level: int, message: str) -> None:
        """Write a line, or count it where one of its kind was written lately.

        :param kind: of which there are few: nothing that a stranger can make up.
        """
        self.flush()
        known = self._kinds.get(kind)
        if known is None:
            self._kinds[kind] = _Kind(level, message, self._clock() + INTERVAL)
            log.log(level, "%s", message)
        else:
            known.level, known.message = level, message
            known.more += 1

    def flush(self) -> None:
        """Write the counts that are due."""
        now = self._clock()
        for kind, known in list(self._kinds.items()):
            if now < known.due:
                continue
            if not known.more:
                del self._kinds[kind]
                continue
            log.log(known.level, "%s (%d more times since the last such line)", known.message, known.more)
            known.more, known.due = 0, now + INTERVAL
