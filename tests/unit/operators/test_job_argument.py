from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aihandoff.operators.job_argument import resolve_job_id
from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator


@pytest.mark.parametrize("reference", [7, "7", " 7 ", {"job_id": 7}, {"job_id": "7", "state": "review"}])
def test_an_id_is_a_whole_number_or_its_digits(reference: Any) -> None:
    assert resolve_job_id(reference, "publish") == 7


@pytest.mark.parametrize(
    "reference", [None, "", "7.0", 7.9, True, -1, "-1", "0x7", "\u0667", 2**63, "9" * 40, {}, {"job_id": None}, ["7"]]
)
def test_anything_else_names_no_job(reference: Any) -> None:
    with pytest.raises(AirflowFailException, match="does not name a job") as refused:
        resolve_job_id(reference, "publish")
    assert "No external write was made" in str(refused.value)


def test_what_is_said_about_a_wrong_reference_is_bounded() -> None:
    with pytest.raises(AirflowFailException) as refused:
        resolve_job_id({"output": "x" * 100_000}, "publish")
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize("effect", ["", " ", "a\nb", "a\x00", "e" * 501, None])
def test_an_effect_has_a_name_or_that_of_its_task(effect: Any) -> None:
    if effect is None:
        assert SideEffectOperator(task_id="publish", job=1).effect_name == "publish"
        return
    with pytest.raises(Exception, match="the argument effect"):
        SideEffectOperator(task_id="publish", job=1, effect=effect)
