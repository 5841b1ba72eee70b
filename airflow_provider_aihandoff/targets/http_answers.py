"""What an answer of an HTTP target means: as its author or its connection declares, and as HTTP says otherwise.

A declaration maps a meaning to rules; the first rule that matches counts::

    {"refused_when": {"status": "2xx", "json": {"$.ok": False}}, "already_there": [409], "absent": [403]}

A rule is a status (``409``, ``"4xx"``), or a mapping with ``status`` (one, or a list), ``json`` (values at places in
the JSON of the answer, RFC 9535), ``has`` (a place, or several, where the answer has something) and ``lacks`` (where it
has nothing). All of it must hold.
"""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.core.json_path import check_json_path, find_values, text_of

if TYPE_CHECKING:
    from airflow_provider_aihandoff.targets.http_exchange import Answer

#: The field of a connection's extra that declares what its answers mean, for every effect, probe and undo.
EXTRA = "aihandoff_answers"


class Meaning(StrEnum):
    """What an answer says of the write, or of the record that a probe asks for. Each is a field of a declaration."""

    APPLIED = "applied_when"
    REFUSED = "refused_when"  # nothing was written
    ALREADY_THERE = "already_there"  # the record is there, by this write or another
    ABSENT = "absent"  # the record is not there
    NOT_NOW = "not_now"  # nothing was written, and a later try may help
    UNKNOWN = "unknown"


#: Declarations for common shapes, by the name that stands for them.
SHAPES: Mapping[str, Mapping[str, Any]] = {
    # GraphQL answers 200 with errors; data beside them means that a part may have been done.
    "graphql": {
        "refused_when": {"status": "2xx", "has": "$.errors[0]", "lacks": "$.data[?@ != null]"},
        "unknown": {"status": "2xx", "has": "$.errors[0]"},
    },
    # Chat APIs answer 200 with `"ok": false`; a fatal error may have done a part.
    "ok": {
        "unknown": {"status": "2xx", "json": {"$.ok": False, "$.error": "fatal_error"}},
        "not_now": {"status": "2xx", "json": {"$.ok": False, "$.error": "ratelimited"}},
        "refused_when": {"status": "2xx", "json": {"$.ok": False}},
    },
    # What is not there, one may not see.
    "hidden": {"absent": [403]},
}

_RULE_FIELDS = frozenset({"status", "json", "has", "lacks"})
_STATUS = re.compile(r"[1-5](\d\d|xx)")


@dataclass(frozen=True)
class Rule:
    """When an answer has a meaning."""

    meaning: Meaning
    statuses: tuple[str, ...] = ()
    values: tuple[tuple[str, Any], ...] = ()
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()

    def takes(self, status: int) -> bool:
        """Whether it is about answers of this status."""
        return not self.statuses or any(wanted in (str(status), f"{str(status)[0]}xx") for wanted in self.statuses)

    @property
    def reads(self) -> bool:
        """Whether it needs the JSON of the answer."""
        return bool(self.values or self.has or self.lacks)

    def holds(self, answer: Any) -> bool:
        """Whether the JSON of an answer is as it says."""
        return (
            all(has_value(answer, path, expected) for path, expected in self.values)
            and all(find_values(answer, path) for path in self.has)
            and not any(find_values(answer, path) for path in self.lacks)
        )


def meaning_of(answer: Answer, rules: Iterable[Rule]) -> Meaning | None:
    """What the rules say of an answer; None where they say nothing.

    An answer that a rule would have to read, and that is not JSON, has no known meaning.
    """
    for rule in rules:
        if not rule.takes(answer.status):
            continue
        if not rule.reads:
            return rule.meaning
        try:
            if rule.holds(answer.json()):
                return rule.meaning
        except ValueError:
            return Meaning.UNKNOWN
    return None


def rules_of(declared: Any, name: str) -> list[Rule]:
    """The rules of a declaration: a mapping, the name of one of :data:`SHAPES`, a JSON text, or a list of these.

    :param name: of the effect, for messages.
    :raises PlanError: it is none of these.
    """
    if declared is None:
        return []
    if isinstance(declared, str):
        return _named(declared, name)
    if isinstance(declared, Mapping):
        return [rule for field, rules in declared.items() for rule in _rules_for(field, rules, name)]
    if isinstance(declared, (list, tuple)):
        return [rule for part in declared for rule in rules_of(part, name)]
    raise _unusable(declared, name)


def has_value(answer: Any, path: str, expected: Any) -> bool:
    """Whether the answer has the value there: as JSON, or as the text that a template makes of it."""
    return any(is_value(value, expected) for value in find_values(answer, path))


def is_value(value: Any, expected: Any) -> bool:
    """Whether a value is the expected one: as JSON, or as the text that a template makes of it."""
    return text_of(expected) in (text_of(value), str(value))


def _named(text: str, name: str) -> list[Rule]:
    if text in SHAPES:
        return rules_of(SHAPES[text], name)
    try:
        declared = jsonlib.loads(text)
    except ValueError:
        raise _unusable(text, name) from None
    return rules_of(declared, name)


def _rules_for(field: str, rules: Any, name: str) -> list[Rule]:
    try:
        meaning = Meaning(field)
    except ValueError:
        raise _unusable(field, name) from None
    return [_rule(meaning, rule, name) for rule in (rules if isinstance(rules, (list, tuple)) else [rules])]


def _rule(meaning: Meaning, declared: Any, name: str) -> Rule:
    if not isinstance(declared, Mapping):
        return Rule(meaning, _statuses(declared, name))
    if not declared or declared.keys() - _RULE_FIELDS:
        raise _unusable(dict(declared), name)
    rule = Rule(
        meaning,
        _statuses(declared.get("status", ()), name),
        tuple((declared.get("json") or {}).items()),
        _texts(declared.get("has", ())),
        _texts(declared.get("lacks", ())),
    )
    for path in (*(path for path, _ in rule.values), *rule.has, *rule.lacks):
        try:
            check_json_path(path)
        except ValueError as error:
            raise PlanError(f"{path!r} in the answers of the effect {name!r} is not a JSONPath: {error}.") from error
    return rule


def _statuses(declared: Any, name: str) -> tuple[str, ...]:
    texts = _texts(declared)
    if not all(_STATUS.fullmatch(text) for text in texts):
        raise _unusable(declared, name)
    return texts


def _texts(declared: Any) -> tuple[str, ...]:
    return tuple(map(str, declared)) if isinstance(declared, (list, tuple)) else (str(declared),)


def _unusable(declared: Any, name: str) -> PlanError:
    return PlanError(
        f"{declared!r} says nothing of the answers to the effect {name!r}.",
        remedy=f"Map {', '.join(Meaning)} to statuses, or to rules with {', '.join(sorted(_RULE_FIELDS))}; "
        f"or name one of {', '.join(SHAPES)}.",
    )
