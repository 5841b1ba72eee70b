"""How much of a limit is used, and when there is room again. Pure: the time is given, in seconds since 1970.

Two rules together. *The window*: no period, wherever it begins, has more than the amount. For this the period is cut
into slices, and the newest ones are added up; there are two more of them than a period has, so that requests that are a
slice late on their way still fit. *The pace*: what goes through is spread over the period, since most providers also
count over shorter times. It is the leaky bucket as a meter, in its form as a virtual schedule (GCRA, ITU-T I.371).
"""

from __future__ import annotations

from dataclasses import dataclass

#: Into how many slices a period is cut, and how many of them are added up.
SLICES = 60
COUNTED = SLICES + 2

#: What part of a period may be made up for at once, where those who wait came late.
TOLERANCE = 0.05

#: Seconds after the beginning of a slice that are surely in it, whatever floating point makes of them.
_IN_THE_SLICE = 0.001


@dataclass(frozen=True)
class Bucket:
    """What has gone through lately.

    :param next_at: when the pace lets the next one through.
    :param newest: the number of the newest slice, counted from 1970.
    :param counts: how much went through in each slice, the newest first; at most :data:`COUNTED` of them.
    """

    next_at: float = 0.0
    newest: int = 0
    counts: tuple[int, ...] = ()

    def used(self, period: float, at: float) -> int:
        """How much went through in the period up to now."""
        return sum(self._since(_slice(period, at), period, at))

    def room_at(self, amount: int, period: float, size: int, at: float, behind: int = 0) -> float:
        """When something of this size may go through: ``at`` where that is now; infinity where it never may.

        :param behind: how much of it goes first.
        """
        if amount <= 0 or size > amount:
            return float("inf")
        slice_of_now = _slice(period, at)
        pace = max(self._pace_from(period, at), at) + behind * period / amount - TOLERANCE * period
        over = sum(self._since(slice_of_now, period, at)) + size + behind - amount
        if over <= 0:
            return max(at, pace)
        waited = self._slices_until_gone(over, slice_of_now, period, at)
        return max(pace, (slice_of_now + waited) * period / SLICES + _IN_THE_SLICE)

    def take(self, amount: int, period: float, size: int, at: float) -> Bucket:
        """The bucket after something of this size went through."""
        slice_of_now = _slice(period, at)
        first, *rest = self._since(slice_of_now, period, at) or [0]
        next_at = max(self._pace_from(period, at), at) + size * period / max(amount, 1)
        return Bucket(next_at, slice_of_now, (first + size, *rest))

    def _pace_from(self, period: float, at: float) -> float:
        """When the pace lets the next one through; now, where the clock has been set back since."""
        return self.next_at if self.newest <= _slice(period, at) + SLICES else at

    def _since(self, slice_of_now: int, period: float, at: float) -> list[int]:
        """What went through in each counted slice, the one of now first."""
        passed = slice_of_now - self.newest
        if passed < -SLICES:  # the clock has been set back: another server, with another clock
            return []
        return [*[0] * min(max(passed, 0), COUNTED), *self.counts][:COUNTED]

    def _slices_until_gone(self, over: int, slice_of_now: int, period: float, at: float) -> int:
        """After how many slices so much of what went through is no longer counted."""
        counts = self._since(slice_of_now, period, at)
        oldest = len(counts) - 1
        while over > 0 and oldest >= 0:
            over -= counts[oldest]
            oldest -= 1
        # The slice at this index, counted from the newest, must be the first that is no longer added up. What goes
        # first and has not gone yet is gone a whole period after its time: that is an estimate, and asked again.
        return COUNTED - (oldest + 1) if over <= 0 else COUNTED


def _slice(period: float, at: float) -> int:
    return int(at * SLICES // period)
