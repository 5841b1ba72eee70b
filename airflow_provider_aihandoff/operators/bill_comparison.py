"""Compares what OpenAI has billed with what the ledger knows of, once a day, and notifies people of a difference."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowNotFoundException, conf

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.budgets.budget_spec import usd
from airflow_provider_aihandoff.core.errors import HandoffError, LedgerUnavailable
from airflow_provider_aihandoff.hooks.model_provider import PROJECT_KEY, bill_of, project_of
from airflow_provider_aihandoff.operators.fleet_notices import FleetHandoff
from airflow_provider_aihandoff.operators.notices import send

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.budgets.bill_store import BillDay
    from airflow_provider_aihandoff.core.ledger import Ledger

log = logging.getLogger(__name__)


def compare_bill(ledger: Ledger, admin_conn_id: str) -> bool:
    """Compare the last complete days, where that was not done on this day of UTC yet.

    Two runs at once ask OpenAI twice, and record the same.

    :param admin_conn_id: connection of the type OpenAI with an admin key.
    :return: whether it failed; the log says why, and the next run tries again.
    :raises LedgerUnavailable: the ledger is unavailable.
    """
    if not ledger.bills.is_due():
        return False
    days = ledger.bills.days()
    named = {conn_id: project_of(conn_id) for conn_id in ledger.bills.conn_ids(days[0])}
    if missing := sorted(conn_id for conn_id, project in named.items() if project is None):
        log.warning(
            "The bill is not compared for the connections %s: set %r in their extra to the id of their project.",
            ", ".join(missing),
            PROJECT_KEY,
        )
    projects = {conn_id: project for conn_id, project in named.items() if project is not None}
    if not projects:
        return False
    try:
        with bill_of(admin_conn_id) as bill:
            billed = bill.costs(days[0], days[-1] + timedelta(days=1))
    except LedgerUnavailable:
        raise
    except AirflowNotFoundException:
        log.error("The bill cannot be compared: there is no connection %r.", admin_conn_id)
        return True
    except HandoffError as error:
        log.error("The bill cannot be compared: %s", error)
        return True
    for found in ledger.bills.compare(projects, billed, days):
        log.info("Bill of %s for %s: %s.", found.project_id, found.day, _in_words(found))
    return False


def send_bill_gauges(ledger: Ledger) -> None:
    """Send by how much the bill of each project differs over the last days."""
    found = ledger.bills.find()
    for project_id in {each.project_id for each in found}:
        difference = sum((each.difference_usd for each in found if each.project_id == project_id), Decimal(0))
        signals.gauge(signals.BILL_DIFFERENCE, float(difference), project_id=project_id)


def notify_bill(notifiers: Sequence[BaseNotifier], context: Context, ledger: Ledger, *, more_than: Decimal) -> None:
    """Notify of each day whose bill differs by more than an amount, once. What no notifier could send is due again."""
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    for found in ledger.bills.find():
        if found.notified_at is not None or abs(found.difference_usd) <= more_than:
            continue
        message = f"The bill of the project {found.project_id} for {found.day} differs: {_in_words(found)}."
        handoff = FleetHandoff("bill", message, f"{base}/aihandoff/spending", found.project_id, 1)
        if send(notifiers, {**context, "handoff": handoff}):
            ledger.bills.notified(found)


def _in_words(found: BillDay) -> str:
    unpriced = f", without {found.unpriced} responses whose price is not known" if found.unpriced else ""
    return f"OpenAI has billed {usd(found.billed_usd)}, the ledger knows of {usd(found.ledger_usd)}{unpriced}"
