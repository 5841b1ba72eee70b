"""What an author may say of how the requests of a set are sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.sets.transport import Transport
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.operators.set_transport import processed


def operator(**arguments: Any) -> OpenAIResponseSetOperator:
    return OpenAIResponseSetOperator(
        task_id="label", items=[], job_key="{{ item }}", input="{{ item }}", model="gpt-5.2", **arguments
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"transport": "pigeon"}, "transport must be 'background' or 'batch', not 'pigeon'"),
        ({"transport": "batch", "complete_by": timedelta(hours=3)}, "Give either transport or complete_by"),
        ({"complete_by": datetime(2026, 1, 1)}, "a datetime with a time zone"),  # noqa: DTZ001
        ({"transport": "batch", "stream": True}, "stream cannot be set with transport=.batch."),
        ({"complete_by": timedelta(hours=3), "stream": True}, "stream cannot be set with complete_by"),
        ({"stream": "yes"}, "stream must be True or False, not 'yes'"),
        ({"transport": "batch", "service_tier": "flex"}, "service_tier cannot be set with transport=.batch."),
        (
            {"complete_by": timedelta(hours=3), "background_options": {"completion_window": "2h"}},
            "background_options cannot be set with complete_by",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_where_the_dag_is_read(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        operator(**arguments)


def test_the_deadline_leaves_time_for_a_response_after_what_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__RESPONSE_DEADLINE", "3600")
    hour, at = timedelta(hours=1), datetime(2026, 1, 1, tzinfo=UTC)
    assert operator()._usual_deadline() == hour
    assert operator(transport="batch")._usual_deadline() == 25 * hour
    assert operator(complete_by=3 * hour)._usual_deadline() == 4 * hour
    assert operator(complete_by=at)._usual_deadline() == at + hour


def test_a_completion_window_goes_with_the_request() -> None:
    request = {"model": "gpt-5.2"}
    assert processed(request, Transport.EIGHT_HOURS) == {**request, "background_options": {"completion_window": "8h"}}
    assert processed(request, Transport.BACKGROUND) == processed(request, Transport.BATCH) == request
