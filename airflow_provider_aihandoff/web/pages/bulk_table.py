"""Many jobs in one table: groups of similar jobs, and the fields in which they differ. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from airflow_provider_aihandoff.core.effects.describe import describe
from airflow_provider_aihandoff.core.ledger import Candidate
from airflow_provider_aihandoff.core.models import QueueGroup
from airflow_provider_aihandoff.core.review.rules import rules_of
from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.formatting import asked, exact_value

#: Columns of the table. Further fields that differ are folded into each row.
MAX_COLUMNS = 7

#: How many fields of one job are compared, and how deeply. The rest is one field with JSON.
MAX_FIELDS = 120
MAX_DEPTH = 5

Path = tuple[str, ...]

#: The path of what was asked: no field of an output is called so.
INPUT: Path = ("what was asked",)

#: What differs from job to job in a reason: numbers, and what is quoted.
_VALUES = re.compile(r"""\b\d+(?:\.\d+)?\b|"[^"]*"|'[^']*'""")


class GroupBy(StrEnum):
    """What the jobs of a group have in common."""

    RUN = "run"
    TYPE = "type"
    SHAPE = "shape"
    OUTCOME = "outcome"


def group_of(by: GroupBy, jobs: QueueGroup) -> str:
    """The name of the group of like jobs, by anything but the shape of their plans: that is :func:`shape_of`."""
    if by is GroupBy.RUN:
        return f"{jobs.dag_id}, {jobs.run_id}"
    if by is GroupBy.TYPE:
        return jobs.job_type
    because = rules_of(jobs).because
    policy, reason = because.get("policy"), _VALUES.sub("…", str(because.get("reason") or "no policy"))
    return f"{policy}: {reason}" if policy else reason


def shape_of(effects: Sequence[tuple[str, str, Mapping[str, Any]]]) -> str:
    """What is written, apart from the values in it: the name of the group of a job by its plan.

    :param effects: name, kind and plan of each.
    """
    return "; ".join(_shape(*each) for each in effects) or "no plan yet, or no requests"


def _shape(name: str, kind: str, plan: Mapping[str, Any]) -> str:
    view = describe(kind, plan)
    written = exact_value(view.writes) if isinstance(view.writes, str) else view.writes
    keys = ", ".join(sorted(written)) if isinstance(written, dict) else ""
    return f"{name}: {kind} {view.action} ({keys})" if keys else f"{name}: {kind} {view.action}"


def key_of(group: str) -> str:
    """A short name of a group, for addresses."""
    return hashlib.sha256(group.encode("utf-8", "replace")).hexdigest()[:16]


@dataclass(frozen=True)
class Row:
    """One job of the table.

    :param cells: its values in the columns; None where it has no such field.
    :param more: what else differs.
    :param whole: whether the row shows all of it; what every job has in common stands above the rows.
    """

    candidate: Candidate
    cells: tuple[str | None, ...]
    more: tuple[tuple[Path, str | None], ...]
    whole: bool = True


@dataclass(frozen=True)
class Table:
    """Jobs in one table.

    :param same: the fields that are the same in all of them.
    :param columns: those that differ.
    """

    same: tuple[tuple[Path, str], ...]
    columns: tuple[Path, ...]
    rows: tuple[Row, ...]


def table_of(candidates: Sequence[Candidate], budget: Budget) -> Table:
    """Put jobs into one table, as far as the page has room for what they hold.

    A part of a request that equals a field of the output in every job is not shown a second time.
    """
    values = [dict(_fields(candidate)) for candidate in candidates]
    paths = list(dict.fromkeys(path for each in values for path in each))
    columns: dict[tuple[str | None, ...], Path] = {}
    same: list[tuple[Path, str]] = []
    for path in paths:
        column = tuple(each.get(path) for each in values)
        first = column[0]
        if first is not None and len(column) > 1 and len(set(column)) == 1:
            same.append((path, first))
        else:
            columns.setdefault(column, path)
    differing = list(columns.values())
    shown, rest = differing[:MAX_COLUMNS], differing[MAX_COLUMNS:]
    common = tuple((path, budget.text(text)) for path, text in budget.within(same))
    rows = tuple(
        _cut_row(candidate, each, shown, rest, budget) for candidate, each in zip(candidates, values, strict=True)
    )
    return Table(common, tuple(shown), rows)


def _cut_row(
    candidate: Candidate, fields: dict[Path, str], shown: Sequence[Path], rest: Sequence[Path], budget: Budget
) -> Row:
    def cell(path: Path) -> str | None:
        text = fields.get(path)
        return None if text is None else budget.text(text)

    cells = tuple(map(cell, shown))
    more = tuple((path, cell(path)) for path in budget.within(rest))
    # From the first thing that had no room on, no job is shown whole: it may stand in what all have in common.
    return Row(candidate, cells, more, whole=not budget.left_out)


def size_of(candidate: Candidate) -> int:
    """How many characters of a job a table would hold."""
    return sum(len(text) for _, text in _fields(candidate))


def _fields(candidate: Candidate) -> Iterator[tuple[Path, str]]:
    """What was asked, and each field of a job's output and requests, as text, by its path."""
    room = [MAX_FIELDS]
    yield from _leaves(INPUT, asked(candidate.job.input), room)
    yield from _leaves(("output",) if not isinstance(candidate.output, dict) else (), candidate.output, room)
    for effect in candidate.effects:
        plan = {name: _opened(part) for name, part in effect.plan.items()}
        yield from _leaves((effect.name,), plan, room)


def _opened(part: Any) -> Any:
    """A text that is the JSON of an object or a list as that, so that its fields are compared one by one."""
    value = exact_value(part) if isinstance(part, str) else part
    return value if isinstance(value, (dict, list)) else part


def _leaves(path: Path, value: Any, room: list[int]) -> Iterator[tuple[Path, str]]:
    room[0] -= 1
    if value and isinstance(value, dict) and len(path) < MAX_DEPTH and room[0] > 0:
        for name, part in value.items():
            yield from _leaves((*path, str(name)), part, room)
    elif isinstance(value, str):
        yield path, value
    else:
        yield path, json.dumps(value, ensure_ascii=False)
