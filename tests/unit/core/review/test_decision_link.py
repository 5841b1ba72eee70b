"""What a decision link is, whom it is for, and when it no longer works."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.errors import LinkForAnotherUser, LinkSpent
from airflow_provider_aihandoff.core.review.decision_link import (
    DecisionLink,
    already_given,
    check_is_for,
    check_is_open,
    check_named,
    hash_of,
    new_token,
)
from airflow_provider_aihandoff.core.review.rules import Person, ReviewRules
from tests.unit.core.review.test_reassignment import job

NOW = datetime(2026, 2, 2, 9, 17, tzinfo=UTC)
JOB = job(ReviewRules())
LINK = DecisionLink(
    token_hash=hash_of("token"),
    job_id=JOB.job_id,
    revision=JOB.revision,
    digest=str(JOB.review_digest),
    verdict="approve",
    person="bob",
    expires_at=NOW + timedelta(hours=1),
    created_at=NOW,
    used_at=None,
)


class TestToken:
    def test_each_is_another_one_of_256_bits_and_needs_no_escape(self) -> None:
        tokens = {new_token() for _ in range(100)}
        assert len(tokens) == 100
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", token) for token in tokens)

    def test_its_hash_does_not_show_it(self) -> None:
        token = new_token()
        assert re.fullmatch(r"[0-9a-f]{64}", hash_of(token))
        assert hash_of(token) == hash_of(token) != hash_of(token + "=")

    def test_anything_that_stands_in_an_address_has_a_hash(self) -> None:
        assert len({hash_of(text) for text in ("", "\x00", "\ud83d", "ü")}) == 4


class TestWho:
    @pytest.mark.parametrize("person", [Person("bob"), Person("robert", "bob"), Person("bob", "17")])
    def test_it_is_for_the_login_or_the_id_that_it_names(self, person: Person) -> None:
        check_is_for(LINK, person)

    @pytest.mark.parametrize(
        "person", [Person("Bob"), Person("carol", roles=frozenset({"bob"})), Person("bob", at_terminal=True)]
    )
    def test_it_counts_for_no_one_else_and_does_not_say_what_it_is_about(self, person: Person) -> None:
        with pytest.raises(LinkForAnotherUser) as refused:
            check_is_for(LINK, person)
        assert "another user" in str(refused.value)
        assert not any(said in str(refused.value) for said in ("bob", JOB.job_key, JOB.job_type, f"job {JOB.job_id}"))

    @pytest.mark.parametrize("person", ["", "  ", "cli:bob", None, 7])
    def test_it_cannot_be_made_for_no_one_or_for_an_account_at_a_terminal(self, person: Any) -> None:
        with pytest.raises(ValueError, match="for one login name"):
            check_named(person)

    def test_it_can_be_made_for_a_login(self) -> None:
        check_named("bob@example.com")


class TestOpen:
    def test_it_is_until_it_expires(self) -> None:
        check_is_open(LINK, JOB, LINK.expires_at - timedelta(microseconds=1))

    @pytest.mark.parametrize(
        ("changes", "at", "said"),
        [
            ({"used_at": NOW}, NOW, "used at 2026-02-02 09:17 UTC"),
            ({}, LINK.expires_at, "expired at 2026-02-02 10:17 UTC"),
            ({"revision": 2}, NOW, "about revision 2, and the job is at revision 1"),
        ],
    )
    def test_it_says_why_it_no_longer_works(self, changes: dict[str, Any], at: datetime, said: str) -> None:
        with pytest.raises(LinkSpent, match=said) as refused:
            check_is_open(replace(LINK, **changes), JOB, at)
        assert "Nothing was recorded. No external write was made." in str(refused.value)
        assert JOB.label in str(refused.value)

    @pytest.mark.parametrize(("verdict", "said"), [("approve", "approved"), ("reject", "rejected")])
    def test_what_was_said_before_is_named(self, verdict: Any, said: str) -> None:
        assert f"you have {said} this already" in str(already_given(replace(LINK, verdict=verdict), JOB))
