"""Webhooks that come together: each is recorded as if it had come alone, in one transaction, and none waits."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core import crashpoints
from airflow_provider_aihandoff.core.errors import IllegalTransition, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, InboxEntry, Revision
from airflow_provider_aihandoff.core.states import Disposition, JobEvent, JobState, ResponseStatus, RevisionState
from airflow_provider_aihandoff.core.webhooks import inbox_batch
from airflow_provider_aihandoff.core.webhooks.inbox import POLL_AFTER, Delivery, Receipt
from tests.factories import TEST, draft, job_spec, submit
from tests.failing_database import failing
from tests.integration.core.webhooks.inboxes import (
    IMPATIENT,
    Race,
    check_histories,
    count,
    deliver,
    intend,
    lines,
    open_job,
    pausing_at_commit,
    race,
    run,
    submitted,
    webhook,
)

D = Disposition


@pytest.fixture(autouse=True)
def every_history_stays_unbroken(ledger: Ledger) -> Iterator[None]:
    yield
    check_histories(ledger)


@pytest.fixture(name="race")
def opened_race(conninfo: dict[str, Any]) -> Iterator[Race]:
    with race(conninfo) as opened:
        yield opened


@pytest.fixture
def slow(conninfo: dict[str, Any], race: Race) -> Iterator[Ledger]:
    """The ledger, where the first step of a race waits with its commit for the other step."""
    with pausing_at_commit(conninfo, race) as opened:
        yield opened


def running(ledger: Ledger, number: int) -> Revision:
    """A job that waits for a response of that number."""
    return submit(ledger, job_spec(job_key=f"note:{number}"), f"resp_{number}")


def of(number: int, **changes: Any) -> Delivery:
    """The webhook of that number."""
    return webhook(f"wh_{number}", f"resp_{number}", **changes)


def together(ledger: Ledger, *deliveries: Delivery) -> list[Receipt | None]:
    return ledger.inbox_batches.receive(deliveries)


def dispositions(receipts: Sequence[Receipt | None]) -> list[Disposition | None]:
    return [None if receipt is None else receipt.entry.disposition for receipt in receipts]


def statements(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is sent to the database from now on."""
    sent: list[Any] = []
    execute = psycopg.Connection.execute

    def count_and_execute(self: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(query)
        return execute(self, query, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "execute", count_and_execute)
    return sent


class TestTogether:
    def test_each_is_in_the_inbox_in_the_history_of_its_job_and_on_its_revision(self, ledger: Ledger) -> None:
        jobs = [running(ledger, number) for number in range(30)]
        ends = ["completed", "failed", "cancelled", "incomplete"]
        deliveries = [of(number, status=ends[number % 4]) for number in range(30)]
        receipts = together(ledger, *deliveries)
        assert dispositions(receipts) == [D.APPLIED] * 30
        for number, (job, receipt) in enumerate(zip(jobs, receipts, strict=True)):
            assert receipt is not None
            assert receipt == Receipt(ledger.inbox.read(f"wh_{number}"), repeated=False)
            entry = receipt.entry
            assert (entry.job_id, entry.body, entry.deliveries) == (job.job_id, deliveries[number].body, 1)
            record = ledger.record(job.job_id)
            status = ends[number % 4]
            assert record.revision.response_status == status
            line = record.events[-1]
            assert (line.event, line.actor, line.at) == ("response ended", "webhook:openai_default", entry.received_at)
            assert line.detail == {
                "revision": 1,
                "response_id": f"resp_{number}",
                "status": status,
                "webhook_id": f"wh_{number}",
            }
            assert (record.job.updated_at, record.job.state) == (line.at, JobState.RUNNING)

    def test_a_batch_leaves_the_same_as_the_same_webhooks_alone(self, ledger: Ledger) -> None:
        def left(numbers: range, receive: Callable[[list[Delivery]], Any]) -> list[Any]:
            jobs = [running(ledger, number) for number in numbers]
            receive([of(number) for number in numbers])
            found: list[Any] = []
            for job in jobs:
                record = ledger.record(job.job_id)
                line, entry = record.events[-1], ledger.inbox.read(f"wh_{numbers[len(found)]}")
                assert line.detail.pop("response_id") == entry.response_id
                assert line.detail.pop("webhook_id") == entry.webhook_id
                varying = ("job_id", "at", "previous_hash", "hash")
                found.append(
                    [
                        {name: value for name, value in vars(line).items() if name not in varying},
                        (record.job.state, record.job.state_reason, record.job.acknowledged_at, record.job.event_seq),
                        (record.revision.state, record.revision.response_status, record.revision.completed_at),
                        (entry.disposition, entry.event_type, entry.conn_id, entry.polls, entry.poll_at, entry.note),
                    ]
                )
            return found

        alone = left(range(3), lambda deliveries: [ledger.inbox.receive(each) for each in deliveries])
        assert left(range(3, 6), lambda deliveries: together(ledger, *deliveries)) == alone

    def test_any_number_takes_as_many_statements_as_one(self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
        for number in range(40):
            running(ledger, number)
        sent = statements(monkeypatch)
        together(ledger, of(0))
        alone = len(sent)
        together(ledger, *(of(number) for number in range(1, 40)))
        assert len(sent) == 2 * alone
        assert alone <= 7

    def test_the_waiting_tasks_are_notified_once_the_batch_is_committed(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        jobs = [running(ledger, number) for number in range(5)]
        with psycopg.connect(**conninfo, autocommit=True) as listener:
            listener.execute("LISTEN aihandoff")
            together(ledger, *(of(number) for number in range(5)))
            heard = {int(notify.payload) for notify in listener.notifies(timeout=10, stop_after=5)}
        assert heard == {job.job_id for job in jobs}

    def test_a_webhook_that_was_delivered_before_is_counted_beside_new_ones(self, ledger: Ledger) -> None:
        job, _ = running(ledger, 0), running(ledger, 1)
        deliver(ledger, "wh_0", "resp_0")
        before = ledger.record(job.job_id)
        first, second = together(ledger, of(0), of(1))
        assert first is not None
        assert second is not None
        assert (first.repeated, first.entry.deliveries, second.repeated) == (True, 2, False)
        assert ledger.record(job.job_id) == before

    def test_a_webhook_that_a_person_has_discarded_stays_so_when_it_comes_again(self, ledger: Ledger) -> None:
        deliver(ledger, "wh_0", "resp_0")
        ledger.inbox.discard("wh_0", actor=Actor.program("alice"), why="?")
        job, _ = running(ledger, 0), running(ledger, 1)
        receipts = together(ledger, of(0), of(1))
        assert dispositions(receipts) == [D.DISCARDED, D.APPLIED]
        assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 0

    def test_what_a_poll_has_found_before_is_a_duplicate(self, ledger: Ledger) -> None:
        draft(ledger, job_spec(job_key="note:0"), response_id="resp_0")
        running(ledger, 1)
        assert dispositions(together(ledger, of(0), of(1))) == [D.DUPLICATE, D.APPLIED]

    def test_unknown_ones_and_other_events_are_recorded_beside_the_others(self, ledger: Ledger) -> None:
        running(ledger, 1)
        other = Delivery("wh_2", "openai_default", "eval.run.succeeded", "run_2", {"type": "eval.run.succeeded"})
        of_batch = Delivery("wh_3", "openai_default", "batch.completed", "batch_3", {"type": "batch.completed"})
        receipts = together(ledger, of(0), of(1), other, of_batch)
        assert dispositions(receipts) == [D.QUARANTINED, D.APPLIED, D.IGNORED, None]
        assert receipts[0] is not None
        entry = receipts[0].entry
        assert entry.poll_at is not None
        assert abs((entry.poll_at - entry.received_at).total_seconds() - POLL_AFTER[0]) < 1
        submit(ledger, job_spec(job_key="note:0"), "resp_0")
        assert ledger.inbox.read("wh_0").disposition is D.APPLIED

    def test_an_empty_batch_is_none(self, ledger: Ledger) -> None:
        assert together(ledger) == []


class TestLeft:
    """What a batch leaves is for the way alone, and is in no table yet."""

    def test_webhooks_about_one_job_are_recorded_one_after_the_other_in_their_order(self, ledger: Ledger) -> None:
        job = running(ledger, 1)
        deliveries = [of(1), webhook("wh_again", "resp_1", "failed"), of(1)]
        first, second, third = together(ledger, *deliveries)
        assert first is not None
        assert (first.entry.disposition, second, third) == (D.APPLIED, None, None)
        assert [ledger.inbox.receive(each).entry.disposition for each in deliveries[1:]] == [D.DUPLICATE, D.APPLIED]
        assert ledger.revision(job.job_id, 1).response_status == "completed"
        assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_a_response_that_was_given_up_is_left_for_its_history(self, ledger: Ledger) -> None:
        job, _ = running(ledger, 0), running(ledger, 1)
        ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=ResponseStatus.RUNNING)
        assert dispositions(together(ledger, of(0), of(1))) == [None, D.APPLIED]
        assert [entry.webhook_id for entry in ledger.inbox.entries()] == ["wh_1"]
        assert deliver(ledger, "wh_0", "resp_0").disposition is D.LATE

    def test_safety_notices_and_what_names_no_response_are_left(self, ledger: Ledger) -> None:
        notice = Delivery("wh_0", "openai_default", "safety.warning_issued", "case_1", {})
        assert together(ledger, notice, webhook("wh_2", None)) == [None, None]
        assert ledger.inbox.entries() == []

    def test_a_job_that_another_process_has_locked_holds_up_no_one(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        job, _ = running(ledger, 0), running(ledger, 1)
        with psycopg.connect(**conninfo) as other:
            other.execute("SELECT FROM aihandoff.jobs WHERE job_id = %s FOR UPDATE", [job.job_id])
            assert dispositions(together(ledger, of(0), of(1))) == [None, D.APPLIED]
        assert deliver(ledger, "wh_0", "resp_0").disposition is D.APPLIED

    def test_an_id_that_its_worker_is_storing_is_left_and_not_put_into_quarantine(
        self, slow: Ledger, ledger: Ledger, race: Race
    ) -> None:
        job = open_job(ledger, job_key="note:0")
        intent = intend(ledger, job)
        running(ledger, 1)
        _, receipts = race.run(
            lambda: submitted(slow, job, intent, "resp_0"), lambda: together(ledger, of(0), of(1), of(2))
        )
        assert dispositions(receipts) == [None, D.APPLIED, D.QUARANTINED]
        assert deliver(ledger, "wh_0", "resp_0").disposition is D.APPLIED

    def test_an_id_that_its_worker_stores_meanwhile_finds_its_webhook(
        self, slow: Ledger, ledger: Ledger, race: Race
    ) -> None:
        job = open_job(ledger, job_key="note:0")
        intent = intend(ledger, job)
        receipts, _ = race.run(lambda: together(slow, of(0)), lambda: submitted(ledger, job, intent, "resp_0"))
        assert dispositions(receipts) == [D.QUARANTINED]
        assert ledger.inbox.read("wh_0").disposition is D.APPLIED
        assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_a_revision_that_is_known_although_it_was_not_found_is_left(
        self, ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its job was locked at that moment."""
        job = running(ledger, 0)
        find = inbox_batch._find

        def find_while_locked(*args: Any) -> Any:
            with psycopg.connect(**conninfo) as other:
                other.execute("SELECT FROM aihandoff.jobs WHERE job_id = %s FOR UPDATE", [job.job_id])
                return find(*args)

        monkeypatch.setattr(inbox_batch, "_find", find_while_locked)
        assert together(ledger, of(0)) == [None]


class TestAllOrNone:
    def test_one_that_the_database_refuses_leaves_none_and_alone_it_fails_alone(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        jobs = [running(ledger, number) for number in range(3)]
        with failing(conninfo, "inbox", "23514", on="INSERT", where="NEW.webhook_id = 'wh_1'"):
            with pytest.raises(psycopg.errors.CheckViolation):
                together(ledger, *(of(number) for number in range(3)))
            assert ledger.inbox.entries() == []
            assert [count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) for job in jobs] == [0, 0, 0]
            for number in (0, 2):
                assert deliver(ledger, f"wh_{number}", f"resp_{number}").disposition is D.APPLIED
            with pytest.raises(psycopg.errors.CheckViolation):
                deliver(ledger, "wh_1", "resp_1")

    def test_one_whose_job_is_in_another_state_leaves_none(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        job, _ = running(ledger, 0), running(ledger, 1)
        run(conninfo, "UPDATE aihandoff.jobs SET state = 'queued' WHERE job_id = %s", job.job_id)
        with pytest.raises(IllegalTransition, match="note:0"):
            together(ledger, of(0), of(1))
        run(conninfo, "UPDATE aihandoff.jobs SET state = 'running' WHERE job_id = %s", job.job_id)
        assert ledger.inbox.entries() == []

    @pytest.mark.parametrize("moment", ["before commit", "after commit"])
    def test_a_process_that_dies_leaves_all_or_none_and_what_is_delivered_again_is_counted(
        self, conninfo: dict[str, Any], ledger: Ledger, moment: str
    ) -> None:
        jobs = [running(ledger, number) for number in range(4)]
        deliveries = [*(of(number) for number in range(4)), of(9)]

        class Died(BaseException):
            pass

        def die(point: str) -> None:
            if point == f"receive.batch: {moment}":
                raise Died

        crashpoints.arm(die)
        try:
            with Ledger(conninfo) as dying, pytest.raises(Died):
                dying.inbox_batches.receive(deliveries)
        finally:
            crashpoints.arm(None)
        committed = moment == "after commit"
        assert len(ledger.inbox.entries()) == (5 if committed else 0)
        again = together(ledger, *deliveries)
        assert [receipt is not None and receipt.repeated for receipt in again] == [committed] * 5
        assert dispositions(again) == [D.APPLIED] * 4 + [D.QUARANTINED]
        for job in jobs:
            assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_a_connection_that_breaks_at_the_commit_is_said_and_nothing_is_done_twice(
        self, conninfo: dict[str, Any], ledger: Ledger
    ) -> None:
        job = running(ledger, 0)
        with Ledger(conninfo) as breaking:
            database = breaking._database
            commit = database._commit

            def break_and_commit(connection: Any) -> None:
                with psycopg.connect(**conninfo) as other:
                    other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
                commit(connection)

            database._commit = break_and_commit  # type: ignore[method-assign]
            with pytest.raises(LedgerUnavailable, match="not known"):
                breaking.inbox_batches.receive([of(0), of(1)])
        assert dispositions(together(ledger, of(0), of(1))) == [D.APPLIED, D.QUARANTINED]
        assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 1


class TestManyReceivers:
    @pytest.mark.parametrize("seed", range(2))
    def test_batches_with_the_same_webhooks_in_any_order_end_without_a_deadlock_and_count_each_once(
        self, conninfo: dict[str, Any], seed: int
    ) -> None:
        receivers, jobs = 4, 25
        with Ledger({**conninfo, **IMPATIENT}, max_size=receivers) as ledger:
            opened = [running(ledger, number) for number in range(jobs)]
            unknown = [of(number) for number in range(jobs, jobs + 10)]
            others = [Delivery(f"wh_other_{n}", "openai_default", "batch.completed", None, {}) for n in range(10)]
            deliveries = [*(of(number) for number in range(jobs)), *unknown, *others]
            start = threading.Barrier(receivers)

            def receive(number: int) -> None:
                mine = deliveries[number * 7 + seed :] + deliveries[: number * 7 + seed]
                start.wait(10)
                for _ in range(3):
                    receipts = ledger.inbox_batches.receive(mine if number % 2 else mine[::-1])
                    for delivery, receipt in zip(mine if number % 2 else mine[::-1], receipts, strict=True):
                        if receipt is None:
                            ledger.inbox.receive(delivery)

            with ThreadPoolExecutor(receivers) as threads:
                list(threads.map(receive, range(receivers)))
            entries: dict[str, InboxEntry] = {entry.webhook_id: entry for entry in ledger.inbox.entries(limit=1000)}
            assert {entry.deliveries for entry in entries.values()} == {3 * receivers}
            assert len(entries) == len(deliveries)
            for job in opened:
                (line,) = lines(ledger, job.job_id, JobEvent.RESPONSE_ENDED)
                assert entries[line.detail["webhook_id"]].disposition is D.APPLIED
                revision = ledger.revision(job.job_id, 1)
                assert (revision.state, revision.response_status) == (RevisionState.RUNNING, "completed")


def test_whatever_webhooks_hold_can_be_recorded_together(ledger: Ledger) -> None:
    texts = ["\x00", "\ud800", "\\u0000", '"', "é", "\n", "{}", "\u2028"]
    deliveries = [
        Delivery(f"wh_{number}", "openai_default", "eval.run.failed", None, {"type": "eval.run.failed", text: [text]})
        for number, text in enumerate(texts)
    ]
    receipts = together(ledger, *deliveries)
    for delivery, receipt in itertools.zip_longest(deliveries, receipts):
        assert receipt is not None
        assert receipt.entry.body == delivery.body
        assert ledger.inbox.read(delivery.webhook_id).body == delivery.body
