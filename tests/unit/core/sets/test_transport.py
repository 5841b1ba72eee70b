"""The cheapest way to send that is done in time, and what tells the line of a request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from airflow_provider_aihandoff.core.sets.batch_record import custom_id, read_custom_id
from airflow_provider_aihandoff.core.sets.transport import SPARE, WINDOWS, Transport, cheapest, moves_at

NOW = datetime(2026, 11, 29, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("hours", "transport"),
    [
        (48, "batch"),
        (24.5, "batch"),
        (24.4, "8h"),
        (8.5, "8h"),
        (8.4, "2h"),
        (2.5, "2h"),
        (2.4, "background"),
        (-1, "background"),
    ],
)
def test_the_cheapest_that_is_done_in_time_is_chosen(hours: float, transport: str) -> None:
    chosen, why = cheapest(NOW + timedelta(hours=hours), NOW)
    assert chosen is Transport(transport)
    assert why.startswith("The outputs are wanted by 2026-")


def test_it_says_why() -> None:
    assert cheapest(NOW + timedelta(hours=30), NOW)[1] == (
        "The outputs are wanted by 2026-11-30 08:00 UTC (in 30 h). A batch takes at most 24 hours, and costs 50% of "
        "the usual price."
    )


def test_what_is_chosen_has_its_whole_window_before_what_is_late_is_moved() -> None:
    for hours in range(49):
        complete_by = NOW + timedelta(hours=hours)
        chosen, _ = cheapest(complete_by, NOW)
        if chosen is not Transport.BACKGROUND:
            assert NOW + WINDOWS[chosen] <= moves_at(complete_by)
    assert timedelta(0) < SPARE < min(WINDOWS.values())


def test_time_makes_nothing_slower() -> None:
    order = list(Transport)
    chosen = [cheapest(NOW + timedelta(hours=30), NOW + timedelta(hours=passed))[0] for passed in range(31)]
    assert all(order.index(before) <= order.index(after) for before, after in pairwise(chosen))


def test_a_line_is_known_by_its_job_its_revision_and_its_batch() -> None:
    assert read_custom_id(custom_id(12, 3, 45)) == (12, 3, 45)
    assert len(custom_id(10**18 - 1, 10**9 - 1, 10**18 - 1)) < 48


@pytest.mark.parametrize("text", ["", "1.2", "1.2.3.4", "a.b.c", "1.2.3\n", "\u0661.2.3", "-1.2.3", "1" * 19 + ".1.1"])
def test_what_others_have_made_is_no_line_of_ours(text: str) -> None:
    assert read_custom_id(text) is None
