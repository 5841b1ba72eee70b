"""What a budget is: whose requests it is about, how much, for which time, and what happens at its end. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, TypeVar

from airflow_provider_aihandoff.core.amounts import CURRENCY, checked_amount
from airflow_provider_aihandoff.core.arguments import identifier
from airflow_provider_aihandoff.core.budgets.period import Period, zone
from airflow_provider_aihandoff.core.errors import BudgetRefused, RequestError
from airflow_provider_aihandoff.core.models import Actor, ActorKind

Choice = TypeVar("Choice", bound=StrEnum)

#: What is done about a budget that is refused.
_REMEDY = "Correct it and try again; nothing was changed."

#: The percentages that are notified, where its owner names none.
THRESHOLDS = (50, 80, 100)


class OnFull(StrEnum):
    """What becomes of a request for which there is no room."""

    HOLD = "hold"  # it waits until there is room
    FAIL = "fail"  # its job fails at once
    WARN = "warn"  # it is sent all the same; those who are to know are notified


@dataclass(frozen=True)
class Scope:
    """Whose requests a budget is about: all that is named must match, and nothing named is everything.

    :param conn_id: the OpenAI connection.
    :param tag: one of those that the author of the Dag has put on the job.
    """

    conn_id: str | None = None
    job_type: str | None = None
    dag_id: str | None = None
    requested_by: str | None = None
    tag: str | None = None

    def __str__(self) -> str:
        named = (f"{_WORDS[each.name]} {value}" for each in fields(self) if (value := getattr(self, each.name)))
        return ", ".join(named) or "everything"


_WORDS: Mapping[str, str] = {
    "conn_id": "connection",
    "job_type": "type",
    "dag_id": "Dag",
    "requested_by": "requester",
    "tag": "tag",
}


@dataclass(frozen=True)
class BudgetSpec:
    """A budget as a person wants it. Make one with :func:`checked_spec`.

    :param amount_usd: for each period.
    :param time_zone: in which days, weeks and months begin, by its name in the IANA database.
    :param thresholds: percentages of the amount that are notified, once in each period.
    :param owner: who answers for it, for people.
    """

    name: str
    scope: Scope
    amount_usd: Decimal
    period: Period
    time_zone: str
    thresholds: tuple[int, ...]
    on_full: OnFull
    owner: str


@dataclass(frozen=True)
class Budget:
    """One budget, as the ledger has it. Each field but ``scope`` is a column of its table."""

    budget_id: int
    name: str
    conn_id: str | None
    job_type: str | None
    dag_id: str | None
    requested_by: str | None
    tag: str | None
    amount_usd: Decimal
    period: Period
    time_zone: str
    thresholds: list[int]
    on_full: OnFull
    owner: str
    created_at: datetime
    ended_at: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "period", Period(self.period))
        object.__setattr__(self, "on_full", OnFull(self.on_full))

    @property
    def scope(self) -> Scope:
        """Whose requests it is about."""
        return Scope(self.conn_id, self.job_type, self.dag_id, self.requested_by, self.tag)

    @property
    def label(self) -> str:
        """How messages name it."""
        return f"the budget {self.name!r} ({self.scope})"

    @property
    def per(self) -> str:
        """The period in words: ``a day (Europe/Berlin)``."""
        if self.period is Period.TOTAL:
            return "in total"
        if self.period is Period.HOUR:
            return "an hour"
        return f"a {self.period.value} ({self.time_zone})"


@dataclass(frozen=True)
class Use:
    """How much of one period of a budget is used.

    :param amount_usd: what it gives in this period, ``raised_usd`` included.
    :param raised_usd: what it was raised by for this period alone.
    :param settled_usd: what responses have cost. Where a price is not known, what was reserved for them counts.
    :param reserved_usd: what requests that are sent, or may be, can still cost.
    :param beyond_usd: how much of that is more than the amount.
    :param assumed_usd: the part of ``settled_usd`` whose price is not known.
    """

    starts_at: datetime
    ends_at: datetime | None
    amount_usd: Decimal
    raised_usd: Decimal
    settled_usd: Decimal
    reserved_usd: Decimal
    beyond_usd: Decimal
    assumed_usd: Decimal = Decimal(0)

    @property
    def used_usd(self) -> Decimal:
        """What is spent or reserved."""
        return self.settled_usd + self.reserved_usd

    @property
    def room_usd(self) -> Decimal:
        """What is left; never less than nothing."""
        return max(Decimal(0), self.amount_usd - self.used_usd)

    @property
    def percent(self) -> int:
        """The used part, in whole percent, rounded down."""
        return int(100 * self.used_usd / self.amount_usd)

    def forecast_usd(self, at: datetime) -> Decimal | None:
        """What will be spent by the end of the period, if it goes on as until now; None where that cannot be said."""
        if self.ends_at is None or at <= self.starts_at:
            return None
        passed = (min(at, self.ends_at) - self.starts_at) / (self.ends_at - self.starts_at)
        # In the first moments, one response would stand for the whole period.
        if passed < 0.02:
            return None
        return self.reserved_usd + self.settled_usd / Decimal(str(passed))


@dataclass(frozen=True)
class BudgetEvent:
    """One line of the history of a budget.

    :param event: ``added``, ``changed``, ``raised`` or ``ended``.
    :param detail: what it is from then on.
    """

    budget_id: int
    seq: int
    at: datetime
    event: str
    why: str
    detail: dict[str, Any]
    actor_kind: str
    actor_name: str
    actor_user_id: str | None

    @property
    def by(self) -> Actor:
        """Who did it."""
        return Actor(ActorKind(self.actor_kind), self.actor_name, self.actor_user_id)


def checked_spec(
    name: Any,
    amount: Any,
    *,
    scope: Mapping[str, Any] | None = None,
    period: Any = Period.MONTH,
    time_zone: Any = "UTC",
    thresholds: Sequence[Any] = THRESHOLDS,
    on_full: Any = OnFull.HOLD,
    owner: Any,
) -> BudgetSpec:
    """A budget, of what a person has given.

    :param scope: names by the fields of :class:`Scope`; those that are None or missing match everything.
    :raises BudgetRefused: something of it is not valid; the message says what, and ``field`` where.
    """
    return BudgetSpec(
        name=_checked_budget_name(name),
        scope=checked_scope(scope or {}),
        amount_usd=checked_amount(amount),
        period=checked_choice("period", Period, period),
        time_zone=checked_zone(time_zone),
        thresholds=checked_thresholds(thresholds),
        on_full=checked_choice("on_full", OnFull, on_full),
        owner=_name("owner", owner),
    )


def checked_changes(changes: Mapping[str, Any]) -> dict[str, Any]:
    """What is to be changed of a budget, of what a person has given.

    :raises BudgetRefused: something of it is not valid, or cannot be changed.
    """
    return {name: _check_of(name)(value) for name, value in changes.items()}


def _check_of(field: str) -> Callable[[Any], Any]:
    checks: Mapping[str, Callable[[Any], Any]] = {
        "amount_usd": checked_amount,
        "period": lambda value: checked_choice("period", Period, value),
        "time_zone": checked_zone,
        "thresholds": lambda value: list(checked_thresholds(value)),
        "on_full": lambda value: checked_choice("on_full", OnFull, value),
        "owner": lambda value: _name("owner", value),
    }
    if field not in checks:
        raise BudgetRefused(
            f"{field} of a budget cannot be changed.", field=field, remedy="End the budget, and add another one."
        )
    return checks[field]


def checked_scope(scope: Mapping[str, Any]) -> Scope:
    """A scope, of what a person has given.

    :raises BudgetRefused: a field is unknown, or its name cannot be stored.
    """
    known = [each.name for each in fields(Scope)]
    if unknown := sorted(set(scope) - set(known)):
        raise BudgetRefused(
            f"a budget has no scope {unknown[0]!r}; there are {', '.join(known)}.", field="scope", remedy=_REMEDY
        )
    return Scope(**{each: _name(each, value) for each, value in scope.items() if value is not None})


def checked_zone(name: Any) -> str:
    """The name of a time zone.

    :raises BudgetRefused: there is none of that name.
    """
    try:
        return zone(str(name)).key
    except ValueError as error:
        raise BudgetRefused(f"{str(error).rstrip('.')}.", field="time_zone", remedy=_REMEDY) from None


def checked_thresholds(thresholds: Sequence[Any]) -> tuple[int, ...]:
    """Percentages, each once, in order.

    :raises BudgetRefused: one is none, or not between 1 and 1000.
    """
    try:
        numbers = sorted({int(str(each).strip().removesuffix("%")) for each in thresholds})
    except ValueError:
        numbers = [0]
    if any(not 1 <= each <= 1000 for each in numbers):
        raise BudgetRefused(
            "a threshold is a whole percentage from 1 to 1000.", field="thresholds", remedy="Such as 50, 80 and 100."
        )
    return tuple(numbers)


def checked_choice(field: str, kind: type[Choice], value: Any) -> Choice:
    """A member of an enumeration.

    :raises BudgetRefused: it has no such member.
    """
    try:
        return kind(value)
    except ValueError:
        raise BudgetRefused(
            f"{field} is one of {', '.join(kind)}, not {value!r}.", field=field, remedy=_REMEDY
        ) from None


def checked_why(why: Any) -> str:
    """Why a person changes a budget.

    :raises BudgetRefused: they do not say.
    """
    text = str(why or "").strip()
    if not text:
        raise BudgetRefused("say why: it goes on the record.", field="why", remedy=_REMEDY)
    return text


def _checked_budget_name(value: Any) -> str:
    name = _name("name", value)
    if name.isdigit():
        raise BudgetRefused(f"the name {name!r} could be the id of another budget.", field="name", remedy=_REMEDY)
    return name


def _name(field: str, value: Any) -> str:
    try:
        return identifier(field, value)
    except RequestError as error:
        raise BudgetRefused(error.what, field=field, remedy=_REMEDY) from None


def usd(amount: Decimal) -> str:
    """An amount for people: ``12.50 USD``, with as many decimals as it takes to see the first digit."""
    places = 4
    while amount and abs(amount) < Decimal(1).scaleb(-places) and places < _MOST_PLACES:
        places += 2
    text = f"{amount:,.{places}f}"
    while text.endswith("0") and len(text.partition(".")[2]) > _CENTS:
        text = text[:-1]
    return f"{text} {CURRENCY}"


_CENTS, _MOST_PLACES = 2, 12
