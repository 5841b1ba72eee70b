"""Which jobs a list, a count or a bulk action is about, and in which order. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any
from urllib.parse import parse_qsl, urlencode

from airflow_provider_aihandoff.core.errors import FilterRefused
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.core.text import plain_or_none


class Need(StrEnum):
    """Why a job needs a person now."""

    UNKNOWN_EFFECT = "unknown effect"  # a write that may have been applied
    FAILED = "failed"  # within FAILED_WITHIN, and no one has acknowledged it
    PAST_DEADLINE = "past deadline"  # its response has not ended in time
    HELD = "held"  # a request was lost, and none is sent until it is known what became of it
    REVIEW_OVERDUE = "review overdue"  # no one decided in time
    CLAIM_EXPIRED = "claim expired"  # an attempt at a write ended without an outcome
    SLOW_RESPONSE = "slow response"  # it runs far longer than those of its type usually do


#: How long a failed job stays among those that need a person.
FAILED_WITHIN = timedelta(days=14)

#: A response is slow when it runs this many times as long as 95 of 100 of the newest ones of its type, of which the
#: ledger must know so many, and for so long at least.
SLOW_FACTOR = 3
SLOW_HISTORY = 20
SLOW_AT_LEAST = timedelta(seconds=60)


class Sort(StrEnum):
    """The order of a list of jobs."""

    NEWEST = "newest"
    OLDEST = "oldest"
    COST = "cost"  # the highest first; jobs without a known cost are left out
    RETRIES = "retries"  # the most first; jobs without one are left out


@dataclass(frozen=True)
class JobFilter:
    """Which jobs, and in which order. What is None or empty leaves out nothing.

    :param states: only jobs in one of these.
    :param key: the beginning of the job key.
    :param run_id: only jobs that this run has made or attached to.
    :param task_id: only jobs of this task of the Dag.
    :param reviewer: only jobs on which this user, account or policy has decided.
    :param older_than: only jobs that were made at least so long ago.
    :param newer_than: only jobs that were made at most so long ago.
    :param min_cost_usd: only jobs that cost at least as much, as far as it is known.
    :param min_retries: only jobs of which so many requests at least were sent again.
    :param external_id: only jobs with an effect of which this is the id of the record.
    :param error: words that all stand in the reason for which it failed, or in the error of one of its effects.
    :param need: only jobs that need a person for this reason.
    :param set_id: only jobs of this set.
    """

    states: tuple[JobState, ...] = ()
    job_type: str | None = None
    key: str | None = None
    dag_id: str | None = None
    run_id: str | None = None
    task_id: str | None = None
    requester: str | None = None
    reviewer: str | None = None
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    min_cost_usd: Decimal | None = None
    min_retries: int | None = None
    external_id: str | None = None
    response_id: str | None = None
    error: str | None = None
    need: Need | None = None
    set_id: int | None = None
    sort: Sort = Sort.NEWEST

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", tuple(map(JobState, self.states)))
        for name in _TEXTS:
            object.__setattr__(self, name, plain_or_none(getattr(self, name)) or None)
        for name in ("min_cost_usd", "min_retries"):
            object.__setattr__(self, name, getattr(self, name) or None)

    def problem(self) -> str | None:
        """Why it cannot be answered from an index, as a sentence; None where it can."""
        if self.task_id is not None and self.dag_id is None:
            return "The filter by task needs a Dag as well."
        return None

    @property
    def is_empty(self) -> bool:
        """Whether it is about every job."""
        return all(getattr(self, each.name) == each.default for each in fields(self) if each.name != "sort")

    def as_texts(self) -> dict[str, str | list[str]]:
        """Its parts that leave something out, by their names in an address; :meth:`of_texts` reads them again."""
        texts: dict[str, str | list[str]] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if value != each.default:
                name = _NAMES.get(each.name, each.name)
                texts[name] = [str(part) for part in value] if each.name == "states" else _text_of(value)
        return texts

    def as_address(self) -> str:
        """Its parts as the query of an address; :meth:`of_address` reads it again."""
        return urlencode(self.as_texts(), doseq=True)

    @classmethod
    def of_address(cls, query: str) -> JobFilter:
        """The filter in the query of an address.

        :raises FilterRefused: it is not valid.
        """
        texts: dict[str, Any] = dict(parse_qsl(query, max_num_fields=100))
        states = [text for name, text in parse_qsl(query, max_num_fields=100) if name == "state"]
        return cls.of_texts({**texts, "state": states})

    @classmethod
    def of_texts(cls, texts: Mapping[str, Any]) -> JobFilter:
        """The filter that these texts name. A name without a text, or with an empty one, leaves out nothing.

        :param texts: by their names in an address.
        :raises FilterRefused: there is no such part, or a text is not what its part can be.
        """
        names = {_NAMES.get(each.name, each.name): each.name for each in fields(cls)}
        values: dict[str, Any] = {}
        for name, text in texts.items():
            if name not in names:
                raise FilterRefused(
                    f"there is no filter {name!r}.", written="", remedy=f"There is: {', '.join(names)}."
                )
            if text is not None and text not in ("", []):
                if name != "state" and not isinstance(text, str):
                    what = f"the filter {name!r} can have one value."
                    raise FilterRefused(what, field=name, written="", remedy="Name one.")
                try:
                    values[names[name]] = _READ.get(name, str)(text)
                except (ValueError, InvalidOperation):
                    what = f"the filter {name!r} cannot be {text!r}."
                    remedy = f"Write {_FORMS[name]}."
                    raise FilterRefused(what, field=name, written="", remedy=remedy) from None
        return cls(**values)

    def in_words(self) -> str:
        """What it is about, for a report."""
        parts = []
        for name, text in self.as_texts().items():
            if name != "sort":
                said = ", ".join(text) if isinstance(text, list) else text
                parts.append(f"{name.replace('_', ' ')}: {said}")
        return "; ".join(parts) or "every job"


_TEXTS = (
    "job_type",
    "key",
    "dag_id",
    "run_id",
    "task_id",
    "requester",
    "reviewer",
    "external_id",
    "response_id",
    "error",
)

#: Names in an address that differ from those of the fields.
_NAMES = {"states": "state", "job_type": "type", "min_cost_usd": "min_cost", "set_id": "set"}

#: The names of all parts, as addresses and options have them.
FILTER_NAMES = tuple(_NAMES.get(each.name, each.name) for each in fields(JobFilter))

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d{1,6})\s*([smhdw])")


def age(text: str) -> timedelta:
    """A span of time, such as ``90m``, ``12h`` or ``7d``.

    :raises ValueError: it is none.
    """
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError("no span of time")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def _amount(text: str) -> Decimal:
    amount = Decimal(text)
    if not amount.is_finite() or not 0 <= amount < 10**12:
        raise ValueError("no amount")
    return amount


def _number(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**31:
        raise ValueError("no number of requests")
    return number


def _set_id(text: str) -> int:
    number = int(text)
    if not 1 <= number < 2**63:
        raise ValueError("no id of a set")
    return number


def _states(texts: Any) -> tuple[JobState, ...]:
    return tuple(map(JobState, [texts] if isinstance(texts, str) else texts))


_READ: Mapping[str, Any] = {
    "state": _states,
    "older_than": age,
    "newer_than": age,
    "min_cost": _amount,
    "min_retries": _number,
    "set": _set_id,
    "need": Need,
    "sort": Sort,
}

_SPAN = "a number and a unit (s, m, h, d or w), such as 7d"
_FORMS = {
    "state": f"one of {', '.join(JobState)}",
    "older_than": _SPAN,
    "newer_than": _SPAN,
    "min_cost": "an amount of dollars",
    "min_retries": "a whole number",
    "set": "the id of a set",
    "need": f"one of {', '.join(Need)}",
    "sort": f"one of {', '.join(Sort)}",
}


def _text_of(value: Any) -> str:
    if isinstance(value, timedelta):
        seconds = round(value.total_seconds())
        unit = next(unit for unit in ("d", "h", "m", "s") if seconds % _UNITS[unit] == 0)
        return f"{seconds // _UNITS[unit]}{unit}"
    return str(value)
