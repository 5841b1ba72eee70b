"""Notifies people of what needs them among all jobs, by Airflow's notifiers: once for each cause, and when it is over.

What they were notified of is kept in a variable of Airflow's: it outlives a run, a retry and a clear of the task.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aihandoff.core.budgets.budget_spec import usd
from airflow_provider_aihandoff.operators.notices import send

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.reconcile.causes import Cause, Known


@dataclass(frozen=True)
class FleetHandoff:
    """``handoff`` in the templates of a notifier: the fields of a job's that make sense for many.

    :param notice: ``needs you``, ``over``, or ``budget``: a threshold of a budget is reached.
    :param message: what there is to say, in one or two sentences without content.
    :param link: the list of jobs, or the budget.
    :param label: the cause, in a word or two; or the name of the budget.
    :param count: how many there are now; or the used percentage of the budget.
    """

    notice: Literal["needs you", "over", "budget"]
    message: str
    link: str
    label: str
    count: int


def notify_causes(notifiers: Sequence[BaseNotifier], context: Context, causes: Sequence[Cause]) -> None:
    """Send what is due. What no notifier could send is due again in the next run.

    :param causes: why a person is needed now.
    """
    from airflow_provider_aihandoff.core.reconcile.causes import due

    known = _read(context)
    new, over, after = due(causes, known)
    link = conf.get("api", "base_url", fallback="").rstrip("/") + "/aihandoff/"
    for cause in new:
        if send(notifiers, _with(context, FleetHandoff("needs you", cause.message, link, cause.name, cause.count))):
            after[cause.name] = "notified"
            _write(context, after)
    for name in over:
        message = f"There are no {name} any more."
        if send(notifiers, _with(context, FleetHandoff("over", message, link, name, 0))):
            del after[name]
            _write(context, after)
    if after != known:
        _write(context, after)


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
        if send(notifiers, _with(context, FleetHandoff("budget", message, link, budget.name, use.percent))):
            ledger.budgets.notified(reached)


def _with(context: Context, handoff: FleetHandoff) -> dict[str, object]:
    return {**context, "handoff": handoff}


def _variable(context: Context) -> str:
    """The variable of this task: at most 250 characters, whatever the Dag is called."""
    ti = context["ti"]
    task = hashlib.sha256(json.dumps([ti.dag_id, ti.task_id]).encode()).hexdigest()[:32]
    return f"aihandoff.causes.{task}"


def _read(context: Context) -> dict[str, Known]:
    from airflow.sdk import Variable

    text = Variable.get(_variable(context), default=None)
    known: dict[str, Known] = {} if text is None else json.loads(text)
    return known


def _write(context: Context, known: dict[str, Known]) -> None:
    from airflow.sdk import Variable

    ti = context["ti"]
    description = f"What {ti.dag_id}.{ti.task_id} has notified people of; kept from one run to the next."
    Variable.set(_variable(context), json.dumps(known), description=description)
