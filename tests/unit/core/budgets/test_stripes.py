"""However the room is shared out, it is neither made nor lost."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import assume, given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.budgets.stripes import STRIPES, Stripe, room, shared_out, with_room

MONEY = st.integers(0, 10**9).map(lambda millionths: Decimal(millionths) / 10**6)
EMPTY = [Stripe(number, Decimal(0), Decimal(0), Decimal(0), Decimal(0)) for number in range(STRIPES)]


@st.composite
def stripes(draw: st.DrawFn) -> list[Stripe]:
    """Stripes that are as the database allows."""
    made = []
    for number in range(STRIPES):
        reserved, settled, free = draw(MONEY), draw(MONEY), draw(st.sampled_from([Decimal(0), draw(MONEY)]))
        allotted = reserved + settled + free
        made.append(Stripe(number, allotted, reserved, settled, draw(st.sampled_from([Decimal(0), allotted]))))
    return made


@given(stripes(), MONEY, st.integers(0, STRIPES - 1))
def test_one_stripe_has_what_is_needed_and_nothing_is_made_or_lost(
    before: list[Stripe], need: Decimal, at: int
) -> None:
    after = with_room(before, need, at=at)
    assert after[at].room_usd >= need
    assert room(after) == room(before)
    for old, new in zip(before, after, strict=True):
        assert (new.reserved_usd, new.settled_usd) == (old.reserved_usd, old.settled_usd)
        assert 0 <= new.beyond_usd <= new.allotted_usd
        assert new.used_usd <= new.allotted_usd
    beyond = sum(each.beyond_usd for each in after)
    assert beyond == max(Decimal(0), need - room(before))


@given(MONEY.filter(bool))
def test_a_new_amount_is_shared_out_whole(amount: Decimal) -> None:
    given = shared_out(EMPTY, more=amount)
    assert sum(each.allotted_usd for each in given) == room(given) == amount
    assert max(each.room_usd for each in given) - min(each.room_usd for each in given) < Decimal("0.0001")


@given(stripes(), MONEY)
def test_what_is_taken_away_and_is_not_there_is_beyond(before: list[Stripe], less: Decimal) -> None:
    assume(less <= sum(each.allotted_usd - each.beyond_usd for each in before))  # an amount is never negative
    after = shared_out(before, more=-less)
    assert room(after) == room(before) - less
    assert all(each.room_usd >= 0 for each in after)
