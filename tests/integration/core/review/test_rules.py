"""Who decides, how many, and when people are notified: enforced by the ledger itself for every caller."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.errors import JobNotApproved, MayNotDecide, StaleBulkDecision, StaleDecision
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, ReviewRules, rules_of
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import TEST, draft, effect_plan, in_an_hour, job_spec
from tests.integration.core.webhooks.inboxes import run

ALICE, BOB, CAROL, DAVE = map(Person, ("alice", "bob", "carol", "dave"))


def asked(ledger: Ledger, rules: ReviewRules | None = None, output: Any = "A kettle.", **spec: Any) -> Job:
    """A job that waits for a decision by these rules; its requester is alice."""
    key = spec.get("job_key", "post:kettle")
    job = draft(ledger, job_spec(**spec), output, response_id=f"resp of {key}")
    return ask(ledger, job, rules)


def ask(ledger: Ledger, job: Job, rules: ReviewRules | None = None, **plan: Any) -> Job:
    plans = [effect_plan(**plan)]
    return ledger.reviews.ask(job.job_id, plans, policy=None, deadline=in_an_hour(), actor=TEST, rules=rules)


def approve(ledger: Ledger, job: Job, person: Person) -> Job:
    return ledger.reviews.decide(job.job_id, "approve", digest=str(job.review_digest), person=person)


def events(ledger: Ledger, job: Job) -> list[str]:
    record = ledger.record(job.job_id)
    assert first_break(record.events, record.job) is None
    return [event.event for event in record.events]


class TestWho:
    @pytest.mark.parametrize("verdict", ["approve", "reject", "request changes"])
    def test_the_requester_decides_nothing(self, ledger: Ledger, verdict: Any) -> None:
        job = asked(ledger)
        with pytest.raises(MayNotDecide, match="You asked for this work; another user has to decide"):
            ledger.reviews.decide(job.job_id, verdict, digest=str(job.review_digest), person=ALICE, comment="Shorter.")
        assert (ledger.job(job.job_id), ledger.record(job.job_id).decisions) == (job, [])

    def test_a_user_who_triggered_the_run_for_another_user_does_not_decide(self, ledger: Ledger) -> None:
        job = asked(ledger, requested_by="the press team", triggered_by="bob")
        with pytest.raises(MayNotDecide):
            approve(ledger, job, BOB)
        assert approve(ledger, job, CAROL).state is JobState.APPROVED

    def test_the_requester_decides_where_the_author_allows_it(self, ledger: Ledger) -> None:
        job = asked(ledger, ReviewRules(requester_may_approve=True))
        assert approve(ledger, job, ALICE).state is JobState.APPROVED

    def test_with_named_approvers_no_one_else_decides(self, ledger: Ledger) -> None:
        job = asked(ledger, ReviewRules(Approvers(users=("bob",), roles=("editor",))))
        with pytest.raises(MayNotDecide, match="Only these may decide on it: bob, the role editor"):
            approve(ledger, job, CAROL)
        editor = Person("carol", roles=frozenset({"editor"}))
        assert approve(ledger, job, editor).state is JobState.APPROVED

    def test_other_rules_void_an_approval_and_say_so(self, ledger: Ledger) -> None:
        job = approve(ledger, asked(ledger), BOB)
        again = ask(ledger, job, ReviewRules(approvals=2))
        assert (again.state, again.decision_id) == (JobState.REVIEW, None)
        with pytest.raises(StaleDecision, match="the rules of who decides changed"):
            approve(ledger, job, CAROL)

    def test_a_person_who_may_not_decide_may_not_edit_either(self, ledger: Ledger) -> None:
        job = asked(ledger)
        with pytest.raises(MayNotDecide):
            ledger.reviews.edit(job.job_id, digest=str(job.review_digest), output="A pan.", person=ALICE)


class TestQuorum:
    RULES = ReviewRules(Approvers(users=("bob", "carol", "dave")), approvals=2)

    def test_the_last_vote_that_it_takes_approves(self, ledger: Ledger) -> None:
        job = asked(ledger, self.RULES)
        after_one = approve(ledger, job, BOB)
        assert (after_one.state, after_one.decision_id) == (JobState.REVIEW, None)
        assert [vote.decided_by for vote in ledger.reviews.votes(after_one)] == ["bob"]
        approved = approve(ledger, job, DAVE)
        assert approved.state is JobState.APPROVED
        assert events(ledger, job)[-2:] == ["vote counted", "approved"]

    def test_one_person_has_one_vote_however_they_come(self, ledger: Ledger) -> None:
        rules = ReviewRules(Approvers(users=("bob", "cli:bob", "carol")), approvals=2)
        job = asked(ledger, rules)
        approve(ledger, job, BOB)
        assert approve(ledger, job, BOB).state is JobState.REVIEW
        assert approve(ledger, job, Person("bob", at_terminal=True)).state is JobState.REVIEW
        assert events(ledger, job).count("vote counted") == 2

    def test_an_effect_is_not_claimed_by_less(self, ledger: Ledger) -> None:
        from airflow_provider_aihandoff.core.errors import JobNotApproved
        from tests.factories import LEASE

        job = approve(ledger, asked(ledger, self.RULES), BOB)
        with pytest.raises(JobNotApproved, match="it is review"):
            ledger.effects.claim(job.job_id, effect_plan(), lease=LEASE, actor=TEST)

    def test_a_different_digest_voids_the_votes(self, ledger: Ledger) -> None:
        job = approve(ledger, asked(ledger, self.RULES), BOB)
        changed = ask(ledger, job, self.RULES, url="http://cms/other")
        assert ledger.reviews.votes(changed) == []
        assert approve(ledger, changed, CAROL).state is JobState.REVIEW

    def test_a_digest_that_comes_back_is_voted_on_again(self, ledger: Ledger) -> None:
        job = approve(ledger, asked(ledger, self.RULES), BOB)
        ask(ledger, job, self.RULES, url="http://cms/other")
        again = ask(ledger, job, self.RULES)
        assert again.review_digest == job.review_digest
        assert ledger.reviews.votes(again) == []
        assert approve(ledger, again, BOB).state is JobState.REVIEW
        assert [vote.decided_by for vote in ledger.reviews.votes(again)] == ["bob"]
        assert approve(ledger, again, CAROL).state is JobState.APPROVED

    def test_a_rejection_by_one_ends_it(self, ledger: Ledger) -> None:
        job = approve(ledger, asked(ledger, self.RULES), BOB)
        ended = ledger.reviews.decide(job.job_id, "reject", digest=str(job.review_digest), person=CAROL)
        assert ended.state is JobState.REJECTED

    def test_an_approver_may_change_their_mind(self, ledger: Ledger) -> None:
        job = approve(ledger, asked(ledger, self.RULES), BOB)
        ended = ledger.reviews.decide(job.job_id, "reject", digest=str(job.review_digest), person=BOB)
        assert ended.state is JobState.REJECTED

    def test_votes_from_before_a_change_that_came_to_nothing_do_not_count(self, ledger: Ledger) -> None:
        job = approve(ledger, asked(ledger, self.RULES), BOB)
        ledger.reviews.decide(
            job.job_id, "request changes", digest=str(job.review_digest), person=CAROL, comment="Shorter."
        )
        ledger.outputs.fail(job.job_id, 2, actor=TEST, reason="gone", error={"kind": "gone"})
        again = ask(ledger, job, self.RULES)
        assert again.review_digest == job.review_digest
        assert ledger.reviews.votes(again) == []
        assert approve(ledger, again, DAVE).state is JobState.REVIEW

    def test_of_many_votes_at_once_each_counts_once(self, ledger: Ledger) -> None:
        people = [Person(f"person {number}") for number in range(8)]
        job = asked(ledger, ReviewRules(approvals=8))
        threads = [threading.Thread(target=approve, args=(ledger, job, person)) for person in people * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.job(job.job_id).state is JobState.APPROVED
        assert events(ledger, job).count("vote counted") == 7


class TestMany:
    def jobs(self, ledger: Ledger, number: int = 3, rules: ReviewRules | None = None) -> list[Job]:
        return [asked(ledger, rules, job_key=f"ticket:{index}") for index in range(number)]

    @pytest.mark.parametrize(("verdict", "state"), [("approve", JobState.APPROVED), ("reject", JobState.REJECTED)])
    def test_a_bulk_answer_is_one_decision_for_each_job_on_what_was_seen(
        self, ledger: Ledger, verdict: Any, state: JobState
    ) -> None:
        jobs = self.jobs(ledger)
        choices = [(job.job_id, str(job.review_digest)) for job in reversed(jobs)]
        done = ledger.reviews.decide_many(choices, verdict, person=BOB, comment="all fine")
        assert [job.job_id for job in done] == [job.job_id for job in reversed(jobs)]
        for job in jobs:
            (decision,) = ledger.record(job.job_id).decisions
            assert (decision.digest, decision.decided_by, decision.comment) == (job.review_digest, "bob", "all fine")
            assert ledger.job(job.job_id).state is state
            assert first_break(ledger.record(job.job_id).events, ledger.job(job.job_id)) is None

    def test_if_one_job_of_a_bulk_decision_is_stale_none_is_decided_and_each_stale_one_is_named(
        self, ledger: Ledger
    ) -> None:
        jobs = self.jobs(ledger, 4)
        choices = [(job.job_id, str(job.review_digest)) for job in jobs]
        ask(ledger, jobs[1], url="http://cms/other")
        approve(ledger, jobs[2], CAROL)
        before = [ledger.job(job.job_id) for job in jobs]
        with pytest.raises(StaleBulkDecision, match="2 of 4 jobs have changed since you opened them") as refused:
            ledger.reviews.decide_many([*choices, (999, "0" * 64)][:4], "approve", person=BOB)
        assert refused.value.stale.keys() == {jobs[1].job_id, jobs[2].job_id}
        assert "the plan of the effect 'publish' changed" in refused.value.stale[jobs[1].job_id]
        assert [ledger.job(job.job_id) for job in jobs] == before
        assert ledger.record(jobs[0].job_id).decisions == []

    def test_a_job_that_may_not_be_decided_or_does_not_exist_stops_the_bulk_decision(self, ledger: Ledger) -> None:
        jobs = self.jobs(ledger, 2)
        named = asked(ledger, ReviewRules(Approvers(users=("carol",))), job_key="ticket:named")
        choices = [(job.job_id, str(job.review_digest)) for job in (*jobs, named)]
        with pytest.raises(StaleBulkDecision) as refused:
            ledger.reviews.decide_many([*choices, (999, "0" * 64)], "approve", person=BOB)
        assert refused.value.stale.keys() == {named.job_id, 999}
        assert {ledger.job(job.job_id).state for job in jobs} == {JobState.REVIEW}

    def test_a_job_that_is_named_twice_is_refused(self, ledger: Ledger) -> None:
        (job,) = self.jobs(ledger, 1)
        with pytest.raises(ValueError, match="named twice"):
            ledger.reviews.decide_many([(job.job_id, str(job.review_digest)), (job.job_id, "")], "approve", person=BOB)

    def test_sent_again_it_changes_nothing(self, ledger: Ledger) -> None:
        choices = [(job.job_id, str(job.review_digest)) for job in self.jobs(ledger)]
        first = ledger.reviews.decide_many(choices, "approve", person=BOB)
        assert ledger.reviews.decide_many(choices, "approve", person=BOB) == first

    def test_of_two_overlapping_bulk_decisions_at_once_one_is_refused(self, ledger: Ledger) -> None:
        jobs = self.jobs(ledger, 12)
        choices = [(job.job_id, str(job.review_digest)) for job in jobs]
        outcomes: list[str] = []

        def decide(mine: list[tuple[int, str]], person: Person) -> None:
            try:
                ledger.reviews.decide_many(mine, "approve", person=person)
                outcomes.append("done")
            except StaleBulkDecision:
                outcomes.append("stale")

        threads = [
            threading.Thread(target=decide, args=(choices[:8], BOB)),
            threading.Thread(target=decide, args=(choices[:3:-1], CAROL)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["done", "stale"]


class TestTime:
    RULES = ReviewRules(
        Approvers(users=("bob",)), remind_after=60.0, escalate_after=120.0, escalate_to=Approvers(users=("carol",))
    )

    @pytest.fixture
    def later(self, conninfo: dict[str, Any]) -> Callable[[float], None]:
        """Let so many seconds have passed since people were asked."""

        def later(seconds: float) -> None:
            run(conninfo, "UPDATE aihandoff.jobs SET review_asked_at = now() - %s", timedelta(seconds=seconds))

        return later

    def notify(self, ledger: Ledger, job: Job) -> Job:
        return ledger.reviews.notify(job.job_id, digest=str(job.review_digest), actor=TEST)

    def test_nothing_is_said_before_its_time(self, ledger: Ledger, later: Callable[[float], None]) -> None:
        job = asked(ledger, self.RULES)
        later(59)
        self.notify(ledger, job)
        assert "reminded" not in events(ledger, job)

    def test_the_reminder_is_recorded_once(self, ledger: Ledger, later: Callable[[float], None]) -> None:
        job = asked(ledger, self.RULES)
        later(61)
        assert self.notify(ledger, job).reminded_at is not None
        self.notify(ledger, job)
        assert events(ledger, job).count("reminded") == 1
        with pytest.raises(MayNotDecide):
            approve(ledger, job, CAROL)

    def test_an_escalation_lets_others_decide_and_voids_nothing(
        self, ledger: Ledger, later: Callable[[float], None]
    ) -> None:
        job = asked(ledger, self.RULES)
        later(121)
        notified = self.notify(ledger, job)
        assert events(ledger, job)[-2:] == ["reminded", "escalated"]
        assert (notified.review_digest, notified.state_reason) == (job.review_digest, "carol may decide as well")
        assert approve(ledger, job, CAROL).state is JobState.APPROVED

    def test_a_job_that_is_decided_or_another_by_now_is_left_alone(
        self, ledger: Ledger, later: Callable[[float], None]
    ) -> None:
        job = asked(ledger, self.RULES)
        later(121)
        assert ledger.reviews.notify(job.job_id, digest="0" * 64, actor=TEST).reminded_at is None
        approve(ledger, job, BOB)
        assert self.notify(ledger, job).reminded_at is None

    def test_what_reviewers_were_notified_of_is_remembered_for_one_review(self, ledger: Ledger) -> None:
        job = asked(ledger, self.RULES)
        ledger.reviews.notified(job, "asked", actor=TEST)
        assert ledger.reviews.notices(job) == {"asked"}
        assert ledger.reviews.notices(ask(ledger, job, self.RULES, url="http://cms/other")) == set()

    def test_a_policy_that_is_asked_at_the_end_decides_only_then(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        job = asked(ledger, self.RULES)

        def end() -> Job:
            return ledger.reviews.approve_by_policy(
                job.job_id, digest=str(job.review_digest), policy="late@1", reason="harmless", expired=True
            )

        assert end().state is JobState.REVIEW
        run(conninfo, "UPDATE aihandoff.jobs SET review_deadline = now()")
        assert end().state is JobState.APPROVED
        assert ledger.record(job.job_id).decisions[0].decided_by == "late@1"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("bob", "bob (7)"),
        ("bob", "bob (8) (7)"),
        ("bob", "cli:bob"),
        ("model", "timeout"),
        ("a/b", "a"),
        ("d/r/t#1", "d/r/t#2"),
        ("policy:x", "x"),
    ],
)
class TestLoginsOfAnyForm:
    def test_two_logins_are_two_votes_and_one_is_one(self, ledger: Ledger, first: str, second: str) -> None:
        job = asked(ledger, ReviewRules(approvals=3))
        approve(ledger, job, Person(first, user_id="7"))
        approve(ledger, job, Person(first))  # the same login without its id, as after a change of the auth manager
        approve(ledger, job, Person(first, at_terminal=True))
        assert approve(ledger, job, Person(second)).state is JobState.REVIEW
        (pending,) = ledger.reviews.pending()
        assert [voter.name for voter in pending.voters] == [first, second]
        assert [vote.decider.name for vote in ledger.reviews.votes(ledger.job(job.job_id))] == [first, second]
        assert approve(ledger, job, CAROL).state is JobState.APPROVED
        assert events(ledger, job)[-4:] == ["vote counted"] * 3 + ["approved"]

    def test_who_asked_is_kept_out_and_the_other_is_not(self, ledger: Ledger, first: str, second: str) -> None:
        job = asked(ledger, requested_by="the press team", triggered_by=first)
        with pytest.raises(MayNotDecide):
            approve(ledger, job, Person(first, user_id="7"))
        with pytest.raises(MayNotDecide):
            approve(ledger, job, Person(first, at_terminal=True))
        assert approve(ledger, job, Person(second)).state is JobState.APPROVED
        assert ledger.record(job.job_id).decisions[0].decider == Actor.user(second)

    def test_an_edit_is_its_editors(self, ledger: Ledger, first: str, second: str) -> None:
        job = asked(ledger)
        for _ in range(2):  # sent again, it changes nothing
            ledger.reviews.edit(job.job_id, digest=str(job.review_digest), output="A pan.", person=Person(first))
        with pytest.raises(JobNotApproved):
            ledger.reviews.edit(job.job_id, digest=str(job.review_digest), output="A pan.", person=Person(second))
        record = ledger.record(job.job_id)
        assert [revision.editor for revision in record.revisions] == [None, Actor.user(first)]
        changed = ask(ledger, job)
        person = Person(second)
        ledger.reviews.decide(
            job.job_id, "request changes", digest=str(changed.review_digest), person=person, comment="-"
        )
        assert ledger.record(job.job_id).revision.request == record.revisions[0].request  # the model's, not the edit's
        assert ledger.jobs_of_run(job.dag_id, job.run_id)[0].model_revisions == 2


class TestPending:
    def test_every_job_in_review_is_listed_the_oldest_first(self, ledger: Ledger) -> None:
        jobs = [asked(ledger, ReviewRules(approvals=2), job_key=f"ticket:{index}") for index in range(3)]
        approve(ledger, jobs[1], BOB)
        draft(ledger, job_spec(job_key="no plan"), response_id="resp of another")
        ledger.reviews.decide(jobs[0].job_id, "reject", digest=str(jobs[0].review_digest), person=BOB)
        pending = ledger.reviews.pending()
        assert [(each.job_key, each.voters) for each in pending] == [
            ("ticket:1", [Actor.user("bob")]),
            ("ticket:2", []),
            ("no plan", []),
        ]
        assert rules_of(pending[0]).approvals == 2
        assert ledger.reviews.pending(dag_ids=["another"]) == []
        assert len(ledger.reviews.pending(dag_ids=["publishing"], run_id="manual__1")) == 3

    def test_the_candidates_of_a_bulk_review_come_with_their_output_and_plan(self, ledger: Ledger) -> None:
        jobs = [asked(ledger, job_key=f"ticket:{index}", output={"label": index}) for index in range(3)]
        found = ledger.candidates([jobs[2].job_id, jobs[0].job_id])
        assert [(each.job.job_key, each.output) for each in found] == [
            ("ticket:0", {"label": 0}),
            ("ticket:2", {"label": 2}),
        ]
        assert [[effect.name for effect in each.effects] for each in found] == [["publish"], ["publish"]]
        assert [each.job_id for each in ledger.search.by_id([jobs[1].job_id])] == [jobs[1].job_id]


def test_the_time_to_decide_is_not_won_by_an_edit(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    job = asked(ledger)
    soon = datetime.now(UTC) + timedelta(minutes=5)
    run(conninfo, "UPDATE aihandoff.jobs SET review_deadline = %s", soon)
    ledger.reviews.edit(job.job_id, digest=str(job.review_digest), output="A pan.", person=BOB)
    again = ask(ledger, job)
    assert (again.review_deadline, again.review_asked_at) == (soon, job.review_asked_at)
