"""What the type of a webhook says."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.core.webhooks.event_types import ended_status, is_safety_notice


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "incomplete"])
def test_an_event_about_the_end_of_a_response_says_how_it_ended(status: str) -> None:
    assert ended_status(f"response.{status}") is ResponseStatus(status)


@pytest.mark.parametrize(
    "event_type",
    ["response.in_progress", "response.queued", "response.", "response", "completed", "batch.completed", ""],
)
def test_any_other_event_says_nothing_about_an_end(event_type: str) -> None:
    assert ended_status(event_type) is None


def test_each_safety_event_of_the_sdk_is_a_safety_notice_and_no_other_is() -> None:
    from openai.types import webhooks

    known = {
        name: str(event.model_fields["type"].annotation)
        for name, event in vars(webhooks).items()
        if name.endswith("WebhookEvent") and hasattr(event, "model_fields")
    }
    types = {name: annotation.split("'")[1] for name, annotation in known.items()}
    assert len(types) > 20
    for name, event_type in types.items():
        assert is_safety_notice(event_type) is name.startswith("Safety"), event_type
