"""A batch as people and the provider meet it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from airflow_provider_aihandoff.cli.sets import in_words
from airflow_provider_aihandoff.core.generation.batch_provider import BatchStatus
from airflow_provider_aihandoff.core.sets.batch_read import stops_at
from airflow_provider_aihandoff.core.sets.batch_record import (
    RESULTS_WITHIN,
    Batch,
    BatchState,
    custom_id,
    read_custom_id,
)

AT = datetime(2026, 2, 2, 9, 17, tzinfo=UTC)
BATCH = Batch(
    batch_id=5,
    set_id=7,
    conn_id="openai_default",
    state=BatchState.RUNNING,
    token=None,
    lease_until=None,
    lines=2_000,
    file_id="file_1",
    provider_id="batch_1",
    provider_status=None,
    result_files=(),
    completed=None,
    failed=None,
    why=None,
    deadline=AT,
    created_at=AT,
    sent_at=AT,
    cancelled_at=None,
    ended_at=None,
    updated_at=AT,
)


def test_what_the_ledger_has_as_text_is_of_its_type() -> None:
    changes: dict[str, Any] = {"state": "read", "provider_status": "expired", "result_files": ["file_2"]}
    batch = replace(BATCH, **changes)
    assert batch.state is BatchState.READ
    assert batch.provider_status is BatchStatus.EXPIRED
    assert batch.result_files == ("file_2",)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "filling", "provider_id": None}, "batch 5 of set 7: being filled, 2,000 requests"),
        ({"state": "creating"}, "batch 5 (batch_1) of set 7: being created, 2,000 requests"),
        ({"completed": 7, "failed": None}, "running, 2,000 requests, 7 completed, 0 failed"),
        ({"cancelled_at": AT, "why": "It was cancelled"}, "being stopped, 2,000 requests. It was cancelled"),
        ({"state": "ended", "cancelled_at": AT}, "ended, and being read, 2,000 requests"),
        ({"state": "read"}, "of set 7: read, 2,000 requests"),
        ({"state": "read", "provider_status": "expired"}, "of set 7: expired, and read, 2,000 requests"),
        ({"state": "abandoned", "provider_id": None}, "batch 5 of set 7: never created, 2,000 requests"),
    ],
)
def test_it_is_said_on_one_line(changes: dict[str, Any], said: str) -> None:
    assert said in in_words(replace(BATCH, **changes))


@pytest.mark.parametrize("state", BatchState)
def test_something_is_left_to_do_until_it_is_read_or_was_never_created(state: BatchState) -> None:
    assert replace(BATCH, state=state).is_over is (state in (BatchState.READ, BatchState.ABANDONED))


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"state": "running"}, False),
        ({"state": "filling"}, True),
        ({"state": "creating", "token": UUID(int=1), "lease_until": AT + timedelta(seconds=1)}, False),
        ({"state": "creating", "token": UUID(int=1), "lease_until": AT}, True),
        ({"state": "filling", "token": UUID(int=1)}, True),
    ],
)
def test_an_attempt_has_stopped_once_its_lease_has_expired(changes: dict[str, Any], left: bool) -> None:
    assert replace(BATCH, **changes).is_left(AT) is left


def test_it_is_found_again_by_its_metadata() -> None:
    assert BATCH.metadata("ledger-1") == {
        "aihandoff_batch": "5",
        "aihandoff_set": "7",
        "aihandoff_ledger": "ledger-1",
    }


def test_it_is_stopped_at_the_deadline_of_its_requests_and_given_up_some_time_after_that() -> None:
    assert stops_at(BATCH) == BATCH.deadline
    assert stops_at(replace(BATCH, cancelled_at=AT)) == BATCH.deadline + RESULTS_WITHIN


class TestLine:
    def test_the_id_of_a_line_names_the_job_the_revision_and_the_batch(self) -> None:
        assert read_custom_id(custom_id(12, 3, 5)) == (12, 3, 5)

    @pytest.mark.parametrize(
        "text", ["", "12.3", "12.3.5.", "12.3.5\n", "-1.3.5", "\u0661.3.5", "a.b.c", f"{10**18}.3.5"]
    )
    def test_what_others_have_made_is_none(self, text: str) -> None:
        assert read_custom_id(text) is None
