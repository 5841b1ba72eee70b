"""The guards that only show where two attempts meet, or a job is stopped or rolled back while one is under way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core import crashpoints
from airflow_provider_aihandoff.core.database.history import event_hash, first_break
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects import apply as applying
from airflow_provider_aihandoff.core.effects.apply import CLAIM_MARGIN, Wait, apply_effect
from airflow_provider_aihandoff.core.effects.effect_store import Claim
from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied, Target
from airflow_provider_aihandoff.core.errors import (
    CannotRollBack,
    ClaimLost,
    EffectNotNow,
    EffectOutOfOrder,
    EffectRefused,
    EffectUnknown,
    JobCancelled,
    JobRolledBack,
    PlanNotApproved,
)
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, ActorKind, Effect, EffectPlan, Job
from airflow_provider_aihandoff.core.states import EffectState, JobState
from tests.factories import LEASE, TEST, approve, ask, draft
from tests.integration.core.puppets import Puppet, reach

OVER = timedelta(0)


def undoable(name: str) -> EffectPlan:
    request = {"method": "PUT", "url": f"http://cms/{name}"}
    undo = {"kind": "http", "plan": {"method": "DELETE", "url": f"http://cms/{name}"}}
    return EffectPlan(name, "http", request, digest([request, undo]), request, undo)


@pytest.fixture
def job(ledger: Ledger) -> Job:
    """A job whose two writes are approved, in any order."""
    return approve(ledger, ask(ledger, draft(ledger), undoable("store"), undoable("post")))


@pytest.fixture
def completed(ledger: Ledger, job: Job) -> Job:
    """The same, applied."""
    for name in ("store", "post"):
        confirm(ledger, claim(ledger, job, undoable(name)))
    return ledger.job(job.job_id)


def claim(ledger: Ledger, job: Job, plan: EffectPlan, **how: Any) -> Claim:
    return ledger.effects.claim(job.job_id, plan, actor=TEST, **{"lease": LEASE, **how})


def confirm(ledger: Ledger, claimed: Claim) -> Effect:
    return ledger.effects.confirm(claimed, external_id="record-1", result=None, actor=TEST)


def cancel(ledger: Ledger, job: Job) -> Job:
    return ledger.cancels.cancel(job.job_id, actor=Actor.user("eve"), reason="enough").job


def roll_back(ledger: Ledger, job: Job) -> list[Effect]:
    return ledger.roll_backs.start(job.job_id, actor=Actor.user("eve"), reason="wrong")


def state(ledger: Ledger, job: Job) -> JobState:
    return ledger.job(job.job_id).state


@dataclass
class Shelf(Target):
    """A target that counts what is really written, and answers as the test says."""

    kind = "shelf"

    written: Counter[str] = field(default_factory=Counter)
    answers: list[Exception] = field(default_factory=list)
    visible: bool = True
    idempotent: bool = False
    resends: int = 3
    can_probe: bool = False
    call_seconds: float = 20.0
    grace_seconds: float = 60.0

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        if self.answers:
            raise self.answers.pop(0)
        if not (self.idempotent and self.written[key]):
            self.written[key] += 1
        return Applied("record-1")

    def probe(self, plan: dict[str, Any], key: str) -> Applied | NotApplied | None:
        return Applied("record-1") if self.visible and self.written[key] else NotApplied()


def send(ledger: Ledger, job: Job, shelf: Shelf) -> Effect | Wait:
    return apply_effect(ledger, job.job_id, undoable("post"), shelf, actor=TEST)


def pass_time(conninfo: dict[str, Any], seconds: float) -> None:
    """Move what the ledger knows of time back."""
    with psycopg.connect(**conninfo) as connection:
        connection.execute(
            """UPDATE aihandoff.effects
            SET claim_until = claim_until - %(by)s, unknown_since = unknown_since - %(by)s""",
            {"by": timedelta(seconds=seconds)},
        )


@pytest.fixture
def points() -> Iterator[None]:
    """Tasks are paused at their crash points."""
    crashpoints.arm(reach)
    yield
    crashpoints.arm(None)


def stop_before_the_call(ledger: Ledger, job: Job, shelf: Shelf) -> Puppet:
    """An attempt that has its claim, and is paused before it sends."""
    task = Puppet("stopped", lambda: send(ledger, job, shelf))
    while task.at != "apply.send: before call":
        task.go_on()
    return task


class TestFence:
    """An attempt is stopped between its claim and its call, and goes on later: SIGSTOP, a machine that slept."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> list[float]:
        now = [0.0]
        monkeypatch.setattr(applying, "_clock", lambda: now[0])
        return now

    def test_an_attempt_that_was_taken_over_meanwhile_no_longer_sends(
        self, ledger: Ledger, conninfo: dict[str, Any], job: Job, points: None, clock: list[float]
    ) -> None:
        shelf = Shelf()
        stopped = stop_before_the_call(ledger, job, shelf)
        clock[0] += 100
        pass_time(conninfo, 100)
        waits = send(ledger, job, shelf)
        assert isinstance(waits, Wait)
        ledger.effects.resolve(
            waits.effect.effect_id, applied=False, external_id=None, actor=Actor.program("eve"), why="not there"
        )
        assert isinstance(send(ledger, job, shelf), Effect)
        while not stopped.ended:
            stopped.go_on()
        assert isinstance(stopped.error, ClaimLost)
        assert list(shelf.written.values()) == [1]

    def test_an_attempt_that_was_paused_too_long_releases_its_claim_even_if_not_taken_over(
        self, ledger: Ledger, job: Job, points: None, clock: list[float]
    ) -> None:
        shelf = Shelf()
        stopped = stop_before_the_call(ledger, job, shelf)
        clock[0] += CLAIM_MARGIN
        while not stopped.ended:
            stopped.go_on()
        assert isinstance(stopped.error, applying.Suspended)
        assert not shelf.written
        assert isinstance(send(ledger, job, shelf), Effect)

    def test_an_attempt_that_was_paused_for_a_moment_sends(
        self, ledger: Ledger, job: Job, points: None, clock: list[float]
    ) -> None:
        shelf = Shelf()
        stopped = stop_before_the_call(ledger, job, shelf)
        clock[0] += CLAIM_MARGIN - 1
        while not stopped.ended:
            stopped.go_on()
        assert isinstance(stopped.result, Effect)

    def test_the_claim_lasts_for_as_long_as_the_call_that_begins_last(self, ledger: Ledger, job: Job) -> None:
        shelf = Shelf(answers=[KeyError("broken")])
        send(ledger, job, shelf)
        effect = ledger.record(job.job_id).effects[1]
        assert effect.claim_until is not None
        assert effect.claimed_at is not None
        lease = (effect.claim_until - effect.claimed_at).total_seconds()
        assert lease == pytest.approx(shelf.call_seconds + CLAIM_MARGIN, abs=0.1)


class TestSentAgain:
    """The same key again, after an attempt whose outcome is unknown."""

    @pytest.mark.parametrize("answer", [EffectRefused("422."), EffectNotNow("503.")])
    def test_the_second_answer_is_proof_for_the_second_attempt_only(
        self, ledger: Ledger, job: Job, answer: Exception
    ) -> None:
        shelf = Shelf(idempotent=True)
        claim(ledger, job, undoable("post"), lease=OVER)
        shelf.answers = [answer]
        with pytest.raises(EffectUnknown, match="an earlier attempt was lost"):
            send(ledger, job, shelf)
        assert ledger.record(job.job_id).effects[1].state is EffectState.UNKNOWN

    def test_a_target_that_is_not_declared_to_take_it_twice_does_not_get_it_twice(
        self, ledger: Ledger, job: Job
    ) -> None:
        shelf = Shelf()
        claim(ledger, job, undoable("post"), lease=OVER)
        assert isinstance(send(ledger, job, shelf), Wait)
        assert not shelf.written


class TestProbe:
    def test_a_probe_that_sees_nothing_is_believed_only_after_the_grace_time(
        self, ledger: Ledger, conninfo: dict[str, Any], job: Job
    ) -> None:
        shelf = Shelf(can_probe=True, visible=False)
        claim(ledger, job, undoable("post"), lease=OVER)
        first = send(ledger, job, shelf)
        assert isinstance(first, Wait)
        assert (first.effect.state, first.seconds is not None) == (EffectState.UNKNOWN, True)
        pass_time(conninfo, shelf.grace_seconds)
        assert isinstance(send(ledger, job, shelf), Effect)

    def test_a_probe_that_finds_the_write_ends_it_without_another_call(self, ledger: Ledger, job: Job) -> None:
        shelf = Shelf(can_probe=True)
        died = claim(ledger, job, undoable("post"), lease=OVER)
        shelf.written[died.effect.effect_key] = 1
        assert isinstance(send(ledger, job, shelf), Effect)
        assert shelf.written[died.effect.effect_key] == 1


class TestCancelWhileApplying:
    def test_an_unclaimed_effect_can_no_longer_be_claimed_after_a_cancel(self, ledger: Ledger, job: Job) -> None:
        under_way = claim(ledger, job, undoable("store"))
        cancel(ledger, job)
        with pytest.raises(JobCancelled, match="enough"):
            claim(ledger, job, undoable("post"))
        confirm(ledger, under_way)
        assert state(ledger, job) is JobState.CANCELLED

    def test_an_unknown_effect_is_not_sent_again_after_a_cancel(self, ledger: Ledger, job: Job) -> None:
        claim(ledger, job, undoable("post"), lease=OVER)
        cancel(ledger, job)
        with pytest.raises(EffectUnknown):
            claim(ledger, job, undoable("post"), resends=1)


class TestRollBack:
    def test_a_roll_back_that_is_begun_twice_plans_each_undo_once(self, ledger: Ledger, completed: Job) -> None:
        assert roll_back(ledger, completed) == roll_back(ledger, completed)
        assert [undo.name for undo in ledger.record(completed.job_id).undos] == ["undo:post", "undo:store"]

    def test_no_effect_can_have_two_undos(self, ledger: Ledger, conninfo: dict[str, Any], completed: Job) -> None:
        first, _ = roll_back(ledger, completed)
        columns = "job_id, revision, position, kind, state, plan, plan_digest, created_at, updated_at, undoes"
        with psycopg.connect(**conninfo) as connection, pytest.raises(psycopg.errors.UniqueViolation, match="undoes"):
            connection.execute(
                f"""INSERT INTO aihandoff.effects (name, effect_key, {columns})
                SELECT 'another', 'another', {columns} FROM aihandoff.effects WHERE effect_id = %s""",  # noqa: S608
                [first.effect_id],
            )

    def test_an_undo_that_is_applied_is_not_sent_again(self, ledger: Ledger, completed: Job) -> None:
        first, _ = roll_back(ledger, completed)
        confirm(ledger, claim(ledger, completed, first.as_plan))
        again = claim(ledger, completed, first.as_plan, resends=1)
        assert (again.applied, again.token) == (True, None)

    def test_the_last_write_is_undone_first(self, ledger: Ledger, completed: Job) -> None:
        _, second = roll_back(ledger, completed)
        with pytest.raises(EffectOutOfOrder, match="'undo:store' comes after 'undo:post'"):
            claim(ledger, completed, second.as_plan)

    def test_an_undo_is_what_was_planned(self, ledger: Ledger, completed: Job) -> None:
        first, _ = roll_back(ledger, completed)
        with pytest.raises(PlanNotApproved, match="not the undo that was planned"):
            claim(ledger, completed, replace(first.as_plan, plan_digest="0" * 64))

    def test_a_roll_back_does_not_begin_while_an_effect_is_under_way(self, ledger: Ledger, job: Job) -> None:
        confirm(ledger, claim(ledger, job, undoable("store")))
        claim(ledger, job, undoable("post"))
        with pytest.raises(CannotRollBack, match="'post' is claimed"):
            roll_back(ledger, job)
        assert state(ledger, job) is JobState.APPLYING

    def test_after_a_roll_back_began_no_effect_of_the_job_is_applied(self, ledger: Ledger, job: Job) -> None:
        confirm(ledger, claim(ledger, job, undoable("store")))
        (undo,) = roll_back(ledger, job)
        with pytest.raises(JobRolledBack):
            claim(ledger, job, undoable("post"))
        confirm(ledger, claim(ledger, job, undo.as_plan))
        for name in ("store", "post"):
            with pytest.raises(JobRolledBack):
                claim(ledger, job, undoable(name))


def test_a_line_that_was_rewritten_with_its_hash_no_longer_leads_to_the_next_one(
    ledger: Ledger, conninfo: dict[str, Any], completed: Job
) -> None:
    line = ledger.record(completed.job_id).events[3]
    forged = replace(line, actor="user:mallory", actor_kind=ActorKind.USER, actor_name="mallory")
    with psycopg.connect(**conninfo) as connection:
        connection.execute("ALTER TABLE aihandoff.events DISABLE TRIGGER USER")
        connection.execute(
            """UPDATE aihandoff.events SET actor = %s, actor_kind = %s, actor_name = %s, hash = %s WHERE seq = %s""",
            [forged.actor, forged.actor_kind, forged.actor_name, event_hash(forged), forged.seq],
        )
        connection.execute("ALTER TABLE aihandoff.events ENABLE TRIGGER USER")
    record = ledger.record(completed.job_id)
    assert first_break(record.events, record.job) == forged.seq + 1
