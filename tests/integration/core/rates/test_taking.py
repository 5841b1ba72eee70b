"""Those that ask for a limit at one moment: one is sooner, nothing is left of the others, and no wake is missed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.errors import EffectHeld
from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.rates import rate_limit_store, rate_store
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from airflow_provider_aihandoff.core.rates.rate_store import Ask, slot_freed
from airflow_provider_aihandoff.core.states import EffectState, RevisionState
from tests.factories import LEASE, TEST, job_spec
from tests.integration.core.rates.test_effect_limits import approved
from tests.waiting import until

ANNA = Actor.user("anna", "1")
CONN = "openai_default"

_WAITING = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""


def limit(ledger: Ledger, amount: int, measure: Measure = Measure.IN_FLIGHT) -> None:
    ledger.rate_limits.set(LimitKind.OPENAI, CONN, measure, amount, reason="the plan", actor=ANNA)


def opened(ledger: Ledger, key: str) -> Job:
    return ledger.submission.open(job_spec(job_key=key)).job


def intend(ledger: Ledger, job: Job) -> Intent:
    return ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)


def waiting(ledger: Ledger) -> int:
    query = "SELECT count(*) AS n FROM aihandoff.rate_waits"
    row: dict[str, Any] = ledger._database.transact(lambda connection: connection.execute(query).fetchone() or {})
    return int(row["n"])


def after_asking(monkeypatch: pytest.MonkeyPatch, job: Job, act: Callable[[], object]) -> None:
    """Act once, after a job has asked and may go, and before it takes what it needs."""
    ask = rate_store.ask

    def told(connection: LedgerConnection, one: Ask) -> Any:
        found = ask(connection, one)
        if one.job_id == job.job_id:
            monkeypatch.setattr(rate_store, "ask", ask)
            act()
        return found

    monkeypatch.setattr(rate_store, "ask", told)


def test_where_another_one_was_sooner_nothing_of_the_permission_is_left(
    ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(ledger, 1)
    sooner, late = opened(ledger, "sooner"), opened(ledger, "late")
    with Ledger(conninfo) as other:
        after_asking(monkeypatch, late, lambda: intend(other, sooner))
        intent = intend(ledger, late)
    assert (intent.token, intent.revision.held_kind) == (None, "rate")
    record = ledger.record(late.job_id)
    assert (record.revision.state, record.revision.submissions) == (RevisionState.QUEUED, 0)
    assert [event.event for event in record.events] == ["created", "held"]
    assert first_break(record.events, record.job) is None
    assert ledger.revision(sooner.job_id, 1).state is RevisionState.SUBMITTING


def test_where_another_write_was_sooner_nothing_of_the_claim_is_left(
    ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.rate_limits.set(LimitKind.TARGET, "cms", Measure.IN_FLIGHT, 1, reason="the CMS is slow", actor=ANNA)
    (sooner, its_plan), (late, plan) = approved(ledger, "a"), approved(ledger, "b")
    with Ledger(conninfo) as other:
        claim = partial(other.effects.claim, sooner, its_plan, lease=LEASE, actor=TEST)
        after_asking(monkeypatch, ledger.job(late), claim)
        with pytest.raises(EffectHeld, match="1 at once") as held:
            ledger.effects.claim(late, plan, lease=LEASE, actor=TEST)
    assert (held.value.effect.state, held.value.effect.attempt) == (EffectState.PLANNED, 0)
    record = ledger.record(late)
    assert first_break(record.events, record.job) is None


def test_a_limit_that_is_ended_at_that_moment_holds_nothing(
    ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(ledger, 1)
    job = opened(ledger, "a")
    with Ledger(conninfo) as other:
        end = other.rate_limits.end
        after_asking(
            monkeypatch, job, lambda: end(LimitKind.OPENAI, CONN, Measure.IN_FLIGHT, reason="no need", actor=ANNA)
        )
        assert intend(ledger, job).token is not None


def test_one_that_asks_while_another_one_ends_gets_its_place(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    limit(ledger, 1)
    running, job = opened(ledger, "running"), opened(ledger, "next")
    intend(ledger, running)
    asking = threading.Event()

    def ends(connection: LedgerConnection) -> None:
        connection.execute("UPDATE aihandoff.revisions SET state = 'cancelled' WHERE job_id = %s", [running.job_id])
        slot_freed(connection, LimitKind.OPENAI, CONN, None)
        asking.set()
        time.sleep(1.0)  # it is committed after the other one has asked

    def asks() -> Intent:
        with Ledger(conninfo) as other:
            assert asking.wait(30)
            return intend(other, job)

    with ThreadPoolExecutor(1) as threads:
        found = threads.submit(asks)
        ledger._database.transact(ends)
        assert found.result(60).token is not None


def test_all_slots_are_locked_in_one_order_so_that_no_two_wait_for_each_other(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    limit(ledger, 1)
    key = ledger.rate_limits.set(LimitKind.KEY, "slow", Measure.IN_FLIGHT, 1, reason="the plan", actor=ANNA)
    intend(ledger, ledger.submission.open(job_spec(job_key="first", conn_id="another", rate_key="slow")).job)
    job = ledger.submission.open(job_spec(job_key="second", rate_key="slow")).job
    with ThreadPoolExecutor(1) as threads, psycopg.connect(**conninfo) as ends:
        ends.execute("SELECT FROM aihandoff.rate_limits WHERE kind = 'openai' FOR NO KEY UPDATE")
        asked = threads.submit(intend, ledger, job)
        until(lambda: asked.done() or bool(ends.execute(_WAITING).fetchall()))
        assert not asked.done()
        ends.execute("SELECT FROM aihandoff.rate_limits WHERE limit_id = %s FOR NO KEY UPDATE NOWAIT", [key.limit_id])
        ends.rollback()
        assert asked.result(60).revision.held_kind == "rate"


def test_the_end_of_a_limit_wakes_all_that_wait_for_it(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_store, "WOKEN_AT_ONCE", 2)
    monkeypatch.setattr(rate_limit_store, "WOKEN_AT_ONCE", 2)
    limit(ledger, 0)
    for number in range(5):
        intend(ledger, opened(ledger, str(number)))
    ledger.rate_limits.end(LimitKind.OPENAI, CONN, Measure.IN_FLIGHT, reason="no need", actor=ANNA)
    late = "SELECT count(*) AS n FROM aihandoff.rate_waits WHERE asks_at > clock_timestamp()"
    row: dict[str, Any] = ledger._database.transact(lambda connection: connection.execute(late).fetchone() or {})
    assert (waiting(ledger), row["n"]) == (5, 0)


def test_the_end_of_a_limit_wakes_each_once_also_where_a_pause_holds_them_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limit_store, "WOKEN_AT_ONCE", 2)
    limit(ledger, 0)
    for number in range(5):
        intend(ledger, opened(ledger, str(number)))
    rounds: list[int] = []

    def woken_again_and_again(*_: Any) -> int:
        rounds.append(2)
        assert len(rounds) < 10, "it does not end"
        return 2

    monkeypatch.setattr(rate_limit_store, "wake", woken_again_and_again)
    ledger.rate_limits.end(LimitKind.OPENAI, CONN, Measure.IN_FLIGHT, reason="no need", actor=ANNA)
    assert len(rounds) == 3


def test_what_ends_gives_also_what_one_that_died_has_left(ledger: Ledger) -> None:
    limit(ledger, 2)
    first, dead, *others = [opened(ledger, str(number)) for number in range(5)]
    for job in (first, dead, *others):
        intend(ledger, job)
    assert waiting(ledger) == 3

    def ends(connection: LedgerConnection) -> None:
        connection.execute(
            "UPDATE aihandoff.revisions SET deadline = clock_timestamp() WHERE job_id = %s", [dead.job_id]
        )
        connection.execute("UPDATE aihandoff.revisions SET state = 'cancelled' WHERE job_id = %s", [first.job_id])
        slot_freed(connection, LimitKind.OPENAI, CONN, None)

    ledger._database.transact(ends)
    assert [intend(ledger, job).token is not None for job in others] == [True, True, False]


def test_what_something_else_holds_by_now_no_longer_waits_for_the_limit(ledger: Ledger) -> None:
    limit(ledger, 0, Measure.REQUESTS)
    job = opened(ledger, "a")
    assert intend(ledger, job).revision.held_kind == "rate"
    assert waiting(ledger) == 1
    ledger.pauses.begin(Scope(), writes=False, reason="an incident", actor=ANNA)
    assert intend(ledger, job).revision.held_kind == "pause"
    assert waiting(ledger) == 0
