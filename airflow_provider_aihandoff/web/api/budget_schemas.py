"""What the routes of budgets take and give. Amounts are US dollars, as a text or a number."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from airflow_provider_aihandoff.core.budgets.budget_spec import THRESHOLDS, OnFull
from airflow_provider_aihandoff.core.budgets.period import Period
from airflow_provider_aihandoff.web.api.schemas import Reason

Amount = Annotated[str | int | float, Field(description="US dollars, above 0.")]
Days = Annotated[int, Query(ge=1, le=3660, description="How far back.")]
Text = Annotated[str, Field(min_length=1, max_length=500)]
Thresholds = Annotated[list[int], Field(max_length=20, description="Percentages that are notified.")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ScopeBody(_Body):
    """Whose requests a budget is about: all that is named must match, and nothing named is everything."""

    conn_id: Text | None = None
    job_type: Text | None = None
    dag_id: Text | None = None
    requested_by: Text | None = None
    tag: Text | None = None


class BudgetBody(_Body):
    """A new budget. It is recorded in the name of the logged-in user, who owns it unless another owner is named."""

    name: Text
    amount_usd: Amount
    scope: ScopeBody = ScopeBody()
    period: Text = Period.MONTH.value
    time_zone: Text = "UTC"
    thresholds: Thresholds = list(THRESHOLDS)
    on_full: Text = OnFull.HOLD.value
    owner: Text | None = None
    reason: Reason


class ChangeBody(_Body):
    """What is to be changed of a budget. It is recorded in the name of the logged-in user."""

    amount_usd: Amount | None = None
    period: Text | None = None
    time_zone: Text | None = None
    thresholds: Thresholds | None = None
    on_full: Text | None = None
    owner: Text | None = None
    reason: Reason


class RaiseBody(_Body):
    """What a budget is to have more, for its current period alone."""

    amount_usd: Amount
    reason: Reason


class EndBody(_Body):
    """The end of a budget."""

    reason: Reason


class _Answer(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class Use(_Answer):
    """How much of one period is used."""

    starts_at: datetime
    ends_at: datetime | None
    amount_usd: Decimal = Field(description="With what it was raised by.")
    raised_usd: Decimal = Field(description="For this period alone.")
    settled_usd: Decimal = Field(description="What responses have cost.")
    reserved_usd: Decimal = Field(description="What requests that are sent, or may be, can still cost.")
    room_usd: Decimal
    beyond_usd: Decimal = Field(description="What is used beyond the amount.")
    assumed_usd: Decimal = Field(description="The part of `settled_usd` whose price is not known.")
    percent: int


class BudgetItem(_Answer):
    """A budget as it is now."""

    budget_id: int
    name: str
    scope: dict[str, str] = Field(description="What is named in it; empty: everything.")
    amount_usd: Decimal
    period: Period
    time_zone: str
    thresholds: list[int]
    on_full: OnFull
    owner: str
    created_at: datetime
    ended_at: datetime | None
    use: Use = Field(description="Of the current period.")
    forecast_usd: Decimal | None = Field(description="By the end of the period; null where it cannot be said.")
    held: int = Field(description="Jobs that wait for room.")
    held_since: datetime | None


class BudgetLine(_Answer):
    """One line of the history of a budget."""

    seq: int
    at: datetime
    event: str
    by: str
    reason: str
    detail: dict[str, Any]


class BudgetDetail(BudgetItem):
    """A budget with its periods and its history."""

    periods: list[Use] = Field(description="The newest first.")
    history: list[BudgetLine]
    warning: str | None = Field(description="Why no request like those of late would ever be sent within it.")


class Spent(_Answer):
    """What was spent on one thing."""

    key: str = Field(description="A day of UTC, a type, ...; empty where there is none.")
    responses: int
    cost_usd: Decimal = Field(description="Of those whose price is known.")
    unpriced: int = Field(description="How many responses have a price that is not known.")


class SpendingList(_Answer):
    """What was spent: the days in order, everything else the dearest first."""

    spending: list[Spent]


class BillDay(_Answer):
    """What one project was billed for one day of UTC, beside what the ledger knows of it."""

    project_id: str
    day: date
    billed_usd: Decimal
    ledger_usd: Decimal = Field(description="What responses have cost that ended on that day, as far as it is known.")
    difference_usd: Decimal = Field(description="What was billed beyond that.")
    unpriced: int = Field(description="How many responses have a price that is not known.")
    compared_at: datetime


class BillDays(_Answer):
    """What was compared with OpenAI's bill, the newest day first."""

    bill: list[BillDay]


class BudgetList(_Answer):
    """Budgets, by name."""

    budgets: list[BudgetItem]
