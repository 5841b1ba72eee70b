"""The operator that sends events to subscribers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.operators.rendering import RendersText
from airflow_provider_aihandoff.operators.retries import RETRIES, RETRY_DELAY

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class EventDeliveryOperator(RendersText):
    """Send events of jobs to those who have subscribed, for a while, without a worker slot: a triggerer does it.

    Let a Dag with the schedule ``@continuous`` run it, as the template ``aihandoff_events`` does.

    **Retry, clear, two at once**: safe. One deliverer sends the events of a subscription at a time.

    **Kill**: what was sent and not recorded is sent again, with the same ``webhook-id``.

    The XCom has how many events were ``delivered``.

    :param duration: for how long one run sends.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id`` (templated).
    """

    template_fields: Sequence[str] = ("ledger_conn_id",)
    ui_color = "#eeeeee"

    def __init__(
        self,
        *,
        duration: timedelta = timedelta(hours=1),
        ledger_conn_id: str | None = None,
        retries: int | None = RETRIES,
        retry_delay: timedelta | float = RETRY_DELAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.duration = duration
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context) -> None:
        """Check the ledger, and defer."""
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.triggers.event_delivery import EventDeliveryTrigger

        hook = LedgerHook(self.ledger_conn_id)
        hook.get_conn().close()
        trigger = EventDeliveryTrigger(ledger_conn_id=hook.ledger_conn_id, seconds=self.duration.total_seconds())
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, int]:
        """Say how many events were taken."""
        return {"delivered": int(event["delivered"])}
