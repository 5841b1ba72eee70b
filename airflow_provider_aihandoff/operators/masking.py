"""Masks secrets in what the ledger keeps and pages show; in logs too; what is sent stays whole."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from functools import cache
from typing import Any

from airflow.providers.common.compat.sdk import conf, mask_secret, redact

from airflow_provider_aihandoff.core.error_text import MASK
from airflow_provider_aihandoff.core.secret_names import has_words_of, hidden_in_url, is_secret_name

#: Fields that hold a URL.
_URL_FIELDS = frozenset({"url", "endpoint"})

#: Fields that may hold a text which is JSON.
_BODY_FIELDS = frozenset({"body", "json"})

#: A text that Airflow's masker knows and that reads like a word: it is a secret only where it is the whole value.
_ORDINARY = re.compile(r"[A-Za-z]?[a-z]{0,14}|[A-Z]{0,15}|\d{0,7}|.{0,7}", re.DOTALL)

#: What stands for a known text while it is found out which one it is: no text has it.
_FOUND = "\x00\ufdd0\x00"

Hide = Callable[[str], str]


def masked(value: Any, secret_fields: Collection[str] = (), shown_fields: Collection[str] = ()) -> Any:
    """A copy of a JSON value without its secrets.

    A secret is the value of a field with a name that ends as the name of a secret does (``Authorization``,
    ``client_secret``), or has the words of a name in ``[core] sensitive_var_conn_names``; a login, the path of a
    webhook and a parameter with such a name, in a field that is a URL; and wherever it stands, any text that Airflow's
    masker knows, such as the password of a connection that the task has read. A known text that could be an ordinary
    word is masked only where it is the whole value.

    :param secret_fields: further names of fields whose values are secrets, in the JSON of a body too.
    :param shown_fields: names of fields whose values are none, although their names or values look like it.
    """
    return _Masking(secret_fields, shown_fields, lambda secret: MASK).value(value)


def hide_from_logs(value: Any, secret_fields: Collection[str] = (), shown_fields: Collection[str] = ()) -> Any:
    """Register the secret texts in a JSON value with Airflow's secrets masker, which hides them in logs and fields.

    :return: the value as :func:`masked` has it from now on.
    """
    told = False

    def tell(secret: str) -> str:
        nonlocal told
        told = True
        mask_secret(secret)
        return MASK

    shown = _Masking(secret_fields, shown_fields, tell).value(value)
    return masked(value, secret_fields, shown_fields) if told else shown


@cache
def configured_names() -> tuple[str, ...]:
    """The names of secrets in ``[core] sensitive_var_conn_names``, which Airflow's masker reads once as well."""
    return tuple(filter(None, conf.get("core", "sensitive_var_conn_names", fallback="").split(",")))


class _Masking:
    """One walk through a value."""

    def __init__(self, secret_fields: Collection[str], shown_fields: Collection[str], hide: Hide) -> None:
        self._secret, self._shown, self._hide = secret_fields, shown_fields, hide

    def value(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._field(str(name), item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.value(item) for item in value]
        return _without_known(value) if isinstance(value, str) else value

    def _field(self, name: str, value: Any) -> Any:
        if name in self._secret:
            return self._hide(value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str))
        if name in self._shown:
            return self._shown_value(value)
        if self._is_secret_name(name):
            return self._secret_value(value)
        if not isinstance(value, str):
            return self.value(value)
        if name in _URL_FIELDS:
            value = hidden_in_url(value, self._is_secret, self._hide)
        if name in _BODY_FIELDS:
            value = self._body(value)
        return self.value(value)

    def _shown_value(self, value: Any) -> Any:
        """What stands under a name that the author shows: a text as it is, but for a known one that is no word."""
        return _without_known(value, words=False) if isinstance(value, str) else self.value(value)

    def _secret_value(self, value: Any) -> Any:
        """What stands under a secret name: a text or a number is one; an object goes by its own names."""
        if isinstance(value, (list, tuple)):
            return [self._secret_value(item) for item in value]
        if isinstance(value, dict) or value is None or isinstance(value, bool):
            return self.value(value)
        return self._hide(str(value))

    def _is_secret(self, name: str) -> bool:
        return name in self._secret or (name not in self._shown and self._is_secret_name(name))

    def _is_secret_name(self, name: str) -> bool:
        return is_secret_name(name) or has_words_of(name, configured_names())

    def _body(self, body: str) -> str:
        """A JSON body without the secrets in its fields; the very bytes of one that has none."""
        try:
            value = json.loads(body)
        except ValueError:
            return body
        shown = self.value(value)
        return body if shown == value else json.dumps(shown, ensure_ascii=False, separators=(",", ":"))


def _without_known(text: str, *, words: bool = True) -> str:
    """A text without those that Airflow's masker knows.

    :param words: mask one that could be an ordinary word, where it is the whole text.
    """
    found = str(redact(text, replacement=_FOUND))
    if _FOUND not in found:
        return text
    match = re.fullmatch("(.*?)".join(map(re.escape, found.split(_FOUND))), text, re.DOTALL)
    assert match is not None
    shown, end = "", 0
    for number, secret in enumerate(match.groups(), 1):
        is_word = _ORDINARY.fullmatch(secret) is not None
        shown += text[end : match.start(number)] + (MASK if not is_word or (words and secret == text) else secret)
        end = match.end(number)
    return shown + text[end:]
