"""Whom a review may be given to, and which approvals stay: its author's rules hold in each case."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.models import Actor, Decision, Job
from airflow_provider_aihandoff.core.review.reassignment import cannot_reassign, reassigned, voided_by
from airflow_provider_aihandoff.core.review.rules import (
    Approvers,
    Person,
    Reassignment,
    Reviewers,
    ReviewRules,
    author_rules,
    rules_of,
    why_not,
)
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import OWNER

NOW = datetime(2026, 7, 20, 12, tzinfo=UTC)
ADMIN = Actor.user("admin")
DIGEST = "d" * 64


def job(rules: ReviewRules, **more: Any) -> Job:
    values: dict[str, Any] = dict.fromkeys(Job.__dataclass_fields__)
    values |= {**vars(OWNER), "job_id": 1, "job_type": "post", "job_key": "kettle", "state": JobState.REVIEW}
    values |= {"requested_by": "alice", "revision": 1, "review": rules.to_json(), "review_digest": DIGEST}
    return Job(**{**values, "updated_at": NOW, **more})


def users(*names: str) -> Reviewers:
    return Reviewers(Approvers(users=names))


def given_to(before: Job, to: Reviewers, by: Actor = ADMIN) -> Job:
    assert cannot_reassign(before, to, by=by) is None
    return reassigned(before, to, by=by)


def vote(number: int, voter: Actor) -> Decision:
    kind: Any = voter.kind.value
    return Decision(number, 1, 1, "approve", DIGEST, str(voter.name), kind, None, NOW, voter.user_id, None)


class TestWho:
    def test_those_who_are_named_decide_instead_of_those_whom_the_author_named(self) -> None:
        after = given_to(job(ReviewRules(Approvers(users=("bob",)))), users("carol"))
        assert why_not(after, Person("carol")) is None
        assert why_not(after, Person("bob")) == "Only these may decide on it: carol."

    def test_the_requester_and_the_user_who_triggered_the_run_decide_nothing_all_the_same(self) -> None:
        after = given_to(job(ReviewRules(), triggered_by="tim"), users("alice", "tim", "carol"))
        for name in ("alice", "tim"):
            assert "another user has to decide" in (why_not(after, Person(name)) or "")

    def test_no_one_gives_themselves_a_right(self) -> None:
        after = given_to(job(ReviewRules(Approvers(users=("bob",)))), users("admin", "cli:admin", "carol"))
        for person in (Person("admin"), Person("admin", at_terminal=True), Person("Ad Min", user_id="admin")):
            assert "You have reassigned this review" in (why_not(after, person) or "")
        assert why_not(after, Person("carol")) is None

    def test_nor_where_another_user_reassigns_it_again(self) -> None:
        first = given_to(job(ReviewRules(Approvers(users=("bob",)))), users("admin", "carol"))
        second = given_to(first, users("admin", "dave"), by=Actor.user("eve"))
        assert "You have reassigned this review" in (why_not(second, Person("admin")) or "")
        assert why_not(second, Person("dave")) is None

    def test_a_user_who_reassigns_decides_where_the_author_has_named_them(self) -> None:
        rules = ReviewRules(Approvers(users=("admin",), roles=("editor",)))
        after = given_to(job(rules), users("admin"))
        assert why_not(after, Person("admin")) is None
        editor = Person("eve", roles=frozenset({"editor"}))
        by_editor = given_to(job(rules), users("eve", "carol"), by=Actor.user("eve"))
        assert why_not(by_editor, editor) is None

    def test_of_two_parts_the_one_that_is_not_named_stays(self) -> None:
        rules = ReviewRules(Approvers(users=("bob",)), escalate_to=Approvers(users=("boss",)), escalate_after=60)
        after = given_to(job(rules), Reviewers(escalate_to=Approvers(groups=("legal",))))
        assert rules_of(after).approvers == Approvers(users=("bob",))
        assert rules_of(after).escalate_to == Approvers(groups=("legal",))
        again = given_to(after, users("carol"))
        assert rules_of(again).escalate_to == Approvers(groups=("legal",))
        assert author_rules(again) == rules

    def test_it_is_read_as_it_was_written(self) -> None:
        after = given_to(given_to(job(ReviewRules()), users("carol")), users("dave"), by=Actor.terminal("eve"))
        found = Reassignment.from_json(after.reassigned)
        assert found == Reassignment(users("dave"), (ADMIN, Actor.terminal("eve")), 2)
        assert Reassignment.from_json(found.to_json()) == found


class TestRefused:
    @pytest.mark.parametrize(
        ("more", "why"),
        [
            ({"state": JobState.APPROVED}, "it waits for no decision: it is approved"),
            ({"review_digest": None}, "its plan has not been rendered yet"),
        ],
    )
    def test_where_no_one_can_decide(self, more: dict[str, Any], why: str) -> None:
        assert why in (cannot_reassign(job(ReviewRules(), **more), users("carol"), by=ADMIN) or "")

    @pytest.mark.parametrize("by", [Actor.user("alice"), Actor.terminal("alice"), Actor.user("Alice", "alice")])
    def test_by_the_requester_who_would_choose_who_approves_their_work(self, by: Actor) -> None:
        assert "you asked for this work" in (cannot_reassign(job(ReviewRules()), users("carol"), by=by) or "")
        allowed = job(ReviewRules(requester_may_approve=True))
        assert cannot_reassign(allowed, users("carol"), by=by) is None

    def test_to_no_one(self) -> None:
        assert cannot_reassign(job(ReviewRules()), Reviewers(), by=ADMIN) == "no one is named who may decide."

    def test_an_escalation_that_the_author_has_not_asked_for(self) -> None:
        to = Reviewers(escalate_to=Approvers(users=("carol",)))
        assert "escalates it to no one" in (cannot_reassign(job(ReviewRules()), to, by=ADMIN) or "")

    @pytest.mark.parametrize(
        ("approvals", "names"),
        [
            (1, ("alice",)),
            (1, ("admin",)),
            (2, ("carol",)),
            (2, ("carol", "cli:carol")),
            (2, ("carol", "alice")),
            (2, ("carol", "admin", "carol")),
        ],
    )
    def test_to_fewer_people_than_must_approve(self, approvals: int, names: tuple[str, ...]) -> None:
        before = job(ReviewRules(Approvers(users=("bob", "ben")), approvals=approvals))
        assert f"{approvals} must approve" in (cannot_reassign(before, users(*names), by=ADMIN) or "")

    def test_not_where_a_role_may_have_more(self) -> None:
        to = Reviewers(Approvers(users=("carol",), roles=("editor",)))
        assert cannot_reassign(job(ReviewRules(approvals=3)), to, by=ADMIN) is None


class TestVotes:
    BOB, CAROL, DAVE = map(Actor.user, ("bob", "carol", "dave"))

    def voided(self, before: Job, to: Reviewers, *voters: Actor, by: Actor = ADMIN) -> list[str]:
        votes = [vote(number, voter) for number, voter in enumerate(voters)]
        return [each.decided_by for each in voided_by(before, given_to(before, to, by=by), votes)]

    def test_of_those_who_may_no_longer_decide_are_void_and_the_others_stay(self) -> None:
        before = job(ReviewRules(Approvers(users=("bob", "carol")), approvals=3))
        assert self.voided(before, users("carol", "dave", "eve"), self.BOB, self.CAROL) == ["bob"]

    def test_of_a_role_alone_is_void_since_the_ledger_does_not_know_who_has_it(self) -> None:
        before = job(ReviewRules(Approvers(roles=("editor",)), approvals=2))
        to = Reviewers(Approvers(users=("bob",), roles=("editor", "chief")))
        assert self.voided(before, to, self.BOB, self.CAROL) == ["carol"]

    def test_stay_where_the_same_people_decide_now(self) -> None:
        rules = ReviewRules(
            Approvers(roles=("editor",)), approvals=2, escalate_to=Approvers(users=("boss",)), escalate_after=60
        )
        to = Reviewers(escalate_to=Approvers(users=("chief",)))
        assert self.voided(job(rules), to, self.BOB) == []
        assert self.voided(job(rules, escalated_at=NOW), to, self.BOB) == ["bob"]

    def test_of_a_user_who_loses_their_right_by_reassigning_is_void(self) -> None:
        rules = ReviewRules(
            Approvers(users=("ann",)), approvals=2, escalate_to=Approvers(roles=("chief",)), escalate_after=60
        )
        before = given_to(job(rules), users("bob", "carol"))
        to = Reviewers(escalate_to=Approvers(roles=("boss",)))
        assert self.voided(before, to, self.BOB, self.CAROL, by=self.BOB) == ["bob"]

    def test_of_an_account_is_not_that_of_a_login_where_the_account_is_not_named(self) -> None:
        before = job(ReviewRules(Approvers(users=("cli:bob", "carol")), approvals=2))
        assert self.voided(before, users("bob", "carol"), Actor.terminal("bob")) == ["bob"]


NAMES = st.sampled_from(["alice", "bob", "carol", "cli:bob", "cli:alice", "admin"])
PEOPLE = st.builds(
    Approvers,
    users=st.lists(NAMES, max_size=3).map(tuple),
    roles=st.lists(st.sampled_from(["editor", "chief"]), max_size=2).map(tuple),
)
PERSONS = st.builds(
    Person,
    login=st.sampled_from(["alice", "bob", "carol", "admin"]),
    at_terminal=st.booleans(),
    roles=st.frozensets(st.sampled_from(["editor", "chief"])),
)


@given(
    rules=st.builds(ReviewRules, approvers=PEOPLE, approvals=st.integers(1, 3)),
    to=st.builds(Reviewers, approvers=PEOPLE),
    person=PERSONS,
)
def test_a_reassignment_weakens_no_rule_of_the_author(rules: ReviewRules, to: Reviewers, person: Person) -> None:
    before = job(rules)
    if cannot_reassign(before, to, by=ADMIN) is not None:
        return
    after = reassigned(before, to, by=ADMIN)
    assert author_rules(after) == rules
    assert rules_of(after).bound is None or rules_of(after).approvals == rules.approvals
    if why_not(after, person) is None:
        assert "alice" not in person.may_have_asked_as
        assert person in to.approvers
        assert person.login != "admin" or why_not(before, person) is None
    assert replace(after, reassigned=None) == before
