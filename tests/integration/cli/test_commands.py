"""`airflow aihandoff`, through Airflow's own parser, on a real ledger."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from openai import OpenAI

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli import watch
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.jobs.explanation import explain
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.rules import Approvers, ReviewRules
from airflow_provider_aihandoff.core.states import Disposition, EffectState, JobState, ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.testing.openai_server import ResponseReport
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.integration.cli.conftest import Airflow, use
from tests.integration.web.world import approved, cms, completed, confirm, lose, plan_of
from tests.target import DROP, Answer, Target
from tests.waiting import until


def unknown_effect(ledger: Ledger) -> int:
    job = approve(ledger, ask(ledger, draft(ledger)))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    return ledger.effects.lose(claim, error="the connection broke", actor=TEST).effect_id


def test_a_new_ledger_is_created_once_and_then_checked(
    airflow: Airflow, empty_conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    use(empty_conninfo, monkeypatch)
    with pytest.raises(SystemExit, match=f"{PROGRAM} db upgrade"):
        airflow("db", "check")
    assert "Created the ledger" in airflow("db", "upgrade")
    assert "already" in airflow("db", "upgrade")
    assert "as needed" in airflow("db", "check")


def test_jobs_are_listed_by_state(airflow: Airflow, on_ledger: Ledger) -> None:
    job = ask(on_ledger, draft(on_ledger))
    listed = json.loads(airflow("jobs", "list", "--state", "review", "-o", "json"))
    assert [(row["job_id"], row["job_key"]) for row in listed] == [(job.job_id, "post:kettle")]
    assert json.loads(airflow("jobs", "list", "--state", "failed", "-o", "json")) == []


def test_jobs_are_listed_by_every_part_of_the_filter(airflow: Airflow, on_ledger: Ledger) -> None:
    draft(on_ledger)
    submit(on_ledger, job_spec(job_type="ticket", job_key="ticket:1"), "resp_2")

    def listed(*options: object) -> list[str]:
        return [row["job_key"] for row in json.loads(airflow("jobs", "list", *options, "-o", "json"))]

    assert listed() == ["ticket:1", "post:kettle"]
    assert listed("--sort", "oldest", "--newer-than", "1h") == ["post:kettle", "ticket:1"]
    assert listed("--type", "ticket", "--key", "ticket:") == ["ticket:1"]
    assert listed("--response-id", "resp_1") == ["post:kettle"]
    assert listed("--need", "unknown effect") == []
    with pytest.raises(SystemExit, match="such as 7d"):
        airflow("jobs", "list", "--older-than", "long")


def test_a_job_is_shown_with_its_output_its_plan_and_its_history(airflow: Airflow, on_ledger: Ledger) -> None:
    job = ask(on_ledger, draft(on_ledger))
    shown = airflow("jobs", "show", job.job_id)
    for part in ("A kettle.", "http://cms/posts/kettle", str(job.review_digest), "history: unbroken"):
        assert part in shown
    assert str(explain(on_ledger.record(job.job_id))).replace("airflow aihandoff", PROGRAM) in shown


def test_a_job_is_watched_until_it_has_ended(
    airflow: Airflow, on_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_CHECK", 0.1)
    stand_in = OpenAIStandIn(delay_seconds=1)

    def report() -> ResponseReport:
        return stand_in.responses().responses[0]

    with stand_in.serve() as server:
        openai = {"conn_type": "openai", "password": "any", "host": server.base_url}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(openai))
        request = {"model": "gpt-5.2", "input": "[[standin: text='A kettle\x1b[2J.']] Write.", "stream": True}
        with OpenAI(base_url=server.base_url, api_key="any") as client:
            response = OpenAIProvider(client).create(request, {}, timeout=10)
            assert isinstance(response, ModelResponse)
            revision = submit(on_ledger, job_spec(request=request), response.id)

            def end() -> None:
                until(lambda: report().streams == 1 and report().readers == 0)
                error = {"kind": "test", "message": ""}
                on_ledger.outputs.fail(revision.job_id, 1, actor=Actor.user("bob"), reason="it is a test", error=error)

            ending = threading.Thread(target=end)
            ending.start()
            said = airflow("jobs", "watch", revision.job_id)
            ending.join()
    assert "submitted, by " in said
    assert "-- reasoning --\n**Reading the request** I check" in said
    assert "-- text --\nA kettle\\u001b[2J.\n" in said
    assert " tokens read, " in said
    assert said.rstrip().endswith("failed (it is a test)")
    assert said.count("failed, by user:bob") == 1


def test_ctrl_c_ends_the_watching_alone(airflow: Airflow, on_ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = submit(on_ledger, job_spec()).job_id

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watch._Watching, "_follow", interrupt)
    assert "submitted, by " in airflow("jobs", "watch", job_id)
    assert on_ledger.job(job_id).state is JobState.RUNNING


@pytest.mark.parametrize(
    ("answer", "state", "external_id"),
    [
        (("--applied", "post-7"), EffectState.APPLIED, "post-7"),
        (("--not-applied",), EffectState.PLANNED, None),
    ],
)
def test_an_unknown_effect_is_resolved(
    airflow: Airflow, on_ledger: Ledger, answer: tuple[str, ...], state: EffectState, external_id: str | None
) -> None:
    effect_id = unknown_effect(on_ledger)
    assert json.loads(airflow("effects", "list", "--state", "unknown", "-o", "json"))[0]["effect_id"] == effect_id
    airflow("effects", "resolve", effect_id, *answer, "--reason", "the page shows it")
    effect = on_ledger.effects.read(effect_id)
    assert (effect.state, effect.external_id) == (state, external_id)
    said = [(event.actor, event.reason) for event in on_ledger.record(effect.job_id).events][-1 - (state == "applied")]
    assert said[0] == "user:cli:carol"
    assert "the page shows it" in str(said[1])


@pytest.mark.parametrize("answer", [("--applied", "post-7"), ("--not-applied",)])
def test_a_repeated_resolution_changes_nothing(airflow: Airflow, on_ledger: Ledger, answer: tuple[str, ...]) -> None:
    effect_id = unknown_effect(on_ledger)
    first = airflow("effects", "resolve", effect_id, *answer, "--reason", "the page shows it")
    assert airflow("effects", "resolve", effect_id, *answer, "--reason", "the page shows it") == first
    events = on_ledger.record(on_ledger.effects.read(effect_id).job_id).events
    assert [event.event for event in events].count("effect resolved") == 1


def test_a_resolution_of_an_older_attempt_is_refused(airflow: Airflow, on_ledger: Ledger) -> None:
    effect_id = unknown_effect(on_ledger)
    with pytest.raises(SystemExit, match="number 1 is unknown now"):
        airflow("effects", "resolve", effect_id, "--not-applied", "--reason", "looked", "--attempt", 7)
    assert on_ledger.effects.read(effect_id).state is EffectState.UNKNOWN


def lost_job(ledger: Ledger) -> Job:
    job = ledger.submission.open(job_spec(on_lost="ask")).job
    token = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).token
    assert token is not None
    ledger.submission.submission_lost(job.job_id, 1, token=token, actor=TEST, reason="cut off")
    return ledger.job(job.job_id)


@pytest.mark.parametrize(("answer", "state"), [("--send-again", JobState.QUEUED), ("--fail", JobState.FAILED)])
def test_a_lost_request_is_shown_and_resolved(
    airflow: Airflow, on_ledger: Ledger, answer: str, state: JobState
) -> None:
    job = lost_job(on_ledger)
    assert "for a person to say whether to send it again" in airflow("jobs", "show", job.job_id)
    printed = airflow("jobs", "resolve-submission", job.job_id, answer, "--reason", "nothing in the logs")
    assert f": {state} (" in printed
    record = on_ledger.record(job.job_id)
    assert (record.job.state, record.revision.is_lost) == (state, False)
    assert record.events[-1].actor == "user:cli:carol"
    assert "nothing in the logs" in str(record.events[-1].reason)


@pytest.mark.parametrize("answer", [(), ("--send-again", "--fail")])
def test_a_lost_request_needs_exactly_one_answer(airflow: Airflow, on_ledger: Ledger, answer: tuple[str, ...]) -> None:
    job = lost_job(on_ledger)
    with pytest.raises(SystemExit, match="and not both"):
        airflow("jobs", "resolve-submission", job.job_id, *answer, "--reason", "guessing")
    assert on_ledger.job(job.job_id) == job


def test_an_answer_to_an_earlier_loss_is_refused(airflow: Airflow, on_ledger: Ledger) -> None:
    job = lost_job(on_ledger)
    with pytest.raises(SystemExit, match="more than you saw"):
        airflow("jobs", "resolve-submission", job.job_id, "--send-again", "--unknown", 7, "--reason", "looked")
    assert on_ledger.job(job.job_id) == job


@pytest.mark.parametrize("words", [("effects", "resolve", 1, "--not-applied"), ("cancel", 1), ("rollback", 1, "--yes")])
def test_an_empty_reason_is_refused(airflow: Airflow, on_ledger: Ledger, words: tuple[str, ...]) -> None:
    effect_id = unknown_effect(on_ledger)
    before = on_ledger.record(1)
    assert effect_id == 1
    with pytest.raises(SystemExit, match="--reason must"):
        airflow(*words, "--reason", " ")
    assert on_ledger.record(1) == before


@pytest.mark.parametrize("answer", [(), ("--applied", "post-7", "--not-applied")])
def test_a_resolution_needs_exactly_one_outcome(airflow: Airflow, on_ledger: Ledger, answer: tuple[str, ...]) -> None:
    effect_id = unknown_effect(on_ledger)
    with pytest.raises(SystemExit, match="and not both"):
        airflow("effects", "resolve", effect_id, *answer, "--reason", "guessing")
    assert on_ledger.effects.read(effect_id).state is EffectState.UNKNOWN


def test_a_missing_job_effect_or_webhook_is_one_line(airflow: Airflow, on_ledger: Ledger) -> None:
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

    def test_webhooks_are_listed_by_disposition(self, airflow: Airflow, on_ledger: Ledger) -> None:
        receive(on_ledger, "wh_1", "resp_unknown")
        draft(on_ledger)
        receive(on_ledger, "wh_2", "resp_1")
        listed = json.loads(airflow("inbox", "list", "--disposition", "quarantined", "-o", "json"))
        assert [(row["webhook_id"], row["response_id"]) for row in listed] == [("wh_1", "resp_unknown")]
        assert len(json.loads(airflow("inbox", "list", "-o", "json"))) == 2
        assert len(json.loads(airflow("inbox", "list", "--limit", "1", "-o", "json"))) == 1

    def test_a_webhook_is_shown_with_its_body(self, airflow: Airflow, on_ledger: Ledger) -> None:
        receive(on_ledger, "wh_1", "resp_unknown")
        shown = airflow("inbox", "show", "wh_1")
        for part in ("webhook_id: wh_1", "disposition: quarantined", "id: resp_unknown"):
            assert part in shown

    def test_a_replayed_webhook_is_processed_again_and_openai_is_polled(
        self, airflow: Airflow, on_ledger: Ledger, client: OpenAI
    ) -> None:
        receive(on_ledger, "wh_1", client.responses.create(model="gpt-5.2", input="x", background=True).id)
        on_ledger.inbox.discard("wh_1", actor=Actor.user("bob"), why="a mistake")
        said = airflow("inbox", "replay", "wh_1")
        assert "wh_1 is foreign (its response belongs to another application)" in said
        assert on_ledger.inbox.read("wh_1").disposition is Disposition.FOREIGN

    def test_a_replayed_webhook_that_openai_does_not_know_is_polled_again_later(
        self, airflow: Airflow, on_ledger: Ledger, client: OpenAI
    ) -> None:
        receive(on_ledger, "wh_1", "resp_nowhere")
        assert "polled again after" in airflow("inbox", "replay", "wh_1")

    def test_a_replayed_webhook_says_when_openai_will_not_be_polled_again(
        self, airflow: Airflow, on_ledger: Ledger, client: OpenAI, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airflow_provider_aihandoff.core.webhooks.inbox.POLL_AFTER", (2,))
        receive(on_ledger, "wh_1", "resp_nowhere")
        assert "will not be polled for it again" in airflow("inbox", "replay", "wh_1")

    def test_an_applied_webhook_cannot_be_replayed(self, airflow: Airflow, on_ledger: Ledger) -> None:
        draft(on_ledger)
        receive(on_ledger, "wh_1", "resp_1")
        with pytest.raises(SystemExit, match="cannot be replayed"):
            airflow("inbox", "replay", "wh_1")

    def test_a_webhook_in_quarantine_is_discarded(self, airflow: Airflow, on_ledger: Ledger) -> None:
        receive(on_ledger, "wh_1", None)
        assert "discarded" in airflow("inbox", "discard", "wh_1", "--reason", "a test of ours")
        entry = on_ledger.inbox.read("wh_1")
        assert (entry.disposition, entry.note) == (Disposition.DISCARDED, "user:cli:carol: a test of ours")

    @pytest.mark.parametrize(
        ("words", "left"),
        [((), {"wh_now", "wh_9"}), (("--older-than-days", "8"), {"wh_now"}), (("--older-than-days", "10"), None)],
    )
    def test_old_webhooks_are_removed(
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

    def test_webhooks_that_could_be_delivered_again_are_not_removed(self, airflow: Airflow, on_ledger: Ledger) -> None:
        with pytest.raises(SystemExit, match="at least 345600 seconds"):
            airflow("inbox", "prune", "--older-than-days", "3.9")

    def test_a_missing_job_effect_or_webhook_is_one_line(self, airflow: Airflow, on_ledger: Ledger) -> None:
        with pytest.raises(SystemExit, match="no webhook wh_0"):
            airflow("inbox", "show", "wh_0")


class TestCancel:
    def test_a_cancelled_job_in_review_writes_nothing(self, airflow: Airflow, on_ledger: Ledger) -> None:
        job = ask(on_ledger, draft(on_ledger))
        for _ in range(2):
            assert airflow("cancel", job.job_id, "--reason", "wrong product").endswith("cancelled (wrong product).\n")
        record = on_ledger.record(job.job_id)
        assert (record.job.state, record.effects[0].state) == (JobState.CANCELLED, EffectState.VOID)
        assert (record.events[-1].actor, record.events[-1].reason) == ("user:cli:carol", "wrong product")

    def test_a_running_response_is_cancelled_at_openai(
        self, airflow: Airflow, on_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with OpenAIStandIn(delay_seconds=60).serve() as running:
            connection = {"conn_type": "openai", "password": "sk-any", "host": running.base_url}
            monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
            with OpenAI(base_url=running.base_url, api_key="sk-any") as client:
                response = client.responses.create(model="gpt-5.2", input="x", background=True)
                job_id = submit(on_ledger, job_spec(), response.id).job_id
                assert "cancelled" in airflow("cancel", job_id, "--reason", "wrong product")
                assert client.responses.retrieve(response.id).status == "cancelled"

    def test_a_cancel_with_an_effect_under_way_says_what_it_waits_for(
        self, airflow: Airflow, on_ledger: Ledger
    ) -> None:
        job_id = on_ledger.effects.read(unknown_effect(on_ledger)).job_id
        assert "being cancelled" in airflow("cancel", job_id, "--reason", "wrong product")
        assert on_ledger.job(job_id).cancelling == "wrong product"

    def test_a_job_that_has_ended_cannot_be_cancelled_and_names_the_roll_back(
        self, airflow: Airflow, on_ledger: Ledger
    ) -> None:
        job = approve(on_ledger, ask(on_ledger, draft(on_ledger)))
        confirm(on_ledger, job, effect_plan())
        with pytest.raises(SystemExit, match=f"{PROGRAM} rollback {job.job_id}"):
            airflow("cancel", job.job_id, "--reason", "wrong product")


class TestRollback:
    @pytest.fixture
    def target(self) -> Iterator[Target]:
        with cms() as running:
            yield running

    @pytest.fixture
    def done(self, on_ledger: Ledger, target: Target) -> Job:
        return completed(on_ledger, plan_of(target, "publish"), plan_of(target, "announce"))

    @pytest.fixture
    def slept(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        """The pauses that the command makes, which are over at once."""
        pauses: list[float] = []
        monkeypatch.setattr("airflow_provider_aihandoff.cli.rollback.time.sleep", pauses.append)
        return pauses

    @pytest.mark.parametrize("answer", ["y", " Yes "])
    def test_a_roll_back_shows_what_it_would_undo_and_asks(
        self,
        airflow: Airflow,
        on_ledger: Ledger,
        target: Target,
        done: Job,
        answer: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def say(question: str) -> str:
            shown = capsys.readouterr().out
            assert shown.index("undo:announce") < shown.index("undo:publish")
            assert "/publish/publish-1" in shown
            assert target.received == []
            return answer

        monkeypatch.setattr("builtins.input", say)
        assert "rolled back." in airflow("rollback", done.job_id, "--reason", "wrong product")
        assert [request.path for request in target.received] == ["/announce/announce-1", "/publish/publish-1"]
        record = on_ledger.record(done.job_id)
        assert record.job.state is JobState.ROLLED_BACK
        started = next(event for event in record.events if event.event == "roll back started")
        assert (started.actor, started.reason) == ("user:cli:carol", "wrong product")

    @pytest.mark.parametrize("answer", ["", "n", EOFError()])
    def test_a_roll_back_without_a_yes_undoes_nothing(
        self,
        airflow: Airflow,
        on_ledger: Ledger,
        target: Target,
        done: Job,
        answer: str | EOFError,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def say(question: str) -> str:
            if isinstance(answer, EOFError):
                raise answer
            return answer

        monkeypatch.setattr("builtins.input", say)
        with pytest.raises(SystemExit, match="Nothing was undone"):
            airflow("rollback", done.job_id, "--reason", "wrong product")
        assert (on_ledger.job(done.job_id), target.received) == (done, [])

    def test_a_roll_back_can_be_run_again(self, airflow: Airflow, target: Target, done: Job) -> None:
        for said in ("rolled back.", "already rolled back (2 of 2 effects undone)."):
            assert said in airflow("rollback", done.job_id, "--reason", "wrong product", "--yes")
        assert len(target.received) == 2

    def test_a_roll_back_waits_for_short_pauses(
        self, airflow: Airflow, on_ledger: Ledger, target: Target, done: Job, slept: list[float]
    ) -> None:
        target.answers = [Answer(429, headers={"Retry-After": "7"}), Answer(429, headers={"Retry-After": "9"})]
        airflow("rollback", done.job_id, "--reason", "wrong product", "--yes")
        assert slept == [7.0, 9.0]
        assert on_ledger.job(done.job_id).state is JobState.ROLLED_BACK

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            (Answer(429, headers={"Retry-After": "120"}), "Run this command again in 120 s"),
            (DROP, f"{PROGRAM} effects resolve"),
            (Answer(403), "answered 403"),
            (Answer(429), "answered 429"),
        ],
    )
    def test_a_roll_back_that_cannot_continue_exits_and_can_be_run_again(
        self,
        airflow: Airflow,
        on_ledger: Ledger,
        target: Target,
        done: Job,
        slept: list[float],
        answer: Answer,
        said: str,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        target.answers = [Answer(204), answer]
        with pytest.raises(SystemExit) as ended:
            airflow("rollback", done.job_id, "--reason", "wrong product", "--yes")
        assert ended.value.code == 3
        assert said in capsys.readouterr().err
        assert slept == []
        undo = on_ledger.record(done.job_id).undos[1]
        if answer is DROP:
            assert "rollback" in airflow("effects", "resolve", undo.effect_id, "--not-applied", "--reason", "looked")
        again = airflow("rollback", done.job_id, "--reason", "wrong product", "--yes")
        assert "Left to undo" in again
        assert "undo:announce" not in again
        assert [request.path for request in target.received[2:]] == ["/publish/publish-1"]

    def test_a_roll_back_waits_for_the_claim_of_another_attempt(
        self,
        airflow: Airflow,
        on_ledger: Ledger,
        target: Target,
        done: Job,
        slept: list[float],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        undo = on_ledger.roll_backs.start(done.job_id, actor=TEST, reason="wrong product")[0]
        on_ledger.effects.claim(done.job_id, undo.as_plan, lease=2 * LEASE, actor=TEST)
        with pytest.raises(SystemExit) as ended:
            airflow("rollback", done.job_id, "--reason", "wrong product", "--yes")
        assert ended.value.code == 3
        assert "may be sending it right now" in capsys.readouterr().err
        assert target.received == []

    def test_an_effect_without_an_undo_is_named_before_the_roll_back_starts(
        self, airflow: Airflow, on_ledger: Ledger, target: Target
    ) -> None:
        job = completed(on_ledger, plan_of(target, "publish"), plan_of(target, "mail", undo={}))
        with pytest.raises(SystemExit, match="'mail' declares no undo"):
            airflow("rollback", job.job_id, "--reason", "wrong product", "--yes")
        assert (on_ledger.job(job.job_id), target.received) == (job, [])
        with pytest.raises(SystemExit, match="no effect 'male'"):
            airflow("rollback", job.job_id, "--reason", "wrong product", "--yes", "--leave", "male")
        airflow("rollback", job.job_id, "--reason", "wrong product", "--yes", "--leave", "mail")
        assert [request.path for request in target.received] == ["/publish/publish-1"]


class TestPreviewClear:
    def preview(self, airflow: Airflow, run_id: str = OWNER.run_id) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads(airflow("preview-clear", OWNER.dag_id, run_id, "-o", "json"))
        return rows

    def test_the_preview_says_what_would_be_paid_and_written(self, airflow: Airflow, on_ledger: Ledger) -> None:
        plans = [effect_plan("publish"), effect_plan("announce"), effect_plan("mail")]
        job = approved(on_ledger, *plans)
        confirm(on_ledger, job, plans[0])
        lose(on_ledger, job, plans[1])
        before = on_ledger.record(job.job_id)
        shown = airflow("preview-clear", OWNER.dag_id, OWNER.run_id)
        assert "1 applied, 1 unknown, 1 would run" in shown
        assert "1 job: nothing is paid; effects: 1 applied, 1 unknown, 1 would run." in shown
        assert self.preview(airflow) == [
            {
                "job_id": job.job_id,
                "job_type": "publishing",
                "job_key": "post:kettle",
                "state": "applying",
                "next": "attach",
                "why": "the draft task attaches, nothing is paid; the approval stands",
                "effects": {"applied": 1, "unknown": 1, "would run": 1},
            }
        ]
        assert on_ledger.record(job.job_id) == before

    def test_the_preview_includes_a_job_that_another_run_has_taken_over(
        self, airflow: Airflow, on_ledger: Ledger
    ) -> None:
        spec = job_spec()
        job = draft(on_ledger, spec)
        on_ledger.submission.open(replace(spec, owner=replace(OWNER, run_id="manual__2")))
        draft(on_ledger, job_spec(job_key="another", owner=replace(OWNER, dag_id="another")), response_id="resp_2")
        draft(on_ledger, job_spec(job_key="longer", owner=replace(OWNER, run_id="manual__10")), response_id="resp_3")
        for run_id in ("manual__1", "manual__2"):
            assert [row["job_id"] for row in self.preview(airflow, run_id)] == [job.job_id]

    def test_the_preview_says_when_no_more_revisions_are_allowed(self, airflow: Airflow, on_ledger: Ledger) -> None:
        for number in range(2):
            revision = submit(on_ledger, job_spec(max_revisions=2), f"resp_{number}")
            on_ledger.outputs.fail(
                revision.job_id,
                revision.number,
                actor=TEST,
                reason="no output",
                error={"kind": "x"},
                status=ResponseStatus.FAILED,
            )
            assert [row["next"] for row in self.preview(airflow)] == [("ask the model", "refuse")[number]]

    def test_the_preview_of_a_run_without_jobs_says_so(self, airflow: Airflow, on_ledger: Ledger) -> None:
        assert "no jobs of run nowhere" in airflow("preview-clear", OWNER.dag_id, "nowhere")
        assert self.preview(airflow, "nowhere") == []


def test_jobs_of_a_filter_are_cancelled_after_their_number_was_typed(
    airflow: Airflow, on_ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [ask(on_ledger, draft(on_ledger, job_spec(job_key=key), response_id=f"resp_{key}")) for key in ("a", "b")]
    options = (
        "jobs",
        "cancel",
        "--state",
        "review",
        "--type",
        "publishing",
        "--reason",
        "a wrong prompt",
        "-o",
        "json",
    )
    shown = json.loads(airflow(*options, "--dry-run"))
    assert [(row["job_key"], row["refused"]) for row in shown] == [("b", False), ("a", False)]
    monkeypatch.setattr("builtins.input", lambda text: "3")
    with pytest.raises(SystemExit, match="confirmed 3 jobs"):
        airflow(*options)
    with pytest.raises(SystemExit, match="confirmed 1 jobs"):
        airflow(*options, "--count", 1)
    assert [on_ledger.job(job.job_id) for job in jobs] == jobs
    monkeypatch.setattr("builtins.input", lambda text: "2")
    assert airflow(*options).count('"outcome": "done"') == 2
    assert {on_ledger.job(job.job_id).state for job in jobs} == {JobState.CANCELLED}
    assert on_ledger.record(jobs[0].job_id).events[-1].actor == "user:cli:carol"
    assert airflow("jobs", "resume", 1, "-o", "json").count('"outcome": "done"') == 2


def test_unknown_effects_of_a_filter_are_resolved_together(airflow: Airflow, on_ledger: Ledger) -> None:
    effect_id = unknown_effect(on_ledger)
    options = ("jobs", "resolve", "--need", "unknown effect", "--reason", "the pages show them", "--count", 1)
    with pytest.raises(SystemExit, match="--applied or --not-applied"):
        airflow(*options)
    airflow(*options, "--not-applied")
    assert on_ledger.effects.read(effect_id).state is EffectState.PLANNED


def test_a_roll_back_of_a_filter_that_waits_says_how_to_go_on(airflow: Airflow, on_ledger: Ledger) -> None:
    with cms() as target:
        plan = plan_of(target, "a")
        confirm(on_ledger, approved(on_ledger, plan, key="a"), plan)
        target.answers = [Answer(429, headers={"Retry-After": "120"})]
        options = ("jobs", "rollback", "--type", "publishing", "--reason", "a wrong prompt", "--count", 1)
        with pytest.raises(SystemExit) as ended:
            airflow(*options)
        assert ended.value.code == 3
    assert on_ledger.bulks.progress(1).unfinished == 1


def test_a_review_is_reassigned_and_the_user_who_did_it_cannot_decide(airflow: Airflow, on_ledger: Ledger) -> None:
    job = ask(on_ledger, draft(on_ledger), rules=ReviewRules(Approvers(users=("bob",))))
    options = ("review", "reassign", job.job_id, "--reason", "on holiday")
    with pytest.raises(SystemExit, match="no one is named who may decide"):
        airflow(*options)
    with pytest.raises(SystemExit, match="1 must approve, and of those who are named then, none may"):
        airflow(*options, "--user", "cli:carol")
    assert "May decide now: dave, cli:carol, the group legal." in airflow(
        *options, "--user", "dave", "--user", "cli:carol", "--group", "legal"
    )
    shown = airflow("review", "show", job.job_id)
    assert "You have reassigned this review" in shown
    assert "by cli:carol; its author has named: bob" in shown
    assert on_ledger.record(job.job_id).events[-1].actor == "user:cli:carol"


def test_reviews_of_a_filter_are_reassigned_and_the_progress_is_said(airflow: Airflow, on_ledger: Ledger) -> None:
    jobs = [ask(on_ledger, draft(on_ledger, job_spec(job_key=key), response_id=f"resp_{key}")) for key in ("a", "b")]
    options = ("jobs", "reassign", "--type", "publishing", "--reason", "on holiday", "--count", 2)
    with pytest.raises(SystemExit, match="no one is named who may decide"):
        airflow(*options)
    airflow(*options, "--role", "editor")
    assert {str(on_ledger.job(job.job_id).reassigned) for job in jobs} != {"None"}
    (said,) = json.loads(airflow("jobs", "progress", 1, "--watch", "-o", "json"))
    assert (said["done"], said["left"], said["over"]) == (2, 0, True)


def failed_job(ledger: Ledger, key: str) -> int:
    revision = submit(ledger, job_spec(job_key=key), f"resp_{key}")
    ledger.outputs.fail(revision.job_id, 1, actor=TEST, reason="no quota", error={"kind": "failed"})
    return revision.job_id


def test_a_failed_job_leaves_the_overview_once_it_is_acknowledged(airflow: Airflow, on_ledger: Ledger) -> None:
    job_id = failed_job(on_ledger, "a")
    (row,) = json.loads(airflow("overview", "-o", "json"))
    assert row == {
        "needs a person": "failed jobs",
        "number": "1",
        "see": f"{PROGRAM} jobs list --need 'failed'",
    }
    assert "failed, and acknowledged" in airflow("acknowledge", job_id, "--reason", "the customer has left")
    assert on_ledger.record(job_id).events[-1].actor == "user:cli:carol"
    assert json.loads(airflow("overview", "-o", "json")) == []
    with pytest.raises(SystemExit, match="failed again since you saw it"):
        airflow("acknowledge", job_id, "--revision", 7, "--reason", "the customer has left")


def test_the_failed_jobs_of_a_filter_are_acknowledged_together(airflow: Airflow, on_ledger: Ledger) -> None:
    jobs = [failed_job(on_ledger, key) for key in ("a", "b")]
    options = ("jobs", "acknowledge", "--need", "failed", "--reason", "the quota was used up", "--count", 2)
    assert airflow(*options, "-o", "json").count('"outcome": "done"') == 2
    assert all(on_ledger.job(job_id).acknowledged_at is not None for job_id in jobs)
