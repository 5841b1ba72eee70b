"""Both ways into the inbox."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.webhooks.inbox import Delivery, Inbox, Receipt
from airflow_provider_aihandoff.core.webhooks.inbox_batch import InboxBatches


@pytest.fixture(params=["alone", "in a batch"])
def way_in(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every delivery of the test goes this way: alone, or in a batch, and alone where the batch leaves it."""
    way = str(request.param)
    receive = Inbox.receive

    def receive_in_a_batch(inbox: Inbox, delivery: Delivery) -> Receipt:
        (receipt,) = InboxBatches(inbox._database).receive([delivery])
        return receipt or receive(inbox, delivery)

    if way == "in a batch":
        monkeypatch.setattr(Inbox, "receive", receive_in_a_batch)
    return way
