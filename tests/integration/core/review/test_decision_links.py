"""A decision link counts once, for one person, one verdict and one digest, by the rules of the job's page."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.errors import (
    HandoffError,
    LinkForAnotherUser,
    LinkNotFound,
    LinkSpent,
    MayNotDecide,
    StaleDecision,
)
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.decision_link import hash_of
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, Reviewers, ReviewRules
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import ask, draft, effect_plan
from tests.waiting import until

#: How many sessions wait for a lock.
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
BOB, CAROL = Person("bob"), Person("carol")
TWO = ReviewRules(approvals=2)


@pytest.fixture
def job(ledger: Ledger) -> Job:
    return ask(ledger, draft(ledger))


def link_for(ledger: Ledger, job: Job, person: str = "bob", verdict: Any = "approve", **more: Any) -> str:
    token = ledger.decision_links.make(job, verdict, person, **more)
    assert token is not None
    return token


def use(ledger: Ledger, token: str, person: Person = BOB, comment: str | None = None) -> Job:
    return ledger.decision_links.decide(token, person=person, comment=comment)


def deciders(ledger: Ledger, job: Job) -> list[str]:
    return [decision.decided_by for decision in ledger.record(job.job_id).decisions]


@pytest.mark.parametrize(("verdict", "state"), [("approve", JobState.APPROVED), ("reject", JobState.REJECTED)])
def test_it_decides_as_the_page_does(ledger: Ledger, job: Job, verdict: str, state: JobState) -> None:
    token = link_for(ledger, job, verdict=verdict)
    ledger.decision_links.check(token, BOB)
    assert ledger.job(job.job_id) == job, "checking changes nothing"
    assert use(ledger, token, comment="Fine.").state is state
    (decision,) = ledger.record(job.job_id).decisions
    assert (decision.decider, decision.verdict, decision.comment) == (BOB.actor, verdict, "Fine.")
    assert decision.digest == job.review_digest


def test_the_ledger_keeps_a_hash_of_its_token_alone(ledger: Ledger, job: Job, conninfo: dict[str, Any]) -> None:
    token = link_for(ledger, job)
    with psycopg.connect(**conninfo) as connection:
        (row,) = connection.execute("SELECT decision_links::text FROM aihandoff.decision_links").fetchall()
    assert hash_of(token) in row[0]
    assert token not in row[0]
    assert token not in repr(ledger.decision_links.read(token, BOB))


class TestOnce:
    def test_a_second_click_says_that_it_was_used(self, ledger: Ledger, job: Job) -> None:
        token = link_for(ledger, job)
        use(ledger, token)
        for again in (use, lambda ledger, token: ledger.decision_links.check(token, BOB)):
            with pytest.raises(LinkSpent, match=r"it was used at .*, and works once"):
                again(ledger, token)
        assert deciders(ledger, job) == ["bob"]

    def test_it_does_not_count_again_where_what_was_approved_is_asked_about_again(
        self, ledger: Ledger, job: Job
    ) -> None:
        token = link_for(ledger, ask(ledger, job, rules=TWO))
        use(ledger, token)
        ask(ledger, job, effect_plan(url="http://cms/posts/teapot"), rules=TWO)
        back = ask(ledger, job, rules=TWO)
        with pytest.raises(LinkSpent, match="it was used"):
            use(ledger, token)
        assert ledger.reviews.votes(back) == []

    def test_two_servers_that_are_asked_at_once_record_one_decision(
        self, ledger: Ledger, job: Job, conninfo: dict[str, Any]
    ) -> None:
        job = ask(ledger, job, rules=ReviewRules(approvals=2))
        same = link_for(ledger, job)
        for tokens in ([same] * 4, [link_for(ledger, job, "carol") for _ in range(4)]):
            person = BOB if tokens[0] == same else CAROL
            found = list(_at_once(conninfo, tokens, person))
            assert sum(isinstance(each, Job) for each in found) == 1
            said = "it was used" if person == BOB else "you have approved this already"
            assert all(said in str(each) for each in found if not isinstance(each, Job))
        assert deciders(ledger, job) == ["bob", "carol"]
        assert ledger.job(job.job_id).state is JobState.APPROVED

    def test_one_that_is_refused_can_still_be_used(self, ledger: Ledger, job: Job) -> None:
        job = ask(ledger, job, rules=ReviewRules(Approvers(users=("carol",))))
        token = link_for(ledger, job)
        with pytest.raises(MayNotDecide):
            use(ledger, token)
        reviewers = Reviewers(Approvers(users=("bob",)))
        ledger.reassignments.reassign(job.job_id, reviewers, actor=Actor.user("admin"), reason="on holiday")
        assert use(ledger, token).state is JobState.APPROVED

    def test_one_that_was_sent_again_works_as_long_as_the_person_has_not_decided(
        self, ledger: Ledger, job: Job
    ) -> None:
        first, second = link_for(ledger, job), link_for(ledger, job)
        use(ledger, first)
        with pytest.raises(LinkSpent, match="you have approved this already"):
            use(ledger, second)
        assert deciders(ledger, job) == ["bob"]


def _at_once(conninfo: dict[str, Any], tokens: list[str], person: Person) -> Iterator[Job | HandoffError]:
    """What comes of using links at the same time, each in a server of its own: all of them wait for the job."""

    def use_it(token: str) -> Job | HandoffError:
        with Ledger(conninfo) as server:
            try:
                return use(server, token, person)
            except HandoffError as error:
                return error

    with (
        ThreadPoolExecutor(len(tokens)) as servers,
        psycopg.connect(**conninfo) as holder,
        psycopg.connect(**conninfo, autocommit=True) as watcher,
    ):
        holder.execute("SELECT FROM aihandoff.jobs FOR UPDATE")
        found = [servers.submit(use_it, token) for token in tokens]
        until(lambda: watcher.execute(WAITING).fetchall() == [(len(tokens),)])
        holder.rollback()
        yield from (each.result() for each in found)


class TestWho:
    def test_it_counts_for_no_one_else(self, ledger: Ledger, job: Job) -> None:
        token = link_for(ledger, job)
        for opened in (ledger.decision_links.read, ledger.decision_links.check):
            with pytest.raises(LinkForAnotherUser):
                opened(token, CAROL)
        with pytest.raises(LinkForAnotherUser):
            use(ledger, token, CAROL)
        assert deciders(ledger, job) == []

    def test_it_gives_no_right_to_the_requester(self, ledger: Ledger, job: Job) -> None:
        with pytest.raises(MayNotDecide, match="You asked for this work"):
            use(ledger, link_for(ledger, job, "alice"), Person("alice"))
        assert deciders(ledger, job) == []

    def test_it_is_one_vote_of_several(self, ledger: Ledger, job: Job) -> None:
        job = ask(ledger, job, rules=TWO)
        assert use(ledger, link_for(ledger, job)).state is JobState.REVIEW
        assert use(ledger, link_for(ledger, job, "carol"), CAROL).state is JobState.APPROVED

    def test_it_cannot_be_made_for_an_account_at_a_terminal(self, ledger: Ledger, job: Job) -> None:
        with pytest.raises(ValueError, match="for one login name"):
            link_for(ledger, job, "cli:bob")

    def test_a_token_that_was_never_made_is_not_found(self, ledger: Ledger, job: Job) -> None:
        link_for(ledger, job)
        for token in ("", "x" * 43, "\x00"):
            with pytest.raises(LinkNotFound):
                use(ledger, token)


class TestTime:
    def test_it_expires_with_the_review_at_the_latest(self, ledger: Ledger, job: Job) -> None:
        for lifetime in (None, timedelta(days=400)):
            token = link_for(ledger, job, lifetime=lifetime)
            assert ledger.decision_links.read(token, BOB).expires_at == job.review_deadline

    def test_an_expired_one_decides_nothing(self, ledger: Ledger, job: Job) -> None:
        token = link_for(ledger, job, lifetime=timedelta(0))
        for refused in (use, lambda ledger, token: ledger.decision_links.check(token, BOB)):
            with pytest.raises(LinkSpent, match="it expired at"):
                refused(ledger, token)
        assert deciders(ledger, job) == []


class TestSuperseded:
    def test_another_plan_is_not_what_it_is_about(self, ledger: Ledger, job: Job) -> None:
        token = link_for(ledger, job)
        ask(ledger, job, effect_plan(url="http://cms/posts/teapot"))
        with pytest.raises(StaleDecision, match="since this link was sent: the plan of the effect 'publish' changed"):
            use(ledger, token)
        assert deciders(ledger, job) == []

    def test_another_revision_is_not_either(self, ledger: Ledger, job: Job) -> None:
        token = link_for(ledger, job)
        assert job.review_digest is not None
        ledger.reviews.edit(job.job_id, digest=job.review_digest, output="A teapot.", person=CAROL)
        with pytest.raises(LinkSpent, match="about revision 1, and the job is at revision 2"):
            use(ledger, token)

    def test_what_another_person_has_decided_is_said(self, ledger: Ledger, job: Job) -> None:
        token = link_for(ledger, job, verdict="reject")
        assert job.review_digest is not None
        ledger.reviews.decide(job.job_id, "approve", digest=job.review_digest, person=CAROL)
        with pytest.raises(StaleDecision, match="no longer waits for a decision: it is approved"):
            use(ledger, token)

    def test_none_is_made_for_what_a_job_no_longer_says(self, ledger: Ledger, job: Job) -> None:
        now = ask(ledger, job, effect_plan(url="http://cms/posts/teapot"))
        assert ledger.decision_links.make(job, "approve", "bob") is None
        use(ledger, link_for(ledger, now))
        assert ledger.decision_links.make(now, "approve", "bob") is None
