from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from airflow_provider_aihandoff.jobview import JobView
from airflow_provider_aihandoff.policies import ApprovalPolicy, Approve, AskPerson


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
