"""A filter is the same in an address, in options, and in words."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from airflow_provider_aihandoff.core.errors import FilterRefused
from airflow_provider_aihandoff.core.jobs.job_filter import FILTER_NAMES, JobFilter, Need, Sort
from airflow_provider_aihandoff.core.states import JobState

WHOLE = JobFilter(
    states=(JobState.REVIEW, JobState.FAILED),
    job_type="ticket",
    set_id=7,
    key="ticket:",
    dag_id="tickets",
    run_id="manual__1",
    task_id="draft",
    requester="alice",
    reviewer="bob",
    older_than=timedelta(days=7),
    newer_than=timedelta(minutes=90),
    min_cost_usd=Decimal("0.50"),
    min_retries=2,
    external_id="post-7",
    response_id="resp_1",
    error="timed out",
    need=Need.UNKNOWN_EFFECT,
    sort=Sort.COST,
)


def test_every_part_comes_back_from_an_address() -> None:
    texts = WHOLE.as_texts()
    assert set(texts) == set(FILTER_NAMES)
    assert texts["state"] == ["review", "failed"]
    assert (texts["older_than"], texts["newer_than"]) == ("7d", "90m")
    assert JobFilter.of_texts(texts) == WHOLE


def test_what_is_empty_leaves_out_nothing() -> None:
    empty = JobFilter.of_texts(dict.fromkeys(FILTER_NAMES, "") | {"state": []})
    assert empty == JobFilter()
    assert empty.is_empty
    assert empty.in_words() == "every job"
    assert JobFilter.of_texts({"min_cost": "0", "min_retries": "0"}).is_empty
    assert not WHOLE.is_empty


def test_the_order_leaves_out_nothing() -> None:
    assert JobFilter(sort=Sort.OLDEST).is_empty


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("state", ["done"]),
        ("older_than", "7 years"),
        ("older_than", "-7d"),
        ("newer_than", "d"),
        ("min_cost", "NaN"),
        ("min_cost", "-1"),
        ("min_cost", "much"),
        ("min_retries", "1.5"),
        ("min_retries", "-1"),
        ("min_retries", "9999999999"),
        ("need", "everything"),
        ("sort", "cheapest"),
        ("colour", "red"),
    ],
)
def test_what_is_not_valid_is_refused_by_its_name(name: str, text: str) -> None:
    with pytest.raises(FilterRefused, match=name):
        JobFilter.of_texts({name: text})


def test_a_task_is_found_only_with_its_dag() -> None:
    assert "needs a Dag" in str(JobFilter(task_id="draft").problem())
    assert JobFilter(task_id="draft", dag_id="tickets").problem() is None


def test_what_the_ledger_cannot_store_is_replaced() -> None:
    assert JobFilter(key="a\x00\ud800").key == "a��"


def test_it_is_said_in_words() -> None:
    said = JobFilter(states=(JobState.REVIEW, JobState.FAILED), older_than=timedelta(hours=36)).in_words()
    assert said == "state: review, failed; older than: 36h"
