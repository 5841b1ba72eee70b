from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff.core.review.rules import ReviewRules
from airflow_provider_aihandoff.web.pages.bulk_table import GroupBy, group_of


def asked(reason: str) -> Any:
    return SimpleNamespace(
        reassigned=None, review=ReviewRules(because={"policy": "all-of@1", "reason": reason}).to_json()
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("confidence is 0.62, below 0.8 (rule@a1)", "confidence is 0.5, below 0.8 (rule@a1)"),
        ('category is "legal", which needs a person', "category is \"a 'b'\", which needs a person"),
        ("the sum of 2 prices is 120, above 100", "the sum of 31 prices is 101.50, above 100"),
    ],
)
def test_jobs_with_the_same_reason_are_one_group(one: str, other: str) -> None:
    groups = {group_of(GroupBy.OUTCOME, asked(reason)) for reason in (one, other)}
    assert len(groups) == 1
    assert groups.pop().startswith("all-of@1: ")


def test_jobs_with_different_reasons_are_different_groups() -> None:
    groups = {group_of(GroupBy.OUTCOME, asked(f"it is 1 ({rule})")) for rule in ("amount@a1", "sampling@b2")}
    assert len(groups) == 2
