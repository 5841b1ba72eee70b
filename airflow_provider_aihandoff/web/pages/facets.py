"""Facets: how many jobs have which value in a field of their output, and which jobs have a chosen one. Pure.

A facet is a field with few values, all of them short, such as a category: over a whole group of jobs, not one page.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.web.render.formatting import label

#: A field with more values than this, or with a longer text, is no facet.
MAX_VALUES = 12
MAX_TEXT = 60
MAX_NUMBER = 10**15

#: Facets that are shown, in the order of the fields; how deeply, and how many fields of an output are read.
MAX_FACETS = 8
#: Fields that are counted: where data are names of fields, each output has others.
MAX_PATHS = 1000
MAX_DEPTH = 3
MAX_FIELDS = 120

Path = tuple[str, ...]
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Chosen:
    """A value of a field, by which a group is narrowed: as JSON in an address, its path and its value.

    :param path: the names that lead to the field.
    """

    path: Path
    value: Value

    @classmethod
    def of_address(cls, text: str) -> Self:
        """The choice that an address names.

        :raises ValueError: the text is none.
        """
        try:
            path, value = strict_json.loads(text)
        except (strict_json.NotJson, TypeError, ValueError):
            raise ValueError("it is not the JSON of a path and a value") from None
        names = isinstance(path, list) and 0 < len(path) <= MAX_DEPTH and all(isinstance(name, str) for name in path)
        if not names or not _is_short(value):
            raise ValueError("it is not the JSON of a path and a value")
        return cls(tuple(path), value)

    def as_address(self) -> str:
        """It as an address names it."""
        return json.dumps([list(self.path), self.value], separators=(",", ":"))

    @property
    def field(self) -> str:
        """The field, as pages name it."""
        return " › ".join(map(label, self.path))  # noqa: RUF001  as pages write it

    @property
    def words(self) -> str:
        """The value, as pages write it."""
        if isinstance(self.value, bool):
            return "yes" if self.value else "no"
        return "none" if self.value is None else "empty" if self.value == "" else str(self.value)

    def is_of(self, output: Any) -> bool:
        """Whether an output has this value in this field."""
        for name in self.path:
            if not isinstance(output, dict) or name not in output:
                return False
            output = output[name]
        return type(output) is type(self.value) and output == self.value


@dataclass(frozen=True)
class Facet:
    """A field with few values.

    :param counts: how many jobs have each, the most frequent first.
    """

    field: str
    counts: tuple[tuple[Chosen, int], ...]


class FacetCounts:
    """Counts the values of the fields of outputs, of one after the other."""

    def __init__(self) -> None:
        self._counts: dict[Path, Counter[tuple[type, Value]]] = {}
        self._dropped: set[Path] = set()

    def add(self, output: Any) -> None:
        """Count the values of one output."""
        for path, value in _fields(output, self._dropped.__contains__):
            if path not in self._counts and len(self._counts) >= MAX_PATHS:
                continue
            counts = self._counts.setdefault(path, Counter())
            if _is_short(value):
                counts[type(value), value] += 1
            if not _is_short(value) or len(counts) > MAX_VALUES:
                self._dropped.add(path)
                counts.clear()

    def facets(self) -> list[Facet]:
        """The fields with few values, and more than one."""
        found = {path: counts for path, counts in self._counts.items() if path not in self._dropped and len(counts) > 1}
        return [
            Facet(Chosen(path, None).field, tuple((Chosen(path, value), n) for (_, value), n in counts.most_common()))
            for path, counts in list(found.items())[:MAX_FACETS]
        ]


def matches(output: Any, chosen: Iterable[Chosen]) -> bool:
    """Whether an output has each of the chosen values."""
    return all(each.is_of(output) for each in chosen)


def _is_short(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    if isinstance(value, int):  # a flag is one too
        return abs(value) < MAX_NUMBER
    return value is None or isinstance(value, float)


def _fields(output: Any, skip: Callable[[Path], bool]) -> Iterator[tuple[Path, Any]]:
    """The fields of an output, by their paths; those of an object in it under its own."""
    seen = 0
    left: list[tuple[Path, Any]] = [((), output)]
    while left:
        path, value = left.pop(0)
        for name, part in value.items() if isinstance(value, dict) else ():
            seen += 1
            if seen > MAX_FIELDS:
                return
            inner: Path = (*path, str(name))
            if isinstance(part, dict) and len(inner) < MAX_DEPTH:
                left.append((inner, part))
            elif not skip(inner):
                yield inner, part


def chosen_of(texts: Sequence[str]) -> tuple[Chosen, ...]:
    """The choices that an address names, each once.

    :raises ValueError: one of them is none.
    """
    return tuple(dict.fromkeys(map(Chosen.of_address, texts)))
