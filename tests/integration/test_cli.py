"""`airflow aihandoff`, through Airflow's own parser, on a real ledger."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.cli.cli_parser import get_parser

from airflow_provider_aihandoff.ledger import Ledger
from airflow_provider_aihandoff.states import EffectState, JobState
from tests.factories import approve, ask, draft, effect_plan

Airflow = Callable[..., str]


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Airflow:
    """Runs a command and returns what it printed."""

    def run(*words: object) -> str:
        args = get_parser().parse_args(["aihandoff", *map(str, words)])
        args.func(args)
        return capsys.readouterr().out

    monkeypatch.setattr("getpass.getuser", lambda: "carol")
    return run


def use(conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {
        "conn_type": "postgres",
        "host": conninfo["host"],
        "port": conninfo["port"],
        "login": conninfo["user"],
        "password": conninfo.get("password", ""),
        "schema": conninfo["dbname"],
    }
    monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", json.dumps(connection))


@pytest.fixture
def on_ledger(conninfo: dict[str, Any], ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    use(conninfo, monkeypatch)
    return ledger


def unknown_effect(ledger: Ledger) -> int:
    job = approve(ledger, ask(ledger, draft(ledger)))
    claim = ledger.effects.claim(job.job_id, effect_plan(), repeatable=False, actor="test")
    return ledger.effects.lose(claim, error="the connection broke", actor="test").effect_id


def test_a_new_ledger_is_created_once_and_then_checked(
    airflow: Airflow, empty_conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(empty_conninfo, monkeypatch)
    with pytest.raises(SystemExit, match="airflow aihandoff db upgrade"):
        airflow("db", "check")
    assert "Created the ledger" in airflow("db", "upgrade")
    assert "already" in airflow("db", "upgrade")
    assert "as needed" in airflow("db", "check")


def test_jobs_are_listed_by_state(airflow: Airflow, on_ledger: Ledger) -> None:
    job = ask(on_ledger, draft(on_ledger))
    listed = json.loads(airflow("jobs", "list", "--state", "review", "-o", "json"))
    assert [(row["job_id"], row["job_key"]) for row in listed] == [(job.job_id, "post:kettle")]
    assert json.loads(airflow("jobs", "list", "--state", "failed", "-o", "json")) == []


def test_a_job_is_shown_with_its_output_its_plan_and_its_history(airflow: Airflow, on_ledger: Ledger) -> None:
    job = ask(on_ledger, draft(on_ledger))
    shown = airflow("jobs", "show", job.job_id)
    for part in ("A kettle.", "http://cms/posts/kettle", str(job.review_digest), "history: unbroken"):
        assert part in shown


def test_a_job_is_approved_on_the_digest_by_the_person_at_the_terminal(airflow: Airflow, on_ledger: Ledger) -> None:
    job = ask(on_ledger, draft(on_ledger))
    airflow("approve", job.job_id, "--digest", job.review_digest, "--comment", "fine")
    record = on_ledger.record(job.job_id)
    assert record.job.state is JobState.APPROVED
    assert [(d.decided_by, d.comment) for d in record.decisions] == [("cli:carol", "fine")]


def test_a_decision_on_another_digest_ends_with_one_line_and_changes_nothing(
    airflow: Airflow, on_ledger: Ledger
) -> None:
    job = ask(on_ledger, draft(on_ledger))
    with pytest.raises(SystemExit, match="not what you saw"):
        airflow("reject", job.job_id, "--digest", "0" * 64)
    assert on_ledger.job(job.job_id) == job


@pytest.mark.parametrize(
    ("answer", "state", "external_id"),
    [
        (("--applied", "post-7"), EffectState.APPLIED, "post-7"),
        (("--not-applied",), EffectState.PLANNED, None),
    ],
)
def test_a_person_says_what_became_of_an_unknown_effect(
    airflow: Airflow, on_ledger: Ledger, answer: tuple[str, ...], state: EffectState, external_id: str | None
) -> None:
    effect_id = unknown_effect(on_ledger)
    assert json.loads(airflow("effects", "list", "--state", "unknown", "-o", "json"))[0]["effect_id"] == effect_id
    airflow("effects", "resolve", effect_id, *answer, "--why", "looked at the page")
    effect = on_ledger.effects.read(effect_id)
    assert (effect.state, effect.external_id) == (state, external_id)
    assert "looked at the page" in str(on_ledger.record(effect.job_id).events)


@pytest.mark.parametrize("answer", [(), ("--applied", "post-7", "--not-applied")])
def test_a_resolution_says_exactly_one_thing(airflow: Airflow, on_ledger: Ledger, answer: tuple[str, ...]) -> None:
    effect_id = unknown_effect(on_ledger)
    with pytest.raises(SystemExit, match="give either"):
        airflow("effects", "resolve", effect_id, *answer, "--why", "guessing")
    assert on_ledger.effects.read(effect_id).state is EffectState.UNKNOWN


def test_what_does_not_exist_is_said_in_one_line(airflow: Airflow, on_ledger: Ledger) -> None:
    with pytest.raises(SystemExit, match="no job 4711"):
        airflow("jobs", "show", 4711)
    with pytest.raises(SystemExit, match="no effect 4711"):
        airflow("effects", "show", 4711)
