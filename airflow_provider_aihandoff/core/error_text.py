"""What an error may say, in the ledger, in logs and to people: the one place that cleans it of secrets. Pure.

An error of another system quotes what it was given: a header with its token, a row of a table, the URL of a webhook. So
its text is cleaned before it is recorded, logged or raised, and it is never chained to an error of ours: Airflow prints
a whole chain.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.secret_names import hidden_in_url

#: What replaces a secret.
MASK = "***"

T = TypeVar("T")

#: Secrets that are shorter are not searched for in a text: they would be found everywhere.
_SHORTEST = 4

#: A secret that is shorter is only found where it stands by itself.
_LONG = 8

#: What HTTP libraries say of a header that they do not send: they quote it.
_HEADER = re.compile(r"(?is)(header (?:value|part|name)[^'\"]*)b?(['\"]).*\2")

#: Where a database begins to quote rows and statements.
_DETAIL = re.compile(r"\s*^(?:DETAIL|CONTEXT|HINT|STATEMENT|WHERE|QUERY|LINE \d+):.*", re.MULTILINE | re.DOTALL)

_PACKAGE = __name__.partition(".")[0]


class ForeignError(RuntimeError):
    """An error that this package did not raise itself: its type and what it may say."""


class Secrets:
    """The secret texts of one plan or request, to be hidden where an error quotes them."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        forms = {form for text in texts for form in _forms(text) if len(form) >= _SHORTEST}
        patterns = [
            re.escape(form) if len(form) >= _LONG else rf"(?<!\w){re.escape(form)}(?!\w)"
            for form in sorted(forms, key=lambda form: (-len(form), form))
        ]
        self._any = re.compile("|".join(patterns)) if patterns else None

    @classmethod
    def between(cls, whole: Any, shown: Any) -> Secrets:
        """What is masked in ``shown`` of ``whole``."""
        return cls(_masked(whole, shown))

    def hidden(self, text: str) -> str:
        """A text without these secrets."""
        return text if self._any is None else self._any.sub(MASK, text)


def said(error: BaseException, secrets: Secrets | None = None) -> str:
    """What an error says, without secrets; with its type, unless this package has raised it.

    Of a database's error it is the primary message and the SQLSTATE.
    """
    text = database_text(error) or str(error)
    if not type(error).__module__.startswith(_PACKAGE):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return cleaned(text, secrets)


def cleaned(text: str, secrets: Secrets | None = None) -> str:
    """The text of an error without secrets, and without the queries of URLs."""
    text = secrets.hidden(text) if secrets else text
    text = _HEADER.sub(rf"\1{MASK}", text)
    text = hidden_in_url(text, lambda name: False, lambda secret: MASK)
    return re.sub(r"\?[^\s'\"<>()=]+=[^\s'\"<>()]*", "?...", text)


def shown(error: Exception, secrets: Secrets | None = None) -> Exception:
    """An error that can be raised or logged in the place of another one, with its traceback and without its chain."""
    if isinstance(error, HandoffError):
        error.rewrite(lambda text: cleaned(text, secrets))
        error.__cause__ = error.__context__ = None
        return error
    return ForeignError(said(error, secrets)).with_traceback(error.__traceback__)


def call_cleaned(call: Callable[[], T], secrets: Secrets) -> T:
    """Call a function; what it raises is raised as :func:`shown`."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - raised below, where nothing is chained to it
        raised = shown(error, secrets)
    raise raised


def strip_detail(error: Exception) -> None:
    """Take what is not :func:`said` out of a database's error, which keeps its type."""
    if text := database_text(error):
        error.args = (text,)
    error.__context__ = None


def database_text(error: BaseException) -> str:
    """The primary message and the SQLSTATE of an error of psycopg, 2 or 3; without them, what comes before DETAIL.

    Empty for other errors.
    """
    diag: Any = getattr(error, "diag", None)
    if not hasattr(diag, "message_primary"):
        return ""
    if diag.message_primary:
        return f"{' '.join(diag.message_primary.split()).rstrip('.')} (SQLSTATE {diag.sqlstate})"
    return " ".join(_DETAIL.sub("", str(error)).split())


def _masked(whole: Any, shown: Any) -> Iterator[str]:
    if whole == shown:
        return
    if shown == MASK:
        yield from _texts(whole)
    elif isinstance(whole, Mapping) and isinstance(shown, Mapping):
        for name, item in whole.items():
            yield from _masked(item, shown.get(name))
    elif isinstance(whole, (list, tuple)) and isinstance(shown, (list, tuple)) and len(whole) == len(shown):
        for item, other in zip(whole, shown, strict=True):
            yield from _masked(item, other)
    elif isinstance(whole, str) and isinstance(shown, str):
        match = re.fullmatch("(.*?)".join(map(re.escape, shown.split(MASK))), whole, re.DOTALL)
        if match:
            yield from match.groups()
        else:
            yield from _masked_json(whole, shown)


def _masked_json(whole: str, shown: str) -> Iterator[str]:
    """A body that is JSON is written again where something in it was masked."""
    try:
        parsed = json.loads(whole), json.loads(shown)
    except ValueError:
        return
    if parsed != (whole, shown):
        yield from _masked(*parsed)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _forms(secret: str) -> Iterator[str]:
    """The forms in which a text may quote a secret, and the parts of it that are secret by themselves."""
    parts = {secret, secret.strip(), *secret.splitlines()}
    parts |= {word for word in re.split(r"[\s;,=]+", secret) if len(word) >= _LONG}
    for part in parts:
        yield from (part, repr(part)[1:-1], json.dumps(part)[1:-1], json.dumps(part, ensure_ascii=False)[1:-1])
        yield from (quote(part, safe=""), quote_plus(part))
