"""What a limit of speed is, and what may be set as one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from airflow_provider_aihandoff.core.errors import LimitRefused
from airflow_provider_aihandoff.core.rates.slowdown import amount_now
from airflow_provider_aihandoff.core.text import plain


class LimitKind(StrEnum):
    """What a limit is about."""

    OPENAI = "openai"  # an OpenAI connection: what is asked of the model
    TARGET = "target"  # the connection of a target: external writes
    KEY = "key"  # a name that authors give to their tasks, of both kinds


class Measure(StrEnum):
    """What a limit counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    IN_FLIGHT = "in flight"  # responses that run, and writes that are being made


class Priority(StrEnum):
    """Who waits for a request."""

    INTERACTIVE = "interactive"  # a person, at their desk
    BATCH = "batch"


#: Seconds of the periods that a limit may have, by their names.
PERIODS: Mapping[str, int] = {"second": 1, "minute": 60, "hour": 3600}

#: The period of a limit where none is named.
DEFAULT_PERIOD: Mapping[LimitKind, int] = {LimitKind.OPENAI: 60, LimitKind.TARGET: 1, LimitKind.KEY: 60}

#: More than any limit; it fits the ledger's column.
MOST = 10**12

#: What a weight may be, of a job type or a requester beside the others, whose weight is 1.
LEAST_WEIGHT, MOST_WEIGHT = 0.01, 100.0


@dataclass(frozen=True)
class LimitName:
    """Which limit: there is one of each."""

    kind: LimitKind
    name: str
    measure: Measure

    def __str__(self) -> str:
        what = {LimitKind.OPENAI: "connection", LimitKind.TARGET: "target connection", LimitKind.KEY: "key"}
        return f"{self.measure.value} of the {what[self.kind]} {self.name}"


@dataclass(frozen=True)
class RateLimit:
    """A limit, as the ledger has it at one moment.

    :param amount: how much in a period, or at once; 0 stops; None where no one has set it, and only the other side has
        asked for less.
    :param period: seconds; None of a limit that counts what is in flight.
    :param weights: what of it a job type (``type:NAME``) or a requester (``requester:NAME``) gets beside the others.
    :param stated: how many requests a minute the other side says that it takes, if it does.
    :param base: how much went through in a period when the other side last asked for less, at ``slowed_at``; None: it
        never did.
    :param closed_until: nothing is sent before, since the other side asked for it.
    :param said: what it answered.
    """

    limit_id: int
    kind: LimitKind
    name: str
    measure: Measure
    amount: int | None
    period: int | None
    weights: dict[str, float]
    stated: int | None
    base: int | None
    slowed_at: datetime | None
    closed_until: datetime | None
    said: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", LimitKind(self.kind))
        object.__setattr__(self, "measure", Measure(self.measure))

    @property
    def called(self) -> LimitName:
        """Which one it is."""
        return LimitName(self.kind, self.name, self.measure)

    def amount_at(self, at: float) -> int | None:
        """How much goes through in a period, or at once; None where nothing limits it.

        :param at: in seconds since 1970.
        """
        if self.period is None:
            return self.amount
        slowed_at = None if self.slowed_at is None else self.slowed_at.timestamp()
        amount = amount_now(self.amount, self.base, slowed_at, at)
        if self.stated is None or self.amount is None or amount is None:
            return amount
        return min(amount, max(1, self.stated * self.period // 60))

    @property
    def words(self) -> str:
        """How much it lets through, as people say it."""
        return in_words(self.measure, self.amount, self.period)


def in_words(measure: Measure, amount: int | None, period: int | None) -> str:
    """How much a limit lets through, such as ``500 requests a minute``."""
    if amount is None:
        return "no limit"
    if measure is Measure.IN_FLIGHT:
        return f"{amount} at once"
    per = next((name for name, seconds in PERIODS.items() if seconds == period), f"{period} seconds")
    return f"{amount} {measure.value} {'an' if per == 'hour' else 'a'} {per}"


def checked_name(kind: LimitKind, name: str, measure: Measure) -> LimitName:
    """Which limit is meant.

    :raises LimitRefused: there is no such limit.
    """
    name = plain(name).strip()
    if not name:
        raise _refused("the connection or the key of a limit must not be empty.")
    if len(name) > 250:
        raise _refused("the connection or the key of a limit has at most 250 characters.")
    if measure is Measure.TOKENS and kind is LimitKind.TARGET:
        raise _refused("a write to a target has no tokens.", "Limit its requests, or what is in flight.")
    return LimitName(kind, name, measure)


def checked_amount(amount: int) -> int:
    """How much a limit lets through.

    :raises LimitRefused: it is no whole number from 0.
    """
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise _refused(f"a limit must be a whole number, not {amount!r}.")
    if amount < 0:
        raise _refused(f"a limit must not be negative, and {amount} is.", "0 stops everything; to have none, end it.")
    if amount > MOST:
        raise _refused(f"a limit must be at most {MOST}.", "To have none, end it.")
    return amount


def checked_period(called: LimitName, period: int | None) -> int | None:
    """The seconds in which a limit counts; None where it counts what is in flight.

    :raises LimitRefused: it has none, or is none of :data:`PERIODS`.
    """
    if called.measure is Measure.IN_FLIGHT:
        if period is not None:
            raise _refused("what is in flight at once has no period.", "Leave the period out.")
        return None
    if period is None:
        return DEFAULT_PERIOD[called.kind]
    if period not in PERIODS.values():
        raise _refused(f"the period of a limit is a {', a '.join(PERIODS)}, not {period} seconds.")
    return period


def checked_limit(kind: LimitKind, name: str, measure: Measure, amount: int, period: int | None) -> dict[str, object]:
    """The columns of a limit that is to be set.

    :raises LimitRefused: as the three above.
    """
    called = checked_name(kind, name, measure)
    return {**vars(called), "amount": checked_amount(amount), "period": checked_period(called, period)}


def checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights of job types and requesters.

    :raises LimitRefused: a name or a number is not valid.
    """
    for name, weight in weights.items():
        kind, _, rest = name.partition(":")
        if kind not in ("type", "requester") or not rest:
            raise _refused(f"a weight is of type:NAME or requester:NAME, not of {name!r}.")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)):
            raise _refused(f"the weight of {name!r} must be a number, not {weight!r}.")
        if not LEAST_WEIGHT <= weight <= MOST_WEIGHT:  # nor a NaN
            raise _refused(f"the weight of {name!r} must be from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}.")
    return {plain(name): float(weight) for name, weight in weights.items()}


def weight_of(weights: Mapping[str, float], job_type: str, requester: str) -> float:
    """What the requests of a job type, asked for by a user, get beside those of others."""
    return weights.get(f"type:{job_type}", 1.0) * weights.get(f"requester:{requester}", 1.0)


def _refused(what: str, remedy: str = "") -> LimitRefused:
    return LimitRefused(what, written="Nothing was set.", remedy=remedy)
