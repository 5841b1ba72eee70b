from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from airflow_provider_aihandoff import policies
from airflow_provider_aihandoff.core.jobs.job_view import JobView
from airflow_provider_aihandoff.policies import ApprovalPolicy, Approve, AskPerson, verdict_of
from tests.unit.policies.jobs import PLAN, Says, job


class SmallOrders(ApprovalPolicy):
    name = "small orders"
    version = "3"

    def decide(self, job: JobView, plan: Sequence[dict[str, Any]]) -> Approve | AskPerson:
        return Approve("one write") if len(plan) == 1 else AskPerson("several writes")


def test_the_ledger_names_a_policy_with_its_version() -> None:
    assert SmallOrders().label == "small orders@3"


def test_a_policy_without_a_rule_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="decide"):
        ApprovalPolicy()  # type: ignore[abstract]


def test_a_policy_is_asked_about_the_job_and_its_plan() -> None:
    assert verdict_of(SmallOrders(), job(), PLAN) == Approve("one write")
    assert verdict_of(SmallOrders(), job(), PLAN * 2) == AskPerson("several writes")


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [
        (ValueError("a bug"), "the policy raised an error"),
        (True, "the policy returned no verdict"),
        (None, "the policy returned no verdict"),
        (Approve, "the policy returned no verdict"),
    ],
    ids=["raises", "true", "nothing", "class"],
)
def test_a_policy_with_a_bug_asks_a_person_and_the_log_says_which(
    verdict: Any, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert verdict_of(Says(verdict), job(), PLAN) == AskPerson(reason)
    assert "says@1" in caplog.text


def test_the_package_offers_what_a_dag_needs() -> None:
    assert policies.__all__ == [
        "AllOf",
        "AllowedValues",
        "AmountLimit",
        "ApprovalPolicy",
        "Approve",
        "AskPerson",
        "MinimumConfidence",
        "Sampling",
        "verdict_of",
    ]
    assert all(hasattr(policies, name) for name in policies.__all__)
