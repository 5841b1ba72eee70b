"""How a request stands, in the words of those who asked."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_aihandoff.core.job_requests.job_request import (
    JobRequest,
    RequestState,
    Standing,
    Wanted,
    may_cancel,
    standing_of,
)
from airflow_provider_aihandoff.core.states import JobState

AT = datetime(2026, 2, 9, tzinfo=UTC)
REQUEST = JobRequest(
    request_id=UUID(int=1),
    job_type="note",
    job_key="kettle",
    input={"slug": "kettle", "size": 1.0},
    permissions={},
    requested_by="alice",
    requested_by_id=None,
    recorded_by="alice",
    recorded_by_kind="user",
    idempotency_key=None,
    state=RequestState.STARTED,
    state_reason=None,
    dag_id="notes",
    run_id="request__1",
    created_at=AT,
    updated_at=AT,
    try_at=AT,
    tries=1,
    events_show_result=False,
)


def test_every_state_of_a_job_and_of_a_request_has_a_word_for_those_who_asked() -> None:
    words = {state: standing_of(REQUEST, state)[0] for state in JobState}
    assert set(words.values()) == set(Standing)
    assert {state for state, word in words.items() if word is Standing.DONE} == {JobState.COMPLETED}
    for state in RequestState:
        standing, said = standing_of(replace(REQUEST, state=state), None)
        assert said.endswith((".", "None"))
        assert (standing in (Standing.FAILED, Standing.STOPPED)) == may_not_begin(state)


def may_not_begin(state: RequestState) -> bool:
    return state in (RequestState.FAILED, RequestState.REFUSED, RequestState.CANCELLED)


def test_no_word_of_a_reviewer_is_in_it() -> None:
    request = replace(REQUEST, state_reason="bob: this is rubbish")
    assert all("rubbish" not in standing_of(request, state)[1] for state in JobState)
    assert "rubbish" not in standing_of(replace(request, state=RequestState.FAILED), None)[1]


def test_it_can_be_stopped_while_nothing_is_carried_out() -> None:
    stoppable = {state for state in JobState if may_cancel(REQUEST, state)}
    assert stoppable == {JobState.QUEUED, JobState.RUNNING, JobState.REVIEW}
    assert may_cancel(REQUEST, None)
    assert not may_cancel(replace(REQUEST, state=RequestState.CANCELLED), None)


@pytest.mark.parametrize(
    ("changes", "login", "user_id", "theirs"),
    [
        ({}, "alice", "alice", True),
        ({}, "bob", "bob", False),
        ({"requested_by_id": "7"}, "alice", "7", True),
        ({"requested_by_id": "7"}, "alice", "8", False),
        ({"requested_by_id": "7", "recorded_by": "shop"}, "7", "7", False),
        ({"recorded_by": "shop"}, "shop", None, True),
        ({"recorded_by": "shop", "recorded_by_kind": "database"}, "shop", None, False),
    ],
)
def test_it_belongs_to_the_requester_and_to_the_account_that_asked_for_them(
    changes: dict[str, Any], login: str, user_id: str | None, theirs: bool
) -> None:
    request = replace(REQUEST, recorded_by="else" if "requested_by_id" in changes else "alice")
    assert replace(request, **changes).is_of(login, user_id) is theirs


def test_the_same_is_asked_for_exactly_when_type_input_permissions_and_requester_are_the_same() -> None:
    same = Wanted("note", {"size": 1.0, "slug": "kettle"}, "alice")
    assert REQUEST.is_same(same)
    assert REQUEST.is_same(replace(same, job_key="kettle"))
    for changes in (
        {"input": {"slug": "kettle"}},
        {"permissions": {"cms": "write"}},
        {"requested_by": "bob"},
        {"job_type": "other"},
        {"job_key": "pot"},
    ):
        assert not REQUEST.is_same(replace(same, **changes)), changes


def test_the_account_that_asked_for_someone_else_is_named() -> None:
    assert REQUEST.sender is None
    assert replace(REQUEST, recorded_by="shop").sender == "shop"
    assert replace(REQUEST, recorded_by_kind="database").sender == "alice"
