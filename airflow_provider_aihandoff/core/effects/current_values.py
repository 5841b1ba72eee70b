"""``{current}`` and ``{current.FIELD}`` in a declared undo: what the target had when the plan was rendered. Pure.

The values become part of the undo, so that reviewers see and approve exactly what a roll-back restores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow_provider_aihandoff.core.effects.filled import value_at
from airflow_provider_aihandoff.core.effects.placeholders import Marks, is_current
from airflow_provider_aihandoff.core.error_text import MASK
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.core.json_path import text_of

#: Fields of an undo in which every value is a text.
_TEXTS = frozenset({"endpoint", "form", "headers", "query", "text"})


def with_current(declared: Any, marks: Marks, record: Any, *, name: str) -> Any:
    """A rendered undo with the values of the record in the place of marks.

    A value that is nothing but a placeholder keeps its type; in a text, in a URL and in a header it becomes a text.

    :param record: what the target had, its secrets masked; None: it had nothing.
    :param name: of the effect, for messages.
    :raises PlanError: there is no such value, it is a secret, or it cannot stand there.
    """
    return _Restoring(marks, record, name).value(declared, ())


class _Restoring:
    """One walk through a declared undo."""

    def __init__(self, marks: Marks, record: Any, name: str) -> None:
        self._marks, self._record, self._name = marks, record, name

    def value(self, part: Any, path: tuple[str, ...]) -> Any:
        if isinstance(part, Mapping):
            return {key: self.value(item, (*path, str(key))) for key, item in part.items()}
        if isinstance(part, (list, tuple)):
            return [self.value(item, path) for item in part]
        return self._text(part, path) if isinstance(part, str) else part

    def _text(self, text: str, path: tuple[str, ...]) -> Any:
        whole = self._marks.whole(text)
        field = path[1:2] if path[:1] == ("probe",) else path[:1]
        if whole is not None and is_current(whole) and not _TEXTS.intersection(field):
            found = self._found(whole)
            if path == ("json",) and isinstance(found, str):
                return json.dumps(found)  # a text in its place would be read as JSON
            return text_of(found) if path[:1] == ("parameters",) and isinstance(found, (dict, list)) else found
        if path == ("json",) and any(map(is_current, self._marks.names_in(text))):
            raise self._refused(
                "names what the target has within a body that is a text", "Write the body as a mapping, not as a text."
            )
        in_url = field == ("endpoint",)
        return self._marks.replaced(text, lambda name: self._as_text(name, in_url=in_url) if is_current(name) else None)

    def _as_text(self, name: str, *, in_url: bool) -> str:
        found = self._found(name)
        if found is None or isinstance(found, (dict, list)):
            raise self._refused(f"needs {name} as a text, and it is none", "Only a value in a JSON body can be that.")
        return quote(text_of(found), safe="") if in_url else text_of(found)

    def _found(self, name: str) -> Any:
        try:
            if self._record is None:
                raise KeyError(name)
            found = value_at(self._record, name.removeprefix("{current").removesuffix("}"))
        except (KeyError, ValueError):
            raise self._refused(
                f"names {name}, and the target has nothing there", "Check `current`, or declare another undo."
            ) from None
        if MASK in text_of(found):
            raise self._refused(f"names {name}, which has a secret, and the ledger keeps none", "Name other fields.")
        return found

    def _refused(self, what: str, remedy: str) -> PlanError:
        return PlanError(f"the undo of the effect {self._name!r} {what}.", remedy=remedy)
