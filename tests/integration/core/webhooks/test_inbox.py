"""Every webhook is accounted for: in any order, however often, and whatever its job does meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import WebhookNotFound, WebhookSettled
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.states import Disposition, JobEvent, JobState, ResponseStatus, RevisionState
from airflow_provider_aihandoff.core.webhooks.inbox import POLL_AFTER, Delivery
from tests.factories import TEST, draft, job_spec, submit
from tests.integration.core.webhooks.inboxes import (
    BILLED,
    OVER,
    USAGE,
    adopt,
    check_histories,
    count,
    deliver,
    intend,
    lines,
    lose,
    open_job,
    refuse,
    run,
    submitted,
    webhook,
)

pytestmark = pytest.mark.usefixtures("way_in")

D = Disposition
ENDS = ["completed", "failed", "cancelled", "incomplete"]
OTHER = {"model": "gpt-5.2", "input": "Write about the pan."}


@pytest.fixture(autouse=True)
def every_history_stays_unbroken(ledger: Ledger) -> Iterator[None]:
    yield
    check_histories(ledger)


def give_up(ledger: Ledger, job_id: int, how: str) -> None:
    """End a revision that runs, without waiting for its response."""
    if how == "cancelled":
        ledger.outputs.cancelled(job_id, 1, actor=TEST, reason="enough", status=ResponseStatus.RUNNING)
    elif how == "superseded":
        ledger.submission.open(job_spec(input=OTHER))
    else:
        ledger.outputs.fail(job_id, 1, actor=TEST, reason=how, error={"kind": how})


GIVEN_UP = pytest.mark.parametrize("how", ["cancelled", "superseded", "deadline", "gone"])


class TestApplied:
    @pytest.mark.parametrize("status", ENDS)
    def test_a_response_that_a_job_waits_for_has_ended_and_both_revision_and_history_say_so(
        self, ledger: Ledger, status: str
    ) -> None:
        running = submit(ledger, job_spec())
        receipt = ledger.inbox.receive(webhook(status=status))
        entry = receipt.entry
        assert (entry.disposition, entry.job_id, receipt.repeated) == (D.APPLIED, running.job_id, False)
        assert (entry.deliveries, entry.polls, entry.poll_at, entry.note) == (1, 0, None, None)
        record = ledger.record(running.job_id)
        assert (record.job.state, record.revision.state) == (JobState.RUNNING, RevisionState.RUNNING)
        assert record.revision.response_status == status
        line = record.events[-1]
        assert (line.event, line.actor) == ("response ended", "webhook:openai_default")
        assert line.detail == {"revision": 1, "response_id": "resp_1", "status": status, "webhook_id": "wh_1"}

    def test_a_delivery_can_be_read_as_it_came(self, ledger: Ledger) -> None:
        submit(ledger, job_spec())
        entry = deliver(ledger)
        assert ledger.inbox.read("wh_1") == entry
        assert (entry.conn_id, entry.event_type, entry.response_id, entry.body) == (
            "openai_default",
            "response.completed",
            "resp_1",
            webhook().body,
        )

    def test_a_repeated_webhook_is_counted_and_changes_nothing_else(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        first = deliver(ledger)
        before = ledger.record(running.job_id)
        receipt = ledger.inbox.receive(replace(webhook(), body={"another": "body"}))
        assert receipt.repeated
        assert receipt.entry == replace(first, deliveries=2, updated_at=receipt.entry.updated_at)
        assert receipt.entry == ledger.inbox.read(first.webhook_id)
        assert ledger.record(running.job_id) == before

    def test_a_repeated_webhook_keeps_its_disposition_after_its_job_has_moved_on(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        deliver(ledger)
        ledger.outputs.cancelled(running.job_id, 1, actor=TEST, reason="enough", status=ResponseStatus.COMPLETED)
        before = ledger.record(running.job_id)
        assert deliver(ledger).disposition is D.APPLIED
        assert ledger.record(running.job_id) == before


class TestDuplicate:
    def test_a_second_webhook_about_the_same_end_is_a_duplicate(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        deliver(ledger)
        before = ledger.record(running.job_id)
        entry = deliver(ledger, "wh_2", status="failed")
        assert (entry.disposition, entry.job_id, entry.poll_at) == (D.DUPLICATE, running.job_id, None)
        assert ledger.record(running.job_id) == before

    @pytest.mark.parametrize("error", [None, {"kind": "mismatch"}, {"kind": "failed"}])
    def test_a_webhook_is_a_duplicate_where_a_poll_has_already_stored_the_output(
        self, ledger: Ledger, error: dict[str, Any] | None
    ) -> None:
        running = submit(ledger, job_spec())
        ledger.outputs.store(
            running.job_id, 1, Output(ResponseStatus.COMPLETED, None if error else "A.", error), actor=TEST
        )
        before = ledger.record(running.job_id)
        entry = deliver(ledger)
        assert (entry.disposition, entry.job_id, entry.poll_at) == (D.DUPLICATE, running.job_id, None)
        assert ledger.record(running.job_id) == before


class TestLate:
    @GIVEN_UP
    def test_a_response_that_was_given_up_is_late_and_its_cost_is_to_be_looked_up(
        self, ledger: Ledger, how: str
    ) -> None:
        running = submit(ledger, job_spec())
        give_up(ledger, running.job_id, how)
        before = ledger.record(running.job_id)
        entry = deliver(ledger)
        assert (entry.disposition, entry.job_id) == (D.LATE, running.job_id)
        assert entry.poll_at is not None
        after = ledger.record(running.job_id)
        assert after.revisions == before.revisions
        assert after.job.state is before.job.state
        assert [line.event for line in after.events[len(before.events) :]] == ["output late"]
        assert after.events[-1].detail == {
            "revision": 1,
            "response_id": "resp_1",
            "status": "completed",
            "webhook_id": "wh_1",
        }

    @GIVEN_UP
    def test_nothing_is_looked_up_where_the_cost_is_known(self, ledger: Ledger, how: str) -> None:
        running = submit(ledger, job_spec())
        give_up(ledger, running.job_id, how)
        ledger.outputs.store(running.job_id, 1, BILLED, actor=TEST)
        entry = deliver(ledger)
        assert (entry.disposition, entry.poll_at) == (D.LATE, None)

    @GIVEN_UP
    def test_a_second_webhook_about_the_same_late_end_is_a_duplicate_and_writes_no_line(
        self, ledger: Ledger, how: str
    ) -> None:
        running = submit(ledger, job_spec())
        give_up(ledger, running.job_id, how)
        deliver(ledger)
        entry = deliver(ledger, "wh_2")
        assert (entry.disposition, entry.poll_at) == (D.DUPLICATE, None)
        assert count(ledger, running.job_id, JobEvent.OUTPUT_LATE) == 1

    def test_a_late_webhook_leaves_the_newer_revision_alone(self, ledger: Ledger) -> None:
        submit(ledger, job_spec())
        newer = submit(ledger, job_spec(input=OTHER), "resp_2")
        assert deliver(ledger).disposition is D.LATE
        assert ledger.revision(newer.job_id, 2) == newer
        assert deliver(ledger, "wh_2", "resp_2").disposition is D.APPLIED


class TestIgnored:
    @pytest.mark.parametrize("event_type", ["response.in_progress", "response.", "batch.completed", "RESPONSE.FAILED"])
    def test_a_webhook_that_is_not_about_the_end_of_a_response_is_kept_and_ignored(
        self, ledger: Ledger, event_type: str
    ) -> None:
        running = submit(ledger, job_spec())
        before = ledger.record(running.job_id)
        entry = ledger.inbox.receive(replace(webhook(), event_type=event_type)).entry
        assert (entry.disposition, entry.job_id, entry.poll_at) == (D.IGNORED, None, None)
        assert ledger.record(running.job_id) == before


class TestQuarantine:
    def test_a_webhook_that_names_no_response_is_left_to_a_person(self, ledger: Ledger) -> None:
        entry = deliver(ledger, response_id=None)
        assert (entry.disposition, entry.poll_at, entry.note) == (D.QUARANTINED, None, "it names no response")
        assert ledger.inbox.correlate("wh_1") == entry

    def test_a_webhook_of_an_unknown_response_is_looked_up_after_the_worker_had_time_to_store_its_id(
        self, ledger: Ledger
    ) -> None:
        entry = deliver(ledger)
        assert (entry.disposition, entry.job_id, entry.polls) == (D.QUARANTINED, None, 0)
        assert entry.poll_at is not None
        assert timedelta(seconds=1.9) < entry.poll_at - entry.received_at < timedelta(seconds=2.1)

    def test_an_early_webhook_is_applied_the_moment_the_worker_stores_the_id(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intent = intend(ledger, job)
        deliver(ledger, status="incomplete")
        revision = submitted(ledger, job, intent)
        assert revision == ledger.revision(job.job_id, 1)
        assert revision is not None
        assert (revision.state, revision.response_status) == (RevisionState.RUNNING, "incomplete")
        entry = ledger.inbox.read("wh_1")
        assert (entry.disposition, entry.job_id, entry.poll_at) == (D.APPLIED, job.job_id, None)
        assert [line.event for line in ledger.record(job.job_id).events][-2:] == ["submitted", "response ended"]

    def test_the_worker_that_stores_the_id_twice_changes_nothing_the_second_time(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intent = intend(ledger, job)
        deliver(ledger)
        assert submitted(ledger, job, intent) == submitted(ledger, job, intent)
        assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_of_several_early_webhooks_the_first_is_applied_and_the_others_are_duplicates(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intent = intend(ledger, job)
        for number in (3, 1, 2):
            deliver(ledger, f"wh_{number}")
        deliver(ledger, "wh_other", "resp_other")
        submitted(ledger, job, intent)
        dispositions = {entry.webhook_id: entry.disposition for entry in ledger.inbox.entries()}
        assert dispositions == {
            "wh_3": D.APPLIED,
            "wh_1": D.DUPLICATE,
            "wh_2": D.DUPLICATE,
            "wh_other": D.QUARANTINED,
        }
        assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_an_early_webhook_that_comes_again_is_counted_before_and_after_it_was_applied(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intent = intend(ledger, job)
        poll_at = deliver(ledger).poll_at
        assert deliver(ledger).poll_at == poll_at
        submitted(ledger, job, intent)
        assert deliver(ledger).disposition is D.APPLIED
        assert ledger.inbox.read("wh_1").deliveries == 3
        assert count(ledger, job.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_an_early_webhook_stays_in_quarantine_if_its_revision_was_given_up(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intent = intend(ledger, job)
        deliver(ledger)
        ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=None)
        assert submitted(ledger, job, intent) is None
        assert ledger.inbox.correlate("wh_1").disposition is D.QUARANTINED


class TestAdoption:
    """The metadata of a response names a revision of this ledger, which does not know the response."""

    def adopted(self, ledger: Ledger, job: Job, *, submissions: int, unknown: int) -> None:
        """The job has taken the response, and its webhook was applied."""
        deliver(ledger)
        entry = adopt(ledger, job.job_id)
        assert (entry.disposition, entry.job_id, entry.poll_at) == (D.APPLIED, job.job_id, None)
        record = ledger.record(job.job_id)
        revision = record.revision
        assert (record.job.state, revision.state) == (JobState.RUNNING, RevisionState.RUNNING)
        assert (revision.response_id, revision.response_status) == ("resp_1", "completed")
        assert (revision.submissions, revision.unknown_submissions) == (submissions, unknown)
        assert (revision.submit_token, revision.submit_lease_until) == (None, None)
        assert [line.event for line in record.events][-2:] == ["submitted", "response ended"]
        assert record.events[-2].actor == "webhook:test"
        assert "found by its webhook" in str(record.events[-2].reason)

    def test_a_revision_that_a_live_attempt_is_sending_gets_its_response(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intend(ledger, job)
        self.adopted(ledger, job, submissions=1, unknown=0)

    def test_a_revision_whose_permission_expired_uncounted_gets_its_response(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intend(ledger, job, OVER)
        self.adopted(ledger, job, submissions=1, unknown=0)

    def test_a_submission_that_was_counted_as_unknown_is_known_now(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        lose(ledger, job, intend(ledger, job))
        assert ledger.revision(job.job_id, 1).unknown_submissions == 1
        self.adopted(ledger, job, submissions=1, unknown=0)

    @pytest.mark.parametrize("lease", [timedelta(seconds=30), OVER])
    def test_one_of_two_requests_stays_unknown_where_the_second_may_have_been_accepted_too(
        self, ledger: Ledger, lease: timedelta
    ) -> None:
        job = open_job(ledger)
        lose(ledger, job, intend(ledger, job))
        intend(ledger, job, lease)
        self.adopted(ledger, job, submissions=2, unknown=1)

    def test_one_of_two_requests_stays_unknown_where_both_were_lost(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        for _ in range(2):
            lose(ledger, job, intend(ledger, job))
        self.adopted(ledger, job, submissions=2, unknown=1)

    def test_a_submission_that_was_taken_for_refused_is_counted_as_sent(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        for _ in range(2):
            refuse(ledger, job, intend(ledger, job))
        assert ledger.revision(job.job_id, 1).submissions == 0
        self.adopted(ledger, job, submissions=1, unknown=0)

    def test_a_response_after_a_lost_and_a_refused_request_answers_the_lost_one(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        lose(ledger, job, intend(ledger, job))
        refuse(ledger, job, intend(ledger, job))
        assert ledger.revision(job.job_id, 1).state is RevisionState.QUEUED
        self.adopted(ledger, job, submissions=1, unknown=0)

    def test_the_live_worker_finds_its_own_response_recorded(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intent = intend(ledger, job)
        self.adopted(ledger, job, submissions=1, unknown=0)
        before = ledger.record(job.job_id)
        assert submitted(ledger, job, intent) == before.revision
        assert ledger.record(job.job_id) == before

    def test_a_live_worker_that_brings_another_response_learns_that_it_is_orphaned(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        lose(ledger, job, intend(ledger, job))
        intent = intend(ledger, job)
        self.adopted(ledger, job, submissions=2, unknown=1)
        assert submitted(ledger, job, intent, "resp_2") is None
        assert ledger.revision(job.job_id, 1).response_id == "resp_1"
        assert lines(ledger, job.job_id, JobEvent.OUTPUT_LATE)[0].detail == {"revision": 1, "response_id": "resp_2"}

    def test_no_one_is_given_a_permission_after_an_adoption(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        lose(ledger, job, intend(ledger, job))
        self.adopted(ledger, job, submissions=1, unknown=0)
        intent = intend(ledger, job)
        assert (intent.token, intent.wait, intent.revision.response_id) == (None, 0.0, "resp_1")

    def test_every_webhook_of_the_response_leaves_quarantine_and_not_only_the_one_that_was_looked_up(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        job = open_job(ledger)
        intend(ledger, job)
        for number in (1, 2):
            deliver(ledger, f"wh_{number}")
        run(conninfo, "UPDATE aihandoff.inbox SET poll_at = NULL WHERE webhook_id = 'wh_1'")
        assert adopt(ledger, job.job_id, "wh_2").disposition is D.DUPLICATE
        assert ledger.inbox.read("wh_1").disposition is D.APPLIED

    def test_a_response_that_comes_after_the_permission_expired_is_accepted_while_no_one_else_sends(
        self, ledger: Ledger
    ) -> None:
        job = open_job(ledger)
        first = intend(ledger, job, OVER)
        deliver(ledger, "wh_before", "resp_before")
        waits = intend(ledger, job, orphan_wait=timedelta(seconds=30))
        assert (waits.token, waits.revision.unknown_submissions) == (None, 1)
        deliver(ledger)
        revision = submitted(ledger, job, first)
        assert revision is not None
        assert (revision.state, revision.response_status) == (RevisionState.RUNNING, "completed")
        assert (revision.submissions, revision.unknown_submissions) == (1, 0)

    def test_a_response_that_was_cancelled_because_it_came_too_late_is_not_given_to_the_job_that_waits_for_another(
        self, ledger: Ledger
    ) -> None:
        job = open_job(ledger)
        first, second = intend(ledger, job, OVER), intend(ledger, job)
        assert submitted(ledger, job, first, "resp_1") is None
        deliver(ledger, status="cancelled")
        assert adopt(ledger, job.job_id, output=Output(ResponseStatus.CANCELLED, usage=USAGE)).disposition is D.LATE
        assert submitted(ledger, job, second, "resp_2") is not None


class TestOrphan:
    """The response of a webhook names a revision that does not wait for it."""

    def running(self, ledger: Ledger) -> int:
        return submit(ledger, job_spec(), "resp_2").job_id

    def failed(self, ledger: Ledger) -> int:
        job = open_job(ledger)
        for _ in range(2):
            lose(ledger, job, intend(ledger, job))
        with pytest.raises(Exception, match="two requests may have been accepted"):
            intend(ledger, job)
        return job.job_id

    def stored(self, ledger: Ledger) -> int:
        return draft(ledger, response_id="resp_2").job_id

    def cancelled(self, ledger: Ledger) -> int:
        job = open_job(ledger)
        intend(ledger, job)
        ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=None)
        return job.job_id

    def superseded(self, ledger: Ledger) -> int:
        intend(ledger, open_job(ledger))
        return open_job(ledger, input=OTHER).job_id

    @pytest.mark.parametrize("how", ["running", "failed", "stored", "cancelled", "superseded"])
    def test_an_orphan_is_late_and_its_cost_is_in_the_history_and_nothing_else_changes(
        self, ledger: Ledger, how: str
    ) -> None:
        job_id: int = getattr(self, how)(ledger)
        before = ledger.record(job_id)
        deliver(ledger)
        entry = adopt(ledger, job_id)
        assert (entry.disposition, entry.job_id, entry.poll_at, entry.note) == (
            D.LATE,
            job_id,
            None,
            "an orphan of its job",
        )
        after = ledger.record(job_id)
        assert (after.revisions, after.job.state) == (before.revisions, before.job.state)
        line = after.events[-1]
        assert (line.event, line.actor) == ("output late", "webhook:test")
        assert line.detail == {
            "revision": 1,
            "response_id": "resp_1",
            "status": "completed",
            "usage": USAGE,
            "cost_usd": "0.25",
            "webhook_id": "wh_1",
        }

    def test_two_polls_of_the_same_webhook_write_its_cost_once(self, ledger: Ledger) -> None:
        job_id = self.running(ledger)
        deliver(ledger)
        assert adopt(ledger, job_id) == adopt(ledger, job_id)
        assert count(ledger, job_id, JobEvent.OUTPUT_LATE) == 1

    def test_a_second_webhook_of_the_same_orphan_is_a_duplicate_and_its_cost_is_written_once(
        self, ledger: Ledger
    ) -> None:
        job_id = self.running(ledger)
        for number in (1, 2):
            deliver(ledger, f"wh_{number}")
        assert adopt(ledger, job_id, "wh_2").disposition is D.DUPLICATE
        assert ledger.inbox.read("wh_1").disposition is D.LATE
        deliver(ledger, "wh_3")
        assert adopt(ledger, job_id, "wh_3").disposition is D.DUPLICATE
        assert count(ledger, job_id, JobEvent.OUTPUT_LATE) == 1

    def test_the_cost_of_a_response_that_its_worker_found_orphaned_is_still_recorded(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intent = intend(ledger, job)
        ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=None)
        assert submitted(ledger, job, intent) is None
        deliver(ledger, status="cancelled")
        assert adopt(ledger, job.job_id).disposition is D.LATE
        assert [line.detail.get("cost_usd") for line in lines(ledger, job.job_id, JobEvent.OUTPUT_LATE)] == [
            None,
            "0.25",
        ]

    def test_a_webhook_that_a_person_discarded_meanwhile_stays_so_and_changes_nothing(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intend(ledger, job)
        deliver(ledger)
        ledger.inbox.discard("wh_1", actor=Actor.program("alice"), why="a test")
        before = ledger.record(job.job_id)
        assert adopt(ledger, job.job_id).disposition is D.DISCARDED
        assert ledger.record(job.job_id) == before


class TestRestoredLedger:
    """A ledger that was restored from a backup knows nothing of what came later."""

    @pytest.mark.parametrize(("job_id", "number"), [(7, 1), (1, 2), (10**17, 1), (1, 10**17)])
    def test_a_response_of_a_revision_that_it_does_not_know_is_left_to_a_person(
        self, ledger: Ledger, job_id: int, number: int
    ) -> None:
        before = ledger.record(open_job(ledger).job_id)
        deliver(ledger)
        entry = adopt(ledger, job_id, number=number)
        assert (entry.disposition, entry.job_id, entry.polls, entry.poll_at) == (D.QUARANTINED, None, 1, None)
        assert entry.note == f"this ledger has no revision {number} of a job {job_id}"
        assert ledger.record(before.job.job_id) == before

    @pytest.mark.parametrize("waits", [True, False])
    def test_a_response_that_is_older_than_the_revision_it_names_is_that_of_another_job(
        self, ledger: Ledger, waits: bool
    ) -> None:
        job = open_job(ledger)
        if waits:
            intend(ledger, job)
        else:
            submit(ledger, job_spec(), "resp_2")
        before = ledger.record(job.job_id)
        deliver(ledger)
        entry = adopt(ledger, job.job_id, created_at=before.revision.created_at - timedelta(minutes=6))
        assert (entry.disposition, entry.poll_at) == (D.QUARANTINED, None)
        assert entry.note == f"it is older than revision 1 of job {job.job_id}, which it names"
        assert ledger.record(job.job_id) == before

    @pytest.mark.parametrize("seconds", [None, -240])
    def test_clocks_that_differ_a_little_and_a_time_that_is_missing_are_no_hindrance(
        self, ledger: Ledger, seconds: float | None
    ) -> None:
        job = open_job(ledger)
        intend(ledger, job)
        deliver(ledger)
        at = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        assert adopt(ledger, job.job_id, created_at=at).disposition is D.APPLIED


class TestPolled:
    def test_openai_is_asked_later_each_time_and_not_forever(self, ledger: Ledger) -> None:
        deliver(ledger)
        waits: list[float | None] = []
        for number in range(1, len(POLL_AFTER) + 1):
            entry = ledger.inbox.polled("wh_1", note=f"poll {number}", again=True)
            assert (entry.disposition, entry.polls, entry.note) == (D.QUARANTINED, number, f"poll {number}")
            wait = None if entry.poll_at is None else round((entry.poll_at - entry.updated_at).total_seconds(), 1)
            waits.append(wait)
        assert waits == [*POLL_AFTER[1:], None]

    def test_openai_is_not_asked_again_where_that_does_not_help(self, ledger: Ledger) -> None:
        deliver(ledger)
        assert ledger.inbox.polled("wh_1", note="gone", again=False).poll_at is None

    def test_a_webhook_that_was_applied_while_openai_was_asked_is_not_asked_about_again(self, ledger: Ledger) -> None:
        job = open_job(ledger)
        intent = intend(ledger, job)
        deliver(ledger)
        submitted(ledger, job, intent)
        before = ledger.inbox.read("wh_1")
        assert ledger.inbox.polled("wh_1", note="404", again=True) == before

    def test_due_are_the_ones_whose_time_has_come_the_longest_due_first(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        for name in ("wh_1", "wh_2", "wh_3"):
            deliver(ledger, name, f"resp_{name}")
        deliver(ledger, "wh_4", None)
        assert ledger.inbox.due(10) == []
        for name, seconds in (("wh_1", 5), ("wh_2", 10)):
            run(
                conninfo,
                "UPDATE aihandoff.inbox SET poll_at = now() - %s * interval '1 s' WHERE webhook_id = %s",
                seconds,
                name,
            )
        assert [entry.webhook_id for entry in ledger.inbox.due(10)] == ["wh_2", "wh_1"]
        assert [entry.webhook_id for entry in ledger.inbox.due(1)] == ["wh_2"]


class TestByHand:
    def test_a_replay_polls_a_webhook_that_was_given_up_again_from_the_start(self, ledger: Ledger) -> None:
        deliver(ledger)
        for _ in POLL_AFTER:
            ledger.inbox.polled("wh_1", note="404", again=True)
        entry = ledger.inbox.replay("wh_1", actor=Actor.program("alice"))
        assert (entry.disposition, entry.polls, entry.note) == (D.QUARANTINED, 0, "replayed by alice")
        assert [due.webhook_id for due in ledger.inbox.due(10)] == ["wh_1"]

    @pytest.mark.parametrize("how", ["discarded", "foreign"])
    def test_a_replay_undoes_the_earlier_disposition_and_applies_what_is_known_by_now(
        self, ledger: Ledger, how: str
    ) -> None:
        deliver(ledger)
        if how == "discarded":
            ledger.inbox.discard("wh_1", actor=Actor.program("alice"), why="no idea")
        else:
            ledger.inbox.foreign("wh_1", note="its response belongs to another ledger")
        running = submit(ledger, job_spec())
        assert ledger.inbox.read("wh_1").disposition == how
        entry = ledger.inbox.replay("wh_1", actor=Actor.program("alice"))
        assert (entry.disposition, entry.job_id, entry.poll_at) == (D.APPLIED, running.job_id, None)

    def test_a_replay_applies_the_webhooks_of_a_response_once(self, ledger: Ledger) -> None:
        for number in (1, 2):
            deliver(ledger, f"wh_{number}")
            ledger.inbox.discard(f"wh_{number}", actor=Actor.program("alice"), why="no idea")
        running = submit(ledger, job_spec())
        found = [ledger.inbox.replay(f"wh_{number}", actor=Actor.program("alice")).disposition for number in (1, 2)]
        assert found == [D.APPLIED, D.DUPLICATE]
        assert count(ledger, running.job_id, JobEvent.RESPONSE_ENDED) == 1

    def test_a_settled_webhook_is_neither_replayed_nor_discarded(self, ledger: Ledger) -> None:
        submit(ledger, job_spec())
        deliver(ledger)
        deliver(ledger, "wh_2")
        ledger.inbox.receive(replace(webhook("wh_3"), event_type="batch.completed"))
        before = ledger.inbox.entries()
        assert len({entry.disposition for entry in before}) == 3
        for name in ("wh_1", "wh_2", "wh_3"):
            with pytest.raises(WebhookSettled, match=f"{name} is .*cannot be replayed"):
                ledger.inbox.replay(name, actor=Actor.program("alice"))
            with pytest.raises(WebhookSettled, match="cannot be discarded"):
                ledger.inbox.discard(name, actor=Actor.program("alice"), why="?")
        assert ledger.inbox.entries() == before

    def test_a_webhook_without_a_response_cannot_be_replayed_but_discarded(self, ledger: Ledger) -> None:
        deliver(ledger, response_id=None)
        with pytest.raises(WebhookSettled):
            ledger.inbox.replay("wh_1", actor=Actor.program("alice"))
        assert ledger.inbox.discard("wh_1", actor=Actor.program("alice"), why="a test").note == "alice: a test"

    def test_a_discarded_webhook_is_not_polled_and_keeps_who_discarded_it(self, ledger: Ledger) -> None:
        deliver(ledger)
        entry = ledger.inbox.discard("wh_1", actor=Actor.program("alice"), why="a test")
        assert (entry.disposition, entry.poll_at, entry.note) == (D.DISCARDED, None, "alice: a test")

    def test_foreign_is_said_of_what_is_in_quarantine_only(self, ledger: Ledger) -> None:
        deliver(ledger, "wh_1", "resp_foreign")
        entry = ledger.inbox.foreign("wh_1", note="another application's")
        assert (entry.disposition, entry.poll_at, entry.note) == (D.FOREIGN, None, "another application's")
        submit(ledger, job_spec())
        applied = deliver(ledger, "wh_2")
        assert ledger.inbox.foreign("wh_2", note="?") == applied

    @pytest.mark.parametrize(
        "step",
        [
            lambda inbox: inbox.read("wh_9"),
            lambda inbox: inbox.correlate("wh_9"),
            lambda inbox: inbox.replay("wh_9", actor=Actor.program("alice")),
            lambda inbox: inbox.discard("wh_9", actor=Actor.program("alice"), why="?"),
            lambda inbox: inbox.foreign("wh_9", note="?"),
            lambda inbox: inbox.polled("wh_9", note="?", again=True),
        ],
    )
    def test_a_webhook_that_does_not_exist_is_an_error_that_says_where_to_look(
        self, ledger: Ledger, step: Callable[[Any], Any]
    ) -> None:
        with pytest.raises(WebhookNotFound, match=r"no webhook wh_9.*inbox list"):
            step(ledger.inbox)


class TestLists:
    def test_entries_come_newest_first_by_disposition_and_bounded(self, ledger: Ledger) -> None:
        submit(ledger, job_spec())
        for number in range(1, 5):
            deliver(ledger, f"wh_{number}", "resp_1" if number < 3 else f"resp_{number}")

        def names(**changes: Any) -> list[str]:
            return [entry.webhook_id for entry in ledger.inbox.entries(**changes)]

        assert names() == ["wh_4", "wh_3", "wh_2", "wh_1"]
        assert names(limit=1) == ["wh_4"]
        assert names(dispositions=[D.QUARANTINED]) == ["wh_4", "wh_3"]
        assert names(dispositions=[D.APPLIED, D.DUPLICATE]) == ["wh_2", "wh_1"]
        assert names(dispositions=[D.LATE]) == []

    def test_counts_say_how_many_webhooks_there_are_and_how_often_they_came(self, ledger: Ledger) -> None:
        assert ledger.inbox.counts() == {}
        submit(ledger, job_spec())
        for name in ("wh_1", "wh_1", "wh_1", "wh_2", "wh_3"):
            deliver(ledger, name)
        deliver(ledger, "wh_4", None)
        assert ledger.inbox.counts() == {D.APPLIED: (1, 3), D.DUPLICATE: (2, 2), D.QUARANTINED: (1, 1)}


class TestPrune:
    MONTH = timedelta(days=30)

    def test_old_webhooks_are_removed_and_new_or_quarantined_ones_are_kept(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        submit(ledger, job_spec())
        deliver(ledger, "old")
        deliver(ledger, "quarantined", "resp_9")
        run(conninfo, "UPDATE aihandoff.inbox SET received_at = now() - interval '31 days'")
        deliver(ledger, "young")
        before = ledger.record(1)
        assert ledger.inbox.prune(self.MONTH) == 1
        assert {entry.webhook_id for entry in ledger.inbox.entries()} == {"quarantined", "young"}
        assert ledger.record(1) == before
        assert ledger.inbox.prune(self.MONTH) == 0

    def test_a_large_inbox_is_removed_in_several_short_transactions(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        run(
            conninfo,
            """INSERT INTO aihandoff.inbox (webhook_id, conn_id, event_type, body, disposition, received_at, updated_at)
            SELECT 'wh_' || number, 'c', 'batch.completed', '{}', 'ignored', now() - interval '31 days', now()
            FROM generate_series(1, 10007) AS number""",
        )
        transact, batches = ledger._database.transact, []

        def counted(work: Any, **kwargs: Any) -> Any:
            batches.append(transact(work, **kwargs))
            return batches[-1]

        ledger._database.transact = counted  # type: ignore[method-assign]
        assert ledger.inbox.prune(self.MONTH) == 10_007
        assert batches == [10_000, 7]
        assert ledger.inbox.counts() == {}

    def test_a_webhook_that_was_forgotten_and_comes_again_repeats_nothing(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        running = submit(ledger, job_spec())
        deliver(ledger)
        run(conninfo, "UPDATE aihandoff.inbox SET received_at = now() - interval '31 days'")
        ledger.inbox.prune(self.MONTH)
        before = ledger.record(running.job_id)
        assert deliver(ledger).disposition is D.DUPLICATE
        assert ledger.record(running.job_id) == before


class TestText:
    @pytest.mark.parametrize(
        "text",
        ["nul \x00", "lone \ud800 and \udfff", "pair \ud83d\ude00", "'; DROP TABLE x; --", "%s %(x)s", "x" * 256],
    )
    def test_whatever_a_webhook_holds_can_be_recorded_and_found_again(self, ledger: Ledger, text: str) -> None:
        delivery = Delivery(f"wh {text}", "c", "response.completed", f"resp {text}", {text: [text, {"id": text}]})
        for deliveries in (1, 2):
            entry = ledger.inbox.receive(delivery).entry
            assert (entry.disposition, entry.deliveries) == (D.QUARANTINED, deliveries)
        assert ledger.inbox.read(delivery.webhook_id) == entry
        assert canonical_json(entry.body) == canonical_json(delivery.body)
        assert ledger.inbox.correlate(delivery.webhook_id) == entry
        job = open_job(ledger)
        intend(ledger, job)
        assert ledger.inbox.polled(delivery.webhook_id, note=text, again=True).polls == 1
        ledger.inbox.discard(delivery.webhook_id, actor=Actor.program(text), why=text)
        assert ledger.inbox.replay(delivery.webhook_id, actor=Actor.program(text)).disposition is D.QUARANTINED
        output = Output(ResponseStatus.COMPLETED, usage={text: 1}, cost_usd=Decimal(1))
        assert adopt(ledger, job.job_id, delivery.webhook_id, output=output).disposition is D.APPLIED

    def test_a_webhook_about_anything_else_may_contain_any_text_too(self, ledger: Ledger) -> None:
        odd = "\x00 \ud800"
        assert ledger.inbox.receive(Delivery(odd, "c", odd, odd, {})).entry.disposition is D.IGNORED

    def test_a_column_of_the_inbox_takes_no_disposition_that_the_code_does_not_know(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        deliver(ledger)
        with pytest.raises(psycopg.errors.CheckViolation):
            run(conninfo, "UPDATE aihandoff.inbox SET disposition = 'received'")
