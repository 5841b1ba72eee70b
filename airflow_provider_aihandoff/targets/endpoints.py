"""From an endpoint to the exact URL, and back: a URL is refused that some server on the way may read as another one."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_provider_aihandoff.core.error_text import cleaned
from airflow_provider_aihandoff.core.errors import EffectRefused, PlanError
from airflow_provider_aihandoff.core.secret_names import without_login
from airflow_provider_aihandoff.targets import connections

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.http.hooks.http import HttpHook
    from requests import Session
    from requests.adapters import HTTPAdapter

#: Steps in a path (RFC 3986, 5.2.4) that lead a URL to another place.
_DOT_SEGMENTS = frozenset({".", ".."})

#: How many servers may decode a path one after another. One that is encoded more often is taken for an attack.
_SERVERS = 5

#: What no URL has: HTTP libraries drop it, or read it as something else.
_NOT_IN_URL = re.compile(r"[\x00-\x1f\x7f\\#]")


@cache
def _hook_type() -> type[HttpHook]:
    from airflow.providers.http.hooks.http import HttpHook

    class Hook(HttpHook):
        """Airflow's own, which reads its connection as the other writes do."""

        @classmethod
        def get_connection(cls, conn_id: str) -> Any:
            return connections.read(conn_id)

    return Hook


def http_hook(conn_id: str, method: str, adapter: HTTPAdapter | None = None) -> HttpHook:
    """Airflow's own way to a system over HTTP."""
    # Without an adapter it sends nothing, and needs none of its own.
    return _hook_type()(method=method, http_conn_id=conn_id, adapter=adapter, tcp_keep_alive=False)


def url_of(conn_id: str, method: str, endpoint: str, name: str) -> str:
    """The whole URL of an endpoint under a connection's base URL. Reads the connection; opens nothing.

    :raises PlanError: the HTTP library would make another one of it, which the plan does not show.
    """
    hook = connections.once((conn_id, method), lambda: _knowing_its_base(http_hook(conn_id, method)))
    if not urlsplit(hook.base_url or "").hostname:
        raise PlanError(
            f"the effect {name!r} has an endpoint, and its connection {conn_id!r} names no host.",
            remedy="Put the host, or the whole base URL, into the connection: an endpoint is only a path.",
        )
    url = without_login(hook.url_from_endpoint(endpoint))
    if _NOT_IN_URL.search(url) or has_dot_step(urlsplit(url).path):
        raise PlanError(
            f"the effect {name!r} would not be sent to {cleaned(url)!r}: the steps '.' and '..' in a path, "
            "encoded too, '\\', line breaks, and what comes after '#', lead elsewhere.",
            remedy="Check what the templates of its endpoint fill in, and write it with the filter urlencode.",
        )
    return url


def _knowing_its_base(hook: HttpHook) -> HttpHook:
    hook.get_conn()
    return hook


def session_to(hook: HttpHook, url: str, headers: Mapping[str, str], name: str) -> Session:
    """A session that sends with the headers, credentials and options of the connection; for a URL that it leads to.

    :raises EffectNotNow: there is no such connection here.
    :raises EffectRefused: the connection leads elsewhere by now, or what was filled in does.
    """
    if has_dot_step(urlsplit(url).path):
        raise EffectRefused(
            f"the effect {name!r} is not sent to {cleaned(url)}: what was filled in makes a step '.' or '..' of it.",
            answered=False,
            remedy="Check the value in the target.",
        )
    with connections.needed(hook.http_conn_id, name):
        session = hook.get_conn(dict(headers))
    base = without_login(hook.base_url or "")
    endpoint = url.removeprefix(base)
    if without_login(hook.url_from_endpoint(endpoint)) != url:
        raise EffectRefused(
            f"the plan of the effect {name!r} is for {cleaned(url)}, and its connection leads to {base} now.",
            answered=False,
            remedy="Restore the connection, or ask for a decision on the new address.",
        )
    return session


def fully_decoded(text: str) -> str:
    """A text as the last of several servers may read it, each of which decodes what is percent-encoded."""
    for _ in range(_SERVERS):
        text = unquote(text)
    return text


def has_dot_step(path: str) -> bool:
    """Whether a server may read a step '.' or '..' in it: encoded, with '\\' for '/', or with a parameter after ';'."""
    decoded = fully_decoded(path)
    steps = re.split(r"[/\\]", decoded)
    return decoded != unquote(decoded) or any(step.partition(";")[0].strip() in _DOT_SEGMENTS for step in steps)
