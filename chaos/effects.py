"""The effects of a job as an author declares them: what each of them writes, how it is probed, and what undoes it.

- ``create`` and ``label`` write one record each to the HTTP target, ``store`` one row to the database.
- ``lines`` is one effect for each element of a list (``for_each``), written by one task.
- ``retire`` takes away a record that was there before (``DELETE``); its undo puts it back.
- ``link`` writes a record that names the one of ``create``, by the id that this had brought.

A further effect is a name in :data:`chaos.work.ALL_EFFECTS`, and what is special about it here.

**What the HTTP target gets**, under ``/<variant>``, each with the effect key as ``Idempotency-Key``:

- ``POST /records``, ``/labels``, ``/lines`` and ``/links`` with ``{"name": <the name of the record>}``, the ``fault``
  that the work asks for, and in a link ``about``, the id of another record. The answer names the new record:
  ``{"id": ...}``. For some variants, ``PUT /records/<name>``.
- ``DELETE /drafts/<name>``.
- Undo: ``DELETE`` of ``/records/<id>``, ``/lines/<id>`` and ``/links/<id>``, ``POST /labels/<id>/removal``, ``PUT
  /drafts/<name>``.
- Probe: ``GET /writes?key=<effect key>``, answered with ``{"writes": [{"id": ..., "key": ...}, ...]}``; and ``GET
  /drafts/<name>``, answered with 404 once it is gone.

The variants say what the target is declared to be, and must be:

- ``idempotent``: a key that was seen is answered as before, and writes nothing;
- ``probed``: it writes again, and reports what it has written;
- ``conditional``: probed, and it checks preconditions: ``PUT`` with ``If-None-Match: *`` is answered with 412 where the
  record exists, ``DELETE`` with ``If-Match: *`` where it does not;
- ``put``: a ``PUT`` of a record that is there changes nothing;
- ``neither``: it cannot be asked, and does not recognize a request that it has had.
"""

from __future__ import annotations

from typing import Any

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.filled import earlier_names
from airflow_provider_aihandoff.core.effects.placeholders import EFFECT_KEY, UNDO_KEY
from airflow_provider_aihandoff.core.effects.target import Target, resends_of
from airflow_provider_aihandoff.core.effects.undo import plan_undo
from airflow_provider_aihandoff.core.models import EffectPlan
from airflow_provider_aihandoff.targets.http import HttpTarget, plan_probe, plan_request
from airflow_provider_aihandoff.targets.postgres import PostgresTarget, plan_statement
from chaos.work import ALL_EFFECTS, Variant, Work
from chaos.world import DATABASE, TARGET, World

#: The table that ``store`` writes to. It only grows, so that whatever was written twice can be seen in it: its undo
#: writes a row too, with the id of the one that it undoes.
TABLE = """
    CREATE TABLE IF NOT EXISTS chaos_rows (
        row_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, undoes bigint);
    CREATE TABLE IF NOT EXISTS chaos_runs (run_id text PRIMARY KEY);
    CREATE TABLE IF NOT EXISTS chaos_events (
        event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, url text NOT NULL, webhook_id text NOT NULL,
        body text NOT NULL)"""
STATEMENT = "INSERT INTO chaos_rows (name) VALUES (%(name)s) RETURNING row_id"
UNDO_STATEMENT = "INSERT INTO chaos_rows (name, undoes) VALUES (%(name)s, %(undoes)s::bigint) RETURNING row_id"

#: Where each HTTP effect has its records.
COLLECTIONS = {"create": "records", "label": "labels", "lines": "lines", "retire": "drafts", "link": "links"}

#: How many elements ``lines`` has.
ELEMENTS = 3

#: The variants that get a ``PUT`` to create a record, and those that can be asked what was written.
_PUT: tuple[Variant, ...] = ("conditional", "put")
_PROBED: tuple[Variant, ...] = ("probed", "conditional")


def parts_of(name: str) -> list[str]:
    """The effects that one task writes."""
    return [f"{name}[{index}]" for index in range(ELEMENTS)] if name == "lines" else [name]


def plans(world: World, work: Work) -> list[EffectPlan]:
    """The effects of a job, rendered: the same whenever they are."""
    names = [name for name in ALL_EFFECTS if name in work.effects]
    return [effect_plan(world, work, part) for name in names for part in parts_of(name)]


def effect_plan(world: World, work: Work, part: str) -> EffectPlan:
    """One effect, rendered."""
    name = _task(part)
    plan = plan_statement(DATABASE, STATEMENT, {"name": work.key}) if name == "store" else _request(work, part)
    kind, connection = ("postgres", DATABASE) if name == "store" else ("http", TARGET)
    undo = plan_undo(_undo(world, work, part), kind=kind, name=part, defaults={"connection": connection})
    after = tuple(before for before in ALL_EFFECTS[: ALL_EFFECTS.index(name)] if before in work.effects)
    names = tuple(sorted(earlier_names(plan)))
    return EffectPlan(part, kind, plan, digest([plan, undo, list(after)]), plan, undo, after, names=names)


def create_request(world: World, work: Work) -> dict[str, Any]:
    """What the operator of ``create`` is given for each job of a set: as :func:`effect_plan` of a single job."""
    root, idempotent = f"/{work.variant}/{COLLECTIONS['create']}", work.variant in ("idempotent", "put")
    body = {"name": "{{ job.job_key }}", **({"fault": work.target} if work.target else {})}
    put = work.variant in _PUT
    return {
        "method": "PUT" if put else "POST",
        "endpoint": f"{root}/{{{{ job.job_key }}}}" if put else root,
        "json": body,
        "headers": {"If-None-Match": "*"} if work.variant == "conditional" else {},
        "external_id_path": "$.id",
        "idempotent": idempotent,
        "timeout": world.call_timeout,
        "probe": _written(work, EFFECT_KEY) if work.variant in _PROBED else None,
        "grace": world.grace,
        "undo": _undo(world, work, "create"),
    }


def target_of(world: World, work: Work, part: str) -> Target:
    """What applies an effect."""
    name = _task(part)
    if name == "store":
        return PostgresTarget(name)
    idempotent = work.variant in ("idempotent", "put")
    return HttpTarget(
        part,
        world.call_timeout,
        external_id_path="$.id",
        idempotent=idempotent,
        resends=resends_of(None, idempotent=idempotent),
        probe_plan=plan_probe(TARGET, _probe(work, part), part) if work.variant in _PROBED else None,
        grace_seconds=world.grace,
    )


def _task(part: str) -> str:
    return part.partition("[")[0]


def _record(work: Work, part: str) -> str:
    """The name of the record that an effect writes."""
    return work.key + part.removeprefix("lines").replace("[", ".").removesuffix("]") if "[" in part else work.key


def _request(work: Work, part: str) -> dict[str, Any]:
    root = f"/{work.variant}/{COLLECTIONS[_task(part)]}"
    record = _record(work, part)
    if _task(part) == "retire":
        headers = {"If-Match": "*"} if work.variant == "conditional" else {}
        return plan_request(TARGET, "DELETE", f"{root}/{record}", headers=headers, name=part)
    body = {"name": record, **({"fault": work.target} if work.target else {})}
    if part == "link":
        body["about"] = "{effects.create.external_id}"
    if work.variant in _PUT:
        headers = {"If-None-Match": "*"} if work.variant == "conditional" else {}
        return plan_request(TARGET, "PUT", f"{root}/{record}", json=body, headers=headers, name=part)
    return plan_request(TARGET, "POST", root, json=body, name=part)


def _undo(world: World, work: Work, part: str) -> dict[str, Any]:
    name = _task(part)
    if name == "store":
        return {"sql": UNDO_STATEMENT, "parameters": {"name": work.key, "undoes": "{external_id}"}}
    times = {"timeout": world.call_timeout, "grace": world.grace}
    root = f"/{work.variant}/{COLLECTIONS[name]}"
    if name == "retire":
        return {"method": "PUT", "endpoint": f"{root}/{work.key}", "json": {"name": work.key}, **times}
    if name != "label" or work.variant == "put":
        return {"method": "DELETE", "endpoint": f"{root}/{{external_id}}", **times}
    declared: dict[str, Any] = {"method": "POST", "endpoint": f"{root}/{{external_id}}/removal", **times}
    if work.variant == "idempotent":
        return {**declared, "idempotent": True}
    return declared if work.variant == "neither" else {**declared, "probe": _written(work, UNDO_KEY)}


def _probe(work: Work, part: str) -> dict[str, Any]:
    if _task(part) == "retire":
        return {"endpoint": f"/{work.variant}/{COLLECTIONS['retire']}/{work.key}"}
    return _written(work, EFFECT_KEY)


def _written(work: Work, key: str) -> dict[str, Any]:
    return {
        "endpoint": f"/{work.variant}/writes",
        "query": {"key": key},
        "found_in": "$.writes",
        "found": {"$.key": key},
        "external_id_path": "$.id",
    }
