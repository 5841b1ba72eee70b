"""Edits by people, and revisions that they ask the model for."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.errors import CannotChange, JobCancelled, JobNotApproved, StaleDecision
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job, Owner
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import EffectState, JobState, ResponseStatus, RevisionState
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec
from tests.integration.core.webhooks.inboxes import run

BOB, CAROL = Person("bob"), Person("carol")
SENSOR = Owner("publishing", "manual__1", "approve", -1, "ti-2", 1)


def edit(ledger: Ledger, job: Job, output: Any = "A pan.", person: Person = BOB) -> Job:
    return ledger.reviews.edit(job.job_id, digest=str(job.review_digest), output=output, person=person)


def request_changes(ledger: Ledger, job: Job, comment: str | None = "Shorter.", person: Person = BOB) -> Job:
    return ledger.reviews.decide(
        job.job_id, "request changes", digest=str(job.review_digest), person=person, comment=comment
    )


def follow(ledger: Ledger, job: Job, output: Output | None = None) -> Job:
    """Let the model make the revision that was asked for."""
    taken = ledger.submission.take_over(job.job_id, job.revision, owner=SENSOR, request={"input": "continued"})
    assert taken is not None
    intent = ledger.submission.intend(job.job_id, job.revision, actor=TEST, lease=LEASE)
    assert intent.token is not None
    ledger.submission.submitted(
        job.job_id,
        job.revision,
        token=intent.token,
        response_id=f"resp {job.revision}",
        status=ResponseStatus.QUEUED,
        actor=TEST,
    )
    return ledger.outputs.store(
        job.job_id, job.revision, output or Output(ResponseStatus.COMPLETED, f"Version {job.revision}"), actor=TEST
    )


def events(ledger: Ledger, job: Job) -> list[str]:
    record = ledger.record(job.job_id)
    assert first_break(record.events, record.job) is None
    return [event.event for event in record.events]


class TestEdit:
    def test_an_edit_is_a_revision_by_that_person_and_the_original_stays(self, ledger: Ledger) -> None:
        job = edit(ledger, ask(ledger, draft(ledger)))
        original, edited = ledger.record(job.job_id).revisions
        assert (job.state, job.revision, job.review_digest) == (JobState.REVIEW, 2, None)
        assert (original.output, original.author) == ("A kettle.", "model")
        assert (edited.output, edited.author, edited.based_on, edited.state) == (
            "A pan.",
            "bob",
            1,
            RevisionState.COMPLETED,
        )
        assert edited.output_digest == digest("A pan.")
        assert (edited.response_id, edited.cost_usd, edited.submissions) == (None, None, 0)

    def test_no_one_decides_before_the_plan_is_rendered_again(self, ledger: Ledger) -> None:
        before = ask(ledger, draft(ledger))
        edit(ledger, before)
        with pytest.raises(JobNotApproved, match="plan has not been rendered yet"):
            approve(ledger, before)
        assert [effect.state for effect in ledger.record(1).effects] == [EffectState.VOID]

    def test_the_decision_is_on_the_new_digest_and_the_old_page_approves_nothing(self, ledger: Ledger) -> None:
        before = ask(ledger, draft(ledger))
        asked = ask(ledger, edit(ledger, before))
        with pytest.raises(StaleDecision, match="the output changed"):
            approve(ledger, before)
        assert approve(ledger, asked).state is JobState.APPROVED

    def test_of_an_edit_and_an_approval_at_once_one_is_refused(self, ledger: Ledger) -> None:
        asked = ask(ledger, draft(ledger))
        approve(ledger, asked)
        with pytest.raises(StaleDecision, match="it no longer waits for a decision: it is approved"):
            edit(ledger, asked)
        assert len(ledger.record(1).revisions) == 1

    def test_of_two_edits_of_the_same_output_the_second_is_refused(self, ledger: Ledger) -> None:
        asked = ask(ledger, draft(ledger))
        edit(ledger, asked)
        with pytest.raises(JobNotApproved):
            edit(ledger, asked, "A pot.", CAROL)

    def test_sent_again_it_changes_nothing(self, ledger: Ledger) -> None:
        asked = ask(ledger, draft(ledger))
        assert edit(ledger, asked) == edit(ledger, asked)
        assert events(ledger, asked).count("edited") == 1

    def test_an_unchanged_output_is_not_an_edit(self, ledger: Ledger) -> None:
        with pytest.raises(CannotChange, match="the same as the current output"):
            edit(ledger, ask(ledger, draft(ledger)), "A kettle.")

    def test_an_edit_that_is_nested_too_deeply_is_refused_and_nothing_is_recorded(self, ledger: Ledger) -> None:
        asked = ask(ledger, draft(ledger))
        deep: Any = "x"
        for _ in range(900):
            deep = [deep]
        with pytest.raises(CannotChange, match="nested more than 64 levels deep"):
            edit(ledger, asked, deep)
        assert ledger.job(asked.job_id) == asked

    def test_any_text_is_kept_exactly(self, ledger: Ledger) -> None:
        output = {"text": "nul \x00 lone \ud83d <script>", "n": 1.5, "list": [None, True]}
        job = edit(ledger, ask(ledger, draft(ledger)), output)
        assert ledger.revision(job.job_id, 2).output == output

    def test_an_edit_that_the_output_type_does_not_accept_goes_back_to_the_revision_before(
        self, ledger: Ledger
    ) -> None:
        asked = ask(ledger, draft(ledger))
        edited = edit(ledger, asked)
        job = ledger.reviews.refuse_edit(
            edited.job_id, 2, error={"kind": "mismatch"}, reason="title: too long", actor=TEST
        )
        assert (job.state, job.revision, job.state_reason) == (JobState.REVIEW, 1, "title: too long")
        refused = ledger.revision(job.job_id, 2)
        assert (refused.state, refused.output) == (RevisionState.FAILED, None)
        assert refused.error == {"kind": "mismatch", "output": "A pan."}
        again = ask(ledger, job)
        assert again.review_digest == asked.review_digest
        assert edit(ledger, again, "A pot.").revision == 3

    def test_an_edit_that_was_asked_about_is_not_undone(self, ledger: Ledger) -> None:
        asked = ask(ledger, edit(ledger, ask(ledger, draft(ledger))))
        assert ledger.reviews.refuse_edit(asked.job_id, 2, error={}, reason="?", actor=TEST) == asked

    def test_a_plan_that_was_rendered_for_the_revision_before_is_not_taken_for_it(self, ledger: Ledger) -> None:
        from tests.factories import in_an_hour

        edited = edit(ledger, ask(ledger, draft(ledger)))
        left = ledger.reviews.ask(
            edited.job_id, [effect_plan()], policy=None, deadline=in_an_hour(), actor=TEST, revision=1
        )
        assert left == edited


class TestRequestChanges:
    def test_the_model_is_to_make_a_revision_that_follows_the_words(self, ledger: Ledger) -> None:
        asked = ask(ledger, draft(ledger))
        job = request_changes(ledger, asked)
        revision = ledger.revision(job.job_id, 2)
        assert (job.state, job.revision, job.review_digest, job.review_deadline) == (JobState.QUEUED, 2, None, None)
        assert (revision.author, revision.state, revision.based_on, revision.changes) == (
            "model",
            RevisionState.QUEUED,
            1,
            "Shorter.",
        )
        (decision,) = ledger.record(1).decisions
        assert (decision.verdict, decision.digest, decision.revision) == ("request changes", asked.review_digest, 1)

    def test_a_requested_revision_has_as_long_as_the_first_one_had(self, ledger: Ledger) -> None:
        job = request_changes(ledger, ask(ledger, draft(ledger)))
        first, second = (ledger.revision(job.job_id, number) for number in (1, 2))
        assert abs((second.deadline - second.created_at) - (first.deadline - first.created_at)).total_seconds() < 1

    def test_people_are_asked_again_on_the_new_digest_and_the_old_page_approves_nothing(self, ledger: Ledger) -> None:
        before = ask(ledger, draft(ledger))
        job = follow(ledger, request_changes(ledger, before))
        assert (job.state, ledger.revision(1, 2).output) == (JobState.REVIEW, "Version 2")
        asked = ask(ledger, job)
        with pytest.raises(StaleDecision, match="the output changed"):
            approve(ledger, before)
        assert approve(ledger, asked).state is JobState.APPROVED

    def test_sent_again_it_asks_for_one(self, ledger: Ledger) -> None:
        asked = ask(ledger, draft(ledger))
        assert request_changes(ledger, asked) == request_changes(ledger, asked)
        assert len(ledger.record(1).revisions) == 2

    @pytest.mark.parametrize("comment", [None, "", " \n"])
    def test_a_request_for_changes_needs_a_comment(self, ledger: Ledger, comment: str | None) -> None:
        with pytest.raises(CannotChange, match="a request for changes needs a comment"):
            request_changes(ledger, ask(ledger, draft(ledger)), comment)

    def test_requests_for_changes_are_bounded_in_number_and_edits_do_not_count(self, ledger: Ledger) -> None:
        asked = ask(ledger, draft(ledger, job_spec(max_revisions=2)))
        asked = ask(ledger, edit(ledger, asked))
        asked = ask(ledger, follow(ledger, request_changes(ledger, asked)))
        with pytest.raises(CannotChange, match="the model has made 2 of 2 revisions"):
            request_changes(ledger, asked, "Longer.")
        assert approve(ledger, asked).state is JobState.APPROVED

    @pytest.mark.parametrize(
        ("cost", "said"), [("0.10", "have cost 0.10 USD"), (None, "have cost an amount that is not known")]
    )
    def test_requests_for_changes_are_bounded_in_cost(
        self, ledger: Ledger, conninfo: dict[str, Any], cost: str | None, said: str
    ) -> None:
        asked = ask(ledger, draft(ledger, job_spec(max_cost_usd=Decimal("0.10"))))
        run(conninfo, "UPDATE aihandoff.revisions SET cost_usd = %s", None if cost is None else Decimal(cost))
        with pytest.raises(CannotChange, match=said):
            request_changes(ledger, asked)
        run(conninfo, "UPDATE aihandoff.revisions SET cost_usd = 0.0999")
        assert request_changes(ledger, asked).state is JobState.QUEUED

    @pytest.mark.parametrize("submitted", [False, True])
    def test_a_failed_request_for_changes_asks_about_the_revision_before_again(
        self, ledger: Ledger, submitted: bool
    ) -> None:
        asked = ask(ledger, draft(ledger))
        changing = request_changes(ledger, asked)
        if submitted:
            job = follow(ledger, changing, Output(ResponseStatus.INCOMPLETE, error={"kind": "incomplete"}))
        else:
            job = ledger.outputs.fail(1, 2, actor=TEST, reason="no connection", error={"kind": "gone"})
        assert (job.state, job.revision, job.review_digest) == (JobState.REVIEW, 1, None)
        assert (job.state_reason or "").startswith("the change was not made: ")
        again = ask(ledger, job)
        assert again.review_digest == asked.review_digest
        assert request_changes(ledger, again, "Again.").revision == 3

    def test_an_edit_is_changed_from_what_the_person_wrote(self, ledger: Ledger) -> None:
        edited = ask(ledger, edit(ledger, ask(ledger, draft(ledger))))
        job = request_changes(ledger, edited)
        revision = ledger.revision(job.job_id, 3)
        assert revision.based_on == 2
        assert ledger.submission.first_request(job.job_id, 3) == ledger.revision(1, 1).request

    def test_the_task_that_goes_on_with_it_owns_the_job(self, ledger: Ledger) -> None:
        job = request_changes(ledger, ask(ledger, draft(ledger)))
        taken = ledger.submission.take_over(job.job_id, 2, owner=SENSOR, request={"input": "continued"})
        assert taken is not None
        assert (taken.request, ledger.job(job.job_id).owner) == ({"input": "continued"}, SENSOR)
        assert ledger.submission.take_over(job.job_id, 1, owner=SENSOR, request={}) is None

    def test_the_task_that_asked_first_does_not_put_its_own_request_in_the_place_of_it(self, ledger: Ledger) -> None:
        job = request_changes(ledger, ask(ledger, draft(ledger)))
        ledger.submission.take_over(job.job_id, 2, owner=SENSOR, request={"input": "continued"})
        opened = ledger.submission.open(job_spec())
        assert (opened.revision.number, opened.revision.request) == (2, {"input": "continued"})

    def test_a_requested_revision_that_is_cancelled_meanwhile_is_not_sent(self, ledger: Ledger) -> None:
        job = request_changes(ledger, ask(ledger, draft(ledger)))
        ledger.cancels.cancel(job.job_id, actor=Actor.user("bob"), reason="enough")
        with pytest.raises(JobCancelled):
            ledger.submission.intend(job.job_id, 2, actor=TEST, lease=LEASE)
