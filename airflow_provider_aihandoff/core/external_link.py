"""Links to the records that effects have made: what an author declares, and the address of one record. Pure.

The host is the author's, and the id the target's: a target chooses its ids, so that an id may only fill in a part of
the path or a value of the query.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

#: What stands for the external id in a template.
PLACEHOLDER = "{external_id}"

#: Characters of a template, and of an address that is made of it.
MAX_TEMPLATE = 2_000
MAX_LINK = 4_000

_EXAMPLE = f"Write it like https://cms.example/posts/{PLACEHOLDER}."

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?")
#: What an address has as it is; anything else is written percent-encoded.
_PRINTED = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*")


def checked_template(template: object) -> str:
    """A template of an author, as it is.

    :param template: such as ``https://cms.example/posts/{external_id}``.
    :raises ValueError: it is none; the message says what is wrong with it.
    """
    if problem := _wrong_with(template):
        raise ValueError(f"external_url {problem}: {str(template)[:200]!r}. {_EXAMPLE}")
    return str(template)


def external_link(template: str | None, external_id: str | None) -> str | None:
    """The address of a record; None without a template or an id, and where the two together lead elsewhere.

    The template is checked again: what the ledger has is trusted no further than anything else.

    :param template: as its author declared it.
    :param external_id: as the target gave it.
    """
    if template is None or not external_id or _wrong_with(template):
        return None
    link = template.replace(PLACEHOLDER, quote(external_id, safe="", errors="replace"))
    return link if len(link) <= MAX_LINK and _leads_to_host_of(template, link) else None


def _leads_to_host_of(template: str, link: str) -> bool:
    """Whether an address has the host of its template, and no step out of its path."""
    declared, found = urlsplit(template), urlsplit(link)
    same = (found.scheme, found.netloc) == ("https", declared.netloc)
    return same and not _has_dots(found.path)


def _has_dots(path: str) -> bool:
    """Whether a step of a path, which browsers decode, leads up or nowhere."""
    return any(unquote(step) in (".", "..") for step in path.split("/"))


def _wrong_with(template: object) -> str | None:
    """What is wrong with a template, as a clause; None if nothing."""
    if not isinstance(template, str):
        return "must be a text"
    if len(template) > MAX_TEMPLATE:
        return f"must have at most {MAX_TEMPLATE:,} characters"
    if not template.startswith("https://"):
        return "must begin with https://"
    rest = template.removeprefix("https://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if "{" in host or "}" in host:
        return "must name its host without a placeholder"
    if not _HOST.fullmatch(host):
        return "must name its host in ASCII, with a port at most"
    literal = template.replace(PLACEHOLDER, "")
    if "{" in literal or "}" in literal:
        return f"may have no placeholder but {PLACEHOLDER}"
    if not _PRINTED.fullmatch(literal):
        return "has a character that an address has percent-encoded alone"
    address, _, fragment = template.partition("#")
    if PLACEHOLDER in fragment or PLACEHOLDER not in address:
        return f"must have {PLACEHOLDER} in its path or query"
    if _has_dots(urlsplit(address).path):
        return "may have no step . or .. in its path"
    return None
