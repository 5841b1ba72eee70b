"""Text that people read, as a ``text`` column can store it. Pure."""

from __future__ import annotations


def plain(text: str) -> str:
    """The text without what PostgreSQL's ``text`` cannot store: NUL and lone surrogates, each becomes U+FFFD.

    For text that people read; content is kept exactly, as JSON. An error message of a target, or a comment, must
    not keep what happened from being recorded.
    """
    return text.replace("\x00", "\ufffd").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def plain_or_none(text: str | None) -> str | None:
    """:func:`plain`, where there is a text."""
    return None if text is None else plain(text)
