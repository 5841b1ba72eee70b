"""Jobs that have written something which can be undone, in a business system that answers over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Effect, EffectPlan, Job
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, job_spec
from tests.target import Target, serve


@contextmanager
def cms() -> Iterator[Target]:
    """The business system, behind the connection ``cms``."""
    with serve() as target, pytest.MonkeyPatch.context() as patch:
        connection = {"conn_type": "http", "schema": "http", "host": "127.0.0.1", "port": target.port}
        patch.setenv("AIRFLOW_CONN_CMS", json.dumps(connection))
        yield target


def base(target: Target) -> str:
    return f"http://127.0.0.1:{target.port}"


def undo_of(target: Target, name: str, **options: Any) -> dict[str, Any]:
    """The declared undo of an effect."""
    url = f"{base(target)}/{name}/{{external_id}}"
    plan = {"connection": "cms", "method": "DELETE", "url": url, "headers": {}}
    return {"kind": "http", "plan": plan, "idempotent": False, **options}


def plan_of(
    target: Target, name: str, *, undo: dict[str, Any] | None = None, after: tuple[str, ...] = ()
) -> EffectPlan:
    """An intended write, with an undo unless ``undo`` is empty."""
    plan = {"connection": "cms", "method": "PUT", "url": f"{base(target)}/{name}", "headers": {}}
    undo = undo_of(target, name) if undo is None else undo or None
    return EffectPlan(name, "http", plan, digest(plan), plan, undo, after)


def approved(ledger: Ledger, *plans: EffectPlan, key: str | None = None, dag_id: str = OWNER.dag_id) -> Job:
    spec = None if key is None else job_spec(job_key=key, owner=replace(OWNER, dag_id=dag_id))
    made = draft(ledger) if spec is None else draft(ledger, spec, response_id=f"resp_{key}")
    return approve(ledger, ask(ledger, made, *plans))


def confirm(ledger: Ledger, job: Job, plan: EffectPlan) -> Effect:
    claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    return ledger.effects.confirm(claim, external_id=f"{plan.name}-1", result=None, actor=TEST)


def lose(ledger: Ledger, job: Job, plan: EffectPlan) -> Effect:
    claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    return ledger.effects.lose(claim, error="ReadTimeout: the read timed out", actor=TEST)


def completed(ledger: Ledger, *plans: EffectPlan) -> Job:
    """A job that has written all of them."""
    job = approved(ledger, *plans)
    for plan in plans:
        confirm(ledger, job, plan)
    return ledger.job(job.job_id)
