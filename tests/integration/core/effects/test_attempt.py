"""Whatever ends an attempt, what it knows of its write is said truly, and is recorded by the next attempt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.database import connection as connection_module
from airflow_provider_aihandoff.core.effects.apply import Wait, apply_effect
from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied
from airflow_provider_aihandoff.core.errors import EffectNotNow, EffectRefused, HandoffError, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect
from airflow_provider_aihandoff.core.second_memory import Facts
from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.targets.function import FunctionTarget
from tests.failing_database import failing
from tests.integration.core.effects.effects import ACTOR, approved, call, later, only_effect

NEXT = Actor.program("the next attempt")


@dataclass
class KeptInTests:
    """A memory that outlives an attempt."""

    facts: dict[str, Facts] = field(default_factory=dict)
    broken: bool = False

    def keep(self, name: str, facts: Facts) -> None:
        if self.broken:
            raise RuntimeError("Airflow's API is unavailable")
        self.facts[name] = facts

    def read(self, name: str) -> Facts | None:
        return self.facts.get(name)

    def forget(self, name: str) -> None:
        self.facts.pop(name, None)


class Witness:
    """A target that counts what was really written to it.

    :param before: raised instead of writing.
    :param after: raised although it has written.
    """

    def __init__(self, *, before: Exception | None = None, after: Exception | None = None) -> None:
        self.writes: list[str] = []
        self.before, self.after = before, after
        self.earlier = 0
        """The writes of attempts before the one under test."""

    def write(self, title: str, *, effect_key: str) -> Applied:
        if self.before is not None:
            raise self.before
        self.writes.append(effect_key)
        if self.after is not None:
            raise self.after
        return Applied(external_id=f"rec-{len(self.writes)}")

    def find(self, title: str, *, effect_key: str) -> Applied | NotApplied:
        return Applied(external_id="rec-1") if effect_key in self.writes else NotApplied()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "PATIENCE", 0.3)
    for name in ("_RETRY_BASE", "_RETRY_CAP", "_PERSIST_BASE", "_PERSIST_CAP"):
        monkeypatch.setattr(connection_module, name, 0.001)


@pytest.fixture
def memory() -> KeptInTests:
    return KeptInTests()


def send(ledger: Ledger, witness: Witness, memory: KeptInTests | None = None, **options: Any) -> Effect | Wait:
    look = witness.find if options.pop("probe", False) else None
    idempotent = options.pop("idempotent", False)
    resends = 3 if idempotent else 1
    target = FunctionTarget("call", witness.write, look, idempotent=idempotent, grace_seconds=0, resends=resends)
    return apply_effect(ledger, 1, call(), target, actor=options.pop("actor", ACTOR), memory=memory, **options)


@contextmanager
def away(conninfo: dict[str, Any], state: str = "true") -> Iterator[None]:
    """The ledger records no effect, or none of a state."""
    with failing(conninfo, "effects", where=state if state == "true" else f"NEW.state = '{state}'"):
        yield


class TestKept:
    def applied_but_not_recorded(
        self, ledger: Ledger, conninfo: dict[str, Any], memory: KeptInTests, witness: Witness
    ) -> None:
        approved(ledger, call())
        with away(conninfo, "applied"), pytest.raises(LedgerUnavailable) as error:
            send(ledger, witness, memory)
        assert "external id rec-1" in str(error.value)
        assert only_effect(ledger).state is EffectState.CLAIMED

    def test_a_write_that_could_not_be_recorded_is_recorded_by_the_next_attempt_and_not_sent_again(
        self, ledger: Ledger, conninfo: dict[str, Any], memory: KeptInTests
    ) -> None:
        witness = Witness()
        self.applied_but_not_recorded(ledger, conninfo, memory, witness)
        assert list(memory.facts) == ["aihandoff.effect.1"]

        done = send(ledger, witness, memory, actor=NEXT)

        assert isinstance(done, Effect)
        assert (done.state, done.external_id) == (EffectState.APPLIED, "rec-1")
        assert (len(witness.writes), memory.facts) == (1, {})

    def test_also_after_its_claim_has_expired(
        self, ledger: Ledger, conninfo: dict[str, Any], memory: KeptInTests
    ) -> None:
        witness = Witness()
        self.applied_but_not_recorded(ledger, conninfo, memory, witness)
        later(ledger, 3600)
        done = send(ledger, witness, memory, actor=NEXT)
        assert isinstance(done, Effect)
        assert (done.state, done.external_id, len(witness.writes)) == (EffectState.APPLIED, "rec-1", 1)
        assert "attempt 1 knew it" in str(ledger.record(1).events[-2].reason)

    def test_without_a_memory_it_waits_for_a_person_and_is_not_sent_again(
        self, ledger: Ledger, conninfo: dict[str, Any], memory: KeptInTests
    ) -> None:
        witness = Witness()
        self.applied_but_not_recorded(ledger, conninfo, memory, witness)
        later(ledger, 3600)
        assert isinstance(send(ledger, witness, None, actor=NEXT), Wait)
        assert len(witness.writes) == 1

    @pytest.mark.parametrize(
        ("error", "state"), [(EffectRefused("no."), EffectState.REFUSED), (EffectNotNow("not now."), "planned")]
    )
    def test_what_proves_that_nothing_was_written_is_kept_too(
        self, ledger: Ledger, conninfo: dict[str, Any], memory: KeptInTests, error: HandoffError, state: str
    ) -> None:
        approved(ledger, call())
        with away(conninfo, state), pytest.raises(LedgerUnavailable):
            send(ledger, Witness(before=error), memory)
        witness = Witness()
        done = send(ledger, witness, memory, actor=NEXT)
        assert isinstance(done, Effect)
        assert (done.state, done.attempt, len(witness.writes)) == (EffectState.APPLIED, 2, 1)

    def test_nothing_is_kept_where_the_ledger_takes_it(self, ledger: Ledger) -> None:
        approved(ledger, call())
        memory = KeptInTests(broken=True)
        assert isinstance(send(ledger, Witness(), memory), Effect)

    def test_what_the_ledger_took_in_the_end_is_kept_no_longer(
        self, ledger: Ledger, conninfo: dict[str, Any], memory: KeptInTests, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(connection_module, "PATIENCE", 60)
        approved(ledger, call())
        with failing(conninfo, "effects", times=7, where="NEW.state = 'applied'"):
            assert isinstance(send(ledger, Witness(), memory), Effect)
        assert memory.facts == {}

    def test_it_is_in_the_log_in_full_where_airflow_cannot_keep_it_either(
        self, ledger: Ledger, conninfo: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        self.applied_but_not_recorded(ledger, conninfo, KeptInTests(broken=True), Witness())
        effect = only_effect(ledger)
        for part in ("The external write was made", "job 1", "'call'", "rec-1", effect.effect_key, "Airflow cannot"):
            assert part in caplog.text

    @pytest.mark.parametrize("changed", [{"token": "another"}, {"plan_digest": "another"}])
    def test_what_another_claim_or_another_plan_kept_is_not_taken(
        self, ledger: Ledger, conninfo: dict[str, Any], memory: KeptInTests, changed: dict[str, str]
    ) -> None:
        witness = Witness()
        self.applied_but_not_recorded(ledger, conninfo, memory, witness)
        memory.facts = {name: {**facts, **changed} for name, facts in memory.facts.items()}
        assert isinstance(send(ledger, witness, memory, actor=NEXT), Wait)
        assert only_effect(ledger).state is EffectState.CLAIMED

    def test_ids_and_states_are_kept_and_no_content(
        self, ledger: Ledger, conninfo: dict[str, Any], memory: KeptInTests
    ) -> None:
        self.applied_but_not_recorded(ledger, conninfo, memory, Witness())
        (facts,) = memory.facts.values()
        assert set(facts) == {"outcome", "external_id", "attempt", "plan_digest", "token"}
        assert "Kettle" not in str(facts)


Scenario = Callable[[Ledger, dict[str, Any], Witness], Any]


def ledger_away(state: str = "true", **options: Any) -> Scenario:
    def scenario(ledger: Ledger, conninfo: dict[str, Any], witness: Witness) -> Any:
        with away(conninfo, state):
            return send(ledger, witness, **options)

    return scenario


def after_a_lost_attempt(then: Scenario, **options: Any) -> Scenario:
    """An earlier attempt has written, and does not know it."""

    def scenario(ledger: Ledger, conninfo: dict[str, Any], witness: Witness) -> Any:
        failure, witness.before, witness.after = witness.before, None, ConnectionError("lost")
        with pytest.raises(HandoffError):
            send(ledger, witness, idempotent=True)
        witness.before, witness.after, witness.earlier = failure, None, len(witness.writes)
        return then(ledger, conninfo, witness)

    return scenario


def another_takes_over(ledger: Ledger, conninfo: dict[str, Any], witness: Witness) -> Any:
    def write(title: str, *, effect_key: str) -> Applied:
        done = witness.write(title, effect_key=effect_key)
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.effects SET claim_token = gen_random_uuid()")
        return done

    return apply_effect(ledger, 1, call(), FunctionTarget("call", write, None), actor=ACTOR)


def cancelled(ledger: Ledger, conninfo: dict[str, Any], witness: Witness) -> Any:
    ledger.cancels.cancel(1, actor=ACTOR, reason="enough")
    return send(ledger, witness)


#: How an attempt may end in an error: the target, and what happens.
SCENARIOS: dict[str, tuple[Witness, Scenario]] = {
    "no claim": (Witness(), ledger_away()),
    "applied, not recorded": (Witness(), ledger_away("applied")),
    "refused, not recorded": (Witness(before=EffectRefused("no.")), ledger_away("refused")),
    "released, not recorded": (Witness(before=EffectNotNow("not now.")), ledger_away("planned")),
    "lost after the write, not recorded": (Witness(after=ConnectionError("lost")), ledger_away("unknown")),
    "lost before the write, not recorded": (Witness(before=ConnectionError("lost")), ledger_away("unknown")),
    "refused": (Witness(before=EffectRefused("no.")), lambda ledger, _, witness: send(ledger, witness)),
    "not now": (Witness(before=EffectNotNow("not now.")), lambda ledger, _, witness: send(ledger, witness)),
    "lost": (
        Witness(after=ConnectionError("lost")),
        lambda ledger, _, witness: send(ledger, witness, idempotent=True),
    ),
    "cancelled": (Witness(), cancelled),
    "the claim is lost to another attempt": (Witness(), another_takes_over),
    "lost before, and no claim": (Witness(), after_a_lost_attempt(ledger_away(idempotent=True))),
    "lost before, and what the probe found is not recorded": (Witness(), after_a_lost_attempt(ledger_away(probe=True))),
    "lost before, sent again, and not recorded": (
        Witness(),
        after_a_lost_attempt(ledger_away("applied", idempotent=True)),
    ),
    "lost before, and refused now": (
        Witness(before=EffectRefused("no.")),
        after_a_lost_attempt(lambda ledger, _, witness: send(ledger, witness, idempotent=True)),
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_sentence_of_an_error_is_what_the_witness_saw(ledger: Ledger, conninfo: dict[str, Any], name: str) -> None:
    target, scenario = SCENARIOS[name]
    witness = Witness(before=target.before, after=target.after)
    approved(ledger, call())

    with pytest.raises(HandoffError) as error:
        scenario(ledger, conninfo, witness)

    text, total = str(error.value), len(witness.writes)
    now = total - witness.earlier
    none_at_all = "No external write was made." in text
    none_now = re.search(r"This (attempt|step) made no external write", text) is not None
    made = "The external write was made" in text and "external id rec-" in text
    unknown = re.search(r"may have been (made|applied)", text) is not None
    assert none_at_all or none_now or made or unknown, text
    assert not (none_at_all and total), text
    assert not (none_now and now), text
    assert not (made and not now), text
    assert made or unknown or not now, text
