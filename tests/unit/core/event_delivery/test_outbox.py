"""Which lines of a job's history are a change to those who asked."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.event_delivery.outbox import changed_standing
from airflow_provider_aihandoff.core.job_requests.job_request import Standing


@pytest.mark.parametrize(
    ("before", "after", "standing"),
    [
        (None, "queued", Standing.QUEUED),
        ("queued", "queued", None),
        ("queued", "running", Standing.WORKING),
        ("running", "approved", None),
        ("running", "review", Standing.IN_REVIEW),
        ("review", "approved", Standing.WORKING),
        ("approved", "applying", None),
        ("applying", "completed", Standing.DONE),
        ("review", "rejected", Standing.STOPPED),
        ("completed", "rolling_back", Standing.STOPPED),
        ("rolling_back", "rolled_back", None),
        ("failed", "queued", Standing.QUEUED),
    ],
)
def test_a_change_that_those_who_asked_would_see_is_an_event(
    before: str | None, after: str, standing: Standing | None
) -> None:
    assert changed_standing(before, after) is standing
