"""Canonical JSON and the SHA-256 digests made from it. Pure.

A digest names content: two values have the same digest exactly when their canonical JSON has the same bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_jsonable_python

#: What JSON has a form of, and nothing in it.
_SCALARS = (str, int, float, type(None))

#: How deep values are nested whose keys are examined.
_DEEPEST = 50


def canonical_json(value: Any) -> str:
    """Return the one JSON text of ``value``: keys sorted, no spaces, ASCII only, no NaN.

    ASCII, so that text which PostgreSQL or a terminal cannot store (NUL, lone surrogates) is kept exactly, as an
    escape. Dates, decimals, UUIDs and Pydantic models become JSON as Pydantic writes them; a set becomes a sorted list.

    :raises ValueError: a number is NaN or infinite, or a value has no JSON form.
    """
    try:
        if not _has_plain_keys(value, _DEEPEST):
            # In two steps: keys that are not strings become strings only in JSON, and must be sorted as strings.
            value = json.loads(_FIRST.encode(value))
        return _SORTED.encode(value)
    except TypeError as error:
        raise ValueError(f"the value has no JSON form: {error}") from error


def _has_plain_keys(value: Any, deepest: int) -> bool:
    """Whether JSON keeps every key and its place: all are ASCII strings, and nothing has to be converted.

    :param deepest: of values that are nested deeper, it is not known.
    """
    if isinstance(value, _SCALARS):
        return True
    if deepest == 0:
        return False
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str) or not key.isascii():
                return False
        value = dict.values(value)  # a name in an object can hide a method
    elif not isinstance(value, (list, tuple)):
        return False
    for each in value:  # noqa: SIM110 - a generator takes half as long again, and each step takes many digests
        if not isinstance(each, _SCALARS) and not _has_plain_keys(each, deepest - 1):
            return False
    return True


def _jsonable(value: Any) -> Any:
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=canonical_json)
    return to_jsonable_python(value)


#: Made once: a digest is taken at every step of a job.
_FIRST = json.JSONEncoder(allow_nan=False, default=_jsonable)
_SORTED = json.JSONEncoder(allow_nan=False, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of ``value``, as 64 hexadecimal digits.

    :raises ValueError: as :func:`canonical_json`.
    """
    return digest_of_json(canonical_json(value))


def digest_of_json(text: str) -> str:
    """:func:`digest` of the value that a canonical JSON text says."""
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def keyed_digest(value: Any, key: str) -> str:
    """Return the HMAC-SHA256 (RFC 2104) of the canonical JSON of ``value``, as 64 hexadecimal digits.

    A reader who has it without the key cannot test guesses of the value.

    :raises ValueError: as :func:`canonical_json`.
    """
    return hmac.new(key.encode(), canonical_json(value).encode("ascii"), "sha256").hexdigest()


#: How a digest begins that was made with a key.
KEYED = "hmac-sha256:"


def input_digest(value: Any, key: str) -> str:
    """The digest of what the model is asked. The ledger shows it beside that, where secrets are masked: so it is keyed.

    :raises ValueError: as :func:`canonical_json`.
    """
    return input_digest_of_json(canonical_json(value), key)


def input_digest_of_json(text: str, key: str) -> str:
    """:func:`input_digest` of the value that a canonical JSON text says."""
    return KEYED + hmac.new(key.encode(), digest_of_json(text).encode("ascii"), "sha256").hexdigest()


def without_plain_input_digest(detail: dict[str, Any]) -> dict[str, Any]:
    """The detail of a line of the history, without the digest of an input that an earlier release made without a key:
    its readers could test guesses of masked values."""
    if str(detail.get("input_digest", KEYED)).startswith(KEYED):
        return detail
    return {name: value for name, value in detail.items() if name != "input_digest"}


def review_components(
    output_digest: str,
    plans: Sequence[tuple[str, str]],
    policy: str | None,
    rules: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What a decision is bound to, part by part, so that the error of a stale one can say what changed.

    :param output_digest: digest of the output.
    :param plans: ``(effect name, plan digest)`` of every intended effect, in order. A plan names its target.
    :param policy: ``name@version`` of the policy that decides first, if there is one.
    :param rules: who decides, where the author says so.
    """
    components = {"output": output_digest, "effects": [list(pair) for pair in plans], "policy": policy}
    return components if rules is None else {**components, "rules": dict(rules)}


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The parts in which two :func:`review_components` differ, as text. Empty when none does."""
    changes = []
    if before["output"] != after["output"]:
        changes.append("the output changed")
    old, new = dict(before["effects"]), dict(after["effects"])
    changes += [f"the effect {name!r} was removed" for name in old if name not in new]
    changes += [f"the effect {name!r} was added" for name in new if name not in old]
    changes += [f"the plan of the effect {name!r} changed" for name in new if name in old and old[name] != new[name]]
    if not changes and before["effects"] != after["effects"]:
        changes.append("the order of the effects changed")
    if before["policy"] != after["policy"]:
        changes.append(f"the policy changed from {before['policy']} to {after['policy']}")
    if before.get("rules") != after.get("rules"):
        changes.append("the rules of who decides changed")
    return changes


def effect_key(ledger_id: str, job_id: int, revision: int, name: str, plan_digest: str) -> str:
    """The idempotency key of one effect: the same for every attempt at the same write, and for no other.

    It begins with what a person can search for, and stays within the 255 characters and the alphabet that targets
    accept in an ``Idempotency-Key`` header. The ledger's id keeps two ledgers apart, the revision and the plan keep
    a changed request from being answered with the result of the earlier one.
    """
    tail = digest([ledger_id, job_id, revision, name, plan_digest])[:32]
    return f"aih-{job_id}-r{revision}-{tail}"
