"""Writes to an outside system over HTTP."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_aihandoff.errors import EffectNotNow, EffectRefused, PlanError
from airflow_provider_aihandoff.operators.side_effect import Applied, SideEffectOperator

if TYPE_CHECKING:
    from airflow.providers.http.hooks.http import HttpHook
    from requests import Response

    from airflow_provider_aihandoff.jobview import JobView

#: Answers that do not say whether the write happened: a time-out at the server, and a conflict, which may be with
#: this very write.
_AMBIGUOUS_STATUSES = frozenset({408, 409})

#: The target asks to come back later, and has written nothing.
_NOT_NOW_STATUSES = frozenset({425, 429, 503})


class HttpSideEffectOperator(SideEffectOperator):
    """Send one HTTP request, at most once, with the effect key as ``Idempotency-Key``.

    2xx is applied. 425, 429 and 503 are "not now". 3xx (redirects are not followed: another address was not approved)
    and 4xx other than 408 and 409 prove that nothing was written. Everything else, and every broken connection after
    the request left, is ``unknown``. The header follows the IETF draft "The Idempotency-Key HTTP Header Field".

    :param http_conn_id: connection of the type HTTP: base URL, credentials, TLS, default headers.
    :param method: ``POST``, ``PUT``, ``PATCH`` or ``DELETE``.
    :param endpoint: path under the base URL (templated).
    :param json: the body: a value, or a text that renders to JSON, such as ``"{{ job.output | tojson }}"``
        (templated).
    :param headers: further headers (templated). Values of headers that look secret are masked wherever they are shown.
    :param query: parameters of the URL's query (templated).
    :param external_id_path: where the external record id stands in the JSON answer (RFC 9535), such as ``$.id``.
    :param external_id_header: the header of the answer that has it, such as ``Location``.
    :param timeout: seconds to wait for the answer.
    """

    template_fields: Sequence[str] = ("job", "endpoint", "json", "headers", "query", "undo")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "json": "json",
        "headers": "json",
        "query": "json",
        "undo": "json",
    }
    kind = "http"

    def __init__(
        self,
        *,
        http_conn_id: str = "http_default",
        method: str = "POST",
        endpoint: str,
        json: Any = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        external_id_path: str | None = None,
        external_id_header: str | None = None,
        timeout: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id = http_conn_id
        self.method = method.upper()
        self.endpoint = endpoint
        self.json = json
        self.headers = headers
        self.query = query
        self.external_id_path = external_id_path
        self.external_id_header = external_id_header
        self.timeout = timeout
        if self.method not in ("POST", "PUT", "PATCH", "DELETE"):
            raise ValueError(f"method must be POST, PUT, PATCH or DELETE, not {method!r}: an effect writes.")

    def plan(self, job: JobView) -> dict[str, Any]:
        """The request: method, URL, the author's headers, and the exact body."""
        hook = self._hook()
        hook.get_conn()  # reads the connection, and with it the base URL; opens nothing
        plan: dict[str, Any] = {
            "connection": self.http_conn_id,
            "method": self.method,
            "url": hook.url_from_endpoint(self.endpoint),
            "headers": {name: str(value) for name, value in (self.headers or {}).items()},
        }
        if self.query:
            plan["query"] = dict(self.query)
        if self.json is not None:
            plan["body"] = self._body()
        return plan

    def _body(self) -> str:
        value = self.json
        if isinstance(value, str):
            try:
                value = jsonlib.loads(value)
            except ValueError as error:
                raise PlanError(
                    f"the body of the effect {self.effect_name!r} did not render to JSON: {error}.",
                    remedy="Write each value with the filter tojson: {{ job.output.title | tojson }}.",
                ) from error
        return jsonlib.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Send the request once; redirects are not followed, and the HTTP library does not retry."""
        import requests

        headers = {"Content-Type": "application/json", **plan["headers"], "Idempotency-Key": key}
        try:
            response = self._hook().run(
                endpoint=self.endpoint,
                data=plan["body"].encode() if "body" in plan else None,
                headers=headers,
                params=plan.get("query"),
                extra_options={"check_response": False, "allow_redirects": False, "timeout": self.timeout},
            )
        except requests.exceptions.ConnectionError as error:
            if _never_connected(error):
                raise EffectNotNow(
                    f"no connection to the target of the effect {self.effect_name!r}: {type(error).__name__}.",
                    remedy="Check the target and its connection; a retry is safe.",
                ) from error
            raise
        return self._read(response)

    def _read(self, response: Response) -> Applied:
        status = response.status_code
        if 200 <= status < 300:
            return Applied(self._external_id(response), {"status": status})
        said = f"the target of the effect {self.effect_name!r} answered {status} {response.reason}"
        if status in _NOT_NOW_STATUSES:
            wait = response.headers.get("Retry-After")
            when = f" and asked to come back after {wait}" if wait else ""
            raise EffectNotNow(f"{said}{when}.", remedy="A retry is safe.")
        if 300 <= status < 500 and status not in _AMBIGUOUS_STATUSES:
            raise EffectRefused(
                f"{said}.", remedy="Mend the cause at the target; then clear this task, which sends the same request."
            )
        raise UnclearAnswer(said)

    def _external_id(self, response: Response) -> str | None:
        if self.external_id_header:
            return response.headers.get(self.external_id_header)
        if not self.external_id_path:
            return None
        from jsonpath_ng import parse

        try:
            matches = parse(self.external_id_path).find(response.json())
        except ValueError:
            matches = []
        if not matches:
            self.log.warning("The answer has no %s; the effect has no external id.", self.external_id_path)
            return None
        return str(matches[0].value)

    def _hook(self) -> HttpHook:
        from airflow.providers.http.hooks.http import HttpHook

        return HttpHook(method=self.method, http_conn_id=self.http_conn_id)


class UnclearAnswer(RuntimeError):
    """An answer that does not say whether the write happened."""


def _never_connected(error: Exception) -> bool:
    """Whether the connection failed before anything could be sent on it."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    reason = getattr(error.args[0], "reason", None) if error.args else None
    return isinstance(reason, (ConnectTimeoutError, NewConnectionError))
