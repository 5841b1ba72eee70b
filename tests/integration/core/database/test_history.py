"""The history of a job: complete, chained, and proof against a change afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_aihandoff.core import limits
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.errors import HandoffError, IllegalTransition
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.generation.submission_store import Opened
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, Event, Job, JobHead
from airflow_provider_aihandoff.core.review.ask_first import FirstAsk
from airflow_provider_aihandoff.core.review.rules import Person, ReviewRules
from airflow_provider_aihandoff.core.sets.written_together import WriteWish
from airflow_provider_aihandoff.core.states import JOB_TRANSITIONS, JobEvent, JobState, ResponseStatus, next_job_state
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, in_an_hour, job_spec, submit
from tests.integration.core.webhooks.inboxes import deliver
from tests.waiting import until


@pytest.fixture
def job(ledger: Ledger) -> Job:
    """A completed job, with a history of every kind of step."""
    job = approve(ledger, ask(ledger, draft(ledger)))
    claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="post-1", result={"status": 201}, actor=TEST)
    return ledger.job(job.job_id)


def tamper(conninfo: dict[str, Any], statement: str) -> None:
    """Change the history, as only its owner in the database can."""
    with psycopg.connect(**conninfo) as connection:
        connection.execute("ALTER TABLE aihandoff.events DISABLE TRIGGER USER")
        connection.execute(statement)
        connection.execute("ALTER TABLE aihandoff.events ENABLE TRIGGER USER")


def append(conninfo: dict[str, Any], line: Event) -> None:
    """Write a line past the ledger."""
    values = {**vars(line), "detail": history.as_json(line.detail)}
    names = ", ".join(f"%({name})s" for name in values)
    with psycopg.connect(**conninfo) as connection:
        connection.execute(f"INSERT INTO aihandoff.events ({', '.join(values)}) VALUES ({names})", values)  # noqa: S608


@pytest.mark.parametrize("change", ["event_seq = event_seq + 1", "state = 'queued'"])
def test_lines_are_appended_to_several_jobs_or_where_one_has_moved_on_to_none(
    ledger: Ledger, conninfo: dict[str, Any], change: str
) -> None:
    heads = []
    for number in range(3):
        job_id = submit(ledger, job_spec(job_key=f"note:{number}"), f"resp_{number}").job_id
        heads.append(JobHead(**{field.name: getattr(ledger.job(job_id), field.name) for field in fields(JobHead)}))
    steps = [history.Step(head, JobEvent.RESPONSE_ENDED, TEST, {"of": head.job_key}, in_an_hour()) for head in heads]

    def append_all() -> None:
        ledger._database.transact(lambda connection: history.append_each(connection, steps))

    def written() -> int:
        return sum(line.event == "response ended" for head in heads for line in ledger.record(head.job_id).events)

    with psycopg.connect(**conninfo) as connection:
        connection.execute(f"UPDATE aihandoff.jobs SET {change} WHERE job_id = {heads[1].job_id}".encode())  # noqa: S608
    with pytest.raises(IllegalTransition, match="another process"):
        append_all()
    assert written() == 0
    with psycopg.connect(**conninfo) as connection:
        columns = heads[1].state.value, heads[1].event_seq, heads[1].job_id
        connection.execute("UPDATE aihandoff.jobs SET state = %s, event_seq = %s WHERE job_id = %s", columns)
    append_all()
    assert written() == 3
    assert [broken_at(ledger, ledger.job(head.job_id)) for head in heads] == [None] * 3
    assert ledger.record(heads[0].job_id).events[-1].detail == {"of": "note:0"}


@pytest.mark.parametrize("change", ["event_seq = event_seq + 1", "state = 'queued'"])
def test_several_jobs_are_moved_or_where_one_has_moved_on_none(
    ledger: Ledger, conninfo: dict[str, Any], change: str
) -> None:
    specs = [job_spec(job_key=f"note:{number}") for number in range(3)]
    jobs = [ledger.job(submit(ledger, spec, f"resp_{spec.job_key}").job_id) for spec in specs]
    moves = [history.Move(job, JobEvent.FAILED, {"of": job.job_key}, f"why {job.job_key}") for job in jobs]

    def move_all() -> list[Job]:
        return ledger._database.transact(lambda connection: history.move_many(connection, moves, actor=TEST))

    with psycopg.connect(**conninfo) as connection:
        connection.execute(f"UPDATE aihandoff.jobs SET {change} WHERE job_id = {jobs[1].job_id}".encode())  # noqa: S608
    with pytest.raises(IllegalTransition, match="another process"):
        move_all()
    assert [ledger.record(job.job_id).events[-1].event for job in jobs] == ["submitted"] * 3
    with psycopg.connect(**conninfo) as connection:
        columns = jobs[1].state.value, jobs[1].event_seq, jobs[1].job_id
        connection.execute("UPDATE aihandoff.jobs SET state = %s, event_seq = %s WHERE job_id = %s", columns)
    assert move_all() == [ledger.job(job.job_id) for job in jobs]
    assert [broken_at(ledger, ledger.job(job.job_id)) for job in jobs] == [None] * 3
    line = ledger.record(jobs[2].job_id).events[-1]
    assert (line.detail, line.reason, line.by) == ({"of": "note:2"}, "why note:2", TEST)


def test_no_line_that_would_move_a_job_is_appended_to_several(ledger: Ledger, job: Job) -> None:
    head = JobHead(**{field.name: getattr(job, field.name) for field in fields(JobHead)})

    def append(event: JobEvent) -> None:
        step = history.Step(head, event, TEST, {}, in_an_hour())
        ledger._database.transact(lambda connection: history.append_each(connection, [step]))

    for event in (JobEvent.ROLL_BACK_STARTED, JobEvent.RESPONSE_ENDED):
        with pytest.raises(IllegalTransition, match="not valid in the state 'completed'"):
            append(event)
    assert broken_at(ledger, job) is None


def broken_at(ledger: Ledger, job: Job) -> int | None:
    return first_break(ledger.record(job.job_id).events, ledger.job(job.job_id))


#: One for each column, of a line that a program has written.
CHANGES = {
    "actor": "actor = 'user:mallory'",
    "reason": "reason = 'because'",
    "event": "event = 'rejected'",
    "from_state": "from_state = 'queued'",
    "to_state": "to_state = 'failed'",
    "at": "at = at + interval '1 microsecond'",
    "detail": "detail = '{}'",
    "hash": "hash = repeat('0', 64)",
    "previous_hash": "previous_hash = repeat('0', 64)",
    "actor_kind": "actor_kind = 'user'",
    "actor_name": "actor_name = 'mallory'",
    "actor_user_id": "actor_user_id = '7'",
    "actor_dag_id": "actor_dag_id = 'publishing'",
    "actor_run_id": "actor_run_id = 'manual__1'",
    "actor_task_id": "actor_task_id = 'draft'",
    "actor_map_index": "actor_map_index = -1",
    "actor_try_number": "actor_try_number = 1",
    "hash_version": "hash_version = 3 - hash_version",
}


def as_version_1(ledger: Ledger, conninfo: dict[str, Any], job: Job) -> Job:
    """The job with the hashes that a release from before version 2 would have written."""
    previous = history.GENESIS
    with psycopg.connect(**conninfo) as connection:
        connection.execute("ALTER TABLE aihandoff.events DISABLE TRIGGER USER")
        for line in ledger.record(job.job_id).events:
            old = replace(line, hash_version=1, previous_hash=previous)
            previous = history.event_hash(old)
            connection.execute(
                "UPDATE aihandoff.events SET hash_version = 1, previous_hash = %s, hash = %s WHERE seq = %s",
                [old.previous_hash, previous, line.seq],
            )
        connection.execute("ALTER TABLE aihandoff.events ENABLE TRIGGER USER")
        connection.execute("UPDATE aihandoff.jobs SET event_hash = %s", [previous])
    return ledger.job(job.job_id)


class TestAppendOnly:
    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE aihandoff.events SET reason = 'another'",
            "DELETE FROM aihandoff.events",
            "TRUNCATE aihandoff.events",
        ],
    )
    def test_a_line_cannot_be_changed_or_removed(self, conninfo: dict[str, Any], job: Job, statement: str) -> None:
        with psycopg.connect(**conninfo) as connection, pytest.raises(psycopg.Error, match="append-only"):
            connection.execute(statement)

    def test_a_job_with_a_history_cannot_be_removed(self, conninfo: dict[str, Any], job: Job) -> None:
        with psycopg.connect(**conninfo) as connection, pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute("DELETE FROM aihandoff.jobs")


class TestTampering:
    def test_an_untouched_history_is_unbroken(self, ledger: Ledger, job: Job) -> None:
        assert broken_at(ledger, job) is None
        assert [event.seq for event in ledger.record(job.job_id).events] == list(range(1, job.event_seq + 1))

    @pytest.mark.parametrize("version", [1, 2])
    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_a_change_in_any_column_is_found_at_its_line(
        self, ledger: Ledger, conninfo: dict[str, Any], job: Job, version: int, change: str
    ) -> None:
        if version == 1:
            job = as_version_1(ledger, conninfo, job)
        assert broken_at(ledger, job) is None
        assert ledger.record(job.job_id).events[3].hash_version == version
        tamper(conninfo, f"UPDATE aihandoff.events SET {change} WHERE seq = 4")  # noqa: S608
        assert broken_at(ledger, job) == 4

    def test_facts_with_a_text_to_match_are_covered_too(
        self, ledger: Ledger, conninfo: dict[str, Any], job: Job
    ) -> None:
        change = "actor_kind = 'user', actor_name = 'eve (7)', actor = 'user:eve (7)'"
        before = ledger.record(job.job_id).events[3]
        tamper(conninfo, f"UPDATE aihandoff.events SET {change} WHERE seq = 4")  # noqa: S608
        forged = ledger.record(job.job_id).events[3]
        assert history._names_its_actor(forged)
        assert history.event_hash(replace(forged, actor=before.actor)) != before.hash
        assert broken_at(ledger, job) == 4

    def test_the_changes_here_are_of_every_column(self) -> None:
        assert CHANGES.keys() == {field.name for field in fields(Event)} - {"job_id", "seq"}

    @pytest.mark.parametrize("name", [name for name in CHANGES if name.startswith("actor_")])
    def test_a_fact_of_an_attempt_of_before_cannot_be_removed_or_added_unnoticed(
        self, ledger: Ledger, conninfo: dict[str, Any], job: Job, name: str
    ) -> None:
        job = as_version_1(ledger, conninfo, job)
        assert ledger.record(job.job_id).events[0].actor_kind == "task"
        value = {"actor_kind": "'user'", "actor_map_index": "-2", "actor_try_number": "2"}.get(name, "'other'")
        tamper(conninfo, f"UPDATE aihandoff.events SET {name} = {value} WHERE seq = 1")  # noqa: S608
        assert broken_at(ledger, job) == 1

    def test_a_line_that_was_removed_is_found(self, ledger: Ledger, conninfo: dict[str, Any], job: Job) -> None:
        tamper(conninfo, "DELETE FROM aihandoff.events WHERE seq = 3")
        assert broken_at(ledger, job) == 3

    def test_the_last_lines_cannot_be_removed_unnoticed(
        self, ledger: Ledger, conninfo: dict[str, Any], job: Job
    ) -> None:
        tamper(conninfo, f"DELETE FROM aihandoff.events WHERE seq >= {job.event_seq - 1}")  # noqa: S608
        assert broken_at(ledger, job) == job.event_seq - 1

    def test_a_line_cannot_be_added_unnoticed(self, ledger: Ledger, conninfo: dict[str, Any], job: Job) -> None:
        forged = history._next_line(
            job, JobEvent.ATTACHED, "completed", job.updated_at, Actor.user("mallory"), None, {}
        )
        append(conninfo, forged)
        assert broken_at(ledger, job) == job.event_seq + 1

    def test_the_last_line_cannot_be_replaced_unnoticed(
        self, ledger: Ledger, conninfo: dict[str, Any], job: Job
    ) -> None:
        before = ledger.record(job.job_id).events[-2]
        tamper(conninfo, f"DELETE FROM aihandoff.events WHERE seq = {job.event_seq}")  # noqa: S608
        other = Job(**{**vars(job), "event_seq": before.seq, "event_hash": before.hash})
        forged = history._next_line(
            other, JobEvent.ALL_APPLIED, "completed", job.updated_at, Actor.user("mallory"), None, {}
        )
        append(conninfo, forged)
        assert broken_at(ledger, job) == job.event_seq


class TestMove:
    def test_a_job_that_another_process_moved_is_not_moved_again(self, ledger: Ledger) -> None:
        stale = ledger.submission.open(job_spec()).job
        ledger.submission.open(job_spec())
        with pytest.raises(HandoffError, match="another process moved the job"):
            ledger._database.transact(
                lambda connection: history.move(connection, stale, JobEvent.SUBMIT_INTENDED, actor=TEST)
            )

    def test_a_refused_event_names_job_state_and_event_and_leaves_no_line(self, ledger: Ledger, job: Job) -> None:
        with pytest.raises(HandoffError) as error:
            ledger._database.transact(lambda connection: history.move(connection, job, JobEvent.SUBMITTED, actor=TEST))
        assert str(error.value).startswith(
            f"{job.label}: the event 'submitted' is not valid in the state 'completed'. This step made no external"
        )
        assert ledger.job(job.job_id) == job

    def test_every_line_follows_the_table(self, ledger: Ledger, job: Job) -> None:
        lines = ledger.record(job.job_id).events
        for before, line in pairwise(lines):
            assert line.from_state == before.to_state
            assert JOB_TRANSITIONS[JobState(str(line.from_state)), JobEvent(line.event)] == line.to_state

    @pytest.mark.parametrize("text", ["nul \x00", "lone \ud800", "pair \ud83d\ude00", "x" * 1_000_000])
    def test_words_of_any_kind_can_be_the_reason_and_keep_the_chain(self, ledger: Ledger, text: str) -> None:
        job = ledger.submission.open(job_spec()).job
        ledger.outputs.fail(job.job_id, 1, actor=Actor.program(f"actor {text}"), reason=text, error={"text": text})
        assert broken_at(ledger, job) is None
        assert digest(ledger.revision(job.job_id, 1).error) == digest({"text": text})


class TestContent:
    @pytest.mark.parametrize(
        "text", ["nul \x00", "lone \ud800 and \udfff", "😀", "\u2028", "x" * 1_000_000, "'; DROP TABLE jobs; --", "%s"]
    )
    def test_content_is_kept_exactly(self, ledger: Ledger, text: str) -> None:
        content = {"text": text, text[:100]: 1}
        spec = job_spec(input=content, request=content, permissions=content, job_key="content")
        job = draft(ledger, spec, output=content)
        plan = EffectPlan("publish", "http", content, digest(content), shown=content, undo=content)
        job = approve(ledger, ask(ledger, job, plan))
        claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id="1", result=content, actor=TEST)
        record = ledger.record(job.job_id)
        effect = record.effects[0]
        kept = [record.job.input, record.job.permissions, record.revision.request, record.revision.output]
        kept += [effect.plan, effect.undo, effect.result]
        assert kept == [content] * 7
        assert digest(record.revision.output) == record.revision.output_digest
        assert first_break(record.events, record.job) is None

    @pytest.mark.parametrize("output", [None, "", 0, False, [], {}, [1, {"a": None}], 1.5])
    def test_every_json_value_can_be_an_output(self, ledger: Ledger, output: Any) -> None:
        job = draft(ledger, output=output)
        assert (job.state, ledger.revision(job.job_id, 1).output) == (JobState.REVIEW, output)


def undoable(name: str) -> EffectPlan:
    """A plan that declares an undo."""
    undo = {"kind": "http", "plan": {"method": "DELETE", "url": f"http://cms/{name}/{{external_id}}"}}
    return replace(effect_plan(name), undo=undo)


class Steps:
    """Every step of the protocols on one job, in any order and at any time."""

    def __init__(self, ledger: Ledger, key: str) -> None:
        self.ledger = ledger
        self.spec = job_spec(job_key=key, max_revisions=50)
        self.job = ledger.submission.open(self.spec).job
        self.tokens: list[Any] = []
        self.claims: list[Any] = []
        self.responses = 0

    def reopen(self) -> None:
        self.ledger.submission.open(self.spec)

    def change_input(self) -> None:
        self.responses += 1
        self.ledger.submission.open(job_spec(job_key=self.spec.job_key, input={"n": self.responses}, max_revisions=50))

    def intend(self) -> None:
        number = self.ledger.job(self.job.job_id).revision
        intent = self.ledger.submission.intend(self.job.job_id, number, actor=TEST, lease=LEASE * 0)
        self.tokens.append((number, intent.token))

    def respond(self) -> None:
        self.responses += 1
        number, token = self.tokens[-1]
        response_id = f"{self.spec.job_key}-{self.responses}"
        self.ledger.submission.submitted(
            self.job.job_id, number, token=token, response_id=response_id, status=ResponseStatus.QUEUED, actor=TEST
        )

    def lose(self) -> None:
        number, token = self.tokens[-1]
        self.ledger.submission.submission_lost(self.job.job_id, number, token=token, actor=TEST, reason="?")

    def refuse(self) -> None:
        number, token = self.tokens[-1]
        self.ledger.submission.not_submitted(self.job.job_id, number, token=token, actor=TEST, reason="429")

    def store(self) -> None:
        number = self.ledger.job(self.job.job_id).revision
        usage = {"input_tokens": 1}
        self.ledger.outputs.store(
            self.job.job_id, number, Output(ResponseStatus.COMPLETED, "x", usage=usage), actor=TEST
        )

    def store_first(self) -> None:
        self.ledger.outputs.store(
            self.job.job_id, 1, Output(ResponseStatus.FAILED, error={"kind": "failed"}), actor=TEST
        )

    def fail(self) -> None:
        number = self.ledger.job(self.job.job_id).revision
        self.ledger.outputs.fail(self.job.job_id, number, actor=TEST, reason="?", error={"kind": "failed"})

    def ask(self) -> None:
        ask(self.ledger, self.job, undoable("a"), undoable("b"))

    def ask_otherwise(self) -> None:
        ask(self.ledger, self.job, effect_plan("a", url="other"))

    def approve(self) -> None:
        approve(self.ledger, self.ledger.job(self.job.job_id))

    def reject(self) -> None:
        digest = str(self.ledger.job(self.job.job_id).review_digest)
        self.ledger.reviews.decide(self.job.job_id, "reject", digest=digest, person=Person("bob"))

    def claim(self) -> None:
        name = "ab"[len(self.claims) % 2]
        where: dict[str, Any] = {"lease": LEASE * 0, "resends": 1_000_000, "actor": TEST}
        self.claims.append(self.ledger.effects.claim(self.job.job_id, undoable(name), **where))

    def claim_once(self) -> None:
        self.claims.append(self.ledger.effects.claim(self.job.job_id, undoable("a"), lease=LEASE, actor=TEST))

    def confirm(self) -> None:
        self.ledger.effects.confirm(self.claims[-1], external_id="1", result=None, actor=TEST)

    def release(self) -> None:
        self.ledger.effects.release(self.claims[-1], error="503", actor=TEST)

    def refuse_effect(self) -> None:
        self.ledger.effects.refuse(self.claims[-1], error="404", actor=TEST)

    def resolve(self) -> None:
        effect = self.claims[-1].effect
        self.ledger.effects.resolve(
            effect.effect_id, applied=False, external_id=None, actor=Actor.program("bob"), why="?"
        )

    def lose_effect(self) -> None:
        self.ledger.effects.lose(self.claims[-1], error="time-out", actor=TEST)

    def give_up(self) -> None:
        self.ledger.effects.give_up(self.claims[-1].effect.effect_id, actor=TEST)

    def cancel(self) -> None:
        self.ledger.cancels.cancel(self.job.job_id, actor=TEST, reason="no")

    def roll_back(self) -> None:
        self.ledger.roll_backs.start(self.job.job_id, actor=TEST, reason="no")

    def undo(self) -> None:
        for undo in self.ledger.record(self.job.job_id).undos:
            where: dict[str, Any] = {"lease": LEASE * 0, "resends": 1_000_000, "actor": TEST}
            self.claims.append(self.ledger.effects.claim(self.job.job_id, undo.as_plan, **where))

    def regenerate(self) -> None:
        owner = replace(OWNER, run_id=f"manual__{len(self.tokens) + len(self.claims)}")
        self.ledger.submission.open(replace(self.spec, regenerate=True, owner=owner))

    def webhook(self) -> None:
        deliver(self.ledger, f"wh-{self.spec.job_key}-{len(self.claims)}", f"{self.spec.job_key}-{self.responses}")


STEPS = [name for name in vars(Steps) if not name.startswith("_")]
#: Random steps alone seldom get past the first few states.
STARTS = [
    [],
    ["intend", "respond"],
    ["intend", "respond", "store", "ask"],
    ["intend", "respond", "store", "ask", "approve", "claim_once"],
    ["intend", "respond", "store", "ask", "approve", "claim", "confirm", "claim", "confirm", "roll_back"],
]


class TestRandomSequences:
    @given(st.sampled_from(STARTS), st.lists(st.sampled_from(STEPS), max_size=25))
    @settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
    def test_whatever_comes_in_whatever_order_the_chain_is_unbroken_and_the_job_is_whole(
        self, ledger: Ledger, start: list[str], steps: list[str]
    ) -> None:
        walk = Steps(ledger, f"walk-{len(ledger.jobs(limit=100_000))}")
        for name in start + steps:
            try:
                getattr(walk, name)()
            except (HandoffError, IndexError, AssertionError):
                continue  # refused, or there was no token or digest to come with
        record = ledger.record(walk.job.job_id)
        assert first_break(record.events, record.job) is None
        assert record.events[-1].to_state == record.job.state
        applied = [event.detail["effect"] for event in record.events if event.event == "effect applied"]
        rolled_back = any(event.event == "roll back started" for event in record.events)
        assert len(applied) == len(set(applied)) or rolled_back
        for event in record.events:
            assert event.from_state is None or next_job_state(JobState(event.from_state), JobEvent(event.event))
        keys = [effect.effect_key for effect in record.effects]
        assert len(keys) == len(set(keys))
        assert all(revision.unknown_submissions <= 2 for revision in record.revisions)
        if record.job.state is JobState.COMPLETED:
            assert {effect.state.value for effect in record.current_effects} == {"applied"}
            assert record.job.decision_id is not None


def test_a_deadline_of_a_review_and_an_owner_are_read_back_as_they_were_written(ledger: Ledger) -> None:
    deadline = in_an_hour()
    job = draft(ledger)
    asked = ledger.reviews.ask(job.job_id, [], policy=None, deadline=deadline, actor=TEST)
    assert (ledger.job(job.job_id).review_deadline, ledger.job(job.job_id).owner) == (deadline, OWNER)
    assert ledger.job(job.job_id) == asked


def to_open_two(ledger: Ledger) -> Callable[[], list[Any]]:
    specs = [job_spec(job_key=f"post:{number}", tags=["a", "b,c"]) for number in range(2)]
    return lambda: [opened.job for opened in ledger.submission.open_many(specs) if isinstance(opened, Opened)]


def to_ask_about_two(ledger: Ledger) -> Callable[[], list[Any]]:
    asks = [FirstAsk(job.job_id, job.revision, [effect_plan()], ReviewRules()) for job in two_drafts(ledger)]
    return lambda: ledger.reviews.ask_first(asks, policy=None, deadline=LEASE, actor=TEST, on_timeout=None)


def to_claim_two(ledger: Ledger) -> Callable[[], list[Any]]:
    jobs = [approve(ledger, ask(ledger, job)) for job in two_drafts(ledger)]
    wishes = [WriteWish(job.job_id, effect_plan(), uuid4(), LEASE) for job in jobs]
    return lambda: ledger.written_together.claim(wishes, actor=TEST)


def two_drafts(ledger: Ledger) -> list[Job]:
    return [draft(ledger, job_spec(job_key=f"post:{number}"), response_id=f"resp_{number}") for number in range(2)]


@pytest.mark.parametrize("step", [to_open_two, to_ask_about_two, to_claim_two])
def test_a_process_that_is_paused_after_a_statement_about_many_jobs_keeps_no_locks(
    ledger: Ledger,
    conninfo: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    step: Callable[[Ledger], Callable[[], list[Any]]],
) -> None:
    take = step(ledger)
    monkeypatch.setattr(limits, "IDLE_LIMIT", 0.5)
    paused = list[int]()

    def pausing(name: str) -> None:
        goes_on = getattr(history, name)

        def pause(connection: LedgerConnection, *values: Any) -> Any:
            if not paused:
                paused.append(connection.info.backend_pid)
                with psycopg.connect(**conninfo, autocommit=True) as other:
                    there = "SELECT FROM pg_stat_activity WHERE pid = %s"
                    until(lambda: other.execute(there, paused).fetchone() is None, 10)
            return goes_on(connection, *values)

        monkeypatch.setattr(history, name, pause)

    pausing("now")
    pausing("_store")
    done = take()
    assert len(done) == 2
    assert None not in done
    assert paused, "the server ended the first one, and the step was done again"
