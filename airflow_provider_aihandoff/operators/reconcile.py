"""The operator that settles orphaned work: what no task waits for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.amounts import checked_amount
from airflow_provider_aihandoff.operators.rendering import RendersText
from airflow_provider_aihandoff.operators.retries import RETRIES, RETRY_DELAY
from airflow_provider_aihandoff.task_states import asking, task_states

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context


class ReconcileOperator(RendersText):
    """Find what no task waits for, and take the one next step for each.

    Responses whose task is gone, requests whose answer was lost, deadlines that passed, reviews that expired, and
    webhooks that match no job; it removes old webhooks from the inbox, and gives back what was reserved in budgets for
    requests that were lost for good. What it does to a job is in the job's history. The log names each finding, and
    what only a person can do.

    **Retry, clear, two at once**: safe. Each step checks again what it was decided on, and does nothing where that
    has changed.

    **Kill**: what was done until then is recorded; the next run goes on.

    A step that fails is reported, and taken again by the next run; the task succeeds. It fails when the ledger cannot
    be reached.

    At the end it sends the gauges of the metrics. The XCom counts the findings by kind, and how many ``failed``.

    :param notifiers: notified of each cause for which a person is needed, as the overview lists them, once two runs
        have found it; and when it is over; and of each threshold of a budget, once in each of its periods. Their
        templates have ``handoff``, with ``notice`` (``needs you``, ``over``, ``budget`` or ``bill``), ``label`` (the
        cause, the budget, or the project), ``count``, ``message`` and ``link``.
    :param openai_admin_conn_id: connection of the type OpenAI with an admin key of the organization: once a day, what
        OpenAI has billed is compared with what the ledger knows of, for the projects in the extra of the connections
        of the jobs. None: it is not (templated).
    :param max_bill_difference_usd: people are notified of a day whose bill differs by more, once.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id`` (templated).
    """

    template_fields: Sequence[str] = ("openai_admin_conn_id", "ledger_conn_id")
    ui_color = "#eeeeee"

    def __init__(
        self,
        *,
        notifiers: Sequence[BaseNotifier] = (),
        openai_admin_conn_id: str | None = None,
        max_bill_difference_usd: Decimal | float = 5,
        ledger_conn_id: str | None = None,
        retries: int | None = RETRIES,
        retry_delay: timedelta | float = RETRY_DELAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.notifiers = tuple(notifiers)
        self.openai_admin_conn_id = openai_admin_conn_id
        self.max_bill_difference_usd = checked_amount(max_bill_difference_usd, what="max_bill_difference_usd")
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context) -> dict[str, int]:
        """Search once, and take every step that is due."""
        from airflow_provider_aihandoff.core.jobs.needs import needs_of
        from airflow_provider_aihandoff.core.reconcile.causes import open_causes
        from airflow_provider_aihandoff.core.reconcile.gauges import send_gauges
        from airflow_provider_aihandoff.core.reconcile.run import reconcile
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.hooks.model_provider import providers
        from airflow_provider_aihandoff.operators.bill_comparison import compare_bill, notify_bill, send_bill_gauges
        from airflow_provider_aihandoff.operators.fleet_notices import notify_budgets, notify_causes

        with LedgerHook(self.ledger_conn_id).get_conn() as ledger, providers() as provider_for:
            findings = reconcile(
                ledger,
                provider_for=provider_for,
                states_of=partial(task_states, ask=asking(context)),
                inbox_retention=settings.seconds("inbox_retention"),
            )
            conn_ids = settings.names("webhook_conn_ids")
            needs = needs_of(ledger, None, silence=settings.number("webhook_silence"))
            send_gauges(ledger.gauges.read(conn_ids), needs, conn_ids)
            bill_failed = self.openai_admin_conn_id is not None and compare_bill(ledger, self.openai_admin_conn_id)
            send_bill_gauges(ledger)
            if self.notifiers:
                notify_budgets(self.notifiers, context, ledger)
                notify_bill(self.notifiers, context, ledger, more_than=self.max_bill_difference_usd)
                notify_causes(self.notifiers, context, ledger, open_causes(needs, findings))
        counts = Counter(finding.kind for finding in findings)
        if failed := sum(finding.failed for finding in findings) + bill_failed:
            counts["failed"] = failed
            self.log.warning("%s steps could not be taken; the next run tries again.", failed)
        return dict(counts)
