"""The sales figures: the same everywhere, and with something in them to find."""

from __future__ import annotations

from datetime import timedelta

from demo.business.seed import LAST_WEEK, REGIONS, WEEKS, products, sales


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
