"""Writes over HTTP, and probes for them: everything that is sent stands in the plan."""

from __future__ import annotations

import json as jsonlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote, urlsplit

from airflow_provider_aihandoff.core.backoff import retry_after_seconds
from airflow_provider_aihandoff.core.effects.target import (
    Applied,
    NotApplied,
    RequestView,
    Target,
    UnclearAnswer,
    take_tables,
    take_text,
)
from airflow_provider_aihandoff.core.effects.undo import EFFECT_KEY, UNDO_KEY
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, PlanError
from airflow_provider_aihandoff.core.json_path import check_json_path, find_values
from airflow_provider_aihandoff.targets.connections import needed
from airflow_provider_aihandoff.targets.http_body import Body, encoded

if TYPE_CHECKING:
    from airflow.providers.http.hooks.http import HttpHook
    from requests import Response

log = logging.getLogger(__name__)

#: Answers that do not say whether the write happened: a time-out at the server, and a conflict, which may be with
#: this very write.
_AMBIGUOUS_STATUSES = frozenset({408, 409})

_PRECONDITION_FAILED = 412

#: The target asks to come back later, and has written nothing.
_NOT_NOW_STATUSES = frozenset({425, 429, 503})

_PROBE_FIELDS = frozenset({"endpoint", "query", "headers", "found", "external_id_path", "otherwise"})

#: The record is not there: the one that a probe is for, or that an undo is to remove.
_NOT_THERE_STATUSES = frozenset({404, 410})

#: Methods that do the same when they are sent twice (RFC 9110, 9.2.2).
_IDEMPOTENT_METHODS = frozenset({"PUT", "DELETE"})

#: External ids that are steps in a path (RFC 3986, 5.2.4), and would lead a URL to another place.
_DOT_SEGMENTS = frozenset({".", ".."})


@dataclass(frozen=True)
class HttpTarget(Target):
    """A system that is written to over HTTP, through an Airflow connection.

    :param name: the effect's name, for messages.
    :param timeout: seconds to connect, and to wait for each part of the answer.
    :param external_id_path: where the external record id stands in the JSON answer (RFC 9535).
    :param external_id_header: the header of the answer that has it.
    :param probe_plan: the request that probes for the write, or None: as :func:`plan_probe` makes it.
    :param current: path under the base URL at which the target says what it has now, as JSON.
    :param undoes: the effect undoes another one. Its own key is then ``{undo_key}`` in the probe. A ``DELETE`` that is
        answered with "it is not there" has done its work, and a probe that sees the record, without a condition for it,
        sees that it was not removed.
    """

    kind = "http"
    undo_fields = frozenset(
        {"connection", "method", "endpoint", "json", "form", "text", "headers", "query", "probe", "idempotent"}
        | {"timeout", "grace"}
    )

    name: str
    timeout: float = 30.0
    external_id_path: str | None = None
    external_id_header: str | None = None
    idempotent: bool = False
    probe_plan: Mapping[str, Any] | None = None
    grace_seconds: float = 30.0
    current: str | None = None
    undoes: bool = False

    @property
    def can_probe(self) -> bool:
        """Its author says how to probe."""
        return self.probe_plan is not None

    @property
    def can_read(self) -> bool:
        """Its author says where to read."""
        return self.current is not None

    @property
    def call_seconds(self) -> float:  # type: ignore[override]
        """To connect, and to answer."""
        return 2 * self.timeout

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Send the request once; redirects are not followed, and the HTTP library does not retry."""
        body, content_type = encoded(plan, key, self.name)
        headers = {"Content-Type": content_type or "application/json", **plan["headers"], "Idempotency-Key": key}
        response = self._request(plan, headers, body)
        status = response.status_code
        if 200 <= status < 300:
            return Applied(self._external_id(response), {"status": status})
        if self._removes(plan) and status in _NOT_THERE_STATUSES:
            return Applied(None, {"status": status, "note": "it was gone"})
        said = f"the target of the effect {self.name!r} answered {status} {response.reason}"
        if status in _NOT_NOW_STATUSES:
            seconds = retry_after_seconds(response.headers.get("Retry-After"))
            when = "" if seconds is None else f" and asked for a retry after {seconds:g} s"
            raise EffectNotNow(f"{said}{when}.", retry_after=seconds, remedy="A retry is safe.")
        if 300 <= status < 500 and status not in _AMBIGUOUS_STATUSES:
            raise EffectRefused(
                f"{said}.",
                by_precondition=status == _PRECONDITION_FAILED,
                remedy="Fix the cause at the target; then clear this task, which sends the same request.",
            )
        raise UnclearAnswer(said)

    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        """Probe for the write with a GET. It is found when every condition holds; not there where one does not."""
        assert self.probe_plan is not None
        removes = self._removes(plan)
        request = {"connection": plan["connection"], "method": "GET", "headers": {}, **self.probe_plan}
        request = _with_key(request, key, UNDO_KEY if self.undoes else EFFECT_KEY)
        response = self._request(request, request["headers"], None)
        if response.status_code in _NOT_THERE_STATUSES:
            return Applied() if removes else NotApplied()
        if not 200 <= response.status_code < 300:
            log.warning("The probe of the effect %r was answered %s.", self.name, response.status_code)
            return None
        conditions: Mapping[str, Any] = request.get("found") or {}
        try:
            answer = response.json() if conditions else None
        except ValueError:
            return None
        seen = bool(conditions) or not removes
        if seen and all(_has(answer, path, expected) for path, expected in conditions.items()):
            return Applied(self._external_id(response, request.get("external_id_path")))
        return NotApplied() if request.get("otherwise", "not applied") == "not applied" else None

    def read(self, plan: dict[str, Any]) -> Any:
        """The JSON of the answer at the address that the author gives; None where there is nothing.

        :raises UnclearAnswer: it cannot be read.
        """
        assert self.current is not None
        accept = {"Accept": "application/json"}
        request = plan_request(plan["connection"], "GET", self.current, headers=accept, name=self.name)
        response = self._request(request, request["headers"], None)
        if response.status_code in _NOT_THERE_STATUSES:
            return None
        if not 200 <= response.status_code < 300:
            raise UnclearAnswer(f"the target answered {response.status_code} {response.reason}")
        try:
            return response.json()
        except ValueError as error:
            raise UnclearAnswer("the target's answer is not JSON") from error

    def undo_defaults(self, plan: dict[str, Any]) -> Mapping[str, Any]:
        """The effect's own connection."""
        return {"connection": plan["connection"]}

    @classmethod
    def plan_undo(cls, declared: Mapping[str, Any], *, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The exact request; beside it, its probe, and what its author says of the target."""
        conn_id, method = declared["connection"], str(declared["method"]).upper()
        request = {field: declared.get(field) for field in ("json", "form", "text", "headers", "query")}
        plan = plan_request(conn_id, method, declared["endpoint"], **request, name=name)
        options: dict[str, Any] = {"idempotent": bool(declared.get("idempotent", method in _IDEMPOTENT_METHODS))}
        options |= {field: float(declared[field]) for field in ("timeout", "grace") if field in declared}
        if declared.get("probe"):
            options["probe"] = plan_probe(conn_id, declared["probe"], name)
        return plan, options

    @classmethod
    def from_undo(cls, name: str, plan: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """As its author says of the target."""
        return cls(
            name,
            float(options.get("timeout", 30.0)),
            idempotent=bool(options.get("idempotent")),
            probe_plan=options.get("probe"),
            grace_seconds=float(options.get("grace", 30.0)),
            undoes=True,
        )

    @classmethod
    def quoted(cls, field: str, value: str) -> str:
        """One part of a URL; a part of a JSON text in a body."""
        if field == "url":
            return quote(value, safe="")
        return jsonlib.dumps(value, ensure_ascii=False)[1:-1] if field == "body" else value

    @classmethod
    def may_name(cls, external_id: str) -> bool:
        """Whether it is no step in a path."""
        return external_id not in _DOT_SEGMENTS

    @classmethod
    def describe(cls, plan: Mapping[str, Any]) -> RequestView:
        """The method, the URL, query and headers, and the exact body."""
        rest = dict(plan)
        body = take_text(rest, "body")
        return RequestView(
            action=take_text(rest, "method"),
            address=take_text(rest, "url"),
            tables=take_tables(rest, "query", "headers", "form", "files"),
            bodies={"Body": body} if body else {},
            rest=rest,
            writes=body or plan.get("form") or None,
            key_label="Idempotency-Key",
        )

    def _removes(self, plan: Mapping[str, Any]) -> bool:
        """Whether the request is to remove a record, so that one that is gone is what was wanted."""
        return self.undoes and plan["method"] == "DELETE"

    def _request(self, plan: Mapping[str, Any], headers: Mapping[str, str], body: bytes | None) -> Response:
        import requests

        broken: requests.exceptions.RequestException
        hook = http_hook(plan["connection"], plan["method"])
        # Of a GET, the hook takes the query as its data.
        sent: dict[str, Any] = {"data": body, "params": plan.get("query")}
        try:
            response: Response = hook.run(
                endpoint=_endpoint(hook, plan["url"], self.name),
                headers=dict(headers),
                **({"data": plan.get("query")} if plan["method"] == "GET" else sent),
                extra_options={"check_response": False, "allow_redirects": False, "timeout": self.timeout},
            )
        except requests.exceptions.RequestException as error:
            broken = error
        else:
            return response
        # Outside of the handler: neither the ledger nor a traceback is to show the query, which may have a secret.
        if _never_connected(broken):
            raise EffectNotNow(
                f"no connection to the target of the effect {self.name!r}: {type(broken).__name__}.",
                remedy="Check the target and its connection; a retry is safe.",
            )
        raise UnclearAnswer(f"{type(broken).__name__}: {_without_query(str(broken))}")

    def _external_id(self, response: Response, path: str | None = None) -> str | None:
        if self.external_id_header and path is None:
            return response.headers.get(self.external_id_header)
        path = path or self.external_id_path
        if not path:
            return None
        try:
            found = _first(response.json(), path)
        except Exception as error:  # noqa: BLE001 - the write is applied, whatever its answer looks like
            log.warning("The external id cannot be read: %s: %s", type(error).__name__, error)
            return None
        if found is None:
            log.warning("The answer has no %s; the effect has no external id.", path)
        return found


def http_hook(conn_id: str, method: str) -> HttpHook:
    """Airflow's own way to a system over HTTP."""
    from airflow.providers.http.hooks.http import HttpHook

    return HttpHook(method=method, http_conn_id=conn_id)


def plan_request(
    conn_id: str,
    method: str,
    endpoint: str,
    *,
    json: Any = None,
    form: Mapping[str, Any] | None = None,
    text: str | None = None,
    files: Mapping[str, Mapping[str, Any]] | None = None,
    headers: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    name: str,
) -> dict[str, Any]:
    """The exact request: connection, method, URL, the author's headers, query, and body.

    ``json``, ``form``, ``text`` and ``files`` are those of a :class:`~targets.http_body.Body`.

    :param name: the effect's name, for messages.
    :raises PlanError: the body cannot be what it is, or the URL leads to another place than it says.
    """
    plan: dict[str, Any] = {
        "connection": conn_id,
        "method": method,
        "url": _url_of(conn_id, method, endpoint, name),
        "headers": _headers(headers),
    }
    if query:
        plan["query"] = dict(query)
    return {**plan, **Body(json, form, text, files).plan(name)}


def plan_probe(conn_id: str, declared: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Render the request that probes for a write: :class:`operators.http.HttpSideEffectOperator` says what it takes.

    :raises PlanError: it lacks an endpoint, has a field that is not known, or cannot be what it is.
    """
    if unknown := sorted(declared.keys() - _PROBE_FIELDS):
        raise PlanError(
            f"the probe of the effect {name!r} has fields that are not known: {', '.join(unknown)}.",
            remedy=f"It takes: {', '.join(sorted(_PROBE_FIELDS))}.",
        )
    if "endpoint" not in declared:
        raise PlanError(f"the probe of the effect {name!r} lacks an endpoint.")
    if declared.get("otherwise", "not applied") not in ("not applied", "unknown"):
        raise PlanError(f"the probe of the effect {name!r}: otherwise must be 'not applied' or 'unknown'.")
    for path in (*(declared.get("found") or {}), declared.get("external_id_path")):
        check_path(path, name)
    probe = {field: value for field, value in declared.items() if field != "endpoint"}
    if "headers" in probe:
        probe["headers"] = _headers(probe["headers"])
    return {**probe, "url": _url_of(conn_id, "GET", declared["endpoint"], name)}


def check_path(path: str | None, name: str) -> None:
    """Find out before anything is sent whether this is a path into a JSON answer, where there is one.

    :param name: the effect's name, for messages.
    :raises PlanError: it is none.
    """
    if path is None:
        return
    try:
        check_json_path(path.replace(EFFECT_KEY, "aih-1-r1-0").replace(UNDO_KEY, "aih-2-r1-0"))
    except ValueError as error:
        raise PlanError(f"{path!r} of the effect {name!r} is not a JSONPath: {error}.") from error


def _headers(headers: Mapping[str, Any] | None) -> dict[str, str]:
    return {header: str(value) for header, value in (headers or {}).items()}


def _url_of(conn_id: str, method: str, endpoint: str, name: str) -> str:
    """The whole URL of an endpoint under a connection's base URL. Reads the connection; opens nothing.

    :raises PlanError: the HTTP library would make another one of it, which the plan does not show.
    """
    hook = http_hook(conn_id, method)
    hook.get_conn()
    url = hook.url_from_endpoint(endpoint)
    if "#" in url or any(unquote(segment) in (".", "..") for segment in urlsplit(url).path.split("/")):
        raise PlanError(
            f"the effect {name!r} would not be sent to {_without_query(url)}: the steps '.' and '..' in a path, and "
            "what comes after '#', lead elsewhere.",
            remedy="Check what the templates of its endpoint fill in, and write it with the filter urlencode.",
        )
    return url


def _endpoint(hook: HttpHook, url: str, name: str) -> str:
    """The path under the connection's base URL that leads to this URL.

    :raises EffectNotNow: there is no such connection here.
    :raises EffectRefused: the connection leads elsewhere by now.
    """
    with needed(hook.http_conn_id, name):
        hook.get_conn()
    base = hook.base_url or ""
    endpoint = url.removeprefix(base)
    if hook.url_from_endpoint(endpoint) != url:
        raise EffectRefused(
            f"the plan of the effect {name!r} is for {_without_query(url)}, and its connection leads to {base} now.",
            remedy="Restore the connection, or ask for a decision on the new address.",
        )
    return endpoint


def _with_key(value: Any, key: str, key_name: str) -> Any:
    """The value with the effect key where its name stands."""
    if isinstance(value, Mapping):
        return {_with_key(name, key, key_name): _with_key(item, key, key_name) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_with_key(item, key, key_name) for item in value]
    return value.replace(key_name, key) if isinstance(value, str) else value


def _has(answer: Any, path: str, expected: Any) -> bool:
    """Whether the answer has the value there: as JSON, or as the text that a template makes of it."""
    return any(_text(expected) in (_text(value), str(value)) for value in find_values(answer, path))


def _text(value: Any) -> str:
    """A text as it is, anything else as JSON."""
    return value if isinstance(value, str) else jsonlib.dumps(value, sort_keys=True)


def _first(answer: Any, path: str) -> str | None:
    values = find_values(answer, path)
    return _text(values[0]) if values and values[0] is not None else None


def _without_query(text: str) -> str:
    """A text without the queries of the URLs in it."""
    return re.sub(r"\?[^\s)'\"]*", "?...", text)


def _never_connected(error: Exception) -> bool:
    """Whether the connection failed before anything could be sent on it."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, (ConnectTimeoutError, NewConnectionError))
