"""What the type of a webhook says."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.core.webhooks.event_types import ended_status


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "incomplete"])
def test_an_event_about_the_end_of_a_response_says_how_it_ended(status: str) -> None:
    assert ended_status(f"response.{status}") is ResponseStatus(status)


@pytest.mark.parametrize(
    "event_type",
    ["response.in_progress", "response.queued", "response.", "response", "completed", "batch.completed", ""],
)
def test_any_other_event_says_nothing_about_an_end(event_type: str) -> None:
    assert ended_status(event_type) is None
