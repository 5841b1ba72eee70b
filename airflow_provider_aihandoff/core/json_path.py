"""JSONPath (RFC 9535): places in a JSON value. The library is loaded with the first path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonpath_rfc9535 import JSONPathQuery


def check_json_path(path: str) -> None:
    """Find out whether a text is a JSONPath.

    :raises ValueError: it is not a JSONPath; the message says where it is wrong.
    """
    with _clear_errors():
        _parsed(path)


def text_of(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def is_singular(path: str) -> bool:
    """Whether a JSONPath leads to one value at most (RFC 9535, 2.3.5.1): such paths alone can be compared in a filter.

    :raises ValueError: it is not a JSONPath.
    """
    check_json_path(path)
    try:
        check_json_path(f"$[?{path} == 1]")
    except ValueError:
        return False
    return True


def find_values(value: Any, path: str) -> list[Any]:
    """Every value at a path, in document order; none where it matches nothing.

    :raises ValueError: it is not a JSONPath, or the value is nested too deeply.
    """
    with _clear_errors():
        return list(_parsed(path).find(value).values())


@contextmanager
def _clear_errors() -> Iterator[None]:
    from jsonpath_rfc9535 import JSONPathError

    try:
        yield
    except (JSONPathError, RecursionError) as error:
        # Its further lines are a picture of the place.
        raise ValueError((str(error) or "it is nested too deeply").splitlines()[0]) from error


@lru_cache(maxsize=256)
def _parsed(path: str) -> JSONPathQuery:
    import jsonpath_rfc9535

    if not path:
        raise ValueError("it is empty")
    return jsonpath_rfc9535.compile(path)
