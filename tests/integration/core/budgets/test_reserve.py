"""Money is reserved with the permission to send, settled with the end of a response, and never more than there is."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import psycopg
import pytest

from airflow_provider_aihandoff.core.budgets.reserve import ASKS_AGAIN
from airflow_provider_aihandoff.core.database.connection import WAKE_CHANNEL
from airflow_provider_aihandoff.core.errors import JobFailed
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.generation.surplus_store import Surplus
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.reconcile.run import reconcile
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from airflow_provider_aihandoff.triggers import wake_queries
from tests.factories import TEST
from tests.integration.core.budgets.conftest import ALICE, Add, Ask
from tests.waiting import until

Books = Callable[[], list[dict[str, Any]]]
Query = Callable[..., list[dict[str, Any]]]

COMPLETED = ResponseStatus.COMPLETED

_LONG_AGO = """
    UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp() - interval '3 minutes'
    WHERE revision_id = %s"""
_OVER = timedelta(seconds=-1)
#: The clock of the ledger's host has been set back since.
_SET_BACK = """
    UPDATE aihandoff.budget_reservations SET reserved_at = reserved_at + interval '1 hour' WHERE reservation = %s"""
_WAITING = """
    SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"""


def run(ledger: Ledger, intent: Intent, response_id: str) -> None:
    """The request was accepted."""
    assert intent.token is not None
    revision = intent.revision
    ledger.submission.submitted(
        revision.job_id,
        revision.number,
        token=intent.token,
        response_id=response_id,
        status=ResponseStatus.QUEUED,
        actor=TEST,
    )


def end(ledger: Ledger, intent: Intent, response_id: str, cost: Any) -> None:
    """Its response has completed."""
    output = Output(COMPLETED, "Text.", cost_usd=None if cost is None else Decimal(str(cost)))
    ledger.outputs.store(intent.revision.job_id, intent.revision.number, output, actor=TEST, response_id=response_id)


def used(ledger: Ledger, which: str = "all") -> tuple[Any, Any]:
    """What is reserved and what is settled."""
    use = ledger.budgets.read(which).use
    return use.reserved_usd, use.settled_usd


class TestAReservation:
    def test_is_made_with_the_permission_and_becomes_the_cost(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books
    ) -> None:
        add(10)
        intent = ask("a", 4)
        assert used(ledger) == (4, 0)
        run(ledger, intent, "resp_a")
        end(ledger, intent, "resp_a", "1.5")
        assert used(ledger) == (0, Decimal("1.5"))
        books()

    def test_comes_back_where_the_request_was_refused(self, ledger: Ledger, add: Add, ask: Ask, books: Books) -> None:
        add(10)
        intent = ask("a", 4)
        assert intent.token is not None
        ledger.submission.not_submitted(
            intent.revision.job_id, 1, token=intent.token, actor=TEST, reason="429: too many requests"
        )
        assert used(ledger) == (0, 0)
        again = ask("a", 4)
        assert (again.token is not None, used(ledger)) == (True, (4, 0))
        books()

    def test_of_a_lost_request_stays_where_the_second_one_is_refused(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query
    ) -> None:
        add(10)
        lost = ask("a", 4, _OVER)
        query(_SET_BACK, lost.token)
        second = ask("a", 3)
        assert (second.token is not None, used(ledger)) == (True, (7, 0))
        assert second.token is not None
        ledger.submission.not_submitted(lost.revision.job_id, 1, token=second.token, actor=TEST, reason="429")
        assert used(ledger) == (4, 0)
        assert [
            row["reservation"]
            for row in query("SELECT reservation FROM aihandoff.budget_reservations WHERE state = 'reserved'")
        ] == [lost.token]
        books()

    def test_is_that_of_the_request_whose_answer_came_late(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query
    ) -> None:
        add(10)
        late = ask("a", 4, _OVER)
        sent = ask("a", 3)  # counts the first one as lost
        assert sent.token is not None
        query(_SET_BACK, late.token)
        run(ledger, late, "resp_late")
        named = query("SELECT reservation FROM aihandoff.budget_reservations WHERE response_id = 'resp_late'")
        assert [row["reservation"] for row in named] == [late.token]
        books()

    def test_ends_with_its_stripe_locked_first_so_that_a_change_of_the_budget_waits_for_no_one_who_waits_for_it(
        self, ledger: Ledger, add: Add, ask: Ask, query: Query, conninfo: dict[str, Any]
    ) -> None:
        add(10)
        intent = ask("a", 4)
        run(ledger, intent, "resp_a")
        with ThreadPoolExecutor(1) as threads, psycopg.connect(**conninfo) as change:
            change.execute("SELECT FROM aihandoff.budget_stripes FOR UPDATE")
            ended = threads.submit(end, ledger, intent, "resp_a", 1)
            until(lambda: bool(query(_WAITING)))
            change.execute("SELECT FROM aihandoff.budget_reservations FOR UPDATE NOWAIT")
            change.rollback()
            ended.result(60)
        assert used(ledger) == (0, 1)

    def test_counts_in_each_budget_that_is_about_the_job_and_in_no_other(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books
    ) -> None:
        add(10, "all")
        add(10, "tagged", scope={"tag": "nightly", "job_type": "publishing"})
        add(10, "other", scope={"tag": "daily"})
        add(10, "both", scope={"tag": "nightly", "dag_id": "another"})
        ask("a", 4, tags=("nightly", "x"))
        assert [used(ledger, name)[0] for name in ("all", "tagged", "other", "both")] == [4, 4, 0, 0]
        books()

    def test_is_made_in_no_budget_where_one_has_no_room(self, ledger: Ledger, add: Add, ask: Ask, books: Books) -> None:
        add(10, "wide")
        add(5, "narrow", scope={"job_type": "publishing"})
        ask("a", 4)
        held = ask("b", 4)
        assert (held.token, held.revision.held_kind) == (None, "budget")
        assert (used(ledger, "wide"), used(ledger, "narrow")) == ((4, 0), (4, 0))
        books()

    def test_stays_for_a_lost_request_until_nothing_can_run_any_longer(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query
    ) -> None:
        add(10)
        intent = ask("a", 4)
        assert intent.token is not None
        ledger.submission.submission_lost(intent.revision.job_id, 1, token=intent.token, actor=TEST, reason="timeout")
        assert (ledger.reservations.expire(), used(ledger)) == (0, (4, 0))
        query("UPDATE aihandoff.budget_reservations SET expires_at = clock_timestamp() - interval '1 second'")
        assert (ledger.reservations.expire(), used(ledger)) == (1, (0, 0))
        books()

    def test_of_a_known_response_of_which_nothing_more_was_heard_counts_as_spent(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query
    ) -> None:
        add(10)
        run(ledger, ask("a", 4), "resp_a")
        query("UPDATE aihandoff.budget_reservations SET expires_at = clock_timestamp() - interval '1 second'")
        assert (ledger.reservations.expire(), used(ledger)) == (1, (0, 4))
        assert ledger.budgets.read("all").use.assumed_usd == 4
        books()

    def test_of_an_expired_one_is_found_after_all_and_counts(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query
    ) -> None:
        add(4)
        intent = ask("a", 4)
        query("UPDATE aihandoff.budget_reservations SET expires_at = clock_timestamp() - interval '1 second'")
        ledger.reservations.expire()
        ask("b", 4)
        run(ledger, intent, "resp_a")
        end(ledger, intent, "resp_a", 3)
        use: Any = ledger.budgets.read("all").use
        assert (use.reserved_usd, use.settled_usd, use.beyond_usd, use.room_usd) == (4, 3, 3, 0)
        books()

    def test_of_a_surplus_response_is_settled_with_what_it_cost(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books
    ) -> None:
        add(10)
        late = ask("a", 4, lease=timedelta(0))
        second = ask("a", 4)
        assert used(ledger) == (8, 0)
        run(ledger, second, "resp_2")
        run(ledger, late, "resp_1")
        (surplus,) = ledger.surplus.of_job(late.revision.job_id)
        assert isinstance(surplus, Surplus)
        ledger.surplus.settle(surplus, actor=TEST, reason="cancelled", detail={"cost_usd": Decimal("0.5")})
        assert used(ledger) == (4, Decimal("0.5"))
        end(ledger, second, "resp_2", 2)
        assert used(ledger) == (0, Decimal("2.5"))
        books()


def test_the_maintenance_dag_gives_back_what_is_reserved_for_requests_that_are_lost_for_good(
    ledger: Ledger, add: Add, ask: Ask, query: Query
) -> None:
    add(10)
    ask("a", 4)
    query("UPDATE aihandoff.budget_reservations SET expires_at = clock_timestamp() - interval '1 second'")

    def found(*, dry_run: bool) -> list[str | None]:
        findings = reconcile(
            ledger,
            provider_for=cast("Any", None),
            states_of=cast("Any", lambda *_: {}),
            inbox_retention=timedelta(days=30),
            dry_run=dry_run,
        )
        return [each.done for each in findings if each.kind == "expired reservations"]

    assert (found(dry_run=True), used(ledger)) == ([None], (4, 0))
    assert (found(dry_run=False), used(ledger)) == (["ended 1"], (0, 0))
    assert found(dry_run=False) == []


class TestAPriceThatIsNotKnown:
    def test_of_a_response_counts_as_what_was_reserved_until_it_is_known(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books
    ) -> None:
        add(10)
        intent = ask("a", 4)
        run(ledger, intent, "resp_a")
        end(ledger, intent, "resp_a", None)
        use: Any = ledger.budgets.read("all").use
        assert (use.settled_usd, use.assumed_usd) == (4, 4)
        books()

    @pytest.mark.parametrize(("cost", "settled", "assumed"), [("0.5", 4, 4), ("5", 5, 0)])
    def test_of_a_tool_is_never_0_so_that_at_least_what_was_reserved_counts(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books, cost: str, settled: int, assumed: int
    ) -> None:
        add(10)
        intent = ask("a", 4, max_cost_usd=Decimal(5))
        run(ledger, intent, "resp_a")
        usage = {"input_tokens": 1, "tool_calls": {"web_search_call": 3}}
        output = Output(COMPLETED, "Text.", usage=usage, cost_usd=Decimal(cost))
        ledger.outputs.store(intent.revision.job_id, 1, output, actor=TEST, response_id="resp_a")
        use: Any = ledger.budgets.read("all").use
        assert (use.settled_usd, use.assumed_usd) == (settled, assumed)
        books()
        job = ledger.job(intent.revision.job_id)
        held = ledger.budgets.would_hold(job, "openai_default", WorstCase(cost_usd=Decimal("1.5")))
        assert f"it has cost {settled}.00 USD until now" in str(held)

    def test_of_a_request_fails_its_job_and_says_what_to_do(self, ledger: Ledger, add: Add, ask: Ask) -> None:
        add(10)
        with pytest.raises(JobFailed, match=r"is not known.*the budget 'all'.*unpriced="):
            ask("a", None)
        (job,) = ledger.jobs()
        assert job.state is JobState.FAILED

    def test_matters_to_no_one_without_a_budget(self, ask: Ask) -> None:
        assert ask("a", None).token is not None


class TestWithoutRoom:
    def test_a_job_is_held_with_the_numbers_and_goes_on_when_there_is_room(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books
    ) -> None:
        add(5)
        first = ask("a", 4)
        held = ask("b", 2)
        revision = held.revision
        assert (held.token, revision.held_kind, revision.held_name) == (None, "budget", "1")
        assert str(revision.held_why).startswith(
            "This request can cost up to 2.00 USD, and the budget 'all' (everything) has 1.00 USD of 5.00 USD left."
        )
        assert 0 < held.wait <= ASKS_AGAIN.total_seconds()
        run(ledger, first, "resp_a")
        end(ledger, first, "resp_a", 1)
        assert ask("b", 2).token is not None
        books()

    def test_the_end_of_a_response_wakes_those_who_wait(
        self, ledger: Ledger, add: Add, ask: Ask, conninfo: dict[str, Any]
    ) -> None:
        add(5)
        first = ask("a", 4)
        held = ask("b", 2)
        run(ledger, first, "resp_a")
        with psycopg.connect(**conninfo, autocommit=True) as listener:
            listener.execute(f"LISTEN {WAKE_CHANNEL}")
            end(ledger, first, "resp_a", 1)
            woken = {int(message.payload) for message in listener.notifies(timeout=10, stop_after=2)}
        assert held.revision.job_id in woken

    def test_who_came_first_goes_first(self, ledger: Ledger, add: Add, ask: Ask, books: Books) -> None:
        add(5)
        first = ask("a", 4)
        ask("b", 3)
        assert ask("c", 1).token is None  # there is room for it, and b waits for more
        run(ledger, first, "resp_a")
        end(ledger, first, "resp_a", 1)
        assert ask("c", 1).token is not None  # there is room for both
        assert ask("d", 1).token is None
        assert ask("b", 3).token is not None
        books()

    def test_who_no_longer_asks_holds_up_no_one(self, ledger: Ledger, add: Add, ask: Ask, query: Query) -> None:
        add(5)
        ask("a", 4)
        ask("b", 3)
        assert ask("c", 1).token is None
        query(
            "UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp() - interval '3 minutes'"
            " WHERE job_id = (SELECT job_id FROM aihandoff.jobs WHERE job_key = 'b')"
        )
        assert ask("c", 1).token is not None

    def test_one_for_whom_a_person_waits_goes_first(self, ledger: Ledger, add: Add, ask: Ask) -> None:
        add(5)
        first = ask("a", 4)
        assert ask("b", 2).token is None
        assert ask("c", 2, priority="interactive").token is None
        assert ask("d", 1, priority="interactive").token is None  # there is room for it, and c came before
        run(ledger, first, "resp_a")
        end(ledger, first, "resp_a", 1)
        assert ask("b", 2).token is None  # 4 are left, and 3 of them are for the others
        assert ask("d", 1, priority="interactive").token is not None
        assert ask("c", 2, priority="interactive").token is not None

    def test_room_wakes_those_behind_one_that_no_longer_asks(
        self, ledger: Ledger, add: Add, ask: Ask, query: Query
    ) -> None:
        add(5)
        first = ask("a", 4)
        gone, held = ask("b", 5), ask("c", 2)
        assert (gone.token, held.token) == (None, None)
        run(ledger, first, "resp_a")
        query(_LONG_AGO, gone.revision.revision_id)
        end(ledger, first, "resp_a", 2)
        assert ledger.revision(held.revision.job_id, 1).submit_lease_until <= ledger.now()  # type: ignore[operator]

    async def test_a_sweep_of_a_triggerer_wakes_those_behind_one_that_has_left(
        self, ledger: Ledger, add: Add, ask: Ask, conninfo: dict[str, Any]
    ) -> None:
        add(5)
        ask("a", 4)
        first, held, other = ask("b", 3), ask("c", 1), ask("d", 1)
        waits = [(each.revision.job_id, 1, str(each.revision.submit_lease_until)) for each in (first, held, other)]
        async with await wake_queries.connect(conninfo) as connection:
            await wake_queries.use_budgets(connection)
            assert await wake_queries.settled_submissions(connection, waits) == set()
            ledger.cancels.cancel(first.revision.job_id, actor=TEST, reason="not needed")
            await wake_queries.use_budgets(connection)
            assert await wake_queries.settled_submissions(connection, waits) == {waits[0], waits[1]}

    def test_a_raise_for_once_lets_them_go_on(self, ledger: Ledger, add: Add, ask: Ask, books: Books) -> None:
        add(5)
        ask("a", 4)
        ask("b", 3)
        ledger.budgets.raise_once("all", Decimal(2), why="month's end", actor=ALICE)
        assert ask("b", 3).token is not None
        books()

    def test_a_request_that_never_fits_fails_with_both_numbers(self, add: Add, ask: Ask) -> None:
        add(5)
        with pytest.raises(JobFailed, match=r"up to 6\.00 USD, and the budget 'all' \(everything\) has 5\.00 USD"):
            ask("a", 6)

    def test_a_budget_that_says_fail_fails_at_once(self, ledger: Ledger, add: Add, ask: Ask) -> None:
        add(5, on_full="fail")
        ask("a", 4)
        with pytest.raises(
            JobFailed, match=r"up to 2\.00 USD, and the budget 'all' .* has 1\.00 USD of 5\.00 USD left"
        ):
            ask("b", 2)
        assert used(ledger) == (4, 0)

    def test_a_budget_that_warns_lets_it_pass_and_says_how_much_is_beyond(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books
    ) -> None:
        add(5, on_full="warn")
        first = ask("a", 4)
        assert ask("b", 2).token is not None
        use: Any = ledger.budgets.read("all").use
        assert (use.used_usd, use.beyond_usd, use.percent) == (6, 1, 120)
        run(ledger, first, "resp_a")
        end(ledger, first, "resp_a", 1)
        assert ledger.budgets.read("all").use.beyond_usd == 0
        books()


class TestMoreThanWasReserved:
    def test_takes_the_room_that_there_is(self, ledger: Ledger, add: Add, ask: Ask, books: Books) -> None:
        add(10)
        intent = ask("a", 1)
        run(ledger, intent, "resp_a")
        end(ledger, intent, "resp_a", 7)
        use: Any = ledger.budgets.read("all").use
        assert (use.settled_usd, use.beyond_usd, use.room_usd) == (7, 0, 3)
        books()

    def test_goes_beyond_where_there_is_none_and_is_made_up_for_from_the_next_room(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books
    ) -> None:
        add(10)
        intent, other = ask("a", 1), ask("b", 8)
        run(ledger, intent, "resp_a")
        end(ledger, intent, "resp_a", 5)
        assert ledger.budgets.read("all").use.beyond_usd == 3
        assert ask("c", 1).token is None
        run(ledger, other, "resp_b")
        end(ledger, other, "resp_b", 4)
        assert ledger.budgets.read("all").use.beyond_usd == 0
        assert ask("c", 1).token is not None
        assert used(ledger) == (1, 9)
        books()

    def test_waits_for_no_one_where_it_is_made_up_for(
        self, ledger: Ledger, add: Add, ask: Ask, books: Books, query: Query, conninfo: dict[str, Any]
    ) -> None:
        add(10)
        sent = [ask(key, 1) for key in "ab"] + [ask("c", 8)]
        for intent, response_id in zip(sent, ("resp_a", "resp_b", "resp_c"), strict=True):
            run(ledger, intent, response_id)
        end(ledger, sent[0], "resp_a", 5)
        (stripe,) = query("SELECT stripe FROM aihandoff.budget_reservations WHERE response_id = 'resp_b'")
        with psycopg.connect(**conninfo) as other:
            other.execute("SELECT FROM aihandoff.budget_stripes WHERE stripe <> %s FOR UPDATE", [stripe["stripe"]])
            end(ledger, sent[1], "resp_b", "0.5")
            assert ledger.budgets.read("all").use.beyond_usd == 4
        end(ledger, sent[2], "resp_c", 1)
        assert ledger.budgets.read("all").use.beyond_usd == 0
        books()


class TestTheBoundOfAJob:
    def test_is_checked_before_the_first_request(self, ask: Ask) -> None:
        with pytest.raises(JobFailed, match=r"up to 2\.00 USD, and the job is not to cost more than 1\.00 USD"):
            ask("a", 2, max_cost_usd=Decimal(1))

    def test_counts_what_the_job_has_cost_until_now(self, ledger: Ledger, ask: Ask) -> None:
        intent = ask("a", 2, max_cost_usd=Decimal(3))
        run(ledger, intent, "resp_a")
        output = Output(ResponseStatus.FAILED, error={"kind": "failed"}, cost_usd=Decimal("1.5"))
        ledger.outputs.store(intent.revision.job_id, 1, output, actor=TEST, response_id="resp_a")
        with pytest.raises(JobFailed, match=r"up to 2\.00 USD, it has cost 1\.50 USD until now"):
            ask("a", 2, max_cost_usd=Decimal(3))

    def test_counts_a_lost_request_as_its_worst_case(self, ledger: Ledger, ask: Ask) -> None:
        ask("a", 2, max_cost_usd=Decimal(3), lease=timedelta(0))
        with pytest.raises(JobFailed, match=r"it has cost 2\.00 USD until now"):
            ask("a", 2, max_cost_usd=Decimal(3))


def test_a_day_begins_at_midnight_of_its_time_zone_and_with_it_the_budget(
    ledger: Ledger, add: Add, ask: Ask, query: Query, books: Books
) -> None:
    add(5, period="day", time_zone="Europe/Berlin")
    ask("a", 4)
    assert ask("b", 4).token is None
    use = ledger.budgets.read("all").use
    assert use.starts_at <= datetime.now(UTC) < (use.ends_at or datetime.max.replace(tzinfo=UTC))
    query(
        "UPDATE aihandoff.budget_windows SET starts_at = starts_at - interval '1 day',"
        " ends_at = ends_at - interval '1 day'"
    )
    assert ask("b", 4).token is not None
    assert used(ledger) == (4, 0)
    assert len(books()) == 2
