"""Reads the examples out of the documentation: each block of code, in what language, where, and who runs it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>not run|run by): (?P<why>[^\n]+?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Snippet:
    """One block of code of a page.

    :param line: where its code begins.
    :param not_run: why no test runs it; from the comment `<!-- not run: ... -->` before it.
    :param run_by: the test that runs it, where that is not the one of all snippets; from `<!-- run by: ... -->`.
    """

    page: Path
    line: int
    language: str
    code: str
    not_run: str | None = None
    run_by: str | None = None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def snippets_of(page: Path) -> list[Snippet]:
    """The blocks of a page that name a language, in their order."""
    text = page.read_text("utf-8")
    return [
        Snippet(
            page,
            text.count("\n", 0, found.start("code")) + 1,
            found["language"],
            dedent(found["code"]),
            found["why"] if found["mark"] == "not run" else None,
            found["why"] if found["mark"] == "run by" else None,
        )
        for found in _BLOCK.finditer(text)
    ]


def all_snippets(*languages: str) -> list[Snippet]:
    """Those of every page in some languages."""
    return [each for page in PAGES for each in snippets_of(page) if each.language in languages]
