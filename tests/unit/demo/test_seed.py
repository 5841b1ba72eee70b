"""The sales figures: the same everywhere, and with something in them to find."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from demo.business.seed import LAST_WEEK, MORE_OPENED, MOST_TICKETS, REGIONS, WEEKS, products, sales, tickets


def units(product: str, region: str, week_number: int) -> int:
    week = LAST_WEEK - timedelta(weeks=WEEKS - 1 - week_number)
    return next(row[3] for row in sales() if row[:3] == (week, region, product))


def test_sales_are_the_same_each_time_and_cover_each_week_region_and_product() -> None:
    rows = list(sales())
    assert rows == list(sales())
    assert len({row[:3] for row in rows}) == len(rows) == WEEKS * len(REGIONS) * len(products())
    assert max(row[0] for row in rows) == LAST_WEEK
    assert LAST_WEEK.isoweekday() == 1


def test_the_kettle_falls_when_its_handles_break() -> None:
    assert units("Tidewater Kettle", "North", 21) < 0.7 * units("Tidewater Kettle", "North", 19)


def test_the_tickets_of_a_busy_day_come_after_the_others_and_each_has_its_own_id_and_text() -> None:
    usual, busy = tickets(), tickets(more=2_000)
    assert busy[: len(usual)] == usual
    more = busy[len(usual) :]
    assert len({ticket["id"] for ticket in busy}) == len(busy) == len(usual) + 2_000
    assert len({ticket["subject"] for ticket in more}) == 2_000
    assert {ticket["status"] for ticket in more} == {"open"}
    assert {datetime.fromisoformat(ticket["opened_at"]).date() for ticket in more} == {MORE_OPENED.date()}
    assert all(datetime.fromisoformat(ticket["opened_at"]) < MORE_OPENED for ticket in usual)


@pytest.mark.parametrize("more", [-1, MOST_TICKETS + 1])
def test_a_day_has_only_so_many_tickets(more: int) -> None:
    with pytest.raises(ValueError, match="further tickets"):
        tickets(more)
