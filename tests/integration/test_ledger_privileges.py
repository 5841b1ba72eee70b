"""The privileges that docs/deployment.md names are enough for the daily work, and are no more than that."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import Disposition, JobState
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from demo.postgres import URL_VARIABLE, Postgres
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec, submit

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
ROLES = """
    CREATE ROLE ledger_owner LOGIN PASSWORD 'owner';
    CREATE ROLE ledger_user LOGIN PASSWORD 'user';
    CREATE DATABASE two_roles OWNER ledger_owner;
    REVOKE ALL ON DATABASE two_roles FROM PUBLIC;
    GRANT CONNECT ON DATABASE two_roles TO ledger_user"""


def test_the_documented_privileges_are_enough_and_no_more(postgres: Postgres) -> None:
    if URL_VARIABLE in os.environ:
        pytest.skip("creates roles: only on a server of our own")
    grants = re.search(r"```sql\n(GRANT.*?)```", PAGE.read_text(), re.DOTALL)
    assert grants
    with postgres.connect("postgres") as connection:
        for statement in ROLES.split(";"):
            connection.execute(statement)
    database = postgres.connection_kwargs("two_roles")
    owner = {**database, "user": "ledger_owner", "password": "owner"}
    user = {**database, "user": "ledger_user", "password": "user"}
    schema.upgrade(owner)
    with psycopg.connect(**owner) as connection:
        connection.execute(grants[1])

    with Ledger(user) as ledger:
        ledger.check_schema()
        job = draft(ledger)
        ask(ledger, job, effect_plan("old"), effect_plan("post"))
        job = approve(ledger, ask(ledger, job, effect_plan("store"), effect_plan("post")))
        for name in ("store", "post"):
            claim = ledger.effects.claim(job.job_id, effect_plan(name), lease=LEASE, actor=TEST)
            ledger.effects.confirm(claim, external_id=name, result={}, actor=TEST)
        assert ledger.record(job.job_id).job.state is JobState.COMPLETED
        event = {"type": "response.completed", "data": {"id": "resp_1"}}
        ledger.inbox.receive(Delivery("wh_1", "openai_default", "response.completed", "resp_1", event))
        ledger.inbox.receive(Delivery("wh_2", "openai_default", "response.completed", "resp_2", event))
        submit(ledger, job_spec(job_key="running"), "resp_3")
        (receipt,) = ledger.inbox_batches.receive(
            [Delivery("wh_3", "openai_default", "response.completed", "resp_3", event)]
        )
        assert receipt is not None
        assert receipt.entry.disposition is Disposition.APPLIED
        ledger.inbox.discard("wh_2", actor=Actor.program("alice"), why="a test")
        assert ledger.inbox.prune(timedelta(0)) == 3
    for refused in (
        "DELETE FROM aihandoff.jobs",
        "DELETE FROM aihandoff.decisions",
        "DROP TRIGGER events_append_only ON aihandoff.events",
        "CREATE TABLE aihandoff.more (id int)",
    ):
        with psycopg.connect(**user) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(refused)
