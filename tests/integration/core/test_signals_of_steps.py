"""What the metrics and the log say of the steps of a job, on a real ledger: after the commit, once, without content."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal

import pytest

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.effects.apply import apply_effect
from airflow_provider_aihandoff.core.effects.target import Applied, CannotTell
from airflow_provider_aihandoff.core.errors import StaleBulkDecision
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.jobs.needs import needs_of
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.reconcile.gauges import send_gauges
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import JobEvent, ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from tests.factories import LEASE, TEST, approve, ask, draft, job_spec, submit
from tests.integration.core.effects.effects import ACTOR, approved, call, function
from tests.recorder import Recorder, recording


@pytest.fixture
def recorded() -> Iterator[Recorder]:
    with recording() as recorder:
        yield recorder


def steps(recorded: Recorder) -> Counter[str]:
    return Counter(labels["step"] for labels, _ in recorded.of(signals.STEPS))


def finish(ledger: Ledger) -> None:
    """A job from its request to its only write."""
    revision = submit(ledger, job_spec(job_key="secret-key"))
    usage = {"input_tokens": 12, "output_tokens": 30}
    output = Output(ResponseStatus.COMPLETED, "A secret kettle.", usage=usage, cost_usd=Decimal("0.001234"))
    job = ledger.outputs.store(revision.job_id, revision.number, output, actor=TEST)
    plan = call("publish")
    approve(ledger, ask(ledger, job, plan))
    target = function(lambda *_: "rec-1")
    apply_effect(ledger, job.job_id, plan, target, actor=ACTOR)


def test_each_step_of_a_job_is_counted_once(ledger: Ledger, recorded: Recorder) -> None:
    finish(ledger)
    assert steps(recorded) == Counter(event.event.replace(" ", "_") for event in ledger.record(1).events)
    labels = {"job_type": "publishing", "model": "gpt-5.2"}
    assert recorded.of(signals.RESPONSES) == [({**labels, "status": "completed"}, 1)]
    assert recorded.of(signals.TOKENS) == [
        ({**labels, "direction": "input"}, 12),
        ({**labels, "direction": "output"}, 30),
    ]
    assert recorded.of(signals.COST) == [(labels, 1234)]
    assert [labels for labels, _ in recorded.of(signals.RESPONSE_TIME)] == [labels]
    assert recorded.of(signals.DECISIONS) == [({"job_type": "publishing", "verdict": "approve", "by": "user"}, 1)]
    assert [labels for labels, _ in recorded.of(signals.DECISION_TIME)] == [{"job_type": "publishing", "by": "user"}]
    assert recorded.of(signals.EFFECTS) == [
        ({"target": "function", "step": "claim"}, 1),
        ({"target": "function", "step": "confirm"}, 1),
    ]
    assert [labels for labels, _ in recorded.of(signals.EFFECT_TIME)] == [{"target": "function"}]
    assert recorded.of(signals.RETRIES) == []


def test_a_step_is_one_line_in_the_log_and_has_no_content(ledger: Ledger, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "airflow_provider_aihandoff.steps")
    finish(ledger)
    lines = [record.getMessage() for record in caplog.records if record.name == "airflow_provider_aihandoff.steps"]
    assert len(lines) == len(ledger.record(1).events)
    names = {pair for line in lines for pair in re.findall(r"(\w+)=", line)}
    assert names == {"step", "job", "revision", "effect", "attempt", "state", "event", "by"}
    assert lines[0] == "step=created job=1 revision=1 state=queued event=1 by=task"
    claimed = next(line for line in lines if "claimed" in line)
    assert re.fullmatch(
        r'step="effect claimed" job=1 revision=1 effect=publish attempt=1 state=applying event=\d+ by=other', claimed
    )
    assert not re.search("secret|kettle|alice|bob|rec-1|resp_1", "".join(lines), re.IGNORECASE)


def test_nothing_is_said_of_what_was_rolled_back(ledger: Ledger, recorded: Recorder) -> None:
    job = draft(ledger)
    recorded.sent.clear()

    def work(connection: LedgerConnection) -> None:
        history.move(connection, history.lock(connection, job.job_id), JobEvent.REMINDED, actor=TEST)
        connection.count(signals.RETRIES, what="effect")
        raise RuntimeError("before the commit")

    with pytest.raises(RuntimeError):
        ledger._database.transact(work)
    assert recorded.sent == []
    ledger._database.transact(lambda connection: connection.execute("SELECT 1"))
    assert recorded.sent == []


def test_nothing_is_said_of_a_bulk_decision_that_was_refused(ledger: Ledger, recorded: Recorder) -> None:
    job = ask(ledger, draft(ledger))
    recorded.sent.clear()
    assert job.review_digest is not None
    with pytest.raises(StaleBulkDecision):
        ledger.reviews.decide_many([(1, job.review_digest), (99, "of another")], "approve", person=Person("bob"))
    assert recorded.sent == []


def test_a_lost_request_and_its_second_try_are_counted(ledger: Ledger, recorded: Recorder) -> None:
    job = ledger.submission.open(job_spec()).job
    first = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
    assert first.token is not None
    ledger.submission.submission_lost(job.job_id, 1, token=first.token, actor=TEST, reason="a time-out")
    ledger.submission.resolve(job.job_id, send_again=True, seen=1, actor=TEST, why="not in OpenAI's logs")
    assert ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).token is not None
    labels = {"job_type": "publishing", "model": "gpt-5.2"}
    assert recorded.of(signals.UNKNOWN_SUBMISSIONS) == [(labels, 1)]
    assert recorded.of(signals.RETRIES) == [({"what": "request"}, 1)]


@pytest.mark.parametrize("known", [ResponseStatus.RUNNING, ResponseStatus.COMPLETED])
def test_a_response_is_counted_once_also_where_its_cost_comes_after_it_was_given_up(
    ledger: Ledger, recorded: Recorder, known: ResponseStatus
) -> None:
    revision = submit(ledger, job_spec())
    error = {"kind": "deadline"}
    ledger.outputs.fail(revision.job_id, 1, actor=TEST, reason="the deadline passed", error=error, status=known)
    late = Output(ResponseStatus.COMPLETED, usage={"input_tokens": 5}, cost_usd=None)
    for _ in range(2):
        ledger.outputs.store(revision.job_id, 1, late, actor=TEST)
    labels = {"job_type": "publishing", "model": "gpt-5.2"}
    assert recorded.of(signals.RESPONSES) == [({**labels, "status": "completed"}, 1)]
    assert recorded.of(signals.TOKENS) == [({**labels, "direction": "input"}, 5)]
    assert recorded.of(signals.UNPRICED) == [(labels, 1)]


def test_a_claim_that_expired_and_what_its_probe_says_are_counted(ledger: Ledger, recorded: Recorder) -> None:
    plan = call("publish")
    job = approved(ledger, plan)
    ledger.effects.claim(job.job_id, plan, lease=timedelta(0), actor=ACTOR)
    target = function(lambda *_: "rec-1", lambda *_: CannotTell("no index"))
    apply_effect(ledger, job.job_id, plan, target, actor=ACTOR)
    assert recorded.of(signals.CLAIMS_EXPIRED) == [({"target": "function"}, 1)]
    assert recorded.of(signals.PROBES) == [({"target": "function", "outcome": "cannot_tell"}, 1)]


@pytest.mark.parametrize(("found", "proves"), [(Applied("rec-1"), "yes"), (CannotTell("no index"), "no")])
def test_a_probe_that_does_not_see_a_confirmed_write_is_counted(
    ledger: Ledger, recorded: Recorder, found: Applied | CannotTell, proves: str
) -> None:
    plan = call("publish")
    job = approved(ledger, plan)
    apply_effect(ledger, job.job_id, plan, function(lambda *_: "rec-1", lambda *_: found), actor=ACTOR)
    labels = {"target": "function", "moment": "after", "proves": proves}
    assert recorded.of(signals.PROBE_TRIALS) == [(labels, 1)]


class TestGauges:
    def sent(self, ledger: Ledger, recorded: Recorder, conn_ids: list[str] | None = None) -> None:
        recorded.sent.clear()
        names = ["openai_default"] if conn_ids is None else conn_ids
        send_gauges(ledger.gauges.read(names), needs_of(ledger, None, silence=120), names)

    def test_what_waits_is_sent_and_is_0_when_it_no_longer_does(self, ledger: Ledger, recorded: Recorder) -> None:
        job = ask(ledger, draft(ledger), deadline=timedelta(0))
        self.sent(ledger, recorded)
        jobs = {labels["state"]: value for labels, value in recorded.of(signals.JOBS)}
        assert jobs == dict.fromkeys(jobs, 0) | {"review": 1}
        assert len(jobs) > 5
        assert recorded.of(signals.OVERDUE_REVIEWS) == [({}, 1)]
        oldest = {labels["cause"]: value for labels, value in recorded.of(signals.OLDEST_WAIT)}
        assert oldest.pop("decision") > 0
        assert oldest == dict.fromkeys(oldest, 0)

        ledger.cancels.cancel(job.job_id, actor=TEST, reason="a test")
        self.sent(ledger, recorded)
        assert {value for _, value in recorded.of(signals.JOBS)} == {0}
        assert recorded.of(signals.OVERDUE_REVIEWS) == [({}, 0)]
        assert {value for _, value in recorded.of(signals.OLDEST_WAIT)} == {0}

    def test_an_unknown_effect_and_an_expired_claim_are_sent(self, ledger: Ledger, recorded: Recorder) -> None:
        plan = call("publish")
        job = approved(ledger, plan)
        claim = ledger.effects.claim(job.job_id, plan, lease=timedelta(0), actor=ACTOR)
        self.sent(ledger, recorded)
        assert recorded.of(signals.STALE_CLAIMS) == [({}, 1)]
        ledger.effects.lose(claim, error="a time-out", actor=ACTOR)
        self.sent(ledger, recorded)
        assert recorded.of(signals.STALE_CLAIMS) == [({}, 0)]
        assert recorded.of(signals.UNKNOWN_EFFECTS) == [({}, 1)]

    def test_the_age_of_the_newest_webhook_is_sent_while_a_response_runs(
        self, ledger: Ledger, recorded: Recorder
    ) -> None:
        submit(ledger, job_spec())
        past = "UPDATE aihandoff.revisions SET deadline = submitted_at"
        ledger._database.transact(lambda connection: connection.execute(past) and None)
        self.sent(ledger, recorded, ["openai_default", "idle"])
        (used, age), idle = recorded.of(signals.WEBHOOK_AGE)
        assert (used, idle) == ({"conn_id": "openai_default"}, ({"conn_id": "idle"}, 0.0))
        assert age > 0
        assert recorded.of(signals.OVERDUE_RESPONSES) == [({}, 1)]

    def test_a_failed_job_is_sent_until_someone_has_acknowledged_it(self, ledger: Ledger, recorded: Recorder) -> None:
        revision = submit(ledger, job_spec())
        ledger.outputs.fail(revision.job_id, 1, actor=TEST, reason="refused", error={"kind": "refused"})
        self.sent(ledger, recorded)
        assert recorded.of(signals.FAILED_JOBS) == [({}, 1)]
        ledger.acknowledgements.acknowledge(revision.job_id, revision=1, actor=Actor.user("bob"), reason="a test")
        self.sent(ledger, recorded)
        assert recorded.of(signals.FAILED_JOBS) == [({}, 0)]

    def test_a_connection_whose_webhooks_fell_silent_is_sent(self, ledger: Ledger, recorded: Recorder) -> None:
        draft(ledger)
        event = {"type": "response.completed", "data": {"id": "resp_1"}}
        ledger.inbox.receive(Delivery("wh_1", "openai_default", "response.completed", "resp_1", event))
        self.sent(ledger, recorded, ["openai_default", "idle"])
        silent = {labels["conn_id"]: value for labels, value in recorded.of(signals.SILENT)}
        assert silent == {"openai_default": 0, "idle": 0}
        past = "UPDATE aihandoff.inbox SET received_at = received_at - interval '1 h'"
        ledger._database.transact(lambda connection: connection.execute(past) and None)
        self.sent(ledger, recorded, ["openai_default", "idle"])
        silent = {labels["conn_id"]: value for labels, value in recorded.of(signals.SILENT)}
        assert silent == {"openai_default": 1, "idle": 0}

    def test_a_lost_request_and_each_gauge_are_sent(self, ledger: Ledger, recorded: Recorder) -> None:
        job = ledger.submission.open(job_spec()).job
        intent = ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
        assert intent.token is not None
        ledger.submission.submission_lost(job.job_id, 1, token=intent.token, actor=TEST, reason="a time-out")
        self.sent(ledger, recorded)
        assert recorded.of(signals.LOST_REQUESTS) == [({}, 1)]
        gauges = {metric.name for metric in signals.METRICS if metric.kind is signals.Kind.GAUGE}
        # That of the bill is sent when it is compared: tests/integration/operators/test_reconcile.py.
        assert {name for name, _, _ in recorded.sent} == gauges - {signals.BILL_DIFFERENCE.name}
