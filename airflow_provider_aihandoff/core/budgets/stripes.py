"""How the amount of one period is split, so that requests of the whole fleet do not queue up for one row. Pure.

A period has :data:`STRIPES` rows. Each is given a share of the amount, and a request takes the room of one that no
other transaction holds. Within a stripe, what is settled and reserved never exceeds what it was given: the database
checks that. When none has enough room, all are locked, and what is left is shared out again.

What was spent, or had to be reserved, beyond the amount is given on top and remembered as ``beyond``. It is made up
for from the first room that there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal

#: Rows of one period. More than connections that write at the same time are of no use.
STRIPES = 16

#: Shares are rounded down to this; what is left over goes to the first stripe.
_SHARE = Decimal("0.000001")

_NOTHING = Decimal(0)


@dataclass(frozen=True)
class Stripe:
    """One row, in US dollars."""

    stripe: int
    allotted_usd: Decimal
    reserved_usd: Decimal
    settled_usd: Decimal
    beyond_usd: Decimal

    @property
    def used_usd(self) -> Decimal:
        """What is settled and reserved."""
        return self.reserved_usd + self.settled_usd

    @property
    def room_usd(self) -> Decimal:
        """What can still be reserved here."""
        return self.allotted_usd - self.used_usd


def room(stripes: Sequence[Stripe]) -> Decimal:
    """What can still be reserved in all of them, once what was spent beyond the amount is made up for."""
    return sum((each.room_usd - each.beyond_usd for each in stripes), _NOTHING)


def shared_out(stripes: Sequence[Stripe], *, more: Decimal = _NOTHING) -> list[Stripe]:
    """The stripes with all the room shared out again.

    :param more: added to what they were given altogether; negative where it is taken away. What is no longer there to
        be taken away is then beyond the amount.
    """
    return with_room(stripes, _NOTHING, more=more)


def with_room(stripes: Sequence[Stripe], need: Decimal, *, at: int = 0, more: Decimal = _NOTHING) -> list[Stripe]:
    """The stripes with all the room shared out again, so much of it in one of them.

    What is not there is given on top, as ``beyond``: a caller that does not want that checks :func:`room` before.

    :param at: the index of the one.
    :param more: as in :func:`shared_out`.
    """
    left = room(stripes) + more
    beyond = max(_NOTHING, need - left) if left < need else _NOTHING
    left = max(_NOTHING, left - need)
    share = (left / len(stripes)).quantize(_SHARE, ROUND_DOWN)
    rest = left - share * (len(stripes) - 1)
    given = []
    for index, each in enumerate(stripes):
        its = share if index != at else rest + need
        on_top = min(beyond, each.used_usd + its)
        beyond -= on_top
        given.append(replace(each, allotted_usd=each.used_usd + its, beyond_usd=on_top))
    return given
