"""The difference of two JSON values, field by field and word by word, in bounded work. Pure."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any, Literal

from airflow_provider_aihandoff.web.render.budget import Budget

Op = Literal["same", "removed", "added", "left out"]

#: Of what is the same, this many characters are shown on each side of a change.
CONTEXT = 240

#: Lists are compared item by item up to this many, and fields up to this depth.
MAX_ITEMS = 2_000
MAX_DEPTH = 20

#: Lines, and the sentences in them; and words, with the space before them.
_SENTENCES = re.compile(r"[^\n.!?]*(?:[.!?]+[ \t]*|\n|$)")
_WORDS = re.compile(r"\s*\w+|\s*[^\w\s]|\s+")

_MISSING = object()


@dataclass(frozen=True)
class Piece:
    """A stretch of a text that is the same in both, only in one of them, or the same and left out (in words)."""

    op: Op
    text: str


@dataclass(frozen=True)
class FieldDifference:
    """The difference in one field.

    :param path: the names that lead to it; empty for the value itself.
    :param change: in words.
    :param coarse: whether it was too much to compare word by word.
    """

    path: tuple[str, ...]
    change: Literal["same", "changed", "added", "removed"]
    pieces: list[Piece]
    coarse: bool = False


@dataclass
class _Work:
    """What is left of the page's budget, and whether something was too much for it."""

    budget: Budget
    exceeded: bool = False

    def allows(self, old: Sequence[Any], new: Sequence[Any]) -> bool:
        """Whether the two may be matched; takes the work off."""
        counts = Counter(old)
        allowed = self.budget.allows_pairs(sum(counts[part] for part in new) + len(old) + len(new))
        self.exceeded = self.exceeded or not allowed
        return allowed


def compare(old: Any, new: Any, budget: Budget) -> list[FieldDifference]:
    """The fields of two JSON values, in the order of the new one, with what became of each.

    A value that has no fields is one field without a name. Work is bounded: where it would be too much, whole
    stretches are given as replaced, and that is said.
    """
    return list(_compare((), old, new, _Work(budget)))


def _compare(path: tuple[str, ...], old: Any, new: Any, work: _Work) -> Iterator[FieldDifference]:
    if _both(dict, old, new) and len(path) < MAX_DEPTH:
        for name in dict.fromkeys([*new, *old]):
            yield from _compare((*path, name), old.get(name, _MISSING), new.get(name, _MISSING), work)
    elif _both(list, old, new) and len(path) < MAX_DEPTH and max(len(old), len(new)) <= MAX_ITEMS:
        for before, after, place in _aligned(old, new, work):
            yield from _compare((*path, place), before, after, work)
    else:
        yield _leaf(path, old, new, work)


def _both(kind: type, old: Any, new: Any) -> bool:
    return isinstance(old, kind) and isinstance(new, kind) and bool(old) and bool(new)


def _aligned(old: list[Any], new: list[Any], work: _Work) -> Iterator[tuple[Any, Any, str]]:
    """The items of two lists, each beside its like, with the place of each for a person."""
    if len(old) == len(new):
        yield from ((before, after, str(place)) for place, (before, after) in enumerate(zip(old, new, strict=True), 1))
        return
    before_keys, after_keys = ([json.dumps(item, sort_keys=True) for item in items] for items in (old, new))
    blocks: list[tuple[Any, int, int, int, int]] = [("replace", 0, len(old), 0, len(new))]
    if work.allows(before_keys, after_keys):
        blocks = SequenceMatcher(None, before_keys, after_keys, autojunk=False).get_opcodes()
    for _, i, i_end, j, j_end in blocks:
        for step in range(max(i_end - i, j_end - j)):
            before = old[i + step] if i + step < i_end else _MISSING
            after = new[j + step] if j + step < j_end else _MISSING
            yield before, after, str((i if after is _MISSING else j) + step + 1)


def _leaf(path: tuple[str, ...], old: Any, new: Any, work: _Work) -> FieldDifference:
    if old is _MISSING:
        return FieldDifference(path, "added", [Piece("added", _as_text(new, work))])
    if new is _MISSING:
        return FieldDifference(path, "removed", [Piece("removed", _as_text(old, work))])
    if isinstance(old, str) and isinstance(new, str) and old != new:
        work.exceeded = False
        pieces = _shortened(_texts(old, new, work))
        return FieldDifference(path, "changed", pieces, coarse=work.exceeded)
    before, after = _as_text(old, work), _as_text(new, work)
    if type(old) is type(new) and before == after:
        return FieldDifference(path, "same", [Piece("same", after)])
    return FieldDifference(path, "changed", [Piece("removed", before), Piece("added", after)])


def _as_text(value: Any, work: _Work) -> str:
    """A value as it is put beside another one: a text as it is, anything else as JSON."""
    if isinstance(value, str):
        return value
    try:
        return work.budget.json(value)
    except RecursionError:
        return "nested too deeply to show here"


def _texts(old: str, new: str, work: _Work) -> list[Piece]:
    """Two texts, first sentence by sentence, then word by word in what differs."""
    pieces: list[Piece] = []
    for tag, before, after in _matched(_SENTENCES.findall(old), _SENTENCES.findall(new), work):
        if tag != "replace":
            pieces += _given(tag, before, after)
            continue
        for inner, words_before, words_after in _matched(_WORDS.findall(before), _WORDS.findall(after), work):
            pieces += _given(inner, words_before, words_after)
    return pieces


def _matched(old: list[str], new: list[str], work: _Work) -> Iterator[tuple[str, str, str]]:
    """Stretches of two lists of parts: ``equal``, ``delete``, ``insert`` or ``replace``, with both texts."""
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start]:
        start += 1
    end = 0
    while end < min(len(old), len(new)) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    middle_old, middle_new = old[start : len(old) - end], new[start : len(new) - end]
    if start:
        yield "equal", "".join(old[:start]), "".join(new[:start])
    if not work.allows(middle_old, middle_new):
        yield "replace", "".join(middle_old), "".join(middle_new)
    else:
        for tag, i, i_end, j, j_end in SequenceMatcher(None, middle_old, middle_new, autojunk=False).get_opcodes():
            yield tag, "".join(middle_old[i:i_end]), "".join(middle_new[j:j_end])
    if end:
        yield "equal", "".join(old[len(old) - end :]), "".join(new[len(new) - end :])


def _given(tag: str, before: str, after: str) -> list[Piece]:
    if tag == "equal":
        return [Piece("same", after)] if after else []
    return [piece for piece in (Piece("removed", before), Piece("added", after)) if piece.text]


def _shortened(pieces: list[Piece]) -> list[Piece]:
    """The pieces, joined where they are alike, with long stretches of what is the same left out."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].op == piece.op:
            joined[-1] = Piece(piece.op, joined[-1].text + piece.text)
        else:
            joined.append(piece)
    shown: list[Piece] = []
    for place, piece in enumerate(joined):
        shown += _around(piece, first=place == 0, last=place == len(joined) - 1) if piece.op == "same" else [piece]
    return shown


def _around(piece: Piece, *, first: bool, last: bool) -> list[Piece]:
    """What is the same, near the changes that it stands between."""
    head, tail = (0 if first else CONTEXT), (0 if last else CONTEXT)
    left_out = len(piece.text) - head - tail
    if left_out <= CONTEXT:
        return [piece]
    parts = [
        Piece("same", piece.text[:head]),
        Piece("left out", f"{left_out:,} unchanged characters"),
        Piece("same", piece.text[len(piece.text) - tail :]),
    ]
    return [part for part in parts if part.text]
