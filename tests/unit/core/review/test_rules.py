"""Who may decide on a job, by its author's rules."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, ReviewRules, distinct, due_times, why_not

ASKED = datetime(2026, 1, 1, tzinfo=UTC)


def job(rules: ReviewRules | None = None, **more: Any) -> Any:
    facts = {
        "review": None if rules is None else rules.to_json(),
        "requested_by": "alice",
        "triggered_by": "alice",
        "review_asked_at": ASKED,
        "reminded_at": None,
        "escalated_at": None,
        "reassigned": None,
    }
    return SimpleNamespace(**{**facts, **more})


class TestRequester:
    @pytest.mark.parametrize(
        "person",
        [
            Person("alice"),
            Person("alice", user_id="7"),
            Person("Alice A.", user_id="alice"),
            Person("alice", at_terminal=True),
            Person("alice", roles=frozenset({"admin"})),
        ],
    )
    def test_the_requester_does_not_decide_with_any_role(self, person: Person) -> None:
        assert why_not(job(), person) == "You asked for this work; another user has to decide on it."

    def test_a_user_who_triggered_the_run_for_another_user_does_not_decide(self) -> None:
        assert why_not(job(requested_by="marketing", triggered_by="bob"), Person("bob")) is not None

    def test_the_requester_does_not_decide_even_as_a_named_approver(self) -> None:
        assert why_not(job(ReviewRules(Approvers(users=("alice",)))), Person("alice")) is not None

    def test_any_other_user_decides(self) -> None:
        assert why_not(job(), Person("bob")) is None
        assert why_not(job(requested_by="airflow (scheduled run)", triggered_by=None), Person("alice")) is None

    def test_the_requester_decides_where_the_author_allows_it(self) -> None:
        assert why_not(job(ReviewRules(requester_may_approve=True)), Person("alice")) is None


class TestApprovers:
    RULES = ReviewRules(Approvers(users=("bob",), roles=("editor",), groups=("press",)))

    @pytest.mark.parametrize(
        "person",
        [
            Person("bob"),
            Person("Bob B.", user_id="bob"),
            Person("carol", roles=frozenset({"editor", "user"})),
            Person("carol", groups=frozenset({"press"})),
        ],
    )
    def test_approvers_who_are_named_in_any_way_decide(self, person: Person) -> None:
        assert why_not(job(self.RULES), person) is None

    def test_no_one_else_decides_and_the_refusal_names_the_approvers(self) -> None:
        said = why_not(job(self.RULES), Person("dave", roles=frozenset({"admin"})))
        assert said == "Only these may decide on it: bob, the role editor, the group press."

    def test_a_name_at_a_terminal_is_not_a_login(self) -> None:
        assert why_not(job(self.RULES), Person("bob", at_terminal=True)) is not None
        at_terminal = job(ReviewRules(Approvers(users=("cli:bob",))))
        assert why_not(at_terminal, Person("bob", at_terminal=True)) is None
        assert why_not(at_terminal, Person("cli:bob")) is not None
        assert why_not(at_terminal, Person("bob", user_id="cli:bob")) is not None

    def test_approvers_of_an_escalation_decide_from_then_on(self) -> None:
        rules = ReviewRules(Approvers(users=("bob",)), escalate_to=Approvers(users=("carol",)))
        assert why_not(job(rules), Person("carol")) is not None
        assert why_not(job(rules, escalated_at=ASKED), Person("carol")) is None
        assert why_not(job(rules, escalated_at=ASKED), Person("bob")) is None
        assert "bob, carol" in (why_not(job(rules, escalated_at=ASKED), Person("dave")) or "")

    @pytest.mark.parametrize("users", ["bob", [""], [1]])
    def test_approvers_that_are_not_a_list_of_names_are_refused(self, users: Any) -> None:
        with pytest.raises(ValueError, match="users must be a list of names"):
            Approvers(users=users)


class TestRules:
    RULES = ReviewRules(
        Approvers(["bob"], ["editor"], ["press"]),  # type: ignore[arg-type]
        approvals=2,
        requester_may_approve=True,
        escalate_to=Approvers(users=("carol",)),
        remind_after=60.0,
        escalate_after=120.5,
        because={"policy": "amounts@1", "reason": "more than 100"},
    )

    def test_rules_come_back_from_the_ledger_unchanged(self) -> None:
        assert ReviewRules.from_json(json.loads(json.dumps(self.RULES.to_json()))) == self.RULES
        assert ReviewRules.from_json(None) == ReviewRules()

    def test_rules_ignore_what_a_later_release_adds(self) -> None:
        assert ReviewRules.from_json({"approvals": 3, "veto": ["carol"]}) == ReviewRules(approvals=3)

    def test_an_approval_is_bound_to_who_decides_and_not_to_who_is_notified_when(self) -> None:
        assert ReviewRules().bound is None
        assert ReviewRules(remind_after=1.0, because={"reason": "any"}).bound is None
        bound = self.RULES.bound
        assert bound is not None
        assert bound.keys() == {"approvers", "approvals", "requester_may_approve"}
        assert ReviewRules(approvals=2).bound != ReviewRules(approvals=3).bound


def test_a_person_counts_once_however_they_came() -> None:
    bob, carol = Actor.user("bob"), Actor.user("carol")
    assert distinct([bob, Actor.terminal("bob"), Actor.user("bob", "7"), carol]) == [bob, carol]


#: Logins that look like something else: an id beside a name, an account, the model, a part of an attempt.
LOGINS = st.one_of(
    st.sampled_from(
        ["bob", "bob (7)", "bob (", "cli:bob", "model", "timeout", "a/b", "d/r/t#1", "user:bob", "x:y", ""]
    ),
    st.text(st.sampled_from("ab (/#:)[]7"), max_size=6),
)
PEOPLE = st.builds(
    lambda login, user_id, at_terminal: Person(login, None if at_terminal else user_id, at_terminal),
    LOGINS,
    st.none() | LOGINS,
    st.booleans(),
)


class TestLoginsOfAnyForm:
    @given(st.lists(PEOPLE, max_size=6))
    def test_there_are_as_many_votes_as_different_logins(self, people: list[Person]) -> None:
        voters = distinct(person.actor for person in people)
        assert [voter.name for voter in voters] == list(dict.fromkeys(person.login for person in people))

    @given(PEOPLE, LOGINS)
    def test_exactly_those_who_asked_do_not_decide(self, person: Person, requester: str) -> None:
        own = {person.login, person.user_id} | ({f"cli:{person.login}"} if person.at_terminal else set())
        refused = why_not(job(requested_by="a requester", triggered_by=requester), person) is not None
        assert refused == bool(requester and requester in own)

    @given(PEOPLE, LOGINS.filter(bool))
    def test_exactly_those_who_are_named_decide(self, person: Person, named: str) -> None:
        by_account = named.startswith("cli:")
        own = {f"cli:{person.login}"} if person.at_terminal else set() if by_account else {person.login, person.user_id}
        rules = ReviewRules(Approvers(users=(named,)), requester_may_approve=True)
        assert (why_not(job(rules), person) is None) == (named in own)

    @given(PEOPLE, PEOPLE)
    def test_a_repeated_answer_is_by_the_same_person_in_the_same_way(self, one: Person, two: Person) -> None:
        def facts(person: Person) -> tuple[str, bool, str | None]:
            return person.login, person.at_terminal, None if person.user_id == person.login else person.user_id

        assert (one.actor == two.actor) == (facts(one) == facts(two))


def test_a_reminder_or_escalation_is_due_at_its_time_and_once() -> None:
    rules = ReviewRules(remind_after=60.0, escalate_after=90.0)
    times = due_times(job(rules))
    assert times == {"reminder": ASKED + timedelta(seconds=60), "escalation": ASKED + timedelta(seconds=90)}
    assert due_times(job(rules, reminded_at=ASKED)).keys() == {"escalation"}
    assert due_times(job(rules, reminded_at=ASKED, escalated_at=ASKED)) == {}
    assert due_times(job(rules, review_asked_at=None)) == {}
    assert due_times(job()) == {}
