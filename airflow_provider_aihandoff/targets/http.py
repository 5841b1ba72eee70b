"""Writes over HTTP, and probes for them: everything that is sent stands in the plan."""

from __future__ import annotations

import json as jsonlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlsplit

from airflow_provider_aihandoff.core.backoff import retry_after_seconds
from airflow_provider_aihandoff.core.call_watch import CallWatch
from airflow_provider_aihandoff.core.effects.filled import earlier_names, fill_in
from airflow_provider_aihandoff.core.effects.placeholders import (
    EFFECT_KEY,
    LITERALS,
    UNDO_KEY,
    Literals,
    fill,
    names_in,
    within,
)
from airflow_provider_aihandoff.core.effects.target import (
    Applied,
    CannotTell,
    NotApplied,
    RequestView,
    Target,
    UnclearAnswer,
    resends_of,
    take_tables,
    take_text,
)
from airflow_provider_aihandoff.core.error_text import cleaned
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, PlanError
from airflow_provider_aihandoff.core.json_path import find_values, is_singular
from airflow_provider_aihandoff.targets import connections
from airflow_provider_aihandoff.targets.endpoints import fully_decoded, has_dot_step, http_hook, session_to, url_of
from airflow_provider_aihandoff.targets.http_answers import EXTRA, Meaning, Rule, is_value, meaning_of, rules_of
from airflow_provider_aihandoff.targets.http_body import Body, encoded
from airflow_provider_aihandoff.targets.http_probe import NOT_THERE_STATUSES, check_path, check_probe, look

if TYPE_CHECKING:
    from airflow_provider_aihandoff.targets.http_exchange import Answer

#: Answers that do not say whether the write happened: a time-out at the server, and a conflict, which may be with
#: this very write.
_AMBIGUOUS_STATUSES = frozenset({408, 409})

#: The target asks to come back later (RFC 8470, 5.2; RFC 6585, 4).
_NOT_NOW_STATUSES = frozenset({425, 429})

#: Also from a gateway that has forwarded the request: it counts as "later" only where it says when.
_UNAVAILABLE = 503

#: Methods that do the same when they are sent twice (RFC 9110, 9.2.2).
_IDEMPOTENT_METHODS = frozenset({"PUT", "DELETE"})

#: The parts of a probe in which the key shows what it asks for, or what it must find.
_BY = ("url", "query", "found")

#: Control characters: a server may read them as it likes.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

#: What a value in a URL may not have, however it is encoded: a server may read another step of the path.
_OTHER_STEP = re.compile(r"[/\\\x00-\x1f\x7f]")

#: The name of a header, and what its value may hold (RFC 9110, 5.5).
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"|[!-~\x80-\xff]([\t -~\x80-\xff]*[!-~\x80-\xff])?")


@dataclass(frozen=True)
class HttpTarget(Target):
    """A system that is written to over HTTP, through an Airflow connection.

    :param name: the effect's name, for messages.
    :param timeout: seconds to connect, and as many for the whole answer.
    :param external_id_path: where the external record id stands in the JSON answer (RFC 9535).
    :param external_id_header: the header of the answer that has it.
    :param probe_plan: the request that probes for the write, or None: as :func:`plan_probe` makes it.
    :param probe_literals: where that request only reads as if it named the key.
    :param current: path under the base URL at which the target says what it has now, as JSON.
    :param current_path: where in that answer the record stands (RFC 9535); None: the answer is the record.
    :param undoes: the effect undoes another one. Its own key is then ``{undo_key}`` in the probe.
    :param answers: what the answers mean, as :mod:`targets.http_answers` says, before what the connection and HTTP say.
    """

    kind = "http"
    undo_fields = frozenset(
        {
            "connection",
            "method",
            "endpoint",
            "json",
            "form",
            "text",
            "headers",
            "query",
            "probe",
            "idempotent",
            "timeout",
            "grace",
            "resends",
            "answers",
        }
    )

    name: str
    timeout: float = 30.0
    external_id_path: str | None = None
    external_id_header: str | None = None
    idempotent: bool = False
    probe_plan: Mapping[str, Any] | None = None
    probe_literals: Literals = ()
    grace_seconds: float = 30.0
    current: str | None = None
    current_path: str | None = None
    undoes: bool = False
    answers: Any = None
    resends: int = 1
    verify: bool = False
    try_probe: bool = True

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
        """To connect, and to answer. Nothing begins to leave after half of it, and the rest is cut off at its end."""
        return 2 * self.timeout

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Send the request once; redirects are not followed, and the HTTP library does not retry."""
        try:
            rules = self._rules(plan["connection"])
        except PlanError as error:
            raise EffectRefused(error.what, answered=False, remedy="Fix the extra of the connection.") from error
        if not self.undoes:  # that of an undo is filled in when it is planned
            plan, _ = fill(plan, {EFFECT_KEY: key}, plan.get(LITERALS, ()))
        body, content_type = encoded(plan, key, self.name)
        headers = {"Content-Type": content_type or "application/json", **plan["headers"], "Idempotency-Key": key}
        answer = self._request(plan, headers, body)
        return self._applied(plan, answer, meaning_of(answer, rules) or _usual_meaning(answer))

    def _applied(self, plan: Mapping[str, Any], answer: Answer, meaning: Meaning) -> Applied:
        """What the answer to a write means.

        :raises EffectRefused: it was not written; or it is there already, and the probe says whose it is.
        """
        result: dict[str, Any] = {"status": answer.status}
        if meaning is Meaning.APPLIED:
            return Applied(self._external_id(answer), result, answer=answer.json_or_none())
        removes = plan["method"] == "DELETE"
        if meaning is (Meaning.ABSENT if removes else Meaning.ALREADY_THERE) and (self.undoes or not self.can_probe):
            note = "it was gone" if removes else "it was there already"
            return Applied(None, {**result, "note": note}, own=self.undoes)
        words = answer.words()
        said = f"the target of the effect {self.name!r} answered {answer.status} {answer.reason}"
        said += f": {words.rstrip('.')}" if words else ""
        if meaning is Meaning.NOT_NOW:
            seconds = retry_after_seconds(answer.headers.get("Retry-After"))
            when = "" if seconds is None else f"; it asked for a retry after {seconds:g} s"
            raise EffectNotNow(f"{said}{when}.", retry_after=seconds, remedy="A retry is safe.")
        if meaning is Meaning.UNKNOWN:
            raise UnclearAnswer(said)
        raise EffectRefused(
            f"{said}.", remedy="Fix the cause at the target; then clear this task, which sends the same request."
        )

    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | CannotTell:
        """Probe for the write with a GET, over all pages of a list."""
        assert self.probe_plan is not None
        key_name = UNDO_KEY if self.undoes else EFFECT_KEY
        removes = plan["method"] == "DELETE"
        by_key = {
            part: key_name in names_in(self.probe_plan.get(part), within(self.probe_literals, part)) for part in _BY
        }
        named, _ = fill(self.probe_plan, {key_name: key}, self.probe_literals)
        return look(
            {"connection": plan["connection"], "method": "GET", "headers": {}, **named},
            lambda request: self._request(request, request["headers"], None),
            self._rules(plan["connection"]),
            removes=removes,
            by_key=by_key["url"] or by_key["query"],
            # An undo has a record of its own, and is done when that is as it wants it.
            own=self.undoes or removes or by_key["found"] or _proves(named, plan, key),
        )

    def read(self, plan: dict[str, Any]) -> Any:
        """The JSON of the answer at the address that the author gives; None where there is nothing.

        :raises UnclearAnswer: it cannot be read.
        """
        assert self.current is not None
        accept = {"Accept": "application/json"}
        request = plan_request(plan["connection"], "GET", self.current, headers=accept, name=self.name)
        answer = self._request(request, request["headers"], None)
        meaning = meaning_of(answer, self._rules(plan["connection"])) or _usual_meaning(answer)
        if meaning is Meaning.ABSENT:
            return None
        if meaning is not Meaning.APPLIED:
            raise UnclearAnswer(f"the target answered {answer.status} {answer.reason}: {answer.words()}")
        try:
            record = answer.json()
        except ValueError as error:
            raise UnclearAnswer(f"the target's answer is not JSON: {answer.why or error}") from error
        found = [record] if self.current_path is None else find_values(record, self.current_path)
        if not found:
            raise UnclearAnswer(f"the target's answer has nothing at {self.current_path}")
        return found[0]

    def names(self) -> set[str]:
        """Those in the probe."""
        return earlier_names(self.probe_plan, self.probe_literals)

    def knowing(self, values: Mapping[str, str]) -> Self:
        """With the values in the probe."""
        if not self.names():
            return self
        probe, literals = fill_in(self.probe_plan or {}, values, HttpTarget, self.probe_literals)
        return replace(self, probe_plan=probe, probe_literals=literals)

    def undo_defaults(self, plan: dict[str, Any]) -> Mapping[str, Any]:
        """The effect's own connection, and what its author says of the answers."""
        return {"connection": plan["connection"], **({} if self.answers is None else {"answers": self.answers})}

    @classmethod
    def plan_undo(cls, declared: Mapping[str, Any], *, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The exact request; beside it, its probe, and what its author says of the target."""
        conn_id, method = declared["connection"], str(declared["method"]).upper()
        request = {field: declared.get(field) for field in ("json", "form", "text", "headers", "query")}
        plan = plan_request(conn_id, method, declared["endpoint"], **request, name=name)
        options: dict[str, Any] = {"idempotent": bool(declared.get("idempotent", method in _IDEMPOTENT_METHODS))}
        options |= {field: float(declared[field]) for field in ("timeout", "grace") if field in declared}
        options |= {field: declared[field] for field in ("resends", "answers") if field in declared}
        rules_of(declared.get("answers"), name)
        resends_of(declared.get("resends"), idempotent=options["idempotent"])
        if declared.get("probe"):
            options["probe"] = plan_probe(conn_id, declared["probe"], name)
        return plan, options

    @classmethod
    def from_undo(cls, name: str, plan: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """As its author says of the target."""
        idempotent = bool(options.get("idempotent"))
        return cls(
            name,
            float(options.get("timeout", 30.0)),
            idempotent=idempotent,
            probe_plan=options.get("probe"),
            probe_literals=within(options.get(LITERALS, ()), "probe"),
            grace_seconds=float(options.get("grace", 30.0)),
            undoes=True,
            try_probe=False,
            answers=options.get("answers"),
            resends=resends_of(options.get("resends"), idempotent=idempotent),
        )

    @classmethod
    def quoted(cls, field: str, value: str) -> str:
        """One part of a URL; a part of a JSON text in a body."""
        if field == "url":
            return quote(value, safe="")
        return jsonlib.dumps(value, ensure_ascii=False)[1:-1] if field == "body" else value

    @classmethod
    def refuses(cls, field: str, value: str) -> str | None:
        """In a URL, what would add or leave out a step of its path; in a header, what is not one line of it."""
        if field == "url" and (not value or has_dot_step(value) or _OTHER_STEP.search(fully_decoded(value))):
            return "would change its path: it is empty, '.' or '..', or it has '/', '\\' or a control character"
        if field == "headers" and not _HEADER_VALUE.fullmatch(value):
            return "is not one line of ASCII or Latin-1 without a space at its ends"
        return None

    @classmethod
    def may_name(cls, external_id: str) -> bool:
        """Whether it has no step '.' or '..', which no quoting keeps from a server that decodes twice, and no control
        character.
        """
        return not (has_dot_step(external_id) or _CONTROL.search(external_id))

    @classmethod
    def describe(cls, plan: Mapping[str, Any]) -> RequestView:
        """The method, the URL, query and headers, and the exact body."""
        rest = dict(plan)
        body, text = take_text(rest, "body"), take_text(rest, "text")
        return RequestView(
            action=take_text(rest, "method"),
            address=take_text(rest, "url"),
            tables=take_tables(rest, "query", "headers", "form", "files"),
            bodies={"Body": body or text} if body or text else {},
            rest=rest,
            writes=body or text or plan.get("form") or None,
            key_label="Idempotency-Key",
        )

    def _rules(self, conn_id: str) -> list[Rule]:
        """What its author says of the answers, and after that its connection.

        :raises PlanError: the connection says it in no known form.
        """
        with connections.needed(conn_id, self.name):
            extra = connections.read(conn_id).extra_dejson
        return [*rules_of(self.answers, self.name), *rules_of(extra.get(EXTRA), self.name)]

    def _request(self, plan: Mapping[str, Any], headers: Mapping[str, str], body: bytes | None) -> Answer:
        from requests import Request

        from airflow_provider_aihandoff.targets import http_exchange

        watch = CallWatch(self.timeout, self.call_seconds)
        try:
            hook = http_hook(plan["connection"], plan["method"], http_exchange.adapter_of(watch))
            # The session alone: the hook's own way of sending reads any answer whole, and announces retries.
            session = session_to(hook, plan["url"], headers, self.name)
            session.headers.pop(EXTRA, None)
            session.headers["Accept-Encoding"] = "identity"
            request = Request(plan["method"], plan["url"], data=body, params=plan.get("query"), headers=dict(headers))
            return http_exchange.exchange_of(session, request, watch, self.timeout)
        except http_exchange.NeverLeft as never:
            error: Exception = EffectNotNow(
                f"no connection to the target of the effect {self.name!r}: {cleaned(str(never))}.",
                answered=False,
                remedy="Check the target and its connection; a retry is safe.",
            )
        except http_exchange.Broken as broken:
            error = UnclearAnswer(cleaned(str(broken)))
        finally:
            watch.close()
        # Outside of the handlers: neither the ledger nor a traceback is to show the query, which may have a secret.
        raise error

    def _external_id(self, answer: Answer) -> str | None:
        if self.external_id_header:
            return answer.headers.get(self.external_id_header)
        return answer.value_at(self.external_id_path) if self.external_id_path else None


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

    :param json: a value, or a text that is JSON.
    :param name: the effect's name, for messages.
    :raises PlanError: the text is not JSON, or the URL leads to another place than it says.
    """
    plan: dict[str, Any] = {
        "connection": conn_id,
        "method": method,
        "url": url_of(conn_id, method, endpoint, name),
        "headers": _headers(headers, name),
    }
    if query:
        plan["query"] = dict(query)
    plan |= Body(json, form, text, files).plan(name)
    _check_encodable(plan, name)
    return plan


def plan_probe(conn_id: str, declared: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Render the request that probes for a write: :class:`operators.http.HttpSideEffectOperator` says what it takes.

    :raises PlanError: it lacks an endpoint, has a field that is not known, or cannot be what it is.
    """
    check_probe(declared, name)
    probe = {field: value for field, value in declared.items() if field != "endpoint"}
    if "headers" in probe:
        probe["headers"] = _headers(probe["headers"], name)
    planned = {**probe, "url": url_of(conn_id, "GET", declared["endpoint"], name)}
    _check_encodable(planned, name)
    return planned


def current_of(declared: str | Mapping[str, Any] | None, name: str) -> tuple[str | None, str | None]:
    """Where the target says what it has now: an endpoint, and the path to the record in its answer.

    :param declared: an endpoint, or a mapping with ``endpoint`` and ``path``.
    :param name: the effect's name, for messages.
    :raises PlanError: it is neither, or the path can lead to several values.
    """
    if not isinstance(declared, Mapping):
        return declared, None
    path = declared.get("path")
    check_path(path, name)
    if not declared.get("endpoint") or declared.keys() - {"endpoint", "path"} or not (path and is_singular(path)):
        raise PlanError(
            f"`current` of the effect {name!r} must have an endpoint, and a path that leads to one value at most.",
            remedy='Write the endpoint alone, or {"endpoint": "/posts/1", "path": "$.data"}.',
        )
    return str(declared["endpoint"]), str(path)


def _usual_meaning(answer: Answer) -> Meaning:
    """What HTTP says of an answer."""
    status = answer.status
    if 200 <= status < 300:
        return Meaning.APPLIED
    if status in NOT_THERE_STATUSES:
        return Meaning.ABSENT
    if status in _NOT_NOW_STATUSES:
        return Meaning.NOT_NOW
    if status == _UNAVAILABLE and retry_after_seconds(answer.headers.get("Retry-After")) is not None:
        return Meaning.NOT_NOW
    return Meaning.REFUSED if 300 <= status < 500 and status not in _AMBIGUOUS_STATUSES else Meaning.UNKNOWN


def _proves(probe: Mapping[str, Any], plan: Mapping[str, Any], key: str) -> bool:
    """Whether a record that a probe finds can only come from this write.

    It has the key, which stands in the path or in a condition; or a condition names a value that the plan writes.
    """
    conditions: Mapping[str, Any] = probe.get("found") or {}
    if not conditions:
        return key in urlsplit(probe["url"]).path
    written = list(_values([_json_of(plan), plan.get("form") or [], plan.get("query") or []]))
    return any(is_value(value, expected) for expected in conditions.values() for value in written)


def _json_of(plan: Mapping[str, Any]) -> Any:
    return jsonlib.loads(plan["body"]) if "body" in plan else []


def _values(value: Any) -> Iterator[Any]:
    """Every value in a value, at any depth."""
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield item
        yield from _values(item)


def _check_encodable(part: Mapping[str, Any], name: str) -> None:
    """Refuse what no request can hold, before anyone is asked to approve it.

    :raises PlanError: a text has half of a character (a lone surrogate).
    """
    for field, value in part.items():
        try:
            jsonlib.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise PlanError(
                f"the {field} of the effect {name!r} has half of a character (a lone surrogate), which cannot be sent.",
                remedy="Repair the text where it comes from, or edit the output.",
            ) from None


def _headers(headers: Mapping[str, Any] | None, name: str) -> dict[str, str]:
    """The headers as texts.

    :raises PlanError: one of them is none that can be sent. The message does not show its value, which may be secret.
    """
    texts = {header: str(value) for header, value in (headers or {}).items()}
    for header, text in texts.items():
        if not (_HEADER_NAME.fullmatch(header) and _HEADER_VALUE.fullmatch(text)):
            raise PlanError(
                f"the header {header!r} of the effect {name!r} cannot be sent: it is not one line of ASCII or "
                "Latin-1 without a space at its ends.",
                remedy="Send such a text in the body or the query, or fill it in with the filters trim and urlencode.",
            )
    return texts
