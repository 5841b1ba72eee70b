"""`airflow aihandoff pause`, `resume`, `pauses` and `spending-limits`, through Airflow's own parser."""

from __future__ import annotations

import json

import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.ledger import Ledger
from tests.factories import LEASE, TEST, job_spec, submit
from tests.integration.cli.conftest import Airflow


def test_everything_is_paused_and_resumed(airflow: Airflow, on_ledger: Ledger) -> None:
    submit(on_ledger, job_spec(job_key="runs"))
    said = airflow("pause", "--everything", "--reason", "it writes nonsense")
    assert "Pause 1 holds requests to the model (everything)." in said
    assert "1 responses run on, of the jobs 1." in said
    waiting = on_ledger.submission.open(job_spec(job_key="waits")).job
    assert on_ledger.submission.intend(waiting.job_id, 1, actor=TEST, lease=LEASE).token is None

    (listed,) = json.loads(airflow("pauses", "-o", "json"))
    assert (listed["what"], listed["held requests"], listed["responses running"]) == ("everything", 1, 1)
    assert "pause of everything" in airflow("overview")

    assert "It held 1 requests, 0 writes." in airflow("resume", "1", "--reason", "fixed")
    assert json.loads(airflow("pauses", "-o", "json")) == []
    (ended,) = json.loads(airflow("pauses", "--ended", "-o", "json"))
    assert ended["ended because"] == "fixed"
    assert on_ledger.submission.intend(waiting.job_id, 1, actor=TEST, lease=LEASE).token is not None


def test_a_part_is_paused_and_all_pauses_are_ended(airflow: Airflow, on_ledger: Ledger) -> None:
    airflow("pause", "--type", "ticket", "--dag-id", "tickets", "--writes", "--reason", "stop")
    airflow("pause", "--connection", "openai_default", "--reason", "stop")
    found = on_ledger.pauses.find()
    assert [(each.scope, each.writes) for each in found] == [
        (Scope(conn_id="openai_default"), False),
        (Scope(job_type="ticket", dag_id="tickets"), True),
    ]
    assert airflow("resume", "--all", "--reason", "go").count("has ended") == 2
    assert "No pause is in force." in airflow("resume", "--all", "--reason", "go")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["pause", "--reason", "stop"], "or --everything"),
        (["pause", "--everything", "--type", "ticket", "--reason", "stop"], "and not both"),
        (["pause", "--everything", "--reason", " "], "must not be empty"),
        (["pause", "--type", "", "--reason", "stop"], "must not be empty"),
        (["resume", "--reason", "go"], "or --all"),
        (["resume", "9", "--reason", "go"], "has no pause 9"),
        (["spending-limits", "try", "openai_default"], "no limit of the connection 'openai_default'"),
    ],
)
def test_what_cannot_be_done_is_said(airflow: Airflow, on_ledger: Ledger, options: list[str], why: str) -> None:
    with pytest.raises(SystemExit, match=why):
        airflow(*options)
    assert on_ledger.pauses.find() == []


def test_a_limit_of_money_is_listed_and_tried(airflow: Airflow, on_ledger: Ledger) -> None:
    job = on_ledger.submission.open(job_spec()).job
    token = on_ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).token
    assert token is not None
    on_ledger.submission.not_submitted(job.job_id, 1, token=token, actor=TEST, reason="insufficient_quota", spent=True)
    (listed,) = json.loads(airflow("spending-limits", "list", "-o", "json"))
    assert (listed["connection"], listed["tries"], listed["said"]) == ("openai_default", 1, "insufficient_quota")
    assert "spending limit of openai_default" in airflow("overview")
    assert "Job 1 sends its request" in airflow("spending-limits", "try", "openai_default")
