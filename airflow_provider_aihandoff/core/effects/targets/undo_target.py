"""The declared way back of an effect: from what its author wrote to a plan, and from the ledger to a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_provider_aihandoff.core.effects.targets.base import Target
from airflow_provider_aihandoff.core.effects.targets.function_target import FunctionTarget, function_at
from airflow_provider_aihandoff.core.effects.targets.http_target import HttpTarget, plan_probe, plan_request
from airflow_provider_aihandoff.core.effects.targets.postgres_target import PostgresTarget, database_of
from airflow_provider_aihandoff.core.effects.undo import UNDO_KEY, names_effect
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.core.models import Effect

#: Methods that do the same when they are sent twice (RFC 9110, 9.2.2).
_IDEMPOTENT_METHODS = frozenset({"PUT", "DELETE"})

_FIELDS = {
    "http": {"connection", "method", "endpoint", "json", "headers", "query", "probe", "idempotent", "timeout", "grace"},
    "postgres": {"connection", "sql", "parameters"},
    "function": {"function", "arguments", "probe", "idempotent", "timeout", "grace"},
}


def plan_undo(declared: Mapping[str, Any], *, kind: str, connection: str | None, name: str) -> dict[str, Any]:
    """Render the undo that an author declared to the form that :mod:`core.effects.undo` describes.

    :param declared: its fields, rendered; ``kind`` is that of the effect unless it says otherwise, and so is, for the
        same kind, ``connection``.
    :raises PlanError: it has no known kind, or a field that its kind does not know or lacks.
    """
    fields = dict(declared)
    own, kind = kind, fields.pop("kind", kind)
    if kind not in _FIELDS:
        raise PlanError(
            f"the undo of the effect {name!r} has no kind that is known: {kind!r}.",
            remedy=f"Say which it is: {', '.join(sorted(_FIELDS))}.",
        )
    if unknown := sorted(fields.keys() - _FIELDS[kind]):
        raise PlanError(
            f"the undo of the effect {name!r} has fields that its kind {kind!r} does not know: {', '.join(unknown)}.",
            remedy=f"It takes: {', '.join(sorted(_FIELDS[kind]))}.",
        )
    try:
        if kind == "function":
            return _plan_function(fields)
        conn_id = fields.get("connection") or (connection if kind == own else None)
        if not conn_id:
            raise KeyError("connection")
        return _plan_http(fields, conn_id, name) if kind == "http" else _plan_postgres(fields, conn_id, name)
    except KeyError as missing:
        raise PlanError(f"the undo of the effect {name!r} lacks {missing}.") from None


def undo_target(undo: Effect) -> Target:
    """What applies an effect that takes another one back.

    :raises PlanError: its function cannot be imported.
    """
    options: Mapping[str, Any] = undo.undo or {}
    if undo.kind == "postgres":
        return PostgresTarget(undo.name)
    idempotent, grace = bool(options.get("idempotent")), float(options.get("grace", 30.0))
    if undo.kind == "http":
        timeout = float(options.get("timeout", 30.0))
        removes = undo.plan["method"] == "DELETE"
        return HttpTarget(
            undo.name,
            timeout,
            idempotent=idempotent,
            probe_plan=options.get("probe"),
            grace_seconds=grace,
            gone_is_applied=removes,
            key_name=UNDO_KEY,
        )
    look = function_at(options["probe"]) if options.get("probe") else None
    seconds = float(options.get("timeout", 300.0))
    return FunctionTarget(undo.name, function_at(undo.plan["function"]), look, idempotent, seconds, grace)


def _plan_http(fields: Mapping[str, Any], conn_id: str, name: str) -> dict[str, Any]:
    method = str(fields["method"]).upper()
    request = {field: fields.get(field) for field in ("json", "headers", "query")}
    plan = plan_request(conn_id, method, fields["endpoint"], **request, name=name)
    idempotent = bool(fields.get("idempotent", method in _IDEMPOTENT_METHODS))
    undo = {"kind": "http", "plan": plan, "idempotent": idempotent, **_options(fields)}
    if fields.get("probe"):
        undo["probe"] = plan_probe(conn_id, fields["probe"], name)
    return undo


def _plan_postgres(fields: Mapping[str, Any], conn_id: str, name: str) -> dict[str, Any]:
    if names_effect(str(fields["sql"])):
        raise PlanError(
            f"the statement of the undo of the effect {name!r} names {{external_id}} or {{effect_key}}.",
            remedy="Give it as a parameter: what a target answers has no business in a statement.",
        )
    plan = {
        "connection": conn_id,
        "database": database_of(conn_id),
        "sql": str(fields["sql"]).strip(),
        "parameters": dict(fields.get("parameters") or {}),
    }
    return {"kind": "postgres", "plan": plan}


def _plan_function(fields: Mapping[str, Any]) -> dict[str, Any]:
    plan = {"function": str(fields["function"]), "arguments": dict(fields.get("arguments") or {})}
    undo = {"kind": "function", "plan": plan, "idempotent": bool(fields.get("idempotent")), **_options(fields)}
    return undo | ({"probe": str(fields["probe"])} if fields.get("probe") else {})


def _options(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: float(fields[name]) for name in ("timeout", "grace") if fields.get(name) is not None}
