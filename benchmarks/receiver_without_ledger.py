"""The receiver of webhooks as it is, but for the ledger: it reads, verifies, counts and answers. For `webhook_ingest`.

Its HTTP server is that of `airflow aihandoff webhooks serve`, which bounds its connections.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime

from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_provider_aihandoff.core.models import InboxEntry
from airflow_provider_aihandoff.core.states import Disposition
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery, Receipt
from airflow_provider_aihandoff.core.webhooks.intake import Intake
from airflow_provider_aihandoff.hooks.observability import observe, set_up_metrics
from airflow_provider_aihandoff.plugins.aihandoff import URL_PREFIX
from airflow_provider_aihandoff.web.api.webhook_receiver import Receiver
from airflow_provider_aihandoff.web.app import build_receiver
from airflow_provider_aihandoff.web.bounded_server import BoundedServer


class NoLedger(Intake):
    """Takes every delivery, and keeps none."""

    async def receive(self, delivery: Delivery) -> Receipt:
        """Say that it was applied."""
        now = datetime.now(UTC)
        entry = InboxEntry(
            **vars(delivery),
            disposition=Disposition.APPLIED,
            job_id=None,
            deliveries=1,
            received_at=now,
            updated_at=now,
            polls=0,
            poll_at=None,
            note=None,
        )
        return Receipt(entry, repeated=False)

    async def check(self) -> None:
        """There is nothing that could be unavailable."""


def _no_ledger() -> None:
    raise RuntimeError("this receiver has no ledger")


def main() -> None:
    """Serve on 127.0.0.1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    set_up_metrics()
    observe(in_task=False)  # which the real one does when it opens its ledger
    receiver = Receiver(["openai_default"])
    receiver._intake = NoLedger(_no_ledger)  # type: ignore[arg-type]
    app = Starlette(routes=[Mount(URL_PREFIX, app=build_receiver(receiver))])
    BoundedServer(app, port=parser.parse_args().port, log_level="error", access_log=False, server_header=False).run()


if __name__ == "__main__":
    main()
