"""Masks secrets in what the ledger keeps and pages show; in logs too; what is sent stays whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any

from airflow.providers.common.compat.sdk import mask_secret, redact

from airflow_provider_aihandoff.core.effects.undo import MASK

#: Words in a name that Airflow's masker takes for "token" and "secret": it matches parts of names, and these hide
#: counts such as `max_output_tokens`, which a reviewer must see.
_INNOCENT = re.compile(r"tokens(?![a-z])|tokeni[sz]|secretar", re.IGNORECASE)

#: Names whose value is a secret in a request, even where Airflow is configured to show it (``[core]
#: hide_sensitive_var_conn_fields``) or knows nothing of it: what the ledger has stored, it keeps. The last word counts.
_ALWAYS_SECRET = re.compile(
    r"(.*[-_])?(authorization|cookie|password|passwd|passphrase|secret|token|credentials?|api[-_]?key|private[-_]?key)",
    re.IGNORECASE,
)

#: Where a word begins in a name such as `privateKey`.
_CAMEL_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

#: Fields that hold a URL, and one parameter of its query.
_URL_FIELDS = frozenset({"url", "endpoint"})
_QUERY_PARAMETER = re.compile(r"(?<=[?&])([^=&#]+)=([^&#]*)")

#: Fields that may hold a text which is JSON.
_BODY_FIELDS = frozenset({"body", "json"})

Hide = Callable[[str], str]


def masked(value: Any, secret_fields: Collection[str] = ()) -> Any:
    """A copy of a JSON value without its secrets.

    A secret is the value of a field with a name that Airflow's secrets masker hides (such as ``Authorization`` or
    ``api_key``, and what ``[core] sensitive_var_conn_names`` adds), in a URL's query too; and wherever it stands, any
    text that the masker knows: the passwords of the connections and the variables that the task has read.

    :param secret_fields: further names of fields whose values are secrets, in the JSON of a body too.
    """
    return _hidden(value, secret_fields, lambda secret: MASK)


def hide_from_logs(value: Any, secret_fields: Collection[str] = ()) -> None:
    """Register the secret texts in a JSON value with Airflow's secrets masker, which hides them in logs and fields."""

    def tell(secret: str) -> str:
        mask_secret(secret)
        return MASK

    _hidden(value, secret_fields, tell)


def _hidden(value: Any, secret_fields: Collection[str], hide: Hide) -> Any:
    if isinstance(value, dict):
        return {name: _hidden_field(str(name), item, secret_fields, hide) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(item, secret_fields, hide) for item in value]
    return redact(value) if isinstance(value, str) else value


def _hidden_field(name: str, value: Any, secret_fields: Collection[str], hide: Hide) -> Any:
    if name in secret_fields:
        return hide(value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))
    if _is_secret_name(name):
        return _hidden_secret(value, secret_fields, hide)
    if not isinstance(value, str):
        return _hidden(value, secret_fields, hide)
    if name in _URL_FIELDS:
        value = _QUERY_PARAMETER.sub(
            lambda match: f"{match[1]}={hide(match[2])}" if _is_secret(match[1], secret_fields) else match[0], value
        )
    if name in _BODY_FIELDS:
        value = _hidden_body(value, secret_fields, hide)
    return _hidden(value, secret_fields, hide)


def _hidden_secret(value: Any, secret_fields: Collection[str], hide: Hide) -> Any:
    """What stands under a secret name: a text or a number is one; an object goes by its own names."""
    if isinstance(value, (list, tuple)):
        return [_hidden_secret(item, secret_fields, hide) for item in value]
    if isinstance(value, dict) or value is None or isinstance(value, bool):
        return _hidden(value, secret_fields, hide)
    return hide(str(value))


def _is_secret(name: str, secret_fields: Collection[str]) -> bool:
    return name in secret_fields or _is_secret_name(name)


def _is_secret_name(name: str) -> bool:
    """Whether a field with this name has a secret: one that Airflow's masker hides, or that is one in any case."""
    words = _CAMEL_CASE.sub("_", name)
    hidden = redact("value", _INNOCENT.sub("", words)) != "value"
    return hidden or _ALWAYS_SECRET.fullmatch(words) is not None


def _hidden_body(body: str, secret_fields: Collection[str], hide: Hide) -> str:
    """A JSON body without the secrets in its fields; the very bytes of one that has none."""
    try:
        value = json.loads(body)
    except ValueError:
        return body
    shown = _hidden(value, secret_fields, hide)
    return body if shown == value else json.dumps(shown, ensure_ascii=False, separators=(",", ":"))
