"""One budget under every mixture of steps: the books are right after each, and nothing is permitted that has no room.

`AIHANDOFF_MACHINE_EXAMPLES` and `AIHANDOFF_MACHINE_STEPS` make it longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.budgets.period import Period
from airflow_provider_aihandoff.core.errors import JobFailed
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.conftest import EMPTY_LEDGER
from tests.factories import LEASE, TEST, job_spec
from tests.integration.core.budgets.conftest import ALICE

EXAMPLES = int(os.environ.get("AIHANDOFF_MACHINE_EXAMPLES", "25"))
STEPS = int(os.environ.get("AIHANDOFF_MACHINE_STEPS", "40"))

#: Cents, so that every sum is exact.
MONEY = st.integers(1, 1500).map(lambda cents: Decimal(cents) / 100)
#: In each of them, all of a test takes place in one period, but for a test at the end of a month.
PERIODS = st.tuples(
    st.sampled_from([Period.TOTAL, Period.MONTH, Period.TOTAL]), st.sampled_from(["UTC", "Pacific/Kiritimati"])
)

NOTHING = Decimal(0)


@dataclass
class Sent:
    """A request that was permitted.

    :param counts: what it should count for now.
    :param open: its response may still come.
    """

    intent: Intent
    need: Decimal
    counts: Decimal
    response_id: str | None = None
    open: bool = True


class BudgetMachine(RuleBasedStateMachine):
    """One budget that holds, and jobs that ask it."""

    def __init__(self, ledger: Ledger, conninfo: dict[str, Any], books: Callable[[], list[dict[str, Any]]]) -> None:
        super().__init__()
        self.ledger, self.conninfo, self.books = ledger, conninfo, books
        self.sent: list[Sent] = []
        self.amount = NOTHING
        self.raised = NOTHING
        self.jobs = 0

    @initialize(amount=MONEY, period=PERIODS)
    def begin(self, amount: Decimal, period: tuple[Period, str]) -> None:
        with psycopg.connect(**self.conninfo) as connection:
            connection.execute(EMPTY_LEDGER)
        spec = checked_spec("all", amount, period=period[0], time_zone=period[1], owner="alice")
        self.ledger.budgets.add(spec, why="to be safe", actor=ALICE)
        self.amount = amount

    @property
    def used(self) -> Decimal:
        """What is spent and reserved."""
        return sum((each.counts for each in self.sent), NOTHING)

    @rule(need=MONEY)
    def ask(self, need: Decimal) -> None:
        """Another job asks. No one waits, so that it is sent exactly where there is room."""
        self.jobs += 1
        opened = self.ledger.submission.open(job_spec(job_key=str(self.jobs)))
        room = self.amount + self.raised - self.used
        try:
            intent = self.ledger.submission.intend(
                opened.job.job_id, 1, actor=TEST, lease=LEASE, worst=WorstCase(cost_usd=need)
            )
        except JobFailed:
            assert need > self.amount + self.raised
            return
        assert (intent.token is not None) == (need <= room)
        if intent.token is not None:
            self.sent.append(Sent(intent, need, need))
        else:  # it does not come again: the next one need not let it go first
            self.ledger.cancels.cancel(opened.job.job_id, actor=TEST, reason="no room")

    def _some(self, data: st.DataObject, *, known: bool) -> Sent:
        return data.draw(st.sampled_from([each for each in self.sent if each.open and bool(each.response_id) == known]))

    @precondition(lambda self: any(each.open and not each.response_id for each in self.sent))
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        """OpenAI has created a response."""
        sent = self._some(data, known=False)
        sent.response_id = f"resp_{sent.intent.revision.job_id}"
        assert sent.intent.token is not None
        self.ledger.submission.submitted(
            sent.intent.revision.job_id,
            1,
            token=sent.intent.token,
            response_id=sent.response_id,
            status=ResponseStatus.QUEUED,
            actor=TEST,
        )

    @precondition(lambda self: any(each.open and not each.response_id for each in self.sent))
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        """OpenAI has refused the request."""
        sent = self._some(data, known=False)
        assert sent.intent.token is not None
        self.ledger.submission.not_submitted(
            sent.intent.revision.job_id, 1, token=sent.intent.token, actor=TEST, reason="429"
        )
        sent.open, sent.counts = False, NOTHING

    @precondition(lambda self: any(each.open and each.response_id for each in self.sent))
    @rule(data=st.data(), cost=st.one_of(st.none(), MONEY))
    def end(self, data: st.DataObject, cost: Decimal | None) -> None:
        """A response has ended. It may have cost more than was reserved."""
        sent = self._some(data, known=True)
        output = Output(ResponseStatus.COMPLETED, "Text.", cost_usd=cost)
        self.ledger.outputs.store(sent.intent.revision.job_id, 1, output, actor=TEST, response_id=sent.response_id)
        sent.open, sent.counts = False, sent.need if cost is None else cost

    @precondition(lambda self: any(each.open for each in self.sent))
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """Nothing more was heard of a request, or of a response, for long."""
        sent = data.draw(st.sampled_from([each for each in self.sent if each.open]))
        with psycopg.connect(**self.conninfo) as connection:
            connection.execute(
                "UPDATE aihandoff.budget_reservations SET expires_at = clock_timestamp() - interval '1 second'"
                " WHERE job_id = %s",
                [sent.intent.revision.job_id],
            )
        assert self.ledger.reservations.expire() == 1
        sent.open, sent.counts = False, sent.need if sent.response_id else NOTHING

    @rule(by=MONEY)
    def raise_once(self, by: Decimal) -> None:
        self.ledger.budgets.raise_once("all", by, why="more", actor=ALICE)
        self.raised += by

    @rule(amount=MONEY)
    def change_amount(self, amount: Decimal) -> None:
        if amount != self.amount:
            self.ledger.budgets.change("all", amount_usd=amount, why="other", actor=ALICE)
            self.amount = amount

    @rule(period=PERIODS)
    def change_period(self, period: tuple[Period, str]) -> None:
        """What was spent and reserved counts on; what it was raised by for the period before does not."""
        budget = self.ledger.budgets.read("all").budget
        if (budget.period, budget.time_zone) != period:
            changes = {"period": period[0], "time_zone": period[1]}
            self.ledger.budgets.change("all", why="other", actor=ALICE, **changes)
            self.raised = NOTHING

    @invariant()
    def the_books_are_right(self) -> None:
        rows = self.books()
        if not rows:
            assert not self.sent
            return
        (row,) = rows
        assert row["reserved"] + row["settled"] == self.used
        assert row["amount"] == self.amount + self.raised
        assert row["beyond"] == max(NOTHING, self.used - row["amount"])


def test_a_budget_under_every_mixture_of_steps(
    ledger: Ledger, conninfo: dict[str, Any], books: Callable[[], list[dict[str, Any]]]
) -> None:
    run_state_machine_as_test(
        cast("Any", lambda: BudgetMachine(ledger, conninfo, books)),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
