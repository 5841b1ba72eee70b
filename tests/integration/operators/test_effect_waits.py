"""What a task does that cannot go on at once: it waits, for as long as it must, and goes on by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects import apply
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators import notices, waiting
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.tasks import publish
from tests.integration.operators.test_reviewing import Remembers
from tests.people import insist
from tests.target import DROP, Answer, Target

Record = Callable[[], JobRecord]
BOB = Actor.user("bob")

pytestmark = pytest.mark.usefixtures("accepted")


def resolve_when_unknown(ledger: Ledger, *, applied: bool) -> threading.Thread:
    """A person who resolves an effect as soon as it is unknown, by what they found in the target."""

    def resolve() -> None:
        until = time.monotonic() + 600
        while time.monotonic() < until:
            for effect in ledger.list_effects(states=["unknown"]):
                external_id = "found-1" if applied else None
                ledger.effects.resolve(
                    effect.effect_id,
                    applied=applied,
                    external_id=external_id,
                    actor=Actor.user("bob"),
                    why="looked it up",
                )
                return
            time.sleep(0.05)

    person = threading.Thread(target=insist(resolve))
    person.start()
    return person


@pytest.mark.parametrize(("applied", "sent", "external_id"), [(True, 1, "found-1"), (False, 2, "7")])
def test_an_unknown_effect_waits_for_a_person_and_continues_once_it_is_resolved(
    run: RunDag, record: Record, ledger: Ledger, target: Target, applied: bool, sent: int, external_id: str
) -> None:
    target.answers = [DROP, Answer(200, {"id": 7})]
    person = resolve_when_unknown(ledger, applied=applied)

    done = run(lambda: publish(hold_timeout=None))

    person.join()
    (effect,) = record().current_effects
    assert (done.states["publish"], done.tries["publish"]) == ("success", 1)
    assert (effect.state, effect.external_id, len(target.received)) == (EffectState.APPLIED, external_id, sent)
    assert record().job.state is JobState.COMPLETED


def held(record: Record) -> list[dict[str, Any]]:
    return [event.detail for event in record().events if event.event == "notified"]


class TestNotices:
    TEXT = "{{ handoff.notice }}: {{ handoff.message }} {{ handoff.link }}"

    def test_people_are_notified_once_of_each_hold(
        self, run: RunDag, record: Record, ledger: Ledger, target: Target
    ) -> None:
        said: list[str] = []
        target.answers = [DROP, DROP, Answer(200, {"id": 7})]

        def define() -> Any:
            return publish(hold_timeout=timedelta(0), retries=0, notifiers=[Remembers(self.TEXT, said)])

        def resolve() -> None:
            (effect,) = ledger.list_effects(states=["unknown"])
            ledger.effects.resolve(effect.effect_id, applied=False, external_id=None, actor=BOB, why="not there")

        run(define), run(define)  # it waits, and is cleared: the same hold
        assert len(said) == 1
        assert said[0].startswith(
            "held: publishing post:kettle: the write 'publish' may have been made, and its outcome"
        )
        assert said[0].endswith("/aihandoff/jobs/1")
        resolve()
        run(define)  # it is sent again, and lost again: another one
        assert len(said) == 2
        resolve()
        assert run(define).state == "success"
        assert [(each["notice"], each["attempt"]) for each in held(record)] == [("held", 1), ("held", 2)]

    def test_the_notifiers_of_the_approval_are_called_where_the_effect_has_none(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        said: list[str] = []
        target.answers = [DROP]

        def define() -> None:
            waits = ApprovalSensor(task_id="approve", job=1, notifiers=[Remembers(self.TEXT, said)])
            waits >> publish(1, hold_timeout=timedelta(0), retries=0)

        run(define)
        assert [text.partition(":")[0] for text in said] == ["held"]

    def test_they_are_called_again_where_all_have_failed(
        self, run: RunDag, record: Record, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(notices, "NOTICE_RETRY", 0.1)
        said: list[str] = []
        target.answers = [DROP, Answer(200, {"id": 7})]
        person = threading.Thread(target=insist(lambda: said_then_resolved(said, ledger)))
        person.start()
        done = run(lambda: publish(hold_timeout=None, notifiers=[Remembers(self.TEXT, said, fails=2)]))
        person.join()
        assert done.states["publish"] == "success"
        assert len(said) == 1

    def test_they_are_not_called_again_for_ever(
        self, run: RunDag, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(notices, "NOTICE_RETRY", 0.1)
        monkeypatch.setattr(waiting, "NOTICE_FOR", 0.0)
        target.answers = [DROP]
        fails = Remembers(self.TEXT, [], fails=100)
        person = resolve_when_unknown(ledger, applied=True)
        done = run(lambda: publish(hold_timeout=None, notifiers=[fails]))
        person.join()
        assert done.states["publish"] == "success"
        assert fails.left == [99]


def said_then_resolved(said: list[str], ledger: Ledger) -> None:
    until = time.monotonic() + 600
    while not said and time.monotonic() < until:
        time.sleep(0.05)
    resolve_when_unknown(ledger, applied=True).join()


class TestProbe:
    """The answer got lost, and the target is asked what became of the request."""

    PROBE: dict[str, Any] = {  # noqa: RUF012 - it is never changed
        "endpoint": "/posts",
        "query": {"key": "{effect_key}"},
        "found_in": "$.items",
        "found": {"$.title": "{{ job.output.title }}"},
        "external_id_path": "$.id",
    }

    def test_a_write_that_the_probe_finds_is_not_sent_again(self, run: RunDag, record: Record, target: Target) -> None:
        target.answers = [DROP, Answer(200, {"items": [{"id": 7, "title": "Kettle"}]})]

        done = run(lambda: publish(try_probe=False, probe=self.PROBE))

        (effect,) = record().current_effects
        assert (done.states["publish"], effect.state, effect.external_id) == ("success", EffectState.APPLIED, "7")
        sent, probed = target.received
        assert (sent.method, probed.method, probed.path) == ("PUT", "GET", f"/posts?key={effect.effect_key}")

    def test_a_write_that_is_seen_only_later_is_not_sent_again(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        target.answers = [DROP, Answer(200, {"items": []}), Answer(404), Answer(200, {"items": [{"title": "Kettle"}]})]

        run(lambda: publish(try_probe=False, probe=self.PROBE, grace=30))

        assert record().current_effects[0].state is EffectState.APPLIED
        assert [received.method for received in target.received] == ["PUT", "GET", "GET", "GET"]

    def test_a_write_of_which_there_is_no_trace_after_the_grace_is_sent_again(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        target.answers = [DROP, Answer(404), Answer(200, {"id": 7})]

        run(lambda: publish(try_probe=False, probe=self.PROBE, grace=0))

        assert record().current_effects[0].state is EffectState.APPLIED
        assert [received.method for received in target.received] == ["PUT", "GET", "PUT"]

    @pytest.mark.parametrize("answer", [Answer(500), Answer(302), DROP])
    def test_a_target_that_gives_no_answer_leaves_the_effect_to_a_person(
        self, run: RunDag, record: Record, target: Target, answer: Any
    ) -> None:
        target.answers = [DROP, answer]

        done = run(lambda: publish(try_probe=False, probe=self.PROBE, grace=0))

        assert (done.states["publish"], record().current_effects[0].state) == ("failed", EffectState.UNKNOWN)
        assert [received.method for received in target.received] == ["PUT", "GET"]


def test_an_attempt_that_was_paused_after_its_claim_sends_nothing(
    run: RunDag, record: Record, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, stood = apply._clock, iter([0.0, apply.CLAIM_MARGIN])
    monkeypatch.setattr(apply, "_clock", lambda: clock() + next(stood, apply.CLAIM_MARGIN))

    done = run(publish)

    events = [event.event for event in record().events]
    assert (done.states["publish"], done.tries["publish"]) == ("success", 2)
    assert events.count("effect released") == 1
    assert len(target.received) == 1


def test_an_effect_after_another_one_is_not_sent_before_it(run: RunDag, record: Record, target: Target) -> None:
    target.answers = [Answer(422)]

    def define() -> None:
        first, second = publish(task_id="create"), publish(task_id="label", trigger_rule="all_done", retries=0)
        first >> second

    done = run(define)

    assert "'label' comes after 'create', which is refused" in done.error("label")
    assert len(target.received) == 1
    assert [effect.after_effects for effect in record().current_effects] == [[], ["create"]]


def test_fields_that_the_author_names_are_sent_and_kept_nowhere(run: RunDag, record: Record, target: Target) -> None:
    def define() -> None:
        publish(json={"title": "x", "pin": "12345"}, endpoint="/posts/kettle?api_key=k3y", secret_fields=["pin"])

    run(define)

    (effect,) = record().current_effects
    assert (effect.state, target.received[0].json["pin"]) == (EffectState.APPLIED, "12345")
    assert effect.plan["body"] == '{"title":"x","pin":"***"}'
    assert effect.plan["url"].endswith("/posts/kettle?api_key=***")
    assert "12345" not in repr(record())
