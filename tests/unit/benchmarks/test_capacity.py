"""The model of capacity: what is multiplied, and that what runs out first is named."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from benchmarks.capacity import (
    GIB,
    VOLUMES,
    Deployment,
    Inputs,
    Limit,
    Plan,
    connections,
    disk,
    main,
    plan,
    rates,
)

INPUTS, DEPLOYMENT = Inputs(), Deployment()
#: A job leaves 1 KiB, and a tenth of it in the inbox for 30 days.
SMALL = replace(INPUTS, bytes_a_job=1000, inbox_bytes=100, inbox_days=30)


def limit_of(found: Plan, name: str) -> Limit:
    return next(limit for limit in found.limits if limit.name.startswith(name))


def test_the_busiest_hour_has_a_tenth_of_the_jobs_of_a_day() -> None:
    average, peak = rates(30 * 36_000)
    assert average == pytest.approx(36_000 / 86_400)
    assert peak == pytest.approx(1.0)


def test_everything_is_kept_but_what_the_inbox_forgets() -> None:
    assert disk(30, SMALL, days=10) == 10 * 1000
    assert disk(30, SMALL, days=300) == 300 * 900 + 30 * 100


def test_the_disk_of_13_months_grows_with_the_jobs() -> None:
    small, large = (limit_of(plan(jobs, INPUTS, DEPLOYMENT, in_sets=True), "disk") for jobs in (10_000, 10_000_000))
    assert large.needs == pytest.approx(1_000 * small.needs)
    assert small.needs == pytest.approx(disk(10_000, INPUTS) / GIB)


def test_cpu_and_transactions_are_those_of_the_busiest_hour() -> None:
    inputs = replace(INPUTS, worker_cpu=100, airflow_cpu=900, ledger_cpu=50, commits=60, commits_in_set=6)
    jobs = 30 * 36_000  # one a second in the busiest hour
    alone, in_set = (plan(jobs, inputs, DEPLOYMENT, in_sets=in_sets) for in_sets in (False, True))
    assert limit_of(alone, "cores of Airflow").needs == pytest.approx(1.0)
    assert limit_of(alone, "cores of the ledger").needs == pytest.approx(0.05)
    assert (limit_of(alone, "transactions").needs, limit_of(in_set, "transactions").needs) == pytest.approx((60, 6))


def test_tasks_of_their_own_wait_as_long_as_the_model_and_the_person_take_and_a_set_waits_once() -> None:
    inputs = replace(INPUTS, model_seconds=600, review_hours=0.5)
    jobs = 30 * 36_000
    assert limit_of(plan(jobs, inputs, DEPLOYMENT, in_sets=False), "tasks that wait").needs == pytest.approx(2400)
    assert limit_of(plan(jobs, inputs, DEPLOYMENT, in_sets=True), "tasks that wait").needs == 0


def test_connections_are_those_that_the_documentation_names() -> None:
    found = connections(Deployment(workers=3, concurrency=8, sets_at_once=1, send_at_once=16))
    assert found["workers: a task each"] == 23
    assert found["workers: tasks of sets"] == 17
    assert sum(connections(DEPLOYMENT).values()) == 108  # docs/many-nodes.md


def test_the_first_limit_is_the_one_that_is_used_most_of_those_that_grow() -> None:
    few = replace(DEPLOYMENT, max_connections=1)
    found = plan(10_000_000, replace(INPUTS, bytes_a_job=1, inbox_bytes=0, worker_cpu=10_000), few, in_sets=False)
    assert found.first.name == "cores of Airflow and workers"
    assert limit_of(found, "connections").used > found.first.used


@pytest.mark.parametrize("each", fields(Inputs), ids=lambda each: each.name)
def test_each_figure_says_where_it_comes_from(each: object) -> None:
    metadata = each.metadata  # type: ignore[attr-defined]
    assert metadata["what"]
    assert metadata["from"] == "yours" or metadata["from"].startswith(("benchmarks.", "[aihandoff] ", "a guess, "))


def test_the_table_has_each_volume_and_says_what_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--bytes-a-job", "20000", "--workers", "4"])
    said = capsys.readouterr().out
    assert all(f"{jobs:,}" in said for jobs in VOLUMES)
    assert said.count("comes first") == 2
    assert "connections in all, at most" in said
    assert "cores of Airflow and workers (of 16)" in said
