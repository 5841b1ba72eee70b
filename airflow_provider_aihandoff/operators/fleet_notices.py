"""Notifies people of what needs them among all jobs, by Airflow's notifiers: once for each cause, and when it is over.

The ledger remembers what they were notified of: :mod:`core.reconcile.notice_store`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aihandoff.core.budgets.budget_spec import usd
from airflow_provider_aihandoff.operators.notices import send

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.jobs.needs import Cause
    from airflow_provider_aihandoff.core.ledger import Ledger


@dataclass(frozen=True)
class FleetHandoff:
    """``handoff`` in the templates of a notifier: the fields of a job's that make sense for many.

    :param notice: ``needs you``, ``over``, ``budget``: a threshold of a budget is reached, or ``bill``: OpenAI's bill
        differs from what the ledger knows of.
    :param message: what there is to say, in one or two sentences without content.
    :param link: the overview, or the budget.
    :param label: the cause, in a word or two; or the name of the budget, or of the project.
    :param count: how many there are now; or the used percentage of the budget.
    """

    notice: Literal["needs you", "over", "budget", "bill"]
    message: str
    link: str
    label: str
    count: int


def notify_causes(notifiers: Sequence[BaseNotifier], context: Context, ledger: Ledger, causes: Sequence[Cause]) -> None:
    """Send what is due. What no notifier could send is due again in the next run.

    :param causes: why a person is needed now.
    :raises LedgerUnavailable: the ledger is unavailable. A notice that was sent, and not recorded, is sent again.
    """
    ti, found = context["ti"], {cause.name: cause for cause in causes}
    for notice in ledger.notices.find(ti.dag_id, ti.task_id, ti.run_id, found):
        claim = ledger.notices.claim(ti.dag_id, ti.task_id, notice)
        if claim is not None:
            handoff = _over(notice.cause) if notice.over else _needs_you(found[notice.cause])
            ledger.notices.sent(claim, sent=send(notifiers, {**context, "handoff": handoff}))


def notify_budgets(notifiers: Sequence[BaseNotifier], context: Context, ledger: Ledger) -> None:
    """Send each threshold of a budget that is reached, once in each of its periods: the ledger remembers that.

    What no notifier could send is due again in the next run.
    """
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    for reached in ledger.budgets.reached():
        budget, use = reached.view.budget, reached.view.use
        held = f" Jobs that wait for room: {reached.view.held}." if reached.view.held else ""
        message = (
            f"{use.percent}% of {budget.label} are used: {usd(use.used_usd)} of {usd(use.amount_usd)} {budget.per}."
            f"{held} Owner: {budget.owner}."
        )
        link = f"{base}/aihandoff/budgets/{budget.budget_id}"
        handoff = FleetHandoff("budget", message, link, budget.name, use.percent)
        if send(notifiers, {**context, "handoff": handoff}):
            ledger.budgets.notified(reached)


def _needs_you(cause: Cause) -> FleetHandoff:
    return FleetHandoff("needs you", cause.message, _link(), cause.name, cause.count)


def _over(name: str) -> FleetHandoff:
    return FleetHandoff("over", f"This is over: {name}.", _link(), name, 0)


def _link() -> str:
    base: str = conf.get("api", "base_url", fallback="")
    return f"{base.rstrip('/')}/aihandoff/overview"
