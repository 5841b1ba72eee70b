"""Writes a note on the product that an input names, from the facts that the input gives, as JSON."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_provider_aihandoff.testing.input_facts import (
    bullets,
    capitalised,
    in_words,
    labelled,
    largest_json,
    requested_changes,
)

_NAME_KEYS = ("name", "product", "product_name", "title", "slug", "sku")
_MENTION = re.compile(r"\b(?:note|page|post|text) (?:for|about|on) (?:the )?[\"“']?([^\"”'.,:;\n]+)", re.IGNORECASE)

_TITLES = ("Introducing {name}", "Meet {name}", "{name} is here")
_OPENINGS = (
    "{name} is available from today.",
    "Today we add {name} to the range.",
    "{name} is the answer to what many of you asked for.",
)
_CLOSINGS = (
    "Questions? Our team is glad to help.",
    "Order today, or try it first in one of our shops.",
    "All details are on the product page.",
)


def product_note(text: str, seed: str) -> dict[str, str]:
    """The fields of a product note: `title`, `body` and `tagline`."""
    source = random.Random(seed)  # noqa: S311
    document = largest_json(text)
    name = _name(document, text)
    facts = list(_facts(document)) or [fact for fact in bullets(text) if not fact.lower().startswith("name:")]
    paragraphs = [source.choice(_OPENINGS).format(name=name)]
    if facts:
        paragraphs.append("\n".join(["What it brings:", *(f"- {capitalised(fact)}" for fact in facts)]))
    changes = requested_changes(text)
    if changes:
        paragraphs.append(f"Revised as asked: {changes}")
    paragraphs.append(source.choice(_CLOSINGS))
    return {
        "title": source.choice(_TITLES).format(name=name),
        "body": "\n\n".join(paragraphs),
        "tagline": f"{name}: {facts[0].rstrip('.')}." if facts else f"{name}, made to last.",
    }


def _name(document: Any, text: str) -> str:
    if isinstance(document, Mapping):
        for key in _NAME_KEYS:
            value = document.get(key)
            if isinstance(value, str):
                return _readable(value)
            if isinstance(value, Mapping):
                return _name(value, text)
    mention = _MENTION.search(text)
    named = labelled(text, "product", "product name", "name") or (mention and mention.group(1))
    return _readable(named.strip()) if named else "The new product"


def _readable(name: str) -> str:
    """A slug such as `trail-lamp` as a name, and every other name as it is."""
    is_slug = re.fullmatch(r"[a-z0-9]+(?:[-_][a-z0-9]+)+", name)
    return in_words(name).title() if is_slug else name


def _facts(document: Any) -> Iterator[str]:
    """The values in the JSON, each with its key, but for the name; texts in lists stand alone."""
    if not isinstance(document, Mapping):
        return
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _facts(value)
        elif isinstance(value, list):
            yield from (str(entry) for entry in value if isinstance(entry, str | int | float))
        elif key not in _NAME_KEYS and value is not None:
            yield f"{in_words(key)}: {value}"
