"""What a probe decides: before a refusal counts, before anything is sent again, after a write; and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects import apply
from airflow_provider_aihandoff.core.effects.apply import Wait, apply_effect
from airflow_provider_aihandoff.core.effects.resolve import answer
from airflow_provider_aihandoff.core.effects.target import Applied, CannotTell, Found, NotApplied, Target, UnclearAnswer
from airflow_provider_aihandoff.core.errors import (
    CannotResolve,
    CannotRollBack,
    EffectNotNow,
    EffectRefused,
    EffectUnknown,
)
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.targets.rollback_functions import rollback_function
from tests.factories import approve, ask, draft
from tests.integration.core.effects.effects import ACTOR, approved, call, later, only_effect

BOB = Actor.user("bob")
GONE = Applied("found-1")


@dataclass
class Desk(Target):
    """A target that answers and is seen as the test says; the last answer of each list stays."""

    kind = "desk"

    answers: list[Any] = field(default_factory=lambda: [Applied("sent-1")])
    seen: list[Found] = field(default_factory=lambda: [NotApplied()])
    can_probe: bool = True
    idempotent: bool = False
    resends: int = 1
    verify: bool = False
    try_probe: bool = False
    grace_seconds: float = 0.0
    sent: int = 0
    probed: int = 0

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        self.sent += 1
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, Exception):
            raise said
        assert isinstance(said, Applied)
        return said

    def probe(self, plan: dict[str, Any], key: str) -> Found:
        self.probed += 1
        return self.seen.pop(0) if len(self.seen) > 1 else self.seen[0]


@pytest.fixture
def send(ledger: Ledger) -> Callable[..., Effect | Wait]:
    """Write the only effect of the first job, again and again until it is done or waits for a person."""
    approved(ledger, call())

    def send(desk: Desk, tries: int = 4) -> Effect | Wait:
        for left in range(tries, 0, -1):
            try:
                done = apply_effect(ledger, 1, call(), desk, actor=ACTOR, last_try=left == 1)
            except (EffectUnknown, EffectNotNow):
                continue
            if isinstance(done, Effect) or done.seconds is None:
                return done
            later(ledger, done.seconds)
        raise AssertionError("it never ends")

    return send


class TestSentAgain:
    @pytest.mark.parametrize(
        ("options", "sent"),
        [({}, 2), ({"resends": 0}, 1), ({"resends": 3}, 4), ({"idempotent": True, "can_probe": False}, 2)],
    )
    def test_what_stays_unknown_is_sent_again_as_often_as_declared_and_then_held(
        self, ledger: Ledger, send: Any, options: dict[str, Any], sent: int
    ) -> None:
        desk = Desk(answers=[UnclearAnswer("500")], **options)
        for _ in range(3):  # the end of a hold, or a cleared task, begins no new round
            wait = send(desk, 8)
            assert isinstance(wait, Wait)
            assert wait.seconds is None
        assert (desk.sent, only_effect(ledger).resends) == (sent, sent - 1)
        assert only_effect(ledger).state is EffectState.UNKNOWN

    def test_the_hold_of_an_idempotent_target_has_one_end(self, ledger: Ledger, send: Any) -> None:
        desk = Desk(answers=[UnclearAnswer("500")], idempotent=True, can_probe=False)
        send(desk, 8)
        later(ledger, 600)
        send(desk, 8)
        assert ledger.effects.seconds_unknown(only_effect(ledger).effect_id) >= 600

    def test_a_person_who_says_that_it_was_not_applied_allows_as_many_again(self, ledger: Ledger, send: Any) -> None:
        desk = Desk(answers=[UnclearAnswer("500")])
        send(desk)
        effect = only_effect(ledger)
        answer(ledger, effect.effect_id, applied=False, external_id=None, why="looked", actor=BOB)
        assert isinstance(send(desk), Wait)
        assert desk.sent == 4

    def test_the_person_reads_what_the_probe_answered(self, ledger: Ledger, send: Any) -> None:
        wait = send(Desk(answers=[UnclearAnswer("500")], seen=[CannotTell("it was answered 403 Forbidden: no scope")]))
        assert "the probe cannot tell: it was answered 403 Forbidden: no scope" in wait.why
        assert only_effect(ledger).probe_note == "the probe cannot tell: it was answered 403 Forbidden: no scope"

    def test_a_person_who_resolves_it_during_the_last_probe_is_not_waited_for(self, ledger: Ledger, send: Any) -> None:
        class Watched(Desk):
            def probe(self, plan: dict[str, Any], key: str) -> Found:
                answer(ledger, only_effect(ledger).effect_id, applied=True, external_id="r-7", why="looked", actor=BOB)
                return CannotTell("it is slow")

        effect = send(Watched(answers=[UnclearAnswer("500")]))
        assert (effect.state, effect.external_id) == (EffectState.APPLIED, "r-7")


class TestNotNow:
    def test_the_probe_is_asked_before_a_target_that_said_not_now_gets_it_again(self, send: Any) -> None:
        desk = Desk(answers=[EffectNotNow("503", retry_after=1.0)], seen=[GONE])
        done = send(desk)
        assert (desk.sent, done.external_id) == (1, "found-1")

    def test_a_target_that_says_not_now_may_do_so_more_often_than_an_outcome_may_be_unknown(
        self, ledger: Ledger, send: Any
    ) -> None:
        desk = Desk(answers=[*[EffectNotNow("429", retry_after=1.0)] * 5, Applied("sent-6")])
        done = send(desk, 9)
        assert (desk.sent, done.external_id, only_effect(ledger).resends) == (6, "sent-6", 0)

    def test_what_was_never_sent_is_not_probed_for(self, ledger: Ledger, send: Any) -> None:
        desk = Desk(answers=[EffectNotNow("no connection", answered=False), Applied("sent-2")])
        assert (send(desk).external_id, desk.probed) == ("sent-2", 0)


@rollback_function
def never_called(**arguments: Any) -> None:
    """The undo that is declared here."""
    raise AssertionError


class TestRefused:
    @pytest.mark.parametrize(
        ("seen", "state"),
        [
            (GONE, EffectState.APPLIED),
            (NotApplied(), EffectState.REFUSED),
            (CannotTell("a record, and not whose", found=1), EffectState.UNKNOWN),
            (None, EffectState.UNKNOWN),
        ],
    )
    def test_the_probe_is_asked_before_a_first_refusal_counts(
        self, ledger: Ledger, send: Any, seen: Found, state: EffectState
    ) -> None:
        desk = Desk(answers=[EffectRefused("400: it must be unique.")], seen=[seen])
        try:
            send(desk)
        except EffectRefused:
            assert state is EffectState.REFUSED
        assert (only_effect(ledger).state, desk.sent) == (state, 1)

    def test_a_refused_effect_that_is_there_can_be_resolved_by_a_person_and_rolled_back(self, ledger: Ledger) -> None:
        plan = call(undo={"function": f"{__name__}:never_called", "arguments": {"id": "{external_id}"}})
        approve(ledger, ask(ledger, draft(ledger), plan))
        with pytest.raises(EffectRefused):
            apply_effect(ledger, 1, plan, Desk(answers=[EffectRefused("400.")], can_probe=False), actor=ACTOR)
        effect = only_effect(ledger)
        with pytest.raises(CannotResolve, match=r"is refused, and not unknown.*resolve it as applied"):
            answer(ledger, effect.effect_id, applied=False, external_id=None, why="looked", actor=BOB)

        answer(ledger, effect.effect_id, applied=True, external_id="7", why="it is there", actor=BOB)

        assert ledger.job(1).state is JobState.COMPLETED
        (undo,) = ledger.roll_backs.start(1, actor=BOB, reason="wrong")
        assert undo.plan["arguments"] == {"id": "7"}

    def test_what_was_there_before_is_applied_and_never_rolled_back(self, ledger: Ledger) -> None:
        plan = call(undo={"function": f"{__name__}:never_called"})
        approve(ledger, ask(ledger, draft(ledger), plan))
        done = apply_effect(ledger, 1, plan, Desk(answers=[Applied(None, own=False)]), actor=ACTOR)
        assert isinstance(done, Effect)
        assert not done.own
        with pytest.raises(CannotRollBack, match="'call' was there before, as far as the ledger knows"):
            ledger.roll_backs.start(1, actor=BOB, reason="wrong")


class TestTried:
    @pytest.mark.parametrize(
        ("seen", "note"),
        [
            (GONE, None),
            (NotApplied(), "the target confirmed the write, and the probe sees no trace of it"),
            (CannotTell("it sees 2 records", found=2), "and the probe cannot tell: it sees 2 records"),
        ],
    )
    def test_after_a_write_the_probe_must_see_it_or_the_record_says_what_it_saw(
        self, send: Any, seen: Found, note: str | None
    ) -> None:
        done = send(Desk(seen=[seen], try_probe=True))
        assert done.state is EffectState.APPLIED
        assert done.probe_note is None if note is None else note in done.probe_note

    def test_the_probe_is_not_tried_where_its_author_does_not_want_it(self, send: Any) -> None:
        desk = Desk(seen=[NotApplied()])
        assert (send(desk).probe_note, desk.probed) == (None, 0)

    def test_what_the_probe_saw_before_anything_was_sent_is_no_find(self, ledger: Ledger) -> None:
        plan = replace(call(), find_counts=False, probe_note="seen before")
        approve(ledger, ask(ledger, draft(ledger), plan))
        desk = Desk(answers=[UnclearAnswer("500")], seen=[GONE])
        wait = apply_effect(ledger, 1, plan, desk, actor=ACTOR)
        assert isinstance(wait, Wait)
        assert "it sees what it saw before anything was sent" in wait.why
        assert (only_effect(ledger).state, desk.sent) == (EffectState.UNKNOWN, 1)


class TestVerified:
    def test_a_confirmed_write_counts_once_the_probe_sees_it(self, send: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(apply, "_PROBE_BASE", 0.01)
        desk = Desk(seen=[NotApplied(), GONE], verify=True, grace_seconds=5)
        done = send(desk)
        assert (done.external_id, desk.sent, desk.probed) == ("sent-1", 1, 2)

    @pytest.mark.parametrize("idempotent", [False, True])
    def test_a_confirmed_write_without_a_trace_is_held_and_not_sent_again(
        self, ledger: Ledger, send: Any, idempotent: bool
    ) -> None:
        desk = Desk(verify=True, idempotent=idempotent)
        for _ in range(2):
            wait = send(desk)
            assert isinstance(wait, Wait)
        assert "the target confirmed it, and the probe sees no trace of it" in wait.why
        assert (desk.sent, only_effect(ledger).state) == (1, EffectState.UNKNOWN)


def test_an_external_id_of_many_pages_is_none(ledger: Ledger, send: Any) -> None:
    assert send(Desk(answers=[Applied("x" * 1001)])).external_id is None
    assert len(str(ledger.record(1).events)) < 20_000
