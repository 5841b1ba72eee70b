"""What an operator takes as its job, and what it refuses when the Dag is parsed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import DAG

from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.job_argument import job_reference, resolve_job_id, source_of
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.operators.side_effect import SideEffectOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor

Make = Callable[[Any], Any]


def approve(job: Any) -> Any:
    return ApprovalSensor(task_id="approve", job=job)


def publish(job: Any) -> Any:
    return HttpSideEffectOperator(task_id="publish", job=job, http_conn_id="cms", method="PUT", endpoint="/posts")


def roll_back(job: Any) -> Any:
    return RollbackOperator(task_id="roll_back", job=job, reason="wrong")


def mapped() -> Any:
    return OpenAIBackgroundResponseOperator.partial(task_id="draft", model="gpt-5.2").expand(input=["A", "B"])


@pytest.mark.parametrize("by_xcom", [False, True])
@pytest.mark.parametrize("make", [approve, publish, roll_back])
def test_a_mapped_draft_is_refused_when_the_dag_is_parsed(make: Make, by_xcom: bool) -> None:
    with DAG("many", schedule=None):
        draft = mapped()
        with pytest.raises(ValueError, match=r"mapped task, which makes many jobs.*map the group"):
            make(draft.output if by_xcom else draft)


def test_a_task_that_is_mapped_over_the_drafts_is_not() -> None:
    with DAG("many", schedule=None):
        draft = mapped()
        ApprovalSensor.partial(task_id="approve").expand(job=draft.output)


def test_the_operator_and_its_xcom_are_the_same_job() -> None:
    with DAG("one", schedule=None):
        draft = OpenAIBackgroundResponseOperator(task_id="draft", model="gpt-5.2", input="A")
        assert source_of(job_reference(draft)) == source_of(draft) == source_of(draft.output) == "draft"
        assert approve(draft).upstream_task_ids == {"draft"}
    assert source_of(job_reference(17)) == 17


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
