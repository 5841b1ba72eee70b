"""The apply protocol's outer half: what is sent, when nothing may be sent, and what follows from every answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from email.utils import formatdate
from time import time
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects import apply
from airflow_provider_aihandoff.core.effects.apply import Suspended, Wait, apply_effect
from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied
from airflow_provider_aihandoff.core.errors import ClaimLost, EffectNotNow, EffectRefused, EffectUnknown
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.targets.http import HttpTarget, plan_probe
from tests.integration.core.effects.effects import (
    ACTOR,
    approved,
    call,
    end_pauses,
    function,
    later,
    only_effect,
    put,
)
from tests.target import DROP, Answer, Target

CMS = HttpTarget("publish", external_id_path="$.id")


def send(ledger: Ledger, to: Any = CMS, **options: Any) -> Effect | Wait:
    """Write the only effect of the first job."""
    return apply_effect(ledger, 1, put(), to, actor=ACTOR, **options)


def events(ledger: Ledger) -> list[str]:
    return [event.event for event in ledger.record(1).events if event.event.startswith("effect")]


def noting(log: list[Any], entry: Any, result: Any) -> Callable[[], Any]:
    """A function that notes each call, and then returns the result or raises it."""

    def run() -> Any:
        log.append(entry)
        if isinstance(result, Exception):
            raise result
        return result

    return run


class TestFence:
    @pytest.fixture
    def pause(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[float, Callable[[], Any]], None]:
        """Pause the next attempt between its claim and its call, while something else happens."""

        def pause(seconds: float, meanwhile: Callable[[], Any] = lambda: None) -> None:
            real, looks = apply._clock, []

            def clock() -> float:
                looks.append(1)
                if len(looks) != 2:
                    return real() if len(looks) < 2 else real() + seconds
                meanwhile()
                return real() + seconds

            monkeypatch.setattr(apply, "_clock", clock)

        return pause

    def test_an_attempt_that_was_paused_too_long_sends_nothing_and_releases_its_claim(
        self, ledger: Ledger, target: Target, pause: Any
    ) -> None:
        approved(ledger, put())
        pause(apply.CLAIM_MARGIN)

        with pytest.raises(
            Suspended, match=r"was paused for 10 s .* This attempt made no external write. A retry is safe."
        ):
            send(ledger)

        assert (target.received, only_effect(ledger).state) == ([], EffectState.PLANNED)
        assert events(ledger) == ["effect claimed", "effect released"]

    def test_an_attempt_that_was_paused_briefly_sends(self, ledger: Ledger, target: Target, pause: Any) -> None:
        approved(ledger, put())
        pause(apply.CLAIM_MARGIN - 1)
        send(ledger)
        assert (len(target.received), only_effect(ledger).state) == (1, EffectState.APPLIED)

    def test_an_attempt_that_another_has_taken_over_sends_nothing_and_records_nothing(
        self, ledger: Ledger, pause: Any
    ) -> None:
        approved(ledger, call())
        new: list[Any] = []
        old: list[Any] = []

        def take_over() -> None:
            later(ledger, 3600)
            to = function(noting(new, 1, "new-1"), idempotent=True)
            apply_effect(ledger, 1, call(), to, actor=Actor.program("the other"))

        pause(apply.CLAIM_MARGIN + 1, take_over)

        with pytest.raises(ClaimLost, match="lost its claim") as lost:
            apply_effect(ledger, 1, call(), function(lambda: old.append(1)), actor=ACTOR)

        assert not isinstance(lost.value, Suspended)
        # The other one was paused as well: the clock of this process has jumped. Neither has sent anything.
        assert old == []
        assert "effect released" not in events(ledger)[events(ledger).index("effect unknown") :] or new == []

    def test_an_attempt_that_another_has_taken_over_while_it_was_sending_cannot_confirm(self, ledger: Ledger) -> None:
        approved(ledger, call())
        sent = []

        def slow() -> str:
            sent.append("slow")
            later(ledger, 3600)
            found = function(lambda: sent.append("again"), look=lambda: "found-1")
            applied = apply_effect(ledger, 1, call(), found, actor=Actor.program("the other"))
            assert isinstance(applied, Effect)
            return "slow-1"

        with pytest.raises(ClaimLost, match="lost its claim"):
            apply_effect(ledger, 1, call(), function(slow), actor=ACTOR)

        assert sent == ["slow"]
        assert (only_effect(ledger).external_id, ledger.job(1).state) == ("found-1", JobState.COMPLETED)

    def test_while_a_claim_lasts_every_other_attempt_waits_for_its_end(self, ledger: Ledger) -> None:
        approved(ledger, call())
        waits: list[Any] = []

        def slow() -> str:
            other = function(lambda: pytest.fail("sent twice"), call_seconds=50)
            waits.append(apply_effect(ledger, 1, call(), other, actor=Actor.program("the other")))
            return "slow-1"

        apply_effect(ledger, 1, call(), function(slow, call_seconds=50), actor=ACTOR)

        (wait,) = waits
        assert wait.seconds == pytest.approx(50 + apply.CLAIM_MARGIN, abs=5)
        assert "This attempt made no external write." in wait.why
        assert only_effect(ledger).external_id == "slow-1"


class TestNotNow:
    @pytest.mark.parametrize("status", [425, 429, 503])
    @pytest.mark.parametrize(
        ("header", "low", "high"),
        [
            ("7", 7, 7),
            ("0", 0, 0),
            (lambda: formatdate(time() + 60, usegmt=True), 50, 60),
            (lambda: formatdate(time() - 60, usegmt=True), 0, 0),
            ("999999", 900, 900),
            ("9" * 400, 900, 900),
            ("Fri, 31 Dec 2100 23:59:59 GMT", 900, 900),
        ],
        ids=["seconds", "none", "date", "past", "long", "absurd", "far"],
    )
    def test_a_target_is_left_alone_for_as_long_as_it_says_up_to_a_bound(
        self, ledger: Ledger, target: Target, status: int, header: Any, low: float, high: float
    ) -> None:
        approved(ledger, put())
        target.answers = [Answer(status, None, {"Retry-After": header() if callable(header) else header})]

        wait = send(ledger)

        assert isinstance(wait, Wait)
        assert wait.seconds is not None
        assert low <= wait.seconds <= high
        assert (wait.not_now, wait.effect.state) == (1, EffectState.PLANNED)
        assert f"answered {status}" in wait.why

    @pytest.mark.parametrize("header", [None, "soon", "-1", "Fri, 31 Dec 999999 23:59:59 GMT"])
    def test_a_target_that_does_not_say_when_to_retry_is_left_to_airflows_retries(
        self, ledger: Ledger, target: Target, header: str | None
    ) -> None:
        approved(ledger, put())
        target.answers = [Answer(429, None, {} if header is None else {"Retry-After": header})]

        with pytest.raises(EffectNotNow):
            send(ledger)

        assert only_effect(ledger).state is EffectState.PLANNED

    def test_a_target_that_always_asks_to_wait_is_left_to_airflows_retries_in_the_end(
        self, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(apply, "RETRY_AFTER_TIMES", 3)
        approved(ledger, put())
        target.answers = [Answer(429, None, {"Retry-After": "1"})] * 4

        for not_now in range(3):
            wait = send(ledger, not_now=not_now)
            assert isinstance(wait, Wait)
            assert wait.not_now == not_now + 1
            end_pauses(ledger)
        with pytest.raises(EffectNotNow):
            send(ledger, not_now=3)

        assert len({received.headers["Idempotency-Key"] for received in target.received}) == 1
        assert only_effect(ledger).state is EffectState.PLANNED

    def test_a_resent_effect_waits_as_well_and_stays_unknown_meanwhile(self, ledger: Ledger, target: Target) -> None:
        approved(ledger, put())
        target.answers = [DROP, Answer(429, None, {"Retry-After": "3"}), Answer(200, {"id": 7})]
        to = HttpTarget("publish", external_id_path="$.id", idempotent=True)

        with pytest.raises(EffectUnknown):
            send(ledger, to)
        wait = send(ledger, to)

        assert isinstance(wait, Wait)
        assert (wait.seconds, wait.effect.state) == (3, EffectState.UNKNOWN)
        end_pauses(ledger)
        done = send(ledger, to, not_now=wait.not_now)
        assert (done, only_effect(ledger).external_id) == (only_effect(ledger), "7")


class TestRefused:
    def test_a_precondition_that_does_not_hold_proves_that_nothing_was_written(
        self, ledger: Ledger, target: Target
    ) -> None:
        plan = put(headers={"If-None-Match": "*"})
        approved(ledger, plan)
        target.answers = [Answer(412)]

        with pytest.raises(EffectRefused, match="answered 412"):
            apply_effect(ledger, 1, plan, CMS, actor=ACTOR)

        assert target.received[0].headers["If-None-Match"] == "*"
        assert only_effect(ledger).state is EffectState.REFUSED

    @pytest.mark.parametrize(
        ("looks", "state"),
        [
            ([NotApplied(), "found-1"], EffectState.APPLIED),  # it is seen only after a while
            ([None, "found-1"], EffectState.APPLIED),
            ([NotApplied()] * 9, EffectState.REFUSED),
            ([None] * 9, EffectState.UNKNOWN),
        ],
    )
    def test_a_second_attempt_may_be_refused_because_the_first_one_came_late(
        self, ledger: Ledger, looks: list[Any], state: EffectState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The probe is asked over the grace time before the refusal counts."""
        approved(ledger, call())
        real, slept = apply._clock, list[float]()
        monkeypatch.setattr(apply, "_clock", lambda: real() + sum(slept))
        monkeypatch.setattr(apply.time, "sleep", slept.append)
        answers = iter([NotApplied(), NotApplied(), *looks])
        calls = iter([ConnectionError("cut off"), EffectRefused("it exists")])

        def write() -> None:
            raise next(calls)

        to = function(write, look=lambda: next(answers), grace_seconds=4)
        assert isinstance(apply_effect(ledger, 1, call(), to, actor=ACTOR), Wait)
        later(ledger, 4)

        with suppress(EffectRefused):
            apply_effect(ledger, 1, call(), to, actor=ACTOR)

        assert only_effect(ledger).state is state
        assert sum(slept) == pytest.approx(4, abs=0.5) or state is EffectState.APPLIED

    def test_a_precondition_may_fail_because_an_intermediary_has_sent_the_same_request_twice(
        self, ledger: Ledger, target: Target
    ) -> None:
        plan = put(headers={"If-None-Match": "*"})
        approved(ledger, plan)
        declared = {"endpoint": "/posts/publish", "found": {"$.title": "Kettle"}, "external_id_path": "$.id"}
        probe = plan_probe("cms", declared, "publish")
        target.answers = [Answer(412), Answer(200, {"id": "post-7", "title": "Kettle"})]

        apply_effect(ledger, 1, plan, replace(CMS, probe_plan=probe), actor=ACTOR)

        assert (only_effect(ledger).state, only_effect(ledger).external_id) == (EffectState.APPLIED, "post-7")

    def test_a_connection_that_leads_elsewhere_by_now_is_refused(
        self, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = put(query={"notify": "no"}, endpoint="/posts/kettle?api_key=k3y-of-the-cms")
        approved(ledger, plan)
        monkeypatch.setenv("AIRFLOW_CONN_CMS", f"http://localhost:{target.port}")

        with pytest.raises(EffectRefused, match="leads to http://localhost"):
            apply_effect(ledger, 1, plan, CMS, actor=ACTOR)

        assert (target.received, only_effect(ledger).state) == ([], EffectState.REFUSED)
        assert "k3y-of-the-cms" not in str(only_effect(ledger).error)

    def test_a_job_of_which_one_part_is_written_and_one_refused_says_so(self, ledger: Ledger, target: Target) -> None:
        plans = put("one"), put("two")
        approved(ledger, *plans)
        target.answers = [Answer(201), Answer(422)]

        apply_effect(ledger, 1, plans[0], CMS, actor=ACTOR)
        with pytest.raises(EffectRefused):
            apply_effect(ledger, 1, plans[1], CMS, actor=ACTOR)

        job = ledger.job(1)
        assert (job.state, str(job.state_reason)[:40]) == (
            JobState.APPLYING,
            "partly applied: 1 of 2 effects applied; ",
        )


class TestProbe:
    @pytest.fixture
    def lost(self, ledger: Ledger) -> Callable[..., Any]:
        """A target whose first call got lost, and a way to try again."""
        approved(ledger, call())

        def lost(*answers: Any, **options: Any) -> Callable[[], Effect | Wait]:
            looks, calls = iter(answers), []

            def write() -> str:
                calls.append(1)
                if len(calls) == 1:
                    raise ConnectionError("cut off")
                return f"sent-{len(calls)}"

            to = function(write, look=lambda: next(looks), **options)
            return lambda: apply_effect(ledger, 1, call(), to, actor=ACTOR)

        return lost

    def test_the_attempt_that_lost_the_write_probes_at_once(self, ledger: Ledger, lost: Any) -> None:
        done = lost(Applied("found-1"))()
        assert (done.state, done.external_id) == (EffectState.APPLIED, "found-1")
        assert ledger.job(1).state is JobState.COMPLETED

    @pytest.mark.parametrize("nothing", [NotApplied(), False, None])
    def test_a_probe_that_finds_nothing_is_repeated_at_growing_intervals_until_the_grace_ends(
        self, ledger: Ledger, lost: Any, nothing: Any
    ) -> None:
        again = lost(*[nothing] * 4, "found-1", grace_seconds=100)

        pauses = []
        for passed in (0, 3, 20, 60):
            later(ledger, passed)
            wait = again()
            assert isinstance(wait, Wait)
            assert wait.seconds is not None
            pauses.append(wait.seconds)

        assert 0.5 <= pauses[0] <= 1
        assert pauses[0] < pauses[1] < pauses[2]
        assert pauses[3] <= 17  # not beyond the grace
        assert again().external_id == "found-1"

    def test_no_trace_counts_after_the_grace_and_not_before(self, ledger: Ledger, lost: Any) -> None:
        again = lost(*[NotApplied()] * 2, grace_seconds=30)
        assert isinstance(again(), Wait)
        assert only_effect(ledger).state is EffectState.UNKNOWN

        later(ledger, 30)
        done = again()

        assert (done.external_id, done.attempt) == ("sent-2", 2)
        assert events(ledger)[-4:] == ["effect unknown", "effect resolved", "effect claimed", "effect applied"]

    @pytest.mark.parametrize("answer", [None, ValueError("the probe is broken")])
    def test_a_probe_without_an_answer_leaves_the_effect_to_a_person_after_the_grace(
        self, ledger: Ledger, lost: Any, answer: Any
    ) -> None:
        def look() -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        approved_before = only_effect(ledger)
        to = function(lambda: 1 / 0, look=look, grace_seconds=0)

        wait = apply_effect(ledger, 1, call(), to, actor=ACTOR)

        assert approved_before.state is EffectState.PLANNED
        assert isinstance(wait, Wait)
        assert wait.seconds is None
        assert f"effects resolve {wait.effect.effect_id}" in wait.why
        assert only_effect(ledger).state is EffectState.UNKNOWN

    def test_a_target_that_takes_a_key_twice_is_asked_first_and_then_sent_to_again(
        self, ledger: Ledger, lost: Any
    ) -> None:
        again = lost(None, grace_seconds=0, idempotent=True)
        with pytest.raises(EffectUnknown):
            again()
        assert again().external_id == "sent-2"
        assert "effect resolved" not in events(ledger)

    def test_a_probe_result_of_an_earlier_attempt_is_not_applied_to_a_newer_one(self, ledger: Ledger) -> None:
        approved(ledger, call(), call("other"))
        sent: list[Any] = []

        def probe() -> NotApplied:
            """While it probes, the write is resolved, sent again and lost again by another attempt."""
            effect = ledger.record(1).current_effects[0]
            ledger.effects.resolve(
                effect.effect_id, applied=False, external_id=None, actor=Actor.program("bob"), why="not there"
            )
            again = function(noting(sent, "again", OSError()))
            apply_effect(ledger, 1, call(), again, actor=Actor.program("the other"))
            return NotApplied()

        answers: Iterator[Callable[[], NotApplied | None]] = iter([probe, lambda: None])
        to = function(noting(sent, "first", OSError()), look=lambda: next(answers)(), grace_seconds=0)

        wait = apply_effect(ledger, 1, call(), to, actor=ACTOR)

        assert isinstance(wait, Wait)
        assert sent == ["first", "again"]
        assert wait.effect.attempt == 2
