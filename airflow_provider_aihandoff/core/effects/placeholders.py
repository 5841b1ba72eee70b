"""Names in a plan for what is known later: ``{external_id}``, ``{effect_key}`` and ``{undo_key}``. Pure.

Only an author can write one, in a template. A text that a job brings may read the same, and is no placeholder. So:

1. :class:`Marks` replaces each name in a template by a mark that no one can guess, before anything is rendered into it.
2. :meth:`Marks.settle` turns the marks of the finished plan into names again. Where a text reads like a name without
   having been a mark, it says so: these places are the ``literals``, which are kept beside the plan.
3. :func:`fill` replaces the names by their values, and leaves the literals as they are.

A place is the path to a text in the plan, and the number of names that stand before it in the text:
``["plan", "body", 0]``. A ``None`` after a name in a path stands for the name itself: ``["probe", "found", "$.a", None,
0]``. A plan without ``literals`` has none.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

EXTERNAL_ID, EFFECT_KEY, UNDO_KEY = "{external_id}", "{effect_key}", "{undo_key}"

#: Under which the literals of an undo stand, beside its plan.
LITERALS = "literals"

_NAMES = re.compile(r"\{(?:external_id|effect_key|undo_key)\}")

Path = tuple[Any, ...]
Literals = Sequence[Sequence[Any]]

#: A text as parts, each with whether it is a placeholder.
_Parts = Iterable[tuple[str, bool]]


class Marks:
    """The marks of one rendering: letters and digits alone, which pass every filter, quoting and check unchanged."""

    def __init__(self) -> None:
        self._names = {f"aih{secrets.token_hex(16)}": name for name in (EXTERNAL_ID, EFFECT_KEY, UNDO_KEY)}
        self._marks = {name: mark for mark, name in self._names.items()}
        self._any = re.compile("|".join(self._names))

    def mark(self, template: str) -> str:
        """A template with marks in the place of names."""
        return _NAMES.sub(lambda match: self._marks[match[0]], template)

    def settle(self, value: Any) -> tuple[Any, list[list[Any]]]:
        """A rendered value with names in the place of marks, and its literals."""

        def parts(text: str, path: Path) -> _Parts:
            last = 0
            for match in self._any.finditer(text):
                yield text[last : match.start()], False
                yield self._names[match[0]], True
                last = match.end()
            yield text[last:], False

        return _with_parts(value, parts)

    def plain(self, value: Any) -> Any:
        """A rendered value with names in the place of marks; the same object where it has none."""
        if isinstance(value, str):
            return self._any.sub(lambda match: self._names[match[0]], value) if self._any.search(value) else value
        if type(value) is dict:
            items = {self.plain(name): self.plain(item) for name, item in value.items()}
            return items if any(items.get(name, value) is not item for name, item in value.items()) else value
        if type(value) in (list, tuple):
            parts = type(value)(map(self.plain, value))
            return parts if any(new is not old for new, old in zip(parts, value, strict=True)) else value
        return value


def fill(
    value: Any,
    values: Mapping[str, str],
    literals: Literals = (),
    quoted: Callable[[Path, str], str] = lambda path, text: text,
) -> tuple[Any, list[list[Any]]]:
    """A plan with the values of its placeholders, and its literals: what a value brings is never a placeholder.

    :param values: by their names. A placeholder without a value stays one.
    :param literals: of the plan.
    :param quoted: a value as it is written at a place.
    """
    kept = {tuple(place) for place in literals}

    def parts(text: str, path: Path) -> _Parts:
        last = 0
        for number, match in enumerate(_NAMES.finditer(text)):
            name = match[0]
            is_placeholder = (*path, number) not in kept
            yield text[last : match.start()], False
            filled = is_placeholder and name in values
            yield (quoted(path, values[name]) if filled else name), is_placeholder and not filled
            last = match.end()
        yield text[last:], False

    return _with_parts(value, parts)


def names_in(value: Any, literals: Literals = ()) -> set[str]:
    """The names of the placeholders in a plan."""
    kept = {tuple(place) for place in literals}
    found: set[str] = set()

    def parts(text: str, path: Path) -> _Parts:
        for number, match in enumerate(_NAMES.finditer(text)):
            if (*path, number) not in kept:
                found.add(match[0])
        yield text, False

    _with_parts(value, parts)
    return found


def within(literals: Literals, name: str) -> list[list[Any]]:
    """The literals of one part of a plan, as places in that part."""
    return [list(place[1:]) for place in literals if place[0] == name]


def _with_parts(value: Any, parts: Callable[[str, Path], _Parts]) -> tuple[Any, list[list[Any]]]:
    """A value with each text, names too, as its parts make it; and where the result reads like a name and is none."""
    literals: list[list[Any]] = []

    def text_of(text: str, path: Path) -> tuple[str, list[int]]:
        joined, starts = "", set()
        for part, is_placeholder in parts(text, path):
            if is_placeholder:
                starts.add(len(joined))
            joined += part
        matches = enumerate(_NAMES.finditer(joined))
        return joined, [number for number, match in matches if match.start() not in starts]

    def walk(part: Any, path: Path, new: Path) -> Any:
        if isinstance(part, str):
            text, numbers = text_of(part, path)
            literals.extend([*new, number] for number in numbers)
            return text
        if isinstance(part, Mapping):
            items = {}
            for name, item in part.items():
                key, numbers = text_of(str(name), (*path, name, None))
                literals.extend([*new, key, None, number] for number in numbers)
                items[key] = walk(item, (*path, name), (*new, key))
            return items
        if isinstance(part, (list, tuple)):
            return [walk(item, (*path, index), (*new, index)) for index, item in enumerate(part)]
        return part

    return walk(value, (), ()), literals
