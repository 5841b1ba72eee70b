"""Batches on a real ledger: each stands for at most one at the provider, and each request of one has one end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.errors import BatchMovedOn, BatchRefused
from airflow_provider_aihandoff.core.generation.batch_provider import (
    ENDED_BATCH_STATUSES,
    BatchStatus,
    LineResult,
    ModelBatch,
)
from airflow_provider_aihandoff.core.generation.provider import ProviderError, Sent, SubmitFailure
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.generation.submission_store import Opened
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Owner
from airflow_provider_aihandoff.core.reconcile.diagnose import TaskState
from airflow_provider_aihandoff.core.reconcile.scan import Search
from airflow_provider_aihandoff.core.sets.batch_read import advance
from airflow_provider_aihandoff.core.sets.batch_record import Batch, BatchState, custom_id
from airflow_provider_aihandoff.core.sets.batch_send import BatchSender, recover
from airflow_provider_aihandoff.core.sets.batch_store import Line
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.sets.stop_set import stop_set
from airflow_provider_aihandoff.core.states import Disposition, JobState
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from tests.factories import CHEAP, OWNER, TEST, job_spec
from tests.fake_batches import FakeBatches, FakeBatchProvider, answered

ALICE = Actor.user("alice")
LEASE = timedelta(minutes=1)
PAST = timedelta(hours=-1)


@pytest.fixture
def provider() -> FakeBatchProvider:
    return FakeBatchProvider()


@pytest.fixture
def api(provider: FakeBatchProvider) -> FakeBatches:
    return provider.api


@pytest.fixture
def found(ledger: Ledger) -> JobSet:
    return ledger.sets.open(SetSpec("publishing", "nightly", "alice", OWNER, timedelta(hours=1)), LeftOut())


class Jobs:
    """Jobs of one set, and what a task does with them."""

    def __init__(self, ledger: Ledger, provider: FakeBatchProvider, found: JobSet, conninfo: dict[str, Any]) -> None:
        self.ledger, self.provider, self.found, self.conninfo = ledger, provider, found, conninfo
        self.outcomes: list[str] = []

    def open(self, *keys: str) -> list[Opened]:
        specs = [
            job_spec(job_key=key, set_id=self.found.set_id, deadline=self.found.deadline, request=_request(key))
            for key in keys
        ]
        made = self.ledger.submission.open_many(specs)
        assert all(isinstance(each, Opened) for each in made)
        return [each for each in made if isinstance(each, Opened)]

    def send(self, *keys: str) -> Batch:
        """Put the requests of new jobs into a batch; return it as the ledger has it then."""
        self._put(self.open(*keys))
        return self.ledger.batches.of_set(self.found.set_id)[-1]

    def send_again(self) -> Batch:
        """Put whatever may be sent into another batch."""
        waiting = self.ledger.sets.sendable(self.found.set_id, limit=100, retries=False, incomplete=False)
        jobs = [self.ledger.job(each.job_id) for each in waiting]
        with self._sender() as sender:
            for job in jobs:
                sender.add(job, self.ledger.revision(job.job_id, job.revision), _request(job.job_key))
        return self.ledger.batches.of_set(self.found.set_id)[-1]

    def _put(self, opened: list[Opened]) -> None:
        with self._sender() as sender:
            for each in opened:
                sender.add(each.job, each.revision, _request(each.job.job_key))

    def _sender(self) -> BatchSender:
        return BatchSender(
            self.ledger,
            self.provider,
            self.found.set_id,
            "openai_default",
            TEST,
            self.provider.worst_case,
            self.outcomes.append,
        )

    def filling(self, *keys: str) -> Batch:
        """A batch whose attempt has died while it was filled."""
        batch = self.ledger.batches.open(self.found.set_id, "openai_default", lease=LEASE)
        lines = [Line(each.job.job_id, 1, CHEAP) for each in self.open(*keys)]
        self.ledger.batches.intend(batch, lines, actor=TEST, lease=LEASE)
        return batch

    def creating(self, *keys: str, lease: timedelta = PAST) -> Batch:
        """A batch whose attempt has died while it was created."""
        batch = self.filling(*keys)
        self.provider.api.files["file_1"] = []
        return self.ledger.batches.uploaded(batch, "file_1", lease=lease)

    def job_id(self, key: str) -> int:
        return self.ledger.job_id_of("publishing", key) or 0

    def line(self, key: str, batch: Batch) -> str:
        return custom_id(self.job_id(key), 1, batch.batch_id)

    def states(self) -> dict[str, str]:
        return {job.job_key: job.state.value for job in self.ledger.jobs()}

    def advance(self, batch: Batch, **how: Any) -> Batch:
        batch = self.ledger.batches.read(batch.batch_id)
        after = advance(self.ledger, self.provider, batch, output_type=None, actor=TEST, **how)
        for job in self.ledger.jobs():
            record = self.ledger.record(job.job_id)
            assert first_break(record.events, record.job) is None
        return after

    def age(self, batch: Batch, **columns: str) -> None:
        """Change a row of the ledger, as if time had passed."""
        changes = ", ".join(f"{name} = {value}" for name, value in columns.items())
        with psycopg.connect(**self.conninfo) as connection:
            connection.execute(f"UPDATE aihandoff.batches SET {changes} WHERE batch_id = %s".encode(), [batch.batch_id])  # noqa: S608


def _request(key: str) -> dict[str, Any]:
    return {"model": "gpt-5.2", "input": key, "max_output_tokens": 100}


@pytest.fixture
def jobs(ledger: Ledger, provider: FakeBatchProvider, found: JobSet, conninfo: dict[str, Any]) -> Jobs:
    return Jobs(ledger, provider, found, conninfo)


def test_each_answer_is_taken_once_by_the_request_that_it_names(jobs: Jobs, api: FakeBatches, ledger: Ledger) -> None:
    batch = jobs.send("a", "b")
    assert (jobs.states(), batch.state, batch.lines) == ({"a": "running", "b": "running"}, BatchState.RUNNING, 2)
    (lines,) = api.files.values()
    assert {each["custom_id"] for each in lines} == {jobs.line("a", batch), jobs.line("b", batch)}
    api.end("batch_0", BatchStatus.COMPLETED, *(answered(jobs.line(key, batch), key) for key in "ba"))
    assert jobs.advance(batch).state is BatchState.READ
    assert jobs.states() == {"a": "review", "b": "review"}
    assert ledger.revision(jobs.job_id("a"), 1).output == "a"
    jobs.age(batch, state="'ended'")
    jobs.advance(batch)
    assert len(ledger.record(jobs.job_id("a")).events) == 4, "read again, and nothing taken again"


def test_a_result_of_others_is_left_alone(jobs: Jobs, api: FakeBatches) -> None:
    batch = jobs.send("a")
    foreign = custom_id(jobs.job_id("a"), 1, batch.batch_id + 1)
    api.end("batch_0", BatchStatus.COMPLETED, answered(foreign), answered("line-7"))
    jobs.advance(batch)
    assert jobs.states() == {"a": "queued"}


def test_what_a_request_may_cost_is_reserved_and_what_it_costs_counts(
    jobs: Jobs, api: FakeBatches, ledger: Ledger
) -> None:
    ledger.budgets.add(checked_spec("all", Decimal("2.5"), period="day", owner="alice"), why="safe", actor=ALICE)
    batch = jobs.send("a", "b", "c")
    assert (jobs.outcomes, batch.lines) == (["held", "sent", "sent"], 2)
    assert jobs.states() == {"a": "running", "b": "running", "c": "queued"}
    (view,) = ledger.budgets.find()
    assert (view.use.reserved_usd, view.use.settled_usd) == (Decimal(2), Decimal(0))
    api.end("batch_0", BatchStatus.EXPIRED, answered(jobs.line("a", batch)))
    jobs.advance(batch)
    (view,) = ledger.budgets.find()
    assert (view.use.reserved_usd, view.use.settled_usd) == (Decimal(0), Decimal("0.03"))


def test_what_an_expired_batch_has_not_run_may_be_sent_again(jobs: Jobs, api: FakeBatches, ledger: Ledger) -> None:
    batch = jobs.send("a", "b")
    expired = LineResult(jobs.line("b", batch), was_run=False, reason="expired", code="batch_expired")
    api.end("batch_0", BatchStatus.EXPIRED, answered(jobs.line("a", batch)), expired)
    jobs.advance(batch)
    assert jobs.states() == {"a": "review", "b": "queued"}
    revision = ledger.revision(jobs.job_id("b"), 1)
    assert (revision.batch_id, revision.submissions, revision.refusals) == (None, 0, 1)
    again = jobs.send_again()
    api.end("batch_1", BatchStatus.COMPLETED, answered(jobs.line("b", again)))
    jobs.advance(again)
    assert jobs.states() == {"a": "review", "b": "review"}


@pytest.mark.parametrize(
    ("final", "paid", "kind"),
    [(True, False, "refused request"), (False, False, "failed"), (True, True, "refused request")],
)
def test_a_request_that_fails_holds_up_no_other(
    jobs: Jobs, api: FakeBatches, ledger: Ledger, final: bool, paid: bool, kind: str
) -> None:
    ledger.budgets.add(checked_spec("all", Decimal(9), period="day", owner="alice"), why="safe", actor=ALICE)
    batch = jobs.send("a", "b")
    wrong = LineResult(jobs.line("b", batch), is_final=final, is_paid=paid, reason="no", code="c")
    api.end("batch_0", BatchStatus.COMPLETED, wrong, answered(jobs.line("a", batch)))
    jobs.advance(batch)
    assert jobs.states() == {"a": "review", "b": "failed"}
    assert (ledger.revision(jobs.job_id("b"), 1).error or {})["kind"] == kind
    (view,) = ledger.budgets.find()
    assert (view.use.reserved_usd, view.use.settled_usd) == (Decimal(0), Decimal("1.03" if paid else "0.03"))


def test_a_request_that_is_in_a_batch_goes_into_no_other(jobs: Jobs, ledger: Ledger) -> None:
    batch = jobs.filling("a")
    other = ledger.batches.open(jobs.found.set_id, "openai_default", lease=LEASE)
    taken, left = ledger.batches.intend(other, [Line(jobs.job_id("a"), 1, CHEAP)], actor=TEST, lease=LEASE)
    assert (taken, left) == (set(), {jobs.job_id("a"): "moved on"})
    assert ledger.revision(jobs.job_id("a"), 1).batch_id == batch.batch_id


class TestAnAttemptThatDied:
    def test_while_it_filled_a_batch_leaves_requests_that_are_free(
        self, jobs: Jobs, provider: FakeBatchProvider, ledger: Ledger
    ) -> None:
        batch = jobs.filling("a")
        assert recover(ledger, provider, ledger.batches.read(batch.batch_id), actor=TEST).state is BatchState.FILLING
        jobs.age(batch, lease_until="now()")
        after = recover(ledger, provider, ledger.batches.read(batch.batch_id), actor=TEST)
        assert (after.state, provider.api.calls) == (BatchState.ABANDONED, [])
        assert ledger.revision(jobs.job_id("a"), 1).may_be_in_batch

    def test_gets_no_permission_to_create_it_any_longer(
        self, jobs: Jobs, provider: FakeBatchProvider, ledger: Ledger
    ) -> None:
        batch = jobs.filling("a")
        jobs.age(batch, lease_until="now()")
        recover(ledger, provider, ledger.batches.read(batch.batch_id), actor=TEST)
        with pytest.raises(BatchMovedOn):
            ledger.batches.uploaded(batch, "file_1", lease=LEASE)
        with pytest.raises(BatchMovedOn):
            ledger.batches.intend(batch, [Line(jobs.job_id("a"), 1, CHEAP)], actor=TEST, lease=LEASE)

    def test_while_it_created_a_batch_is_not_disturbed_within_its_time(
        self, jobs: Jobs, provider: FakeBatchProvider, ledger: Ledger
    ) -> None:
        batch = jobs.creating("a", lease=LEASE)
        assert recover(ledger, provider, batch, actor=TEST) == batch
        with pytest.raises(BatchMovedOn):
            ledger.batches.abandon(batch, actor=TEST, why="It is left.", is_left=True)
        assert provider.api.calls == []

    @pytest.mark.parametrize("hidden", [0, 1])
    def test_and_had_created_it_finds_it_by_its_metadata(
        self, jobs: Jobs, provider: FakeBatchProvider, ledger: Ledger, hidden: int
    ) -> None:
        batch = jobs.creating("a")
        made = provider.api.create("file_1", batch.metadata(ledger.ledger_id()), timeout=1)
        assert isinstance(made, ModelBatch)
        provider.api.hidden = hidden
        after = recover(ledger, provider, batch, actor=TEST)
        assert (after.state, after.provider_id, jobs.states()) == (BatchState.RUNNING, made.id, {"a": "running"})

    def test_and_had_not_created_it_frees_the_requests_once_no_batch_can_be_made(
        self, jobs: Jobs, provider: FakeBatchProvider, ledger: Ledger
    ) -> None:
        batch = jobs.creating("a")
        after = recover(ledger, provider, batch, actor=TEST)
        assert provider.api.calls == ["find", "delete", "find"], "nothing can be made of the file by then"
        assert (after.state, provider.api.files, jobs.states()) == (BatchState.ABANDONED, {}, {"a": "queued"})
        assert ledger.revision(jobs.job_id("a"), 1).may_be_in_batch

    def test_changes_nothing_while_the_provider_cannot_be_asked(
        self, jobs: Jobs, provider: FakeBatchProvider, ledger: Ledger
    ) -> None:
        batch = jobs.creating("a")
        provider.api.down = True
        with pytest.raises(ProviderError):
            recover(ledger, provider, batch, actor=TEST)
        assert ledger.batches.read(batch.batch_id).state is BatchState.CREATING
        assert ledger.revision(jobs.job_id("a"), 1).is_in_batch

    def test_and_comes_back_too_late_has_its_batch_stopped_and_its_cost_recorded(
        self, jobs: Jobs, provider: FakeBatchProvider, ledger: Ledger
    ) -> None:
        batch = jobs.creating("a")
        recover(ledger, provider, batch, actor=TEST)
        provider.api.files["file_1"] = []
        made = provider.api.create("file_1", {}, timeout=1)
        assert isinstance(made, ModelBatch)
        ledger.batches.created(batch, made, actor=TEST)
        jobs.advance(batch)
        assert provider.api.batches[made.id].status is BatchStatus.CANCELLING
        provider.api.end(made.id, BatchStatus.CANCELLED, answered(jobs.line("a", batch)))
        jobs.advance(batch)
        record = ledger.record(jobs.job_id("a"))
        assert (record.job.state, record.events[-1].event) == (JobState.QUEUED, "output late")
        with psycopg.connect(**jobs.conninfo) as connection:
            rows = connection.execute("SELECT cost_usd FROM aihandoff.surplus_responses").fetchall()
        assert rows == [(Decimal("0.03"),)]

    def test_after_it_was_created_leaves_requests_that_run(self, jobs: Jobs, api: FakeBatches, ledger: Ledger) -> None:
        batch = jobs.send("a", "b")
        with psycopg.connect(**jobs.conninfo) as connection:  # as if it had died before the second page
            connection.execute(
                """UPDATE aihandoff.revisions SET state = 'submitting', submit_token = gen_random_uuid(),
                submit_lease_until = deadline WHERE job_id = %s""",
                [jobs.job_id("b")],
            )
            connection.execute("UPDATE aihandoff.jobs SET state = 'queued' WHERE job_id = %s", [jobs.job_id("b")])
        advance(ledger, jobs.provider, batch, output_type=None, actor=TEST)
        assert jobs.states() == {"a": "running", "b": "running"}


class TestTheProvider:
    def test_that_refuses_a_file_or_a_batch_for_now_is_asked_later(self, jobs: Jobs, api: FakeBatches) -> None:
        api.upload_refusals = [SubmitFailure(Sent.NO, "busy")]
        api.create_refusals = [SubmitFailure(Sent.NO, "busy")]
        assert jobs.send("a").state is BatchState.ABANDONED
        assert jobs.send_again().state is BatchState.ABANDONED
        assert jobs.send_again().state is BatchState.RUNNING
        assert jobs.outcomes == ["not taken", "not taken", "sent"]

    def test_whose_answer_to_an_upload_is_lost_has_no_batch(self, jobs: Jobs, api: FakeBatches) -> None:
        api.upload_refusals = [SubmitFailure(Sent.UNKNOWN, "cut off")]
        assert jobs.send("a").state is BatchState.ABANDONED

    def test_that_refuses_it_for_good_fails_the_task_and_leaves_the_jobs_queued(
        self, jobs: Jobs, api: FakeBatches
    ) -> None:
        api.create_refusals = [SubmitFailure(Sent.NEVER, "no such endpoint")]
        with pytest.raises(BatchRefused, match="no such endpoint"):
            jobs.send("a")
        assert jobs.states() == {"a": "queued"}

    def test_that_has_reached_a_limit_of_money_holds_all_of_them(
        self, jobs: Jobs, api: FakeBatches, ledger: Ledger
    ) -> None:
        api.create_refusals = [SubmitFailure(Sent.SPENT, "quota")]
        jobs.send("a", "b")
        assert [limit.conn_id for limit in ledger.spending_limits.find()] == ["openai_default"]
        jobs.send("c")
        assert jobs.outcomes == ["held", "held", "held"]

    def test_whose_answer_was_lost_keeps_the_requests_where_they_are(self, jobs: Jobs, api: FakeBatches) -> None:
        api.lost = True
        api.create_refusals = [SubmitFailure(Sent.UNKNOWN, "cut off")]
        batch = jobs.send("a")
        assert (batch.state, jobs.outcomes) == (BatchState.CREATING, ["not taken"])
        jobs.age(batch, lease_until="now()")
        jobs.advance(batch)
        assert (api.calls.count("create"), jobs.states()) == (1, {"a": "running"})


class TestAJobInABatch:
    def test_is_cancelled_at_once_and_its_result_is_late(self, jobs: Jobs, api: FakeBatches, ledger: Ledger) -> None:
        batch = jobs.send("a", "b")
        cancel_job(ledger, lambda conn_id: jobs.provider, jobs.job_id("a"), actor=ALICE, reason="not needed")
        assert (jobs.states()["a"], "cancel" in api.calls) == ("cancelled", False)
        api.end("batch_0", BatchStatus.COMPLETED, *(answered(jobs.line(key, batch)) for key in "ab"))
        jobs.advance(batch)
        assert jobs.states() == {"a": "cancelled", "b": "review"}
        revision = ledger.revision(jobs.job_id("a"), 1)
        assert (revision.output, revision.cost_usd) == (None, Decimal("0.03"))

    def test_is_cancelled_while_its_batch_is_being_created_and_nothing_is_unknown(
        self, jobs: Jobs, provider: FakeBatchProvider, ledger: Ledger
    ) -> None:
        batch = jobs.creating("a", "b")
        cancel_job(ledger, lambda conn_id: provider, jobs.job_id("a"), actor=ALICE, reason="not needed")
        recover(ledger, provider, batch, actor=TEST)
        revision = ledger.revision(jobs.job_id("a"), 1)
        assert (revision.unknown_submissions, revision.cost_usd) == (0, Decimal(0))
        assert jobs.states() == {"a": "cancelled", "b": "queued"}

    def test_is_not_in_flight_for_anything_that_asks_about_responses(
        self, jobs: Jobs, ledger: Ledger, found: JobSet
    ) -> None:
        jobs.send("a")
        assert ledger.sets.waiting(found.set_id) == []
        assert ledger.sets.in_flight(found.set_id) == 0
        assert list(ledger.abandoned.in_flight(timedelta(hours=-1))) == []
        assert ledger.sets.ended(found.set_id) == []

    def test_is_waited_for_by_the_set_that_it_has_come_to_since(self, jobs: Jobs, ledger: Ledger) -> None:
        batch = jobs.send("a")
        other = ledger.sets.open(SetSpec("publishing", "other", "bob", OWNER, timedelta(hours=1)), LeftOut())
        assert ledger.batches.open_of_set(other.set_id) == []
        ledger.submission.open_many([job_spec(job_key="a", set_id=other.set_id, request=_request("a"))])
        assert [each.batch_id for each in ledger.batches.open_of_set(other.set_id)] == [batch.batch_id]


class TestTheDeadline:
    def test_stops_a_batch_and_what_it_has_run_is_kept(self, jobs: Jobs, api: FakeBatches, ledger: Ledger) -> None:
        batch = jobs.send("a", "b")
        _overdue(jobs, batch, "interval '1 minute'")
        jobs.advance(batch)
        assert (api.calls.count("cancel"), jobs.states()) == (1, {"a": "running", "b": "running"})
        api.end("batch_0", BatchStatus.CANCELLED, answered(jobs.line("a", batch)))
        jobs.advance(batch)
        assert jobs.states() == {"a": "review", "b": "failed"}
        assert (ledger.revision(jobs.job_id("b"), 1).error or {})["kind"] == "deadline"

    def test_and_two_hours_end_the_wait_for_results(self, jobs: Jobs, api: FakeBatches, ledger: Ledger) -> None:
        batch = jobs.send("a")
        _overdue(jobs, batch, "interval '2 hours'")
        jobs.advance(batch)
        assert jobs.states() == {"a": "failed"}
        api.end("batch_0", BatchStatus.CANCELLED, answered(jobs.line("a", batch)))
        jobs.advance(batch)
        assert ledger.revision(jobs.job_id("a"), 1).cost_usd == Decimal("0.03"), "late, and counted"

    def test_ends_also_one_of_which_nothing_can_be_found_out(self, jobs: Jobs, provider: FakeBatchProvider) -> None:
        batch = jobs.send("a")
        _overdue(jobs, batch, "interval '2 hours'")
        provider.api.down = True
        with pytest.raises(ProviderError):
            jobs.advance(batch)
        assert jobs.states() == {"a": "failed"}


def _overdue(jobs: Jobs, batch: Batch, ago: str) -> None:
    jobs.age(batch, deadline=f"now() - {ago}")
    with psycopg.connect(**jobs.conninfo) as connection:
        connection.execute(f"UPDATE aihandoff.revisions SET deadline = now() - {ago}".encode())  # noqa: S608


class TestATaskThatHasEnded:
    def test_by_a_person_has_its_batches_stopped(
        self, jobs: Jobs, api: FakeBatches, ledger: Ledger, found: JobSet
    ) -> None:
        jobs.send("a")
        stop_set(ledger, lambda conn_id: jobs.provider, found.set_id, owner=OWNER, reason="the task was ended")
        assert (jobs.states(), api.calls.count("cancel")) == ({"a": "cancelled"}, 1)

    def test_leaves_a_batch_that_the_reconciler_stops(self, jobs: Jobs, api: FakeBatches, ledger: Ledger) -> None:
        batch = jobs.send("a", "b")
        assert _reconciled(jobs, TaskState.ALIVE) == []
        jobs.age(batch, updated_at="now() - interval '1 hour'")
        assert _reconciled(jobs, TaskState.ALIVE) == []
        assert _reconciled(jobs, TaskState.UNKNOWN) == []
        assert _reconciled(jobs, TaskState.ENDED) == ["it is being stopped"]
        api.end("batch_0", BatchStatus.CANCELLED, answered(jobs.line("a", batch)))
        cancel_job(ledger, lambda conn_id: jobs.provider, jobs.job_id("b"), actor=ALICE, reason="not needed")
        jobs.age(batch, updated_at="now() - interval '1 hour'")
        assert _reconciled(jobs, TaskState.ENDED) == [
            "it is ended, and being read; clear the draft task to take its outputs"
        ]
        assert jobs.states() == {"a": "running", "b": "cancelled"}, "what was paid for is left to the task"
        jobs.advance(batch)
        assert jobs.states() == {"a": "review", "b": "cancelled"}


def _reconciled(jobs: Jobs, state: TaskState) -> list[str]:
    def states_of(owners: Any) -> dict[Owner, TaskState]:
        return dict.fromkeys(owners, state)

    search = Search(jobs.ledger, lambda conn_id: jobs.provider, states_of)
    return [step() for _, step in search.left_batches(10) if step is not None]


class TestItsWebhook:
    def deliver(self, ledger: Ledger, webhook_id: str, batch_id: str, kind: str = "batch.completed") -> Disposition:
        delivery = Delivery(webhook_id, "openai_default", kind, batch_id, {"type": kind})
        assert ledger.inbox_batches.receive([delivery]) == [None], "it is recorded alone"
        return ledger.inbox.receive(delivery).entry.disposition

    def test_says_that_it_has_ended_once(self, jobs: Jobs, ledger: Ledger) -> None:
        batch = jobs.send("a")
        assert self.deliver(ledger, "wh_1", str(batch.provider_id)) is Disposition.APPLIED
        assert ledger.batches.read(batch.batch_id).provider_status in ENDED_BATCH_STATUSES
        assert self.deliver(ledger, "wh_2", str(batch.provider_id)) is Disposition.DUPLICATE
        jobs.advance(batch)
        now = ledger.batches.read(batch.batch_id)
        assert now.provider_status not in ENDED_BATCH_STATUSES, "what it says when it is asked counts"

    def test_of_another_application_changes_nothing(self, jobs: Jobs, ledger: Ledger) -> None:
        jobs.send("a")
        assert self.deliver(ledger, "wh_1", "batch_of_others") is Disposition.IGNORED
        other = replace(
            Delivery("wh_2", "openai_default", "batch.failed", "batch_0", {"type": "batch.failed"}), conn_id="another"
        )
        assert ledger.inbox.receive(other).entry.disposition is Disposition.IGNORED
