"""How much one page may show and compute: every page has one budget, whatever the ledger holds.

What does not fit is left out, the page says how much, and the text of the job has it whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

Item = TypeVar("Item")

#: Characters of what the ledger holds, and parts: fields, items, rows, lines of a history.
MAX_CHARACTERS = 2_000_000
MAX_PARTS = 10_000

#: Characters that are laid out as Markdown. Further ones are shown as their source.
MAX_MARKDOWN = 100_000

#: How many pairs of equal parts may be compared, over all comparisons of a page. difflib's work grows with them.
MAX_PAIRS = 1_000_000

#: A text up to this length is shown whole even when nothing is left: names, digests, what a form sends back.
SHORT = 500


@dataclass
class Budget:
    """What is left of it, and what had to be left out."""

    characters: int = MAX_CHARACTERS
    parts: int = MAX_PARTS
    markdown: int = MAX_MARKDOWN
    pairs: int = MAX_PAIRS
    left_characters: int = 0
    left_parts: int = 0

    @property
    def spent(self) -> bool:
        """Whether nothing more fits."""
        return self.characters <= 0 or self.parts <= 0

    def text(self, text: str) -> str:
        """As much of a text as fits, with how much is left out."""
        if len(text) <= max(SHORT, self.characters):
            self.characters -= len(text)
            return text
        room, self.characters = max(SHORT, self.characters), 0
        left = len(text) - room
        self.left_characters += left
        return f"{text[:room]}… [{left:,} more characters are left out of this page]"

    def json(self, value: Any) -> str:
        """A value as JSON, characters of every script as themselves; indented, where that fits."""
        made: list[str] = []
        size = 0
        with suppress(RecursionError):
            for piece in json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value):
                size += len(piece)
                if size > max(SHORT, self.characters):
                    break
                made.append(piece)
            else:
                return "".join(made)
        return json.dumps(value, ensure_ascii=False)  # in C, and fast

    def within(self, items: Iterable[Item], size: int = 1) -> Iterator[Item]:
        """As many of the items as fit.

        :param size: how many parts each of them is.
        """
        rest = items if isinstance(items, Sequence) else list(items)
        for place, item in enumerate(rest):
            if self.spent:
                self.left_parts += len(rest) - place
                return
            self.parts -= size
            yield item

    def allows_markdown(self, text: str) -> bool:
        """Whether the text may be laid out as Markdown; takes it off."""
        if len(text) > min(self.markdown, self.characters):
            return False
        self.markdown -= len(text)
        self.characters -= len(text)
        return True

    def allows_pairs(self, pairs: int) -> bool:
        """Whether so many pairs may be compared; takes them off."""
        if pairs > self.pairs:
            return False
        self.pairs -= pairs
        return True

    @property
    def left_out(self) -> str:
        """What was left out so far, in words; empty for nothing."""
        said = []
        if self.left_characters:
            said.append(f"{self.left_characters:,} characters")
        if self.left_parts:
            said.append(f"{self.left_parts:,} parts")
        return " and ".join(said)
