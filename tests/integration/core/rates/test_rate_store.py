"""Limits of speed in the ledger: asked where the permission is given, shared by all, and counted from what is known."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import Rollback

from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.errors import LimitNotFound, LimitRefused
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.rates import rate_store
from airflow_provider_aihandoff.core.rates.fair_order import HERE, WAKE_AHEAD
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure, Priority
from airflow_provider_aihandoff.core.rates.rate_store import Ask, RateHold, RateRefusal, keep_wait
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.rates.slowdown_store import hear
from tests.factories import TEST, job_spec

ANNA = Actor.user("anna", "1")
CONN = "openai_default"


def limit(ledger: Ledger, amount: int, measure: Measure = Measure.REQUESTS, **more: Any) -> Any:
    values = {"kind": LimitKind.OPENAI, "name": CONN, "reason": "the plan that we pay for", "actor": ANNA, **more}
    return ledger.rate_limits.set(measure=measure, amount=amount, **values)


def ask_for(ledger: Ledger, key: str = "a", tokens: int = 0, **more: Any) -> Ask:
    opened = ledger.submission.open(job_spec(job_key=key, **more))
    return Ask.of_request(opened.job, opened.revision, tokens)


def run(ledger: Ledger, work: Callable[[LedgerConnection], Any]) -> Any:
    return ledger._database.transact(work)


def take(connection: LedgerConnection, ask: Ask) -> RateHold | RateRefusal | None:
    """Ask, and take after the permission is written down."""
    asked = rate_store.ask(connection, ask)
    if not isinstance(asked, list):
        return asked
    with connection.transaction() as permitted:
        connection.execute(
            """UPDATE aihandoff.revisions SET state = 'submitting', submitted_at = clock_timestamp()
                WHERE revision_id = %s""",
            [ask.revision_id],
        )
        found = rate_store.take(connection, ask, asked)
        if found is not None:
            raise Rollback(permitted)
    return found


def taken(ledger: Ledger, ask: Ask) -> RateHold | RateRefusal | None:
    """The same, and write down what waits."""

    def work(connection: LedgerConnection) -> RateHold | RateRefusal | None:
        found = take(connection, ask)
        if isinstance(found, RateHold):
            keep_wait(connection, found)
        return found

    found: RateHold | RateRefusal | None = run(ledger, work)
    return found


def waits(ledger: Ledger) -> list[dict[str, Any]]:
    query = "SELECT * FROM aihandoff.rate_waits ORDER BY tag, wait_id"
    rows: list[dict[str, Any]] = run(ledger, lambda c: c.execute(query).fetchall())
    return rows


def test_without_a_limit_nothing_waits(ledger: Ledger) -> None:
    assert all(taken(ledger, ask_for(ledger, str(number))) is None for number in range(5))


def test_what_is_over_the_limit_waits_and_says_for_what_for_how_many_and_until_when(ledger: Ledger) -> None:
    limit(ledger, 20, period=3600)
    asks = [ask_for(ledger, str(number)) for number in range(6)]
    first, second, third = (taken(ledger, ask) for ask in asks[:3])
    assert first is None
    assert second is None
    assert isinstance(third, RateHold)
    assert "20 requests an hour (requests of the connection openai_default); it is the next; it goes on at" in third.why
    assert not third.wait.here
    fourth = taken(ledger, asks[3])
    assert isinstance(fourth, RateHold)
    assert "; 1 before it; it goes on at" in fourth.why
    assert fourth.until - third.until == pytest.approx(timedelta(seconds=180), abs=timedelta(seconds=2))


def test_a_limit_of_0_stops_and_a_higher_one_lets_go_on(ledger: Ledger) -> None:
    limit(ledger, 0)
    ask = ask_for(ledger)
    held = taken(ledger, ask)
    assert isinstance(held, RateHold)
    assert held.why == "It waits: a limit of 0 has stopped the requests of the connection openai_default."
    limit(ledger, 60)
    (row,) = waits(ledger)
    assert row["asks_at"] < held.until  # it was woken
    assert taken(ledger, ask) is None
    assert waits(ledger) == []


def test_an_ended_limit_wakes_what_waits(ledger: Ledger) -> None:
    limit(ledger, 0)
    asks = [ask_for(ledger, str(number)) for number in range(3)]
    helds = [held for ask in asks if isinstance(held := taken(ledger, ask), RateHold)]
    ledger.rate_limits.end(LimitKind.OPENAI, CONN, Measure.REQUESTS, reason="no longer needed", actor=ANNA)
    assert all(row["asks_at"] < held.until for row, held in zip(waits(ledger), helds, strict=True))
    assert [taken(ledger, ask) for ask in asks] == [None] * 3
    with pytest.raises(LimitNotFound):
        ledger.rate_limits.end(LimitKind.OPENAI, CONN, Measure.REQUESTS, reason="again", actor=ANNA)


def test_each_change_is_recorded_with_who_and_why(ledger: Ledger) -> None:
    limit(ledger, 10)
    changed = limit(ledger, 20, reason="more people", weights={"type:nightly": 0.5})
    limit(ledger, 20, reason="again")
    ended = ledger.rate_limits.end(LimitKind.OPENAI, CONN, Measure.REQUESTS, reason="done", actor=TEST)
    changes = ledger.rate_limits.changes(changed.limit_id)
    assert [(c.amount, c.reason, c.by, c.weights) for c in changes] == [
        (None, "done", TEST, {}),
        (20, "again", ANNA, {"type:nightly": 0.5}),
        (20, "more people", ANNA, {"type:nightly": 0.5}),
        (10, "the plan that we pay for", ANNA, {}),
    ]
    assert ended.limit_id == changed.limit_id


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"amount": -1}, "must not be negative"),
        ({"amount": 1.5}, "must be a whole number"),
        ({"amount": 10**13}, "must be at most"),
        ({"name": " "}, "must not be empty"),
        ({"period": 7}, "a second, a minute, a hour, not 7 seconds"),
        ({"measure": Measure.IN_FLIGHT, "period": 60}, "has no period"),
        ({"kind": LimitKind.TARGET, "measure": Measure.TOKENS}, "has no tokens"),
        ({"reason": " "}, "needs a reason"),
        ({"weights": {"nightly": 1}}, "type:NAME or requester:NAME"),
        ({"weights": {"type:nightly": float("nan")}}, "must be from 0.01 to 100"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_and_nothing_is_set(
    ledger: Ledger, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(LimitRefused, match=said):
        limit(ledger, **{"amount": 10, **values})
    assert ledger.rate_limits.find() == []


def test_a_request_that_could_never_be_sent_is_refused(ledger: Ledger) -> None:
    limit(ledger, 1000, Measure.TOKENS)
    refused = taken(ledger, ask_for(ledger, tokens=1001))
    assert isinstance(refused, RateRefusal)
    assert "may need 1001 tokens, and the limit is 1000 tokens a minute" in refused.why


def test_tokens_are_counted_by_what_a_request_may_need(ledger: Ledger) -> None:
    limit(ledger, 1000, Measure.TOKENS)
    assert taken(ledger, ask_for(ledger, "a", tokens=600)) is None
    assert isinstance(taken(ledger, ask_for(ledger, "b", tokens=600)), RateHold)
    (state,) = ledger.rate_limits.find()
    assert (state.used, state.waiting, state.now) == (600, 1, 1000)


def test_what_is_in_flight_is_counted_from_what_the_ledger_knows(ledger: Ledger) -> None:
    limit(ledger, 2, Measure.IN_FLIGHT)
    first, second, third = (ask_for(ledger, key) for key in "abc")
    for ask in (first, second):
        assert taken(ledger, ask) is None
    held = taken(ledger, third)
    assert isinstance(held, RateHold)
    assert "2 at once (in flight of the connection openai_default); it is the next." in held.why
    run(
        ledger,
        lambda c: c.execute(
            "UPDATE aihandoff.revisions SET state = 'failed' WHERE revision_id = %s", [first.revision_id]
        ),
    )
    assert taken(ledger, third) is None


def test_one_whose_lost_request_is_sent_again_is_not_in_its_own_way(ledger: Ledger) -> None:
    limit(ledger, 1, Measure.IN_FLIGHT)
    ask = ask_for(ledger)
    assert taken(ledger, ask) is None
    assert taken(ledger, ask) is None


def test_a_limit_is_never_exceeded_by_many_at_once(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    limit(ledger, 3, Measure.IN_FLIGHT)
    limit(ledger, 1000, period=3600)
    asks = [ask_for(ledger, str(number)) for number in range(16)]
    start = threading.Barrier(8)

    def one(mine: list[Ask]) -> int:
        with Ledger(conninfo) as own:
            start.wait(10)
            got = 0
            for ask in mine:
                got += run(own, partial(take, ask=ask)) is None
            return got

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(one, [asks[number::8] for number in range(8)])) == 3


def test_a_person_goes_before_a_batch_and_a_small_flow_beside_a_large_one(ledger: Ledger) -> None:
    limit(ledger, 0)
    for number in range(5):
        taken(ledger, ask_for(ledger, f"big {number}"))
    taken(ledger, ask_for(ledger, "small", requested_by="bob"))
    taken(ledger, ask_for(ledger, "person", requested_by="carol", priority="interactive"))
    weighty = {"type:publishing": 1.0, "requester:dora": 4.0}
    limit(ledger, 0, weights=weighty)
    for number in range(4):
        taken(ledger, ask_for(ledger, f"dora {number}", requested_by="dora"))
    keys = run(
        ledger,
        lambda c: c.execute("""SELECT job_key FROM aihandoff.rate_waits JOIN aihandoff.jobs USING (job_id)
            ORDER BY priority = 'batch', tag, wait_id""").fetchall(),
    )
    order = [row["job_key"] for row in keys]
    assert order[:4] == ["person", "dora 0", "dora 1", "dora 2"]
    assert order.index("small") < order.index("big 1")
    assert order[-4:] == ["big 1", "big 2", "big 3", "big 4"]


def test_one_that_waits_longer_than_its_author_allows_is_given_up(ledger: Ledger) -> None:
    limit(ledger, 0)
    ask = ask_for(ledger, max_wait=timedelta(minutes=5))
    assert isinstance(taken(ledger, ask), RateHold)
    run(ledger, lambda c: c.execute("UPDATE aihandoff.rate_waits SET since = since - interval '5 min'"))
    refused = taken(ledger, ask)
    assert isinstance(refused, RateRefusal)
    assert "has waited for 5 min, as long as its author allows (max_wait)" in refused.why


def test_one_that_does_not_come_at_its_time_is_not_waited_for(ledger: Ledger) -> None:
    limit(ledger, 20, period=3600)
    dead, other = ask_for(ledger, "dead"), ask_for(ledger, "other")
    for key in "ab":
        taken(ledger, ask_for(ledger, key))
    taken(ledger, dead)
    run(ledger, lambda c: c.execute("UPDATE aihandoff.rate_waits SET here = true, asks_at = clock_timestamp()"))
    held = taken(ledger, other)
    assert isinstance(held, RateHold)
    assert held.wait.before == 1
    run(ledger, lambda c: c.execute("UPDATE aihandoff.rate_waits SET asks_at = asks_at - interval '1 h' WHERE here"))
    held = taken(ledger, other)
    assert isinstance(held, RateHold)
    assert held.wait.before == 0


def test_one_answer_that_it_was_too_much_slows_the_whole_fleet_at_once(ledger: Ledger) -> None:
    heard = Heard(too_much=True, wait=30.0, said="429 rate_limit_exceeded")
    run(ledger, lambda c: hear(c, LimitKind.OPENAI, CONN, heard))
    held = taken(ledger, ask_for(ledger))
    assert isinstance(held, RateHold)
    assert "has asked for a pause on the connection openai_default (429 rate_limit_exceeded)" in held.why
    (state,) = ledger.rate_limits.find()
    assert (state.limit.amount, state.now, state.paused, state.slowed) == (None, 30, True, True)
    for _ in range(5):  # those that were under way together count once
        run(ledger, lambda c: hear(c, LimitKind.OPENAI, CONN, heard))
    (again,) = ledger.rate_limits.find()
    assert again.now == 30
    run(ledger, lambda c: c.execute("UPDATE aihandoff.rate_limits SET closed_until = clock_timestamp()"))
    assert taken(ledger, ask_for(ledger)) is None
    run(ledger, lambda c: c.execute("UPDATE aihandoff.rate_limits SET slowed_at = slowed_at - interval '5 min'"))
    (later,) = ledger.rate_limits.find()
    assert later.now == 60  # it grows again by a tenth a minute
    run(ledger, lambda c: c.execute("UPDATE aihandoff.rate_limits SET slowed_at = slowed_at - interval '35 min'"))
    assert ledger.rate_limits.find()[0].now is None


def test_a_stated_limit_that_is_lower_than_the_one_that_was_set_counts(ledger: Ledger) -> None:
    limit(ledger, 600)
    run(ledger, lambda c: hear(c, LimitKind.OPENAI, CONN, Heard(requests=100)))
    (state,) = ledger.rate_limits.find()
    assert (state.now, state.paused, state.slowed) == (100, False, True)


def test_a_target_that_asks_for_a_pause_stops_all_writes_of_its_connection(ledger: Ledger) -> None:
    run(ledger, lambda c: hear(c, LimitKind.TARGET, "cms", Heard(too_much=True, wait=10.0)))
    ask = replace(ask_for(ledger), kind=LimitKind.TARGET, conn_id="cms")
    assert isinstance(taken(ledger, ask), RateHold)
    assert taken(ledger, replace(ask, conn_id="crm")) is None


def test_a_key_counts_beside_the_connection(ledger: Ledger) -> None:
    limit(ledger, 0, kind=LimitKind.KEY, name="slow model")
    assert isinstance(taken(ledger, ask_for(ledger, "a", rate_key="slow model")), RateHold)
    assert taken(ledger, ask_for(ledger, "b")) is None


def test_those_that_go_wake_the_next_so_that_what_is_free_is_used(ledger: Ledger) -> None:
    limit(ledger, 0)
    asks = [ask_for(ledger, str(number)) for number in range(30)]
    for ask in asks:
        taken(ledger, ask)
    run(ledger, lambda c: c.execute("UPDATE aihandoff.rate_limits SET amount = 60"))
    assert taken(ledger, asks[0]) is None
    woken = run(
        ledger,
        lambda c: c.execute("""SELECT count(*) AS n FROM aihandoff.rate_waits
        WHERE asks_at <= clock_timestamp()""").fetchone(),
    )
    assert woken["n"] == WAKE_AHEAD + HERE  # at one a second


def test_the_ledger_refuses_a_negative_limit_from_any_program(ledger: Ledger) -> None:
    limit(ledger, 1)
    with pytest.raises(psycopg.errors.CheckViolation):
        run(ledger, lambda c: c.execute("UPDATE aihandoff.rate_limits SET amount = -1"))


def test_priorities_are_those_of_the_columns() -> None:
    assert set(Priority) == {"interactive", "batch"}
