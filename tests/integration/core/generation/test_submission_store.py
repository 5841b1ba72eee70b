"""One job, one bill: whatever comes twice, too late, from two sides, or not at all."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeVar

import psycopg
import pytest

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.digests import digest, input_digest
from airflow_provider_aihandoff.core.errors import (
    CannotRegenerate,
    IllegalTransition,
    InputChanged,
    JobCancelled,
    JobFailed,
    JobNotFound,
    RequestError,
    RevisionsExhausted,
)
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.generation.submission_store import MAX_REFUSALS, Intent
from airflow_provider_aihandoff.core.jobs.attach import Attachment
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job, JobSpec, Owner, Revision
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import EffectState, JobState, ResponseStatus, RevisionState
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, job_spec, submit
from tests.integration.core.webhooks.inboxes import adopt, deliver

T = TypeVar("T")
OVER = timedelta(0)
OTHER_INPUT = {"model": "gpt-5.2", "input": "Write about the pan."}
OTHER_RUN = replace(OWNER, run_id="manual__2", ti_id="ti-2")
USAGE = {"input_tokens": 10, "output_tokens": 5}


def at_once(number: int, work: Callable[[], T]) -> list[T]:
    """Run the work in as many threads, all of them let go at the same moment."""
    start = threading.Barrier(number)

    def run(_: int) -> T:
        start.wait(10)
        return work()

    with ThreadPoolExecutor(number) as threads:
        return list(threads.map(run, range(number)))


def intend(ledger: Ledger, job: Job, lease: timedelta = LEASE, number: int | None = None) -> Intent:
    return ledger.submission.intend(job.job_id, number or job.revision, actor=TEST, lease=lease)


def write_and_undo(ledger: Ledger, job: Job) -> None:
    """Write the effect of an approved job, and undo it."""
    undo = {"kind": "http", "plan": {"method": "DELETE", "url": "http://cms/posts/{external_id}"}}
    plan = replace(effect_plan(), undo=undo)
    ask(ledger, job, plan)
    written = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    ledger.effects.confirm(written, external_id="7", result=None, actor=TEST)
    (undoing,) = ledger.roll_backs.start(job.job_id, actor=TEST, reason="no")
    undone = ledger.effects.claim(job.job_id, undoing.as_plan, lease=LEASE, actor=TEST)
    ledger.effects.confirm(undone, external_id=None, result=None, actor=TEST)


def created(ledger: Ledger, job: Job, intent: Intent, response_id: str = "resp_1") -> Revision | None:
    assert intent.token is not None
    return ledger.submission.submitted(
        job.job_id,
        intent.revision.number,
        token=intent.token,
        response_id=response_id,
        status=ResponseStatus.QUEUED,
        actor=TEST,
    )


def fail(ledger: Ledger, job: Job) -> Job:
    return ledger.outputs.fail(job.job_id, job.revision, actor=TEST, reason="it did not work", error={"kind": "failed"})


def events(ledger: Ledger, job: Job) -> list[str]:
    return [event.event for event in ledger.record(job.job_id).events]


def revision(ledger: Ledger, job: Job, number: int = 1) -> Revision:
    return ledger.revision(job.job_id, number)


class TestOpen:
    def test_twenty_tasks_with_one_key_at_once_make_one_job_and_get_one_permission(self, ledger: Ledger) -> None:
        opened = at_once(20, lambda: ledger.submission.open(job_spec()))
        assert len({each.job.job_id for each in opened}) == 1
        intents = at_once(20, lambda: intend(ledger, opened[0].job))
        assert sum(intent.token is not None for intent in intents) == 1
        assert revision(ledger, opened[0].job).submissions == 1
        assert events(ledger, opened[0].job).count("created") == 1

    @pytest.mark.parametrize("change", [{"job_key": "post:pan"}, {"job_type": "reporting"}])
    def test_a_different_key_or_type_is_a_different_job(self, ledger: Ledger, change: dict[str, str]) -> None:
        jobs = {ledger.submission.open(job_spec(**spec)).job.job_id for spec in ({}, change)}
        assert len(jobs) == 2

    def test_a_second_task_waits_for_the_response_that_runs_and_takes_the_job_over(self, ledger: Ledger) -> None:
        submit(ledger, job_spec())
        opened = ledger.submission.open(job_spec(owner=OTHER_RUN))
        assert (opened.next, opened.job.owner, opened.revision.response_id) == (Attachment.WAIT, OTHER_RUN, "resp_1")

    def test_an_output_that_is_stored_is_returned_and_not_asked_for_again(self, ledger: Ledger) -> None:
        draft(ledger)
        opened = ledger.submission.open(job_spec(owner=OTHER_RUN))
        assert (opened.next, opened.revision.output) == (Attachment.DONE, "A kettle.")

    def test_how_the_request_is_processed_does_not_make_it_other_work(self, ledger: Ledger) -> None:
        first = submit(ledger, job_spec())
        again = ledger.submission.open(job_spec(request={**job_spec().request, "service_tier": "flex"}))
        assert (again.next, again.revision.request) == (Attachment.WAIT, first.request)

    def test_the_deadline_of_a_revision_does_not_move_when_a_task_attaches(self, ledger: Ledger) -> None:
        first = ledger.submission.open(job_spec()).revision.deadline
        later = job_spec(deadline=first + timedelta(hours=5))
        assert ledger.submission.open(later).revision.deadline == first

    def test_a_job_that_does_not_exist_is_an_error(self, ledger: Ledger) -> None:
        with pytest.raises(JobNotFound, match="no job 7"):
            ledger.submission.intend(7, 1, actor=TEST, lease=LEASE)


class TestRevise:
    def test_other_input_makes_a_new_revision_and_names_the_response_to_cancel(self, ledger: Ledger) -> None:
        old = submit(ledger, job_spec())
        opened = ledger.submission.open(
            job_spec(input=OTHER_INPUT, request=OTHER_INPUT, requested_by="carol", permissions={"write": ["cms"]})
        )
        assert (opened.next, opened.job.revision, opened.job.state) == (Attachment.SUBMIT, 2, JobState.QUEUED)
        assert opened.superseded is not None
        assert opened.superseded.response_id == "resp_1"
        assert revision(ledger, opened.job, old.number).state is RevisionState.CANCELLED
        assert (opened.job.requested_by, opened.job.permissions) == ("carol", {"write": ["cms"]})
        assert opened.job.input_digest == input_digest(OTHER_INPUT, ledger.digest_key())

    def test_other_input_voids_the_plan_and_the_approval(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        opened = ledger.submission.open(job_spec(input=OTHER_INPUT))
        assert (opened.job.review_digest, opened.job.decision_id) == (None, None)
        assert [effect.state for effect in ledger.record(job.job_id).effects] == [EffectState.VOID]

    def test_other_input_is_refused_once_something_may_have_been_written(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
        with pytest.raises(InputChanged, match=r"changed: input.*publish is claimed.*job_key of its own"):
            ledger.submission.open(job_spec(input=OTHER_INPUT))

    def test_other_input_is_taken_when_the_target_refused_every_write(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
        ledger.effects.refuse(claim, error="404", actor=TEST)
        opened = ledger.submission.open(job_spec(input=OTHER_INPUT))
        assert (opened.job.state, opened.job.revision) == (JobState.QUEUED, 2)
        assert [effect.state for effect in ledger.record(job.job_id).effects] == [EffectState.VOID]

    @pytest.mark.parametrize("run", [OWNER, OTHER_RUN])
    def test_a_regenerate_makes_one_new_revision_in_each_run_that_did_not_make_one(
        self, ledger: Ledger, run: Owner
    ) -> None:
        ask(ledger, draft(ledger))
        again = job_spec(regenerate=True, owner=run)
        opened = [ledger.submission.open(again).job.revision for _ in range(2)]
        assert opened == ([1, 1] if run is OWNER else [2, 2])

    @pytest.mark.parametrize("state", [JobState.COMPLETED, JobState.CANCELLED, JobState.ROLLED_BACK])
    def test_a_regenerate_starts_an_ended_job_without_external_writes_again(
        self, ledger: Ledger, state: JobState
    ) -> None:
        job = draft(ledger, job_spec(approval="not required", approval_reason="it is a test"))
        match state:
            case JobState.COMPLETED:
                ledger.effects.complete_without_effects(job.job_id, actor=TEST)
            case JobState.CANCELLED:
                ledger.cancels.cancel(job.job_id, actor=TEST, reason="no")
            case _:
                write_and_undo(ledger, job)
        assert ledger.job(job.job_id).state is state
        opened = ledger.submission.open(job_spec(regenerate=True, owner=OTHER_RUN))
        assert (opened.next, opened.job.revision, opened.job.state) == (Attachment.SUBMIT, 2, JobState.QUEUED)
        assert "a new revision was requested" in (ledger.record(job.job_id).events[-1].reason or "")

    def test_a_regenerate_is_refused_while_an_external_write_is_not_undone(self, ledger: Ledger) -> None:
        job = approve(ledger, ask(ledger, draft(ledger)))
        claim = ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id="7", result=None, actor=TEST)
        with pytest.raises(CannotRegenerate, match=r"publish is applied.*aihandoff rollback 1"):
            ledger.submission.open(job_spec(regenerate=True, owner=OTHER_RUN))
        assert ledger.job(job.job_id).revision == 1

    def test_a_job_that_failed_gets_a_new_revision_with_a_deadline_of_its_own(self, ledger: Ledger) -> None:
        fail(ledger, ledger.submission.open(job_spec()).job)
        later = job_spec(deadline=job_spec().deadline + timedelta(hours=5))
        opened = ledger.submission.open(later)
        assert (opened.next, opened.job.revision, opened.revision.deadline) == (Attachment.SUBMIT, 2, later.deadline)

    def test_there_are_never_more_revisions_than_the_author_allows(self, ledger: Ledger) -> None:
        for number in range(2):
            revision = submit(ledger, job_spec(max_revisions=2), f"resp_{number}")
            fail(ledger, ledger.job(revision.job_id))
        with pytest.raises(RevisionsExhausted, match=r"failed \(it did not work\) after 2 of 2 revisions"):
            ledger.submission.open(job_spec(max_revisions=2))
        assert ledger.submission.open(job_spec(max_revisions=3)).job.revision == 3

    def test_twenty_tasks_that_find_a_failed_job_at_once_make_one_new_revision(self, ledger: Ledger) -> None:
        job = fail(ledger, ledger.submission.open(job_spec()).job)
        opened = at_once(20, lambda: ledger.submission.open(job_spec()))
        assert {each.job.revision for each in opened} == {2}
        assert len(ledger.record(job.job_id).revisions) == 2

    def test_a_rejection_is_final_in_its_run_and_another_run_asks_again(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger))
        ledger.reviews.decide(job.job_id, "reject", digest=str(job.review_digest), person=Person("bob"))
        same = ledger.submission.open(job_spec(owner=replace(OWNER, ti_id="ti-cleared")))
        assert (same.next, same.job.state) == (Attachment.DONE, JobState.REJECTED)
        other = ledger.submission.open(job_spec(owner=OTHER_RUN))
        assert (other.next, other.job.revision) == (Attachment.SUBMIT, 2)

    @pytest.mark.parametrize("run_id", ["manual__", "manual__10", "manual_%_1"])
    def test_a_run_whose_name_only_resembles_it_is_another_run(self, ledger: Ledger, run_id: str) -> None:
        job = ask(ledger, draft(ledger))
        ledger.reviews.decide(job.job_id, "reject", digest=str(job.review_digest), person=Person("bob"))
        opened = ledger.submission.open(job_spec(owner=replace(OWNER, run_id=run_id)))
        assert opened.next is Attachment.SUBMIT

    @pytest.mark.parametrize(
        ("run_id", "other"), [("a", "a/b"), ("a/b", "a"), ("a/draft#1", "a"), ("r (7)", "r"), ("50%", "50_")]
    )
    def test_a_run_of_any_name_is_distinguished_from_every_other(self, ledger: Ledger, run_id: str, other: str) -> None:
        owner = replace(OWNER, run_id=run_id)
        job = ask(ledger, draft(ledger, job_spec(owner=owner)))
        ledger.reviews.decide(job.job_id, "reject", digest=str(job.review_digest), person=Person("bob"))
        for _ in range(2):  # a clear of the run
            assert ledger.submission.open(job_spec(owner=owner)).next is Attachment.DONE
        assert ledger.jobs_of_run(OWNER.dag_id, other) == []
        assert ledger.submission.open(job_spec(owner=replace(OWNER, run_id=other))).next is Attachment.SUBMIT
        for each in (run_id, other):
            assert [found.job.job_id for found in ledger.jobs_of_run(OWNER.dag_id, each)] == [job.job_id]
        assert ledger.jobs_of_run("another", run_id) == []

    @pytest.mark.parametrize("spec", [{}, {"input": OTHER_INPUT}, {"owner": OTHER_RUN}])
    def test_a_cancelled_job_stays_cancelled(self, ledger: Ledger, spec: dict[str, Any]) -> None:
        job = ledger.submission.open(job_spec()).job
        ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=ResponseStatus.CANCELLED)
        with pytest.raises(JobCancelled, match=r"enough.*another job_key"):
            ledger.submission.open(job_spec(**spec))


class TestIntent:
    def test_while_a_permission_is_valid_no_one_else_gets_one(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        assert intend(ledger, job).token is not None
        second = intend(ledger, job)
        assert second.token is None
        assert 0 < second.wait <= LEASE.total_seconds()

    def test_a_permission_whose_commit_was_in_doubt_is_the_same_when_it_is_asked_for_again(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = ledger.submission.open(job_spec()).job
        database, asked = ledger._database, []

        def twice(work: Any, **more: Any) -> Any:
            asked.append(transact(work, **more))
            return transact(work, **more)

        transact = database.transact
        monkeypatch.setattr(database, "transact", twice)
        second = intend(ledger, job)
        assert second == asked[0]
        assert second.left > 0
        assert events(ledger, job).count("submit intended") == 1

    def test_a_permission_that_ran_out_is_taken_over_and_counted_as_unknown(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        first = intend(ledger, job, OVER)
        second = intend(ledger, job)
        assert second.token not in (None, first.token)
        assert (second.revision.submissions, second.revision.unknown_submissions) == (2, 1)
        assert events(ledger, job).count("submit unknown") == 1

    def test_at_most_one_unknown_submission_is_sent_over_and_the_second_fails_the_job(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        intend(ledger, job, OVER)
        intend(ledger, job, OVER)
        with pytest.raises(JobFailed, match="two requests may have been accepted"):
            intend(ledger, job)
        record = ledger.record(job.job_id)
        assert (record.job.state, record.revision.state) == (JobState.FAILED, RevisionState.FAILED)
        assert (record.revision.submissions, record.revision.unknown_submissions) == (2, 2)

    def test_a_request_that_was_lost_is_counted_once(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        first = intend(ledger, job)
        assert first.token is not None
        for _ in range(2):
            ledger.submission.submission_lost(job.job_id, 1, token=first.token, actor=TEST, reason="time-out")
        second = intend(ledger, job)
        assert second.token is not None
        assert second.revision.unknown_submissions == 1
        assert events(ledger, job).count("submit unknown") == 1

    def test_a_request_that_was_refused_leaves_nothing_unknown(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        for _ in range(4):
            intent = intend(ledger, job)
            assert intent.token is not None
            ledger.submission.not_submitted(job.job_id, 1, token=intent.token, actor=TEST, reason="429")
        assert (revision(ledger, job).submissions, revision(ledger, job).unknown_submissions) == (0, 0)

    def test_an_attempt_that_lost_its_permission_cannot_record_the_outcome_of_the_other(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        first, second = intend(ledger, job, OVER), intend(ledger, job)
        assert first.token is not None
        where: dict[str, Any] = {"token": first.token, "actor": TEST, "reason": "429"}
        ledger.submission.not_submitted(job.job_id, 1, **where)
        ledger.submission.submission_lost(job.job_id, 1, **where)
        assert revision(ledger, job) == second.revision

    def test_a_response_that_is_known_is_not_asked_for_again(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        intent = ledger.submission.intend(running.job_id, 1, actor=TEST, lease=LEASE)
        assert (intent.token, intent.wait, intent.revision.response_id) == (None, 0.0, "resp_1")

    def test_nothing_is_sent_for_a_job_that_was_cancelled(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=ResponseStatus.CANCELLED)
        with pytest.raises(JobCancelled):
            intend(ledger, job)

    def test_nothing_is_sent_for_a_revision_that_was_replaced_and_the_error_says_by_what(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        ledger.submission.open(job_spec(input=OTHER_INPUT))
        with pytest.raises(InputChanged, match="revision 1 was replaced by 2"):
            intend(ledger, job, number=1)


class TestOrphanWait:
    """A request whose answer was lost: a webhook may bring its response, and until then no one sends another."""

    WAIT = timedelta(seconds=30)

    @pytest.fixture(autouse=True)
    def _webhooks_arrive(self, ledger: Ledger) -> None:
        deliver(ledger, "wh_before", "resp_before")

    def open(self, ledger: Ledger) -> Job:
        return ledger.submission.open(job_spec(on_lost="resend")).job

    def waiting(self, ledger: Ledger, job: Job) -> Intent:
        return ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE, orphan_wait=self.WAIT)

    def end_the_wait(self, conninfo: dict[str, Any]) -> None:
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp()")

    def expired(self, ledger: Ledger, job: Job) -> None:
        assert intend(ledger, job, OVER).token is not None
        intent = self.waiting(ledger, job)
        assert intent.token is None
        assert intent.wait == self.WAIT.total_seconds()

    def lost(self, ledger: Ledger, job: Job) -> None:
        token = intend(ledger, job).token
        assert token is not None
        ledger.submission.submission_lost(
            job.job_id, 1, token=token, actor=TEST, reason="time-out", orphan_wait=self.WAIT
        )

    @pytest.mark.parametrize("how", ["expired", "lost"])
    def test_a_lost_answer_is_counted_once_and_no_one_may_send_until_the_wait_ends(
        self, ledger: Ledger, conninfo: dict[str, Any], how: str
    ) -> None:
        job = self.open(ledger)
        getattr(self, how)(ledger, job)
        for _ in range(3):
            intent = self.waiting(ledger, job)
            assert intent.token is None
            assert 0 < intent.wait <= self.WAIT.total_seconds()
        assert intend(ledger, job).token is None
        self.end_the_wait(conninfo)
        intent = self.waiting(ledger, job)
        assert intent.token is not None
        assert (intent.revision.submissions, intent.revision.unknown_submissions) == (2, 1)
        assert events(ledger, job).count("submit unknown") == 1

    @pytest.mark.parametrize("how", ["expired", "lost"])
    def test_a_second_lost_answer_is_waited_for_too_and_then_the_job_fails(
        self, ledger: Ledger, conninfo: dict[str, Any], how: str
    ) -> None:
        job = self.open(ledger)
        for _ in range(2):
            getattr(self, how)(ledger, job)
            self.end_the_wait(conninfo)
        with pytest.raises(JobFailed, match="two requests may have been accepted"):
            self.waiting(ledger, job)
        assert revision(ledger, job).unknown_submissions == 2

    @pytest.mark.parametrize("how", ["expired", "lost"])
    def test_the_wait_ends_as_soon_as_the_response_is_found(self, ledger: Ledger, how: str) -> None:
        job = self.open(ledger)
        getattr(self, how)(ledger, job)
        deliver(ledger)
        adopt(ledger, job.job_id)
        intent = self.waiting(ledger, job)
        assert (intent.token, intent.wait, intent.revision.state) == (None, 0.0, RevisionState.RUNNING)
        assert (intent.revision.submissions, intent.revision.unknown_submissions) == (1, 0)

    def test_a_job_that_was_cancelled_or_replaced_meanwhile_is_not_waited_for(self, ledger: Ledger) -> None:
        job = self.open(ledger)
        self.expired(ledger, job)
        ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=None)
        with pytest.raises(JobCancelled):
            self.waiting(ledger, job)
        assert revision(ledger, job).unknown_submissions == 1


class TestResponse:
    def test_the_same_response_can_be_recorded_again_and_stays_ours(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        intent = intend(ledger, job)
        first, second = created(ledger, job, intent), created(ledger, job, intent)
        assert first is not None
        assert first == second
        assert events(ledger, job).count("submitted") == 1

    def test_the_response_of_an_attempt_that_lost_its_permission_is_orphaned(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        first, second = intend(ledger, job, OVER), intend(ledger, job)
        assert created(ledger, job, first, "resp_late") is None
        assert created(ledger, job, second, "resp_2") is not None
        late = next(event for event in ledger.record(job.job_id).events if event.event == "output late")
        assert late.detail == {"revision": 1, "response_id": "resp_late"}
        assert revision(ledger, job).response_id == "resp_2"

    def test_the_response_of_a_revision_that_was_given_up_is_orphaned(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        intent = intend(ledger, job)
        ledger.submission.open(job_spec(input=OTHER_INPUT))
        assert created(ledger, job, intent, "resp_late") is None
        assert ledger.job(job.job_id).state is JobState.QUEUED

    @pytest.mark.parametrize("end", ["replaced", "failed", "cancelled"])
    def test_a_request_on_its_way_is_counted_as_unknown_when_its_revision_ends(self, ledger: Ledger, end: str) -> None:
        job = ledger.submission.open(job_spec()).job
        intend(ledger, job)
        if end == "replaced":
            ledger.submission.open(job_spec(input=OTHER_INPUT))
        elif end == "failed":
            fail(ledger, job)
        else:
            ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="enough", status=None)
        assert revision(ledger, job).unknown_submissions == 1
        assert "submit unknown" in events(ledger, job)

    def test_two_jobs_cannot_have_the_same_response(self, ledger: Ledger) -> None:
        submit(ledger, job_spec())
        with pytest.raises(Exception, match="revisions_response"):
            submit(ledger, job_spec(job_key="post:pan"))


class TestStore:
    def test_what_a_response_left_that_was_replaced_is_not_stored(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec(on_lost="resend")).job
        intend(ledger, job, OVER)
        assert created(ledger, job, intend(ledger, job), "resp_2") is not None
        deliver(ledger)
        adopt(ledger, job.job_id)
        assert revision(ledger, job).response_id == "resp_1"
        for left in (
            Output(ResponseStatus.COMPLETED, "A pan."),
            Output(ResponseStatus.CANCELLED, error={"kind": "cancelled"}),
        ):
            job = ledger.outputs.store(job.job_id, 1, left, actor=TEST, response_id="resp_2")
            ledger.outputs.fail(job.job_id, 1, actor=TEST, reason="?", error={"kind": "deadline"}, response_id="resp_2")
            assert (ledger.job(job.job_id).state, revision(ledger, job).output) == (JobState.RUNNING, None)
        ledger.outputs.store(
            job.job_id, 1, Output(ResponseStatus.COMPLETED, "A kettle."), actor=TEST, response_id="resp_1"
        )
        assert revision(ledger, job).output == "A kettle."

    def test_an_output_is_stored_once(self, ledger: Ledger) -> None:
        job = draft(ledger)
        again = ledger.outputs.store(job.job_id, 1, Output(ResponseStatus.COMPLETED, "Another."), actor=TEST)
        assert again == job
        assert revision(ledger, job).output == "A kettle."
        assert revision(ledger, job).output_digest == digest("A kettle.")

    def test_two_that_store_at_once_store_one_output(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        jobs = at_once(
            8,
            lambda: ledger.outputs.store(running.job_id, 1, Output(ResponseStatus.COMPLETED, "A kettle."), actor=TEST),
        )
        assert {job.state for job in jobs} == {JobState.REVIEW}
        assert events(ledger, jobs[0]).count("output stored") == 1

    def test_a_response_without_a_usable_output_fails_the_job_and_keeps_what_there_was(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        output = Output(ResponseStatus.COMPLETED, None, {"kind": "mismatch", "text": "{"}, USAGE, Decimal("0.25"))
        job = ledger.outputs.store(running.job_id, 1, output, actor=TEST, reason="it does not match")
        assert (job.state, job.state_reason) == (JobState.FAILED, "it does not match")
        stored = revision(ledger, job)
        assert (stored.error, stored.usage, stored.cost_usd) == (
            {"kind": "mismatch", "text": "{"},
            USAGE,
            Decimal("0.25"),
        )

    def test_a_job_that_needs_no_approval_is_approved_by_the_reason_on_record(self, ledger: Ledger) -> None:
        job = draft(ledger, job_spec(approval="not required", approval_reason="internal drafts"))
        decision = ledger.record(job.job_id).decisions[0]
        assert job.state is JobState.APPROVED
        assert (decision.verdict, decision.decided_by_kind, decision.comment) == (
            "approve",
            "policy",
            "internal drafts",
        )

    def test_a_late_output_is_recorded_once_with_its_cost_and_changes_nothing(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        job = ledger.outputs.cancelled(running.job_id, 1, actor=TEST, reason="enough", status=ResponseStatus.CANCELLED)
        late = Output(ResponseStatus.COMPLETED, "Too late.", usage=USAGE, cost_usd=Decimal("0.25"))
        for _ in range(2):
            assert ledger.outputs.store(job.job_id, 1, late, actor=TEST).state is JobState.CANCELLED
        stored = revision(ledger, job)
        assert (stored.state, stored.output) == (RevisionState.CANCELLED, None)
        assert (stored.usage, stored.cost_usd) == (USAGE, Decimal("0.25"))
        assert events(ledger, job).count("output late") == 1

    def test_a_late_output_of_an_older_revision_leaves_the_newer_one_alone(self, ledger: Ledger) -> None:
        submit(ledger, job_spec())
        job = ledger.submission.open(job_spec(input=OTHER_INPUT)).job
        after = ledger.outputs.store(job.job_id, 1, Output(ResponseStatus.COMPLETED, "Old.", usage=USAGE), actor=TEST)
        assert (after.state, after.revision) == (JobState.QUEUED, 2)
        assert revision(ledger, job, 2).output is None

    def test_the_cost_of_a_response_that_ended_after_its_deadline_is_not_lost(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        job = fail(ledger, ledger.job(running.job_id))
        late = Output(ResponseStatus.COMPLETED, "Too late.", usage=USAGE, cost_usd=Decimal("0.25"))
        ledger.outputs.store(job.job_id, 1, late, actor=TEST)
        stored = revision(ledger, job)
        assert (stored.state, stored.output, stored.cost_usd) == (RevisionState.FAILED, None, Decimal("0.25"))

    def test_an_output_for_a_request_that_was_never_sent_is_refused(self, ledger: Ledger) -> None:
        job = ledger.submission.open(job_spec()).job
        with pytest.raises(IllegalTransition, match="queued"):
            ledger.outputs.store(job.job_id, 1, Output(ResponseStatus.COMPLETED, "?"), actor=TEST)


class TestEnd:
    def test_a_job_that_has_an_output_is_not_failed_by_a_deadline_that_comes_late(self, ledger: Ledger) -> None:
        job = draft(ledger)
        assert fail(ledger, job) == job

    def test_an_older_revision_can_no_longer_be_failed(self, ledger: Ledger) -> None:
        first = ledger.submission.open(job_spec()).job
        second = ledger.submission.open(job_spec(input=OTHER_INPUT)).job
        assert fail(ledger, first) == second

    def test_only_the_attempt_that_owns_the_job_can_ask_to_cancel_it(self, ledger: Ledger) -> None:
        running = submit(ledger, job_spec())
        ledger.submission.open(job_spec(owner=OTHER_RUN))
        where: dict[str, Any] = {"actor": TEST, "reason": "killed"}
        assert ledger.outputs.request_cancel(running.job_id, owner=OWNER, **where) is None
        asked = ledger.outputs.request_cancel(running.job_id, owner=OTHER_RUN, **where)
        assert asked is not None
        assert asked.response_id == "resp_1"

    def test_a_job_in_review_has_no_response_to_cancel(self, ledger: Ledger) -> None:
        job = draft(ledger)
        assert ledger.outputs.request_cancel(job.job_id, owner=OWNER, actor=TEST, reason="killed") is None

    def test_a_cancellation_that_comes_late_changes_nothing(self, ledger: Ledger) -> None:
        job = draft(ledger)
        after = ledger.outputs.cancelled(job.job_id, 1, actor=TEST, reason="killed", status=ResponseStatus.COMPLETED)
        assert after == job


class TestNames:
    @pytest.mark.parametrize("key", [1984, 0])
    def test_a_key_that_a_template_made_a_number_finds_its_job_again(self, ledger: Ledger, key: Any) -> None:
        first = ledger.submission.open(job_spec(job_key=key))
        again = ledger.submission.open(job_spec(job_key=key, owner=replace(OWNER, try_number=2)))
        assert (again.job.job_id, again.job.job_key) == (first.job.job_id, str(key))

    def test_the_longest_names_fit_into_the_index_of_the_ledger(self, ledger: Ledger) -> None:
        source = random.Random(1)  # noqa: S311 - words that the database cannot compress
        words = ["".join(chr(source.randrange(0x4E00, 0x9FFF)) for _ in range(size // 3)) for size in (500, 2000)]
        opened = ledger.submission.open(job_spec(job_type=words[0], job_key=words[1]))
        assert ledger.submission.open(job_spec(job_type=words[0], job_key=words[1])).job.job_id == opened.job.job_id

    def test_what_is_refused_leaves_nothing_behind(self, ledger: Ledger) -> None:
        with pytest.raises(RequestError, match="job_key"):
            ledger.submission.open(job_spec(job_key="k" * 6000))
        assert ledger.jobs() == []


class TestKeyedDigests:
    """A digest of what is masked is keyed: who reads it cannot test guesses."""

    PIN, SHOWN = {"model": "gpt-5.2", "input": "The PIN is 1234."}, {"model": "gpt-5.2", "input": "The PIN is ***."}

    def spec(self) -> JobSpec:
        return job_spec(input=self.PIN, request=self.PIN, shown_input=self.SHOWN, shown_request=self.SHOWN)

    def test_no_digest_in_the_ledger_can_be_made_without_the_key(self, ledger: Ledger) -> None:
        job = submit_job(ledger, self.spec())
        record = ledger.record(job.job_id)
        assert digest(self.PIN) not in repr(record)
        assert record.job.input_digest == input_digest(self.PIN, ledger.digest_key())
        assert record.revision.request_digest == record.job.input_digest
        assert record.events[0].detail["input_digest"] == record.job.input_digest

    def test_a_job_is_recognized_after_a_key_is_configured_and_gets_the_digest_with_that_key(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        job = submit_job(ledger, self.spec())
        with Ledger(conninfo, digest_key="configured") as other:
            assert other.submission.is_input(job, self.PIN)
            opened = other.submission.open(self.spec())
            assert (opened.next, opened.job.revision) == (Attachment.WAIT, 1)
            assert opened.job.input_digest == input_digest(self.PIN, "configured")
            assert other.submission.open(self.spec()).next is Attachment.WAIT
            assert first_break(other.record(1).events, other.job(1)) is None
        assert not ledger.submission.is_input(job, self.SHOWN)

    def test_a_request_with_a_masked_secret_is_not_whole_and_one_that_says_stars_by_itself_is(
        self, ledger: Ledger
    ) -> None:
        submit_job(ledger, self.spec())
        assert ledger.submission.first_request(1, 1) is None
        submit_job(ledger, job_spec(job_key="stars", input=self.SHOWN, request=self.SHOWN))
        assert ledger.submission.first_request(2, 1) == self.SHOWN


def submit_job(ledger: Ledger, spec: JobSpec) -> Job:
    """The job of which a response runs."""
    submit(ledger, spec, f"resp_{spec.job_key}")
    return next(job for number in (1, 2) if (job := ledger.job(number)).job_key == spec.job_key)


def test_a_request_that_is_refused_again_and_again_is_bounded_over_all_attempts(ledger: Ledger) -> None:
    job = ledger.submission.open(job_spec()).job
    for _ in range(MAX_REFUSALS):
        intent = intend(ledger, job)
        assert intent.token is not None
        ledger.submission.not_submitted(job.job_id, 1, token=intent.token, actor=TEST, reason="not now")
    with pytest.raises(JobFailed, match=f"refused its request {MAX_REFUSALS} times"):
        intend(ledger, job)
    assert ledger.job(job.job_id).state is JobState.FAILED


def test_what_a_limit_of_money_refuses_is_not_counted_as_a_refusal(ledger: Ledger) -> None:
    job = ledger.submission.open(job_spec()).job
    intent = intend(ledger, job)
    assert intent.token is not None
    ledger.submission.not_submitted(job.job_id, 1, token=intent.token, actor=TEST, reason="spent", spent=True)
    assert ledger.revision(job.job_id, 1).refusals == 0
