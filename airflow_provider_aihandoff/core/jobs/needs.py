"""Why people are needed now: the one list that the overview, its command, REST, the notices and the gauges show.

It reads alone. What is said of each cause is here too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

from airflow_provider_aihandoff.core.admission.pause_store import Pause
from airflow_provider_aihandoff.core.admission.spending_limit_store import SpendingLimit
from airflow_provider_aihandoff.core.budgets.budget_spec import usd
from airflow_provider_aihandoff.core.budgets.budget_store import BudgetView
from airflow_provider_aihandoff.core.jobs.job_filter import FAILED_WITHIN, SLOW_FACTOR, Need
from airflow_provider_aihandoff.core.jobs.overview_store import MOST_COUNTED, ConnectionActivity
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.moments import lasting
from airflow_provider_aihandoff.core.rates.rate_limit_store import LimitState


@dataclass(frozen=True)
class Cause:
    """One reason why a person is needed.

    :param name: in a few words, the same whenever it is found.
    :param count: of how much; of jobs and webhooks up to one more than :data:`MOST_COUNTED`.
    :param message: what there is to say, and the next step; without content.
    :param command: what lists exactly these, at a terminal.
    :param need: of jobs that need a person, which filter lists them.
    :param conn_id: of what happens on a connection, which one.
    :param holds: it holds requests or writes back: what, and how to end it, is on the page of pauses.
    :param budget_id: of a budget that jobs wait for, which one.
    :param waited_for: it is a limit of speed: how much of it is used is on the page of limits.
    """

    name: str
    count: int
    message: str
    command: str
    need: Need | None = None
    conn_id: str | None = None
    holds: bool = False
    budget_id: int | None = None
    waited_for: bool = False

    @property
    def title(self) -> str:
        """The name, as the beginning of a line."""
        return f"{self.name[:1].upper()}{self.name[1:]}"


class Said(NamedTuple):
    """What is said of a cause: its name, of one, of several, and the next step."""

    name: str
    one: str
    several: str
    step: str


#: What is said of each reason for which a job needs a person, the most urgent first.
SAID: Mapping[Need, Said] = {
    Need.UNKNOWN_EFFECT: Said(
        "unknown effects",
        "1 job has an external write that may have been made, and its outcome is not known.",
        "{} jobs have external writes that may have been made, and their outcome is not known.",
        "Check the target, then resolve the effect.",
    ),
    Need.FAILED: Said(
        "failed jobs",
        f"1 job has failed in the last {FAILED_WITHIN.days} days, and no one has acknowledged it.",
        f"{{}} jobs have failed in the last {FAILED_WITHIN.days} days, and no one has acknowledged them.",
        "Read the reason, then clear the task, or acknowledge the failure.",
    ),
    Need.PAST_DEADLINE: Said(
        "jobs past their deadline",
        "The response of 1 job is past its deadline, and has not ended.",
        "The responses of {} jobs are past their deadline, and have not ended.",
        "The maintenance Dag ends such jobs. Check the triggerers and the connection: `airflow aihandoff doctor`.",
    ),
    Need.HELD: Said(
        "held jobs",
        "The answer to the request of 1 job was lost: a response may run.",
        "The answers to the requests of {} jobs were lost: responses may run.",
        "Say what to do about each, or wait until it is known: `airflow aihandoff jobs resolve-submission`.",
    ),
    Need.REVIEW_OVERDUE: Said(
        "overdue reviews",
        "No one decided on 1 job in time, and its review has not ended.",
        "No one decided on {} jobs in time, and their reviews have not ended.",
        "Check the triggerers (`airflow aihandoff doctor`), or clear the approval task.",
    ),
    Need.CLAIM_EXPIRED: Said(
        "expired claims",
        "1 job has an attempt at a write that ended without an outcome.",
        "{} jobs have attempts at a write that ended without an outcome.",
        "Clear the task of the effect, which finds out.",
    ),
    Need.SLOW_RESPONSE: Said(
        "slow responses",
        f"1 response runs more than {SLOW_FACTOR} times as long as those of its type usually do.",
        f"{{}} responses run more than {SLOW_FACTOR} times as long as those of their type usually do.",
        "Wait until the deadline, or cancel the job.",
    ),
}

QUARANTINED = Said(
    "webhooks in quarantine",
    "1 webhook belongs to no job that is known, or is a safety notice.",
    "{} webhooks belong to no job that is known, or are safety notices.",
    "Replay or discard them.",
)

#: How long the first one waits for a limit of speed before a person is needed. For a limit of 0, one is needed at once.
LONG_WAIT = timedelta(hours=1)


@dataclass(frozen=True)
class Needs:
    """What needs a person now.

    :param jobs: how many jobs do, by reason, each up to one more than :data:`MOST_COUNTED`.
    :param quarantined: webhooks in quarantine, up to as many.
    :param connections: what happens on each connection, and ``silent``: on which of them webhooks fell silent.
    :param pauses: those in force, and ``limits``: the limits of money that are reached.
    :param budgets: those that jobs wait for.
    :param rates: the limits of speed that a person may have to change.
    """

    jobs: Mapping[Need, int]
    quarantined: int
    connections: Sequence[ConnectionActivity]
    silent: Sequence[ConnectionActivity]
    pauses: Sequence[Pause] = ()
    limits: Sequence[SpendingLimit] = ()
    budgets: Sequence[BudgetView] = ()
    rates: Sequence[LimitState] = ()

    @property
    def causes(self) -> list[Cause]:
        """Each reason why a person is needed, the most urgent first."""
        causes = [*map(_pause, self.pauses), *map(_limit, self.limits), *map(_budget, self.budgets)]
        causes += map(_rate, self.rates)
        causes += [
            _cause(said, self.jobs[need], f"airflow aihandoff jobs list --need '{need}'", need)
            for need, said in SAID.items()
            if self.jobs[need]
        ]
        if self.quarantined:
            command = "airflow aihandoff inbox list --disposition quarantined"
            causes.append(_cause(QUARANTINED, self.quarantined, command))
        return causes + [_silence(each.conn_id) for each in self.silent]


def needs_of(ledger: Ledger, dag_ids: Sequence[str] | None, *, silence: float) -> Needs:
    """What needs a person now.

    :param dag_ids: only jobs of these Dags; None for every Dag. Webhooks belong to no Dag: who may see no
        Dag sees none.
    :param silence: seconds without a webhook after which a connection counts as silent.
    """
    jobs = ledger.search.count_needs(dag_ids, at_most=MOST_COUNTED + 1)
    if dag_ids is not None and not dag_ids:
        return Needs(jobs, 0, [], [])
    connections, quarantined = ledger.overviews.webhooks()
    silent = [each for each in connections if each.is_silent(silence)]
    pauses = [each for each in ledger.pauses.find() if dag_ids is None or each.dag_id in (None, *dag_ids)]
    limits, budgets = ledger.spending_limits.find(), ledger.budgets.waited_for(dag_ids)
    rates = [state for state in ledger.rate_limits.find() if is_long(state)]
    return Needs(jobs, quarantined, connections, silent, pauses, limits, budgets, rates)


def counted(number: int) -> str:
    """A number that was counted up to :data:`MOST_COUNTED`, as text."""
    return f"{number:,}" if number <= MOST_COUNTED else f"more than {MOST_COUNTED:,}"


def _cause(said: Said, count: int, command: str, need: Need | None = None) -> Cause:
    number = counted(count)
    first = said.one if count == 1 else said.several.format(number)
    message = f"{first[:1].upper()}{first[1:]} {said.step}"
    return Cause(said.name, count, message, command, need)


def _pause(pause: Pause) -> Cause:
    message = (
        f"{pause.by.label} has paused {pause.stops}: {pause.reason.rstrip('.')}. End it: `airflow aihandoff resume`."
    )
    return Cause(f"pause of {pause.scope}", 1, message, "airflow aihandoff pauses", holds=True)


def _limit(limit: SpendingLimit) -> Cause:
    message = (
        f"All jobs of the connection {limit.conn_id} are held. {limit.said.rstrip('.')}. Raise the limit, then "
        "`airflow aihandoff spending-limits try`."
    )
    command = "airflow aihandoff spending-limits list"
    return Cause(f"spending limit of {limit.conn_id}", 1, message, command, conn_id=limit.conn_id, holds=True)


def _budget(view: BudgetView) -> Cause:
    budget, use = view.budget, view.use
    jobs = "1 job waits" if view.held == 1 else f"{view.held:,} jobs wait"
    message = (
        f"{jobs} for room in {budget.label}: {usd(use.room_usd)} of {usd(use.amount_usd)} are left. {budget.owner} can "
        f"raise it: `airflow aihandoff budgets raise {budget.budget_id} AMOUNT --reason REASON`."
    )
    command = f"airflow aihandoff budgets show {budget.budget_id}"
    return Cause(f"budget {budget.name}", view.held, message, command, budget_id=budget.budget_id)


def is_long(state: LimitState) -> bool:
    """Whether what waits for a limit of speed waits for a person too."""
    if state.waiting_since is None:
        return False
    return state.limit.amount == 0 or state.at - state.waiting_since >= LONG_WAIT


def _rate(state: LimitState) -> Cause:
    limit, first = state.limit, state.waiting_since
    assert first is not None
    what = "1 request or write waits" if state.waiting == 1 else f"{counted(state.waiting)} requests and writes wait"
    why = "a limit of 0 has stopped it" if limit.amount == 0 else f"the limit is {limit.words}"
    message = (
        f"{what} for the {limit.called}, the first for {lasting(state.at - first)}: {why}. Change it: "
        "`airflow aihandoff limits set`."
    )
    return Cause(f"limit on {limit.called}", state.waiting, message, "airflow aihandoff limits list", waited_for=True)


def _silence(conn_id: str) -> Cause:
    message = (
        f"Responses on the connection {conn_id} end, and no webhook comes. They are polled meanwhile. "
        "Check the receiver: `airflow aihandoff doctor`."
    )
    return Cause(f"no webhooks on {conn_id}", 1, message, "airflow aihandoff doctor", conn_id=conn_id)
