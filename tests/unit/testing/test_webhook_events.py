from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.testing.faults import Faults
from airflow_provider_aihandoff.testing.lifecycle import StoredResponse
from airflow_provider_aihandoff.testing.webhook_events import deliveries, is_done, next_attempt_at


def response(background: bool = True, **changes: Any) -> StoredResponse:
    values: dict[str, Any] = {
        "id": "resp_1",
        "request": {"model": "m", "input": "i", "background": background},
        "input_text": "i",
        "output_text": "o",
        "faults": Faults(),
        "accepted_at": 100,
        "delay_seconds": 10,
    }
    return StoredResponse(**(values | changes))


def test_ids_are_the_same_each_time_and_those_of_event_and_webhook_differ() -> None:
    [first], [again] = deliveries(response()), deliveries(response())
    assert first == again
    [other] = deliveries(response(id="resp_2"))
    [cancelled] = deliveries(response(cancelled_at=105))
    assert len({first.webhook_id, other.webhook_id, cancelled.webhook_id}) == 3
    assert first.webhook_id.removeprefix("wh_") not in first.payload


def test_a_webhook_is_due_at_the_end_or_at_the_cancel() -> None:
    assert [delivery.due_at for delivery in deliveries(response())] == [110]
    assert [delivery.due_at for delivery in deliveries(response(cancelled_at=105))] == [105]
    assert [delivery.due_at for delivery in deliveries(response(faults=Faults(webhook_delay=3)))] == [113]


@pytest.mark.parametrize(
    "silent",
    [
        response(background=False),
        response(deleted=True),
        response(faults=Faults(stuck="queued")),
        response(faults=Faults(unknown_status="suspended")),
        response(faults=Faults(webhook="none")),
    ],
    ids=["foreground", "deleted", "stuck", "unknown status", "webhook=none"],
)
def test_a_response_that_has_no_event_sends_nothing(silent: StoredResponse) -> None:
    assert deliveries(silent) == []


def test_a_stuck_response_has_an_event_once_it_is_cancelled() -> None:
    [delivery] = deliveries(response(faults=Faults(stuck="queued"), cancelled_at=105))
    assert delivery.event_type == "response.cancelled"


@pytest.mark.parametrize(
    ("kind", "status", "done"),
    [
        ("normal", 200, True),
        ("normal", 204, True),
        ("normal", 302, False),
        ("normal", 400, False),
        ("normal", 500, False),
        ("normal", None, False),
        ("forged", 401, True),
        ("stale", 500, True),
        ("forged", None, False),
    ],
)
def test_only_a_2xx_ends_the_attempts_and_any_answer_those_of_a_forgery(
    kind: Any, status: int | None, done: bool
) -> None:
    assert is_done(kind, status) is done


def test_attempts_come_after_1_2_4_seconds_and_so_on_up_to_30() -> None:
    waits = [next_attempt_at(0, 0, attempts) for attempts in (1, 2, 3, 4, 5, 6, 7, 10_000)]
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_delivery_is_given_up_after_72_hours() -> None:
    assert next_attempt_at(100, 100 + 72 * 3600 - 31, 50) is not None
    assert next_attempt_at(100, 100 + 72 * 3600 - 29, 50) is None
