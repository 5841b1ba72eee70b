"""`airflow aihandoff`, through Airflow's own parser, on a real ledger."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from airflow.cli.cli_parser import get_parser
from openai import OpenAI

from airflow_provider_aihandoff.ledger import Ledger
from airflow_provider_aihandoff.ledger.inbox import Delivery
from airflow_provider_aihandoff.states import Disposition, EffectState, JobState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.factories import LEASE, approve, ask, draft, effect_plan

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
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor="test")
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


def receive(ledger: Ledger, webhook_id: str, response_id: str | None) -> None:
    body = {"type": "response.completed", "data": {"id": response_id}}
    ledger.inbox.receive(Delivery(webhook_id, "openai_default", "response.completed", response_id, body))


class TestInbox:
    @pytest.fixture
    def client(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAI]:
        with OpenAIStandIn(delay_seconds=0).serve() as running:
            connection = {"conn_type": "openai", "password": "sk-any", "host": running.base_url}
            monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
            with OpenAI(base_url=running.base_url, api_key="sk-any") as client:
                yield client

    def test_webhooks_are_listed_by_what_became_of_them(self, airflow: Airflow, on_ledger: Ledger) -> None:
        receive(on_ledger, "wh_1", "resp_unknown")
        draft(on_ledger)
        receive(on_ledger, "wh_2", "resp_1")
        listed = json.loads(airflow("inbox", "list", "--disposition", "quarantined", "-o", "json"))
        assert [(row["webhook_id"], row["response_id"]) for row in listed] == [("wh_1", "resp_unknown")]
        assert len(json.loads(airflow("inbox", "list", "-o", "json"))) == 2
        assert len(json.loads(airflow("inbox", "list", "--limit", "1", "-o", "json"))) == 1

    def test_one_is_shown_with_its_body(self, airflow: Airflow, on_ledger: Ledger) -> None:
        receive(on_ledger, "wh_1", "resp_unknown")
        shown = airflow("inbox", "show", "wh_1")
        for part in ("webhook_id: wh_1", "disposition: quarantined", "id: resp_unknown"):
            assert part in shown

    def test_one_is_looked_at_anew_and_openai_is_asked(
        self, airflow: Airflow, on_ledger: Ledger, client: OpenAI
    ) -> None:
        receive(on_ledger, "wh_1", client.responses.create(model="gpt-5.2", input="x", background=True).id)
        on_ledger.inbox.discard("wh_1", actor="user:bob", why="a mistake")
        said = airflow("inbox", "replay", "wh_1")
        assert "wh_1 is foreign (its response belongs to another application)" in said
        assert on_ledger.inbox.read("wh_1").disposition is Disposition.FOREIGN

    def test_one_that_openai_does_not_know_is_asked_about_again(
        self, airflow: Airflow, on_ledger: Ledger, client: OpenAI
    ) -> None:
        receive(on_ledger, "wh_1", "resp_nowhere")
        assert "asked about it again after" in airflow("inbox", "replay", "wh_1")

    def test_it_is_said_when_openai_is_not_asked_any_more(
        self, airflow: Airflow, on_ledger: Ledger, client: OpenAI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_provider_aihandoff.ledger.inbox.LOOK_AFTER", (2,))
        receive(on_ledger, "wh_1", "resp_nowhere")
        assert "not asked about it any more" in airflow("inbox", "replay", "wh_1")

    def test_one_that_has_done_its_work_is_not_looked_at_again(self, airflow: Airflow, on_ledger: Ledger) -> None:
        draft(on_ledger)
        receive(on_ledger, "wh_1", "resp_1")
        with pytest.raises(SystemExit, match="cannot be replayed"):
            airflow("inbox", "replay", "wh_1")

    def test_a_person_says_that_one_means_nothing(self, airflow: Airflow, on_ledger: Ledger) -> None:
        receive(on_ledger, "wh_1", None)
        assert "discarded" in airflow("inbox", "discard", "wh_1", "--why", "a test of ours")
        entry = on_ledger.inbox.read("wh_1")
        assert (entry.disposition, entry.note) == (Disposition.DISCARDED, "user:cli:carol: a test of ours")

    @pytest.mark.parametrize(
        ("words", "left"),
        [((), {"wh_now", "wh_9"}), (("--older-than-days", "8"), {"wh_now"}), (("--older-than-days", "10"), None)],
    )
    def test_old_ones_are_removed(
        self, airflow: Airflow, on_ledger: Ledger, conninfo: dict[str, Any], words: Any, left: Any
    ) -> None:
        draft(on_ledger)
        for webhook_id in ("wh_now", "wh_9", "wh_31"):
            receive(on_ledger, webhook_id, "resp_1")
        with psycopg.connect(**conninfo) as connection:
            for days in (9, 31):
                connection.execute(
                    "UPDATE aihandoff.inbox SET received_at = received_at - %s * interval '1 day' "
                    "WHERE webhook_id = %s",
                    [days, f"wh_{days}"],
                )
        airflow("inbox", "prune", *words)
        kept = {entry.webhook_id for entry in on_ledger.inbox.entries()}
        assert kept == (left or {"wh_now", "wh_9"})

    def test_none_is_removed_that_could_come_again(self, airflow: Airflow, on_ledger: Ledger) -> None:
        with pytest.raises(SystemExit, match="at least 345600 seconds"):
            airflow("inbox", "prune", "--older-than-days", "3.9")

    def test_what_does_not_exist_is_said_in_one_line(self, airflow: Airflow, on_ledger: Ledger) -> None:
        with pytest.raises(SystemExit, match="no webhook wh_0"):
            airflow("inbox", "show", "wh_0")
