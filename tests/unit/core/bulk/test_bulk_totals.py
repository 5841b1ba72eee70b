"""What a bulk action would do in all, as people read it before they confirm it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.bulk.bulk_plan import Impact, PlannedStep
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction, Found, TypicalCost
from airflow_provider_aihandoff.core.bulk.bulk_totals import MAX_REASONS, in_words, stopped_types, total
from airflow_provider_aihandoff.core.states import JobState
from tests.unit.core.jobs.records import record

SO_FAR = "The model has cost $1.50 for these jobs so far, as far as it is known."
TYPICAL = TypicalCost("publishing", Decimal("0.02"), Decimal("0.3"), 41)


def step(refused: str = "", job_type: str = "publishing", cost: str = "0.5", unpriced: int = 0, **impact: Any) -> Any:
    job = record(JobState.RUNNING, job_type=job_type).job
    found = Found(job, [], [], Decimal(cost), unpriced, runs=False)
    return PlannedStep(found, refused or "It is cancelled.", refused=bool(refused), impact=Impact(**impact))


def said(action: BulkAction, *steps: PlannedStep, typical: tuple[TypicalCost, ...] = ()) -> list[str]:
    return in_words(action, total(steps, typical))


def test_jobs_that_are_refused_count_as_refused_alone() -> None:
    found = total([step(stops=True), step("It has ended.", cost="9", stops=True, unsent=4)], [])
    assert (found.cost_usd, found.responses, found.unsent) == (Decimal("0.5"), {"publishing": 1}, 0)
    assert found.refusals == {"It has ended.": 1}
    assert stopped_types([step("It has ended.", job_type="a", stops=True), step(job_type="b", stops=True), step()]) == {
        "b"
    }


def test_the_most_frequent_reasons_are_named_and_the_others_counted() -> None:
    steps = [step(f"Reason {number}.") for number in range(MAX_REASONS + 3)] + [step("Reason 1.")] * 4
    refusals = total(steps, []).refusals
    assert next(iter(refusals)) == "Reason 1."
    assert refusals["Reason 1."] == 5
    assert len(refusals) == MAX_REASONS + 1
    assert refusals["Other reasons: see the jobs."] == 3
    assert sum(refusals.values()) == len(steps)


class TestCancel:
    def test_what_is_stopped_was_billed_and_what_is_left_is_said(self) -> None:
        steps = [step(stops=True, unsent=2), step(stops=True, stays=1), step(unsent=1)]
        assert said(BulkAction.CANCEL, *steps, typical=(TYPICAL,)) == [
            "2 responses run and are stopped. What each has used by then is billed.",
            "One response of the type publishing has cost $0.0200 in the median, and at most $0.3000 (of 41 that are "
            "known).",
            "3 planned writes are never sent.",
            "1 applied write stays.",
            SO_FAR,
        ]

    def test_one_response_of_each_of_two_types(self) -> None:
        steps = [step(stops=True, cost="1"), step(stops=True, job_type="answer")]
        assert said(BulkAction.CANCEL, *steps, typical=(TYPICAL,))[:2] == [
            "2 responses run and are stopped. What each has used by then is billed.",
            "What one response of the type answer costs is unknown.",
        ]
        one = said(BulkAction.CANCEL, step(stops=True, unsent=1, stays=2))
        assert one[0] == "1 response runs and is stopped. What each has used by then is billed."
        assert one[2:4] == ["1 planned write is never sent.", "2 applied writes stay."]

    def test_nothing_that_runs_is_said_too(self) -> None:
        assert said(BulkAction.CANCEL, step(cost="1.5")) == [
            "No response runs: nothing is stopped at the model provider.",
            SO_FAR,
        ]


@pytest.mark.parametrize(
    ("action", "impact", "words"),
    [
        (
            BulkAction.ROLL_BACK,
            {"writes": ("http", "postgres", "http")},
            "3 external writes are made, to undo earlier ones (http: 2, postgres: 1).",
        ),
        (BulkAction.ROLL_BACK, {"writes": ("http",)}, "1 external write is made, to undo earlier ones (http: 1)."),
        (
            BulkAction.RECONCILE,
            {"stops": True},
            "1 response runs and is stopped where no task waits for them. What each has used by then is billed.",
        ),
        (BulkAction.REASSIGN, {"voided": 1, "kept": 2}, "1 approval is void then, and 2 approvals stay."),
        (BulkAction.REASSIGN, {"voided": 2, "kept": 1}, "2 approvals are void then, and 1 approval stays."),
        (BulkAction.RESOLVE_APPLIED, {"answers": 1}, "1 write counts as applied, and is never sent again."),
        (BulkAction.RESOLVE_APPLIED, {"answers": 2}, "2 writes count as applied, and are never sent again."),
        (
            BulkAction.RESOLVE_NOT_APPLIED,
            {"answers": 2},
            "2 writes count as not applied: the tasks that wait for them send them again.",
        ),
    ],
)
def test_each_action_says_what_it_does_first_and_the_cost_last(
    action: BulkAction, impact: dict[str, Any], words: str
) -> None:
    sentences = said(action, step(cost="1.5", **impact))
    assert (sentences[0], sentences[-1]) == (words, SO_FAR)


def test_responses_of_an_unknown_price_are_never_counted_as_free() -> None:
    (*_, last) = said(BulkAction.ROLL_BACK, step(cost="1"), step(unpriced=2))
    assert last == SO_FAR.replace("known.", "known, and 2 responses of an unknown price.")
