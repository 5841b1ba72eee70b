"""What the template of an endpoint fills in stays one part of the URL: it begins no path, query or parameter."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.targets.endpoints import fully_decoded

if TYPE_CHECKING:
    import jinja2

#: What a value may not have in a path, and after the `?` of a query.
_IN_PATH, _IN_QUERY = re.compile(r"[/\\?#;]"), re.compile(r"[&#;\\]")

#: Fields of an effect that may have an endpoint within them.
ENDPOINT_FIELDS = frozenset({"undo", "probe", "probe_request"})

Render = Callable[[str, "jinja2.Environment"], Any]


def declared_endpoints(fields: Mapping[str, Any], names: Collection[str]) -> Iterator[tuple[str, Any]]:
    """The endpoints among the fields of an effect, and those in its undo and its probes, each with a name for messages.

    A text of a body, a header or a query is none.

    :param names: of the fields that are endpoints.
    """
    for name, value in fields.items():
        if name in names and not isinstance(value, Mapping):
            yield name, value
        elif (name in ENDPOINT_FIELDS or name in names) and isinstance(value, Mapping):
            for inner, template in declared_endpoints(value, ["endpoint"]):
                yield f"{name.removesuffix('_request')}.{inner}", template


def value_problem(template: Any, text: Any, env: jinja2.Environment, render: Render) -> str | None:
    """Why a value that a template fills in would change the structure of the URL, as text; None where none does.

    A template that is one value as a whole says nothing of the structure, and has no such problem.

    :param text: what the template was rendered to.
    :param render: renders a template in an environment.
    """
    if not isinstance(template, str) or "{" not in template:
        return None
    nonce = token_hex(8)  # so that no value can end itself
    begin, end = f"<{nonce}:", f":{nonce}>"
    marked = str(render(template, env.overlay(finalize=lambda value: f"{begin}{value}{end}")))
    parts = list(_parts(marked, begin, end))
    if "".join(part for part, _ in parts) != str(text):
        return "fills in what cannot be separated from the rest: write each value alone, as {{ value | urlencode }}"
    if not any(part for part, is_value in parts if not is_value):
        return None
    return _problem(parts)


def _parts(marked: str, begin: str, end: str) -> Iterator[tuple[str, bool]]:
    """The parts of a text in order, each with whether it is a value."""
    depth, value = 0, ""
    for piece in re.split(f"({re.escape(begin)}|{re.escape(end)})", marked):
        if piece == begin:
            depth += 1
        elif piece == end:
            depth -= 1
            if depth == 0:
                yield value, True
                value = ""
        elif depth:
            value += piece
        else:
            yield piece, False


def _problem(parts: list[tuple[str, bool]]) -> str | None:
    in_query, segment, filled = False, "", False
    for part, is_value in [*parts, ("/", False)]:
        if is_value:
            found = (_IN_QUERY if in_query else _IN_PATH).search(part)
            found = found or (None if in_query else re.search(r"[/\\]", fully_decoded(part)))
            if found:
                return f"fills in a value with {found[0]!r}, which would change the {'query' if in_query else 'path'}"
            segment, filled = segment + part, True
            continue
        for character in part:
            if character in "/?" and not in_query:
                if filled and not segment:
                    return "fills in an empty value, which would leave a step of the path out"
                segment, filled = "", False
            else:
                segment += character
            in_query = in_query or character == "?"
    return None
