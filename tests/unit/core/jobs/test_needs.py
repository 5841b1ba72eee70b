"""Why a person is needed, in words: for the overview, the notices and the gauges."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import Budget, OnFull, Use
from airflow_provider_aihandoff.core.budgets.budget_store import BudgetView
from airflow_provider_aihandoff.core.budgets.period import Period
from airflow_provider_aihandoff.core.jobs.job_filter import Need
from airflow_provider_aihandoff.core.jobs.needs import SAID, Cause, Needs, is_long
from airflow_provider_aihandoff.core.jobs.overview_store import ConnectionActivity
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure, RateLimit
from airflow_provider_aihandoff.core.rates.rate_limit_store import LimitState
from airflow_provider_aihandoff.core.reconcile.gauges import GAUGES

NOW = datetime.now(UTC)
SILENT = ConnectionActivity("openai_eu", 1, NOW - timedelta(hours=1), NOW, NOW)


def needs(
    jobs: Mapping[Need, int] | None = None, quarantined: int = 0, silent: tuple[ConnectionActivity, ...] = ()
) -> Needs:
    return Needs({**dict.fromkeys(Need, 0), **(jobs or {})}, quarantined, silent, silent)


def check_words(one: Cause, many: Cause) -> None:
    """Of one and of seven: in the right number, with a next step, and with a name that is the same."""
    assert (one.count, many.count) == (1, 7)
    assert "1 " in one.message
    assert "7 " in many.message
    assert one.message.count(". ") >= 1
    assert (one.name, one.command) == (many.name, many.command)


def test_what_needs_no_one_is_no_cause() -> None:
    assert needs().causes == []


@pytest.mark.parametrize("need", Need)
def test_each_need_of_a_job_is_a_cause_with_its_words_its_command_and_its_gauge(need: Need) -> None:
    (one,) = needs({need: 1}).causes
    (many,) = needs({need: 7}).causes
    check_words(one, many)
    assert one.need is need
    assert one.command == f"airflow aihandoff jobs list --need '{need}'"
    assert need in GAUGES


def test_no_two_needs_share_their_name_or_their_gauge() -> None:
    assert len({said.name for said in SAID.values()}) == len(set(GAUGES.values())) == len(Need)


@pytest.mark.parametrize(("held", "said"), [(1, "1 job waits"), (1_200, "1,200 jobs wait")])
def test_a_budget_that_jobs_wait_for_is_a_cause_with_what_is_left_and_who_can_raise_it(held: int, said: str) -> None:
    budget = Budget(
        7, "nightly", None, None, None, None, "nightly", Decimal(5), Period.DAY, "UTC", [80], OnFull.HOLD, "alice", NOW,
        None,
    )  # fmt: skip
    use = Use(NOW, None, Decimal(5), Decimal(0), Decimal(4), Decimal("0.85"), Decimal(0))
    (cause,) = Needs(dict.fromkeys(Need, 0), 0, (), (), budgets=[BudgetView(budget, use, held, NOW, NOW)]).causes
    assert (cause.name, cause.count, cause.budget_id) == ("budget nightly", held, 7)
    assert cause.message == (
        f"{said} for room in the budget 'nightly' (tag nightly): 0.15 USD of 5.00 USD are left. alice can raise it: "
        "`airflow aihandoff budgets raise 7 AMOUNT --reason REASON`."
    )
    assert cause.command == "airflow aihandoff budgets show 7"


def test_webhooks_in_quarantine_are_a_cause() -> None:
    (one,), (many,) = needs(quarantined=1).causes, needs(quarantined=7).causes
    check_words(one, many)


def test_each_silent_connection_is_a_cause_of_its_own() -> None:
    other = ConnectionActivity("openai_us", 1, NOW - timedelta(hours=1), NOW, NOW)
    assert [cause.name for cause in needs(silent=(SILENT, other)).causes] == [
        "no webhooks on openai_eu",
        "no webhooks on openai_us",
    ]


def test_more_than_were_counted_are_said_to_be_more() -> None:
    (cause,) = needs({Need.FAILED: 1_001}).causes
    assert cause.message.startswith("More than 1,000 jobs have failed")


def waits_for(amount: int, since: timedelta, waiting: int = 1) -> LimitState:
    limit = RateLimit(1, LimitKind.OPENAI, "openai_eu", Measure.REQUESTS, amount, 60, {}, None, None, None, None, None)
    return LimitState(limit, amount, 0, waiting, NOW - since, NOW, paused=False, at=NOW)


def test_a_limit_of_0_that_something_waits_for_is_a_cause() -> None:
    (one,) = Needs(dict.fromkeys(Need, 0), 0, [], [], rates=[waits_for(0, timedelta(minutes=2))]).causes
    (many,) = Needs(dict.fromkeys(Need, 0), 0, [], [], rates=[waits_for(0, timedelta(minutes=2), 7)]).causes
    check_words(one, many)
    assert one.name == "limit on requests of the connection openai_eu"
    assert "the first for 2 min: a limit of 0 has stopped it" in one.message


def test_a_limit_that_is_waited_for_is_a_cause_after_an_hour() -> None:
    assert not is_long(waits_for(60, timedelta(minutes=59)))
    assert is_long(waits_for(60, timedelta(hours=1)))
    assert is_long(waits_for(0, timedelta(0)))
