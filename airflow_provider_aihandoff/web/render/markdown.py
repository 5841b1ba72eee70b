"""Markdown as a person reads it, with everything off that could load, be clicked, or leave a part of the text out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markupsafe import Markup, escape

from airflow_provider_aihandoff.core.invisible import reveal
from airflow_provider_aihandoff.web.render.budget import Budget

#: Without one of these, or four spaces at the start of a line, a text is no Markdown.
_MARKS = re.compile(r"[*_`#>~|+=\\-]|^ {0,3}\d+[.)] |^(?: {4}|\t)", re.MULTILINE)

#: What turns text into addresses or into other characters, or is read and not shown.
_OFF = ("link", "image", "autolink", "reference", "entity", "html_inline", "html_block")

#: What a text without any structure is made of.
_PLAIN = frozenset({"paragraph_open", "paragraph_close", "inline", "text", "softbreak"})

#: What Markdown may remove: its own marks, and space.
_TAKEN = re.compile(r"[\s!-/:-@\[-`{-~]+")

#: The page has headings of its own above these.
_HEADINGS = {"h1": "h3", "h2": "h4", "h3": "h5"}


def markdown(text: str, budget: Budget) -> Markup | None:
    """A text as HTML; None where it is no Markdown, too long, or would lose a word, and has to be shown as its source.

    Words are lost in cells that a table has no column for, and where quotes and lists nest too deeply. Every character
    is escaped, invisible ones are marked. Where a reviewer must see the exact text, its source has to stand beside it:
    Markdown removes its own marks.
    """
    if not _MARKS.search(text) or not budget.allows_markdown(text):
        return None
    try:
        tokens = _parser().parse(text)
        parts = _flat(tokens)
        if all(part.type in _PLAIN for part in parts) or _words(text) != _words("".join(map(_said, parts))):
            return None
        html = str(_parser().renderer.render(tokens, _parser().options, {}))
    except RecursionError:
        return None
    return Markup(reveal(html))  # noqa: S704  the renderer escapes, and its rules for HTML are off


def _flat(tokens: Sequence[Token]) -> list[Token]:
    return [part for token in tokens for part in (token, *_flat(token.children or ()))]


def _said(token: Token) -> str:
    """What a token shows of the text: its content, the number of an item, what stands behind a fence."""
    return token.info + ("" if token.children else token.content)


def _words(text: str) -> str:
    return _TAKEN.sub("", text)


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "breaks": True}).enable(["table", "strikethrough"]).disable(_OFF)
    for rule, render in (
        ("fence", _fence),
        ("heading_open", _heading),
        ("heading_close", _heading),
        ("list_item_open", _item),
        ("th_open", _cell),
        ("td_open", _cell),
    ):
        parser.add_render_rule(rule, render)
    return parser


def _fence(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A block of code; the text after its first fence is shown, since Markdown leaves it out."""
    token = tokens[index]
    info = f'<p class="muted small">{escape(token.info.strip())}</p>' if token.info.strip() else ""
    return f"{info}<pre>{escape(token.content)}</pre>"


def _heading(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    token.tag = _HEADINGS.get(token.tag, "h6")
    return renderer.renderToken(tokens, index, options, env)


def _item(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """An item with the number that is written, where Markdown would count on from the first."""
    number = tokens[index].info
    return f'<li value="{escape(number)}">' if number else "<li>"


def _cell(renderer: RendererHTML, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    """A cell without the style that Markdown aligns it by: the page allows no styles in attributes."""
    return f"<{tokens[index].tag}>"
