"""What a subscription may be."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.errors import SubscriptionRefused
from airflow_provider_aihandoff.core.event_delivery.delivery_store import pause_seconds
from airflow_provider_aihandoff.core.event_delivery.subscription import WantedSubscription, checked_subscription


def test_names_are_kept_once_and_states_in_the_order_of_a_job() -> None:
    wanted = WantedSubscription("shop", "https://x", "shop_hook", ["note", "a", "note"], ["done", "queued", "done"])
    values = checked_subscription(wanted)
    assert (values["job_types"], values["states"]) == (["a", "note"], ["queued", "done"])


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"secret_conn_id": " "},
        {"job_types": [""]},
        {"job_types": ["t"] * 101},
        {"states": ["completed"]},
    ],
)
def test_what_names_nothing_is_refused(changes: dict[str, Any]) -> None:
    wanted = WantedSubscription(**{"name": "shop", "url": "https://x", "secret_conn_id": "shop_hook", **changes})
    with pytest.raises(SubscriptionRefused):
        checked_subscription(wanted)


def test_an_event_is_tried_again_later_each_time_and_not_before_the_receiver_wants_it() -> None:
    assert 2.5 <= pause_seconds(1, None) <= 5
    assert 5 <= pause_seconds(2, 0.0) <= 10
    assert pause_seconds(60, None) <= 3 * 3600
    assert pause_seconds(1, 120.0) == 120
    assert pause_seconds(1, 1e9) == 6 * 3600
