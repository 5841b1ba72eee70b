"""Names in a plan for what is known later: ``{external_id}``, ``{effect_key}``, ``{undo_key}``, and
``{effects.NAME.external_id}`` or ``{effects.NAME.answer.FIELD}`` for what an earlier effect has brought. Pure.

Only an author can write one, in a template. A text that a job brings may read the same, and is no placeholder. So:

1. :class:`Marks` replaces each name in a template by a mark that no one can guess, before anything is rendered into it.
2. :meth:`Marks.settle` turns the marks of the finished plan into names again. Where a text reads like a name without
   having been a mark, it says so: these places are the ``literals``, which are kept beside the plan.
3. :func:`fill` replaces the names by their values, and leaves the literals as they are.

A place is the path to a text in the plan, and the number of names that stand before it in the text:
``["plan", "body", 0]``. A ``None`` after a name in a path stands for the name itself: ``["probe", "found", "$.a", None,
0]``. A plan without ``literals`` has none.

``{current}`` and ``{current.FIELD}`` are names in a template only: what they stand for is known when it is rendered.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

EXTERNAL_ID, EFFECT_KEY, UNDO_KEY = "{external_id}", "{effect_key}", "{undo_key}"

#: Under which the literals of an undo stand, beside its plan.
LITERALS = "literals"

#: The path to a value within a JSON value: ``.url``, ``.data.items[0].id``.
_FIELDS = r"(?:\.[\w-]+|\[\d+\])"
_EARLIER = rf"effects\.[\w.-]+?\.(?:external_id|answer{_FIELDS}+)"
_CURRENT = rf"current{_FIELDS}*"

_NAMES = re.compile(rf"\{{(?:external_id|effect_key|undo_key|{_EARLIER})\}}")

#: What is a placeholder in a template. That of Jinja, in two braces, is none.
_DECLARED = re.compile(
    r"\{(?:external_id|effect_key|undo_key)\}" + rf"|(?<![{{%#])\{{(?:{_EARLIER}|{_CURRENT})\}}(?!\}})"
)

#: What an author may have meant as one.
_MEANT = re.compile(r"(?<![{%#])\{(?:effects\.|current[.\[])[^{}]*\}(?!\})")

#: The parts of a name of an earlier effect.
_EARLIER_PARTS = re.compile(rf"\{{effects\.(?P<effect>[\w.-]+?)\.(?:external_id|answer(?P<field>{_FIELDS}+))\}}")

#: What a mark looks like. What looks like one never hides the next: that begins with what is no hexadecimal digit.
_MARK = re.compile("mark[0-9a-f]{32}")

Path = tuple[Any, ...]
Literals = Sequence[Sequence[Any]]

#: A text as parts, each with whether it is a placeholder.
_Parts = Iterable[tuple[str, bool]]


@dataclass(frozen=True)
class Earlier:
    """What a name of an earlier effect stands for.

    :param effect: the name of that effect.
    :param field: the path into its answer, such as ``.data.id``; None: its external id.
    """

    effect: str
    field: str | None


def earlier(name: str) -> Earlier | None:
    """What a placeholder stands for, where it names an earlier effect; None where it does not."""
    match = _EARLIER_PARTS.fullmatch(name)
    return None if match is None else Earlier(match["effect"], match["field"])


def is_current(name: str) -> bool:
    """Whether a placeholder stands for what the target has, or a field of it."""
    return name.startswith("{current")


def declared_in(template: str) -> set[str]:
    """The placeholders in a template."""
    return set(_DECLARED.findall(template))


def malformed_in(template: str) -> set[str]:
    """What reads in a template as if it named an earlier effect or what the target has, and does not."""
    return set(_MEANT.findall(template)) - declared_in(template)


class Marks:
    """The marks of one rendering: letters and digits alone, which pass every filter, quoting and check unchanged."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._marks: dict[str, str] = {}
        for name in (EXTERNAL_ID, EFFECT_KEY, UNDO_KEY):
            self._mark_of(name)

    @property
    def names(self) -> Iterable[str]:
        """The names that there are marks of."""
        return self._marks.keys()

    def mark(self, template: str) -> str:
        """A template with marks in the place of names."""
        return _DECLARED.sub(lambda match: self._mark_of(match[0]), template)

    def _mark_of(self, name: str) -> str:
        if name not in self._marks:
            mark = f"mark{secrets.token_hex(16)}"
            self._names[mark], self._marks[name] = name, mark
        return self._marks[name]

    def _in(self, text: str) -> Iterator[re.Match[str]]:
        """The marks that stand in a text."""
        return (match for match in _MARK.finditer(text) if match[0] in self._names)

    def names_in(self, value: Any) -> set[str]:
        """The names whose marks stand in a rendered value."""
        found: set[str] = set()

        def parts(text: str, path: Path) -> _Parts:
            found.update(self._names[match[0]] for match in self._in(text))
            yield text, False

        _with_parts(value, parts)
        return found

    def replaced(self, text: str, value_of: Callable[[str], str | None]) -> str:
        """A rendered text with values in the place of marks.

        :param value_of: the value of a name; None: its mark stays.
        """

        def value(match: re.Match[str]) -> str:
            name = self._names.get(match[0])
            found = None if name is None else value_of(name)
            return match[0] if found is None else found

        return _MARK.sub(value, text)

    def whole(self, text: str) -> str | None:
        """The name that a rendered text is, where it is nothing else."""
        return self._names.get(text)

    def settle(self, value: Any) -> tuple[Any, list[list[Any]]]:
        """A rendered value with names in the place of marks, and its literals."""

        def parts(text: str, path: Path) -> _Parts:
            last = 0
            for match in self._in(text):
                yield text[last : match.start()], False
                yield self._names[match[0]], True
                last = match.end()
            yield text[last:], False

        return _with_parts(value, parts)

    def plain(self, value: Any) -> Any:
        """A rendered value with names in the place of marks; the same object where it has none."""
        if isinstance(value, str):
            found = any(self._in(value))
            return _MARK.sub(lambda match: self._names.get(match[0], match[0]), value) if found else value
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

    def walk(part: Any, path: Path) -> None:
        if isinstance(part, str):
            places = enumerate(_NAMES.finditer(part))
            found.update(match[0] for number, match in places if (*path, number) not in kept)
        elif isinstance(part, Mapping):
            for name, item in part.items():
                walk(str(name), (*path, name, None))
                walk(item, (*path, name))
        elif isinstance(part, (list, tuple)):
            for index, item in enumerate(part):
                walk(item, (*path, index))

    walk(value, ())
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
