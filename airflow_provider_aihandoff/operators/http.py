"""Writes to an outside system over HTTP."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_aihandoff.core.errors import PlanError, TemplateError
from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.effects.placeholders import Literals
    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.targets.http import HttpTarget

#: A placeholder in a declared template.
_PLACEHOLDER = re.compile(r"(?<![{%#])\{[A-Za-z_][A-Za-z0-9_.]*\}(?!\})")


class HttpSideEffectOperator(SideEffectOperator):
    """Send one HTTP request, at most once, with the effect key as ``Idempotency-Key``.

    2xx is applied. 425, 429 and 503 are "not now"; ``Retry-After`` is honoured up to a quarter of an hour. 3xx
    (redirects are not followed: another address was not approved) and 4xx other than 408 and 409 prove that nothing was
    written. Everything else, and every broken connection after the request left, is ``unknown``. The header follows the
    IETF draft "The Idempotency-Key HTTP Header Field".

    :param http_conn_id: connection of the type HTTP: base URL, credentials, TLS, default headers.
    :param method: ``POST``, ``PUT``, ``PATCH`` or ``DELETE``.
    :param endpoint: path under the base URL (templated).
    :param json: the body: a value, or a text that renders to JSON, such as ``"{{ job.output | tojson }}"``
        (templated).
    :param form: the fields of a form, in the place of ``json`` (templated).
    :param text: a text that is sent as it is, in the place of ``json`` (templated).
    :param files: files of a form, by reference (templated): ``{"FIELD": {"path": ...}}``, a path that every worker can
        read or an object storage URL, with ``conn_id``, ``filename`` and ``content_type`` where needed. The plan has
        the digest of each, so that what is sent is what was approved.
    :param headers: further headers (templated), such as ``If-Match`` or ``If-None-Match``.
    :param query: parameters of the URL's query (templated).
    :param external_id_path: where the external record id stands in the JSON answer (RFC 9535), such as ``$.id``.
    :param external_id_header: the header of the answer that has it, such as ``Location``.
    :param timeout: seconds to connect, and to wait for the answer.
    :param probe: how to probe for the write (templated): a GET with ``endpoint``, and where needed ``query`` and
        ``headers``, in which ``{effect_key}`` stands for the effect key. ``found`` maps places in the JSON answer
        (RFC 9535) to the values that they have when the write happened; without it, any 2xx means that it did.
        ``otherwise`` says what a 2xx without these values means: ``not applied`` (the default) or ``unknown``. 404 and
        410 mean that there is no trace of it. ``external_id_path`` is where the record's id stands in that answer.
    :param current: path under the base URL (templated) at which a GET is answered with the JSON of what the target has
        now: reviewers see what the request would change. It is read when the plan is rendered for them. Where the
        record stands within the answer, ``{"endpoint": ..., "path": "$.data"}`` (RFC 9535).
    """

    template_fields: Sequence[str] = (
        "job",
        "when",
        "endpoint",
        "json",
        "form",
        "text",
        "files",
        "headers",
        "query",
        "undo",
        "probe_request",
        "current",
    )
    endpoint_fields = ("endpoint", "current")
    known_fields = ("job", "when", "files", "current")
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "json": "json",
        "form": "json",
        "files": "json",
        "headers": "json",
        "query": "json",
        "undo": "json",
        "probe_request": "json",
    }

    def __init__(
        self,
        *,
        http_conn_id: str = "http_default",
        method: str = "POST",
        endpoint: str,
        json: Any = None,
        form: Mapping[str, Any] | None = None,
        text: str | None = None,
        files: Mapping[str, Mapping[str, Any]] | None = None,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        external_id_path: str | None = None,
        external_id_header: str | None = None,
        timeout: float = 30.0,
        probe: Mapping[str, Any] | None = None,
        current: str | Mapping[str, str] | None = None,
        answers: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.http_conn_id = http_conn_id
        self.method = method.upper()
        self.endpoint = endpoint
        self.json = json
        self.form = form
        self.text = text
        self.files = files
        self.headers = headers
        self.query = query
        self.external_id_path = external_id_path
        self.external_id_header = external_id_header
        self.timeout = timeout
        self.probe_request = probe
        self.current = current
        self.answers = answers
        if self.method not in ("POST", "PUT", "PATCH", "DELETE"):
            raise ValueError(f"method must be POST, PUT, PATCH or DELETE, not {method!r}: an effect writes.")

    def _template(self, text: str) -> str:
        """Refuse a placeholder that nothing fills in: it would be sent as it stands.

        :raises TemplateError: the declared template has one.
        """
        from airflow_provider_aihandoff.core.effects.placeholders import EFFECT_KEY, EXTERNAL_ID, UNDO_KEY, declared_in

        marked = super()._template(text)
        of_undo = {EXTERNAL_ID, EFFECT_KEY, UNDO_KEY}
        known = of_undo if self._field == "undo" else {EFFECT_KEY}
        found = {match[0] for match in _PLACEHOLDER.finditer(text)}
        if unknown := sorted(found - known - (declared_in(text) - of_undo)):
            raise TemplateError(
                f"`{self._field}` of the task {self.task_id!r} has the placeholder {' and '.join(unknown)}, "
                "which nothing fills in.",
                remedy=f"It may have {' and '.join(sorted(known))}. To send the text itself, write it in a template: "
                f"{{{{ '{unknown[0]}' }}}}.",
            )
        return marked

    def plan(self, job: JobView) -> dict[str, Any]:
        """The request: connection, method, URL, the author's headers, and the exact body."""
        from airflow_provider_aihandoff.targets.http import plan_request
        from airflow_provider_aihandoff.targets.http_answers import rules_of
        from airflow_provider_aihandoff.targets.http_probe import check_path

        check_path(self.external_id_path, self.effect_name)
        rules_of(self.answers, self.effect_name)
        request = plan_request(
            self.http_conn_id,
            self.method,
            self.marked("endpoint"),
            json=self.marked("json"),
            form=self.marked("form"),
            text=self.marked("text"),
            files=self.files,
            headers=self.marked("headers"),
            query=self.marked("query"),
            name=self.effect_name,
        )
        return self.settled_plan(request)

    def target(self) -> HttpTarget:
        """The system behind the connection."""
        from airflow_provider_aihandoff.targets.http import HttpTarget, current_of, plan_probe

        probe: dict[str, Any] | None = None
        literals: Literals = ()
        if self.probe_request is not None:
            declared = self.marked("probe_request")
            probe, literals = self.settled(plan_probe(self.http_conn_id, declared, self.effect_name))
            _check_paths(probe, self.effect_name)
        endpoint, path = current_of(self.current, self.effect_name)
        return HttpTarget(
            self.effect_name,
            self.timeout,
            self.external_id_path,
            self.external_id_header,
            idempotent=self.idempotent,
            probe_plan=probe,
            probe_literals=literals,
            grace_seconds=self.grace_seconds,
            current=endpoint,
            current_path=path,
            answers=self.answers,
            resends=self.resends,
            verify=self.verify,
            try_probe=self.try_probe,
        )


def _check_paths(probe: Mapping[str, Any], name: str) -> None:
    """Refuse a probe whose paths depend on what an earlier effect brings: it could become another path.

    :raises PlanError: one of them does.
    """
    from airflow_provider_aihandoff.core.effects.filled import earlier_names

    paths = [*(probe.get("found") or {}), probe.get("found_in"), probe.get("next"), probe.get("external_id_path")]
    if found := sorted(earlier_names(paths)):
        raise PlanError(
            f"the probe of the effect {name!r} has {' and '.join(found)} in a path.",
            remedy="Name it in the endpoint, the query, the headers, or as a value in `found`.",
        )
