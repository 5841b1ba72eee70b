"""Text that people read, as a ``text`` column can store it. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

#: Half of a character: a code point that stands for itself in no encoding.
_SURROGATE = re.compile("[\ud800-\udfff]")


def plain(text: str) -> str:
    """The text without what PostgreSQL's ``text`` cannot store: NUL and lone surrogates, each becomes U+FFFD.

    For text that people read; content is kept exactly, as JSON. An error message of a target, or a comment, must
    not keep what happened from being recorded.
    """
    if text.isascii():  # which most texts of many rows are
        return text.replace("\x00", "\ufffd")
    return text.replace("\x00", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def plain_or_none(text: str | None) -> str | None:
    """:func:`plain`, where there is a text."""
    return None if text is None else plain(text)


def unstorable(text: str) -> str | None:
    """What a text has that PostgreSQL's ``text`` cannot store, in words; None where it has nothing of the kind."""
    return "a NUL character" if "\x00" in text else unwritable(text)


def unwritable(text: str) -> str | None:
    """What a text has that UTF-8 cannot write, in words; None where it has nothing of the kind."""
    return "half of a surrogate pair" if _SURROGATE.search(text) else None


def first_problem(value: object, problem: Callable[[str], str | None], path: str = "") -> str | None:
    """The first text in a JSON value, or name in it, that has a problem: what it has, and where it stands."""
    if isinstance(value, str):
        found = problem(value)
        return found and f"{found} in {path or 'it'}"
    items: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for name, item in items:
        if isinstance(name, str) and (found := problem(name)):
            return f"{found} in a name in {path or 'it'}"
        if found := first_problem(item, problem, f"{path}.{name}" if path else str(name)):
            return found
    return None
