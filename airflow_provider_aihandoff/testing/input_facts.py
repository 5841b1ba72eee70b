"""Finds facts in what a user wrote: JSON among the prose, lines with a label, bullets."""

from __future__ import annotations

import json
import re
from typing import Any

_CHANGES_LABELS = ("requested changes", "changes requested", "reviewer's comment", "comment", "feedback")


def largest_json(text: str) -> Any:
    """The longest JSON object or array that stands in `text`; None if there is none."""
    decoder = json.JSONDecoder()
    found: list[tuple[int, Any]] = []
    position = 0
    while opening := re.compile(r"[{\[]").search(text, position):
        start = opening.start()
        try:
            value, position = decoder.raw_decode(text, start)
            found.append((position - start, value))
        except (ValueError, RecursionError):
            position = start + 1
    return max(found, key=lambda entry: entry[0], default=(0, None))[1]


def labelled(text: str, *labels: str) -> str | None:
    """The rest of the last line that begins with one of `labels` and a colon."""
    alternatives = "|".join(map(re.escape, labels))
    lines = re.findall(rf"^[ \t>*#-]*(?:{alternatives})[ \t*]*:[ \t]*(\S.*)$", text, re.IGNORECASE | re.MULTILINE)
    return lines[-1].strip() if lines else None


def bullets(text: str) -> list[str]:
    """The lines that begin with a bullet, without it."""
    return [line.strip() for line in re.findall(r"^[ \t]*[-*•][ \t]+(\S.*)$", text, re.MULTILINE)]


def requested_changes(text: str) -> str | None:
    """What a reviewer asked to change, where the input says so on a line of its own."""
    return labelled(text, *_CHANGES_LABELS)


def in_words(key: str) -> str:
    """A JSON key as a person writes it: `units_sold` is "units sold"."""
    return re.sub(r"[_\-\s]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key)).strip()


def capitalised(text: str) -> str:
    """`text` with its first letter in upper case, and the rest as it is."""
    return text[:1].upper() + text[1:]
