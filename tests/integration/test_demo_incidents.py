"""`make demo-trouble` makes one of each kind of incident, and the page of each job says what it is."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.jobs.cases import Case
from airflow_provider_aihandoff.core.jobs.explanation import case_of
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter, Need
from airflow_provider_aihandoff.core.jobs.needs import needs_of
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import Disposition
from demo import incidents
from demo.incidents import STUCK_FOR, make_incidents
from demo.local import SILENCE, receiver_switch
from demo.postgres import Postgres


@pytest.fixture
def connection(conninfo: dict[str, Any]) -> Any:
    with psycopg.connect(**conninfo, autocommit=True) as opened:
        yield opened


def test_there_is_one_job_of_each_kind(ledger: Ledger, connection: psycopg.Connection) -> None:
    made = make_incidents(ledger, connection, "1")
    assert {what: case_of(ledger.record(job_id)) for what, job_id in made.jobs.items()} == {
        "unknown effect": Case.EFFECT_UNKNOWN,
        "expired claim": Case.EFFECT_EXPIRED,
        "failed job": Case.FAILED,
        "lost request": Case.LOST_ASKS,
        "overdue review": Case.REVIEW_OVERDUE,
        "stuck response": Case.RUNNING_OVERDUE,
        "slow response": Case.RUNNING_WEBHOOKS,
    }


def test_the_overview_lists_each_kind_once(ledger: Ledger, connection: psycopg.Connection) -> None:
    made = make_incidents(ledger, connection, "1")
    needs = needs_of(ledger, None, silence=SILENCE)
    assert needs.jobs == dict.fromkeys(Need, 1)
    assert needs.quarantined == 1
    assert [each.conn_id for each in needs.silent] == [made.conn_id]
    found = {job.job_id for need in Need for job in ledger.search.page(JobFilter(need=need))}
    assert found == set(made.jobs.values())


def test_the_webhook_is_in_quarantine_and_the_response_began_hours_ago(
    ledger: Ledger, connection: psycopg.Connection
) -> None:
    made = make_incidents(ledger, connection, "1")
    assert ledger.inbox.read(made.webhook_id).disposition is Disposition.QUARANTINED
    record = ledger.record(made.jobs["stuck response"])
    assert record.revision.submitted_at is not None
    assert record.at - record.revision.submitted_at >= STUCK_FOR
    assert record.revision.deadline < record.at


def test_they_can_be_made_again(ledger: Ledger, connection: psycopg.Connection) -> None:
    first, second = (make_incidents(ledger, connection, name) for name in "12")
    assert not set(first.jobs.values()) & set(second.jobs.values())


def test_a_running_demo_is_found_and_its_receiver_stops(
    ledger: Ledger, conninfo: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incidents, "open_postgres", lambda folder: Postgres(conninfo))
    monkeypatch.setattr(incidents, "LEDGER_DATABASE", conninfo["dbname"])
    made = incidents.make_in_running_demo(tmp_path)
    assert set(made.jobs.values()) <= {job.job_id for job in ledger.jobs()}
    assert receiver_switch(tmp_path).exists()
