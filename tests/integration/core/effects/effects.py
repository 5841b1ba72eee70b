"""Jobs whose effects are approved, and what is written for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.undo import plan_undo
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Job
from airflow_provider_aihandoff.targets.function import FunctionTarget
from airflow_provider_aihandoff.targets.http import plan_request
from tests.factories import approve, ask, draft

ACTOR = Actor.program("task:publishing/manual__1/publish")


def put(name: str = "publish", *, undo: Mapping[str, Any] | None = None, **request: Any) -> EffectPlan:
    """The plan to put something to the CMS."""
    fields: dict[str, Any] = {"method": "PUT", "endpoint": f"/posts/{name}", "json": {"title": "Kettle"}, **request}
    return _plan(name, "http", plan_request("cms", name=name, **fields), undo, "cms")


def insert(name: str = "store", *, undo: Mapping[str, Any] | None = None) -> EffectPlan:
    """The plan to write a row, to read its external id: the write itself is never made here."""
    return _plan(name, "postgres", {"sql": "INSERT INTO reports (title) VALUES ('Kettle')"}, undo, "sales_db")


def call(name: str = "call", *, undo: Mapping[str, Any] | None = None) -> EffectPlan:
    """The plan to call a function."""
    return _plan(name, "function", {"function": name, "arguments": {"title": "Kettle"}}, undo, None)


def _plan(
    name: str, kind: str, plan: dict[str, Any], undo: Mapping[str, Any] | None, connection: str | None
) -> EffectPlan:
    defaults = {"connection": connection} if connection else {}
    planned = None if undo is None else plan_undo(undo, kind=kind, name=name, defaults=defaults)
    return EffectPlan(name, kind, plan, digest([plan, planned]), plan, planned)


def approved(ledger: Ledger, *plans: EffectPlan) -> Job:
    """A job with these effects, which a person has approved."""
    return approve(ledger, ask(ledger, draft(ledger), *plans))


def function(run: Callable[..., Any], look: Callable[..., Any] | None = None, **options: Any) -> FunctionTarget:
    """A target that one Python function writes to."""
    return FunctionTarget("call", run, look, **options)


def only_effect(ledger: Ledger) -> Effect:
    """The only effect of the only job."""
    (only,) = ledger.record(1).current_effects
    return only


def end_pauses(ledger: Ledger) -> None:
    """Let the pauses that targets have asked for be over, and their connections be as fast as before."""
    with psycopg.connect(**ledger._database.conninfo) as connection:
        connection.execute(
            "UPDATE aihandoff.rate_limits SET base = NULL, slowed_at = NULL, closed_until = NULL, next_at = 0"
        )


def later(ledger: Ledger, seconds: float) -> None:
    """Let so much time pass for every effect whose outcome is unknown, and for every claim."""
    with psycopg.connect(**ledger._database.conninfo) as connection:
        connection.execute(
            """
            UPDATE aihandoff.effects SET unknown_since = unknown_since - %(seconds)s * interval '1 second',
                claim_until = claim_until - %(seconds)s * interval '1 second'""",
            {"seconds": seconds},
        )
