"""What `airflow aihandoff doctor --dags` finds in Dag files."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_aihandoff.doctor.dag_checks import check_dags
from airflow_provider_aihandoff.doctor.finding import Finding, Level

ROOT = Path(__file__).parents[3]

BEGIN = """
from airflow.sdk import DAG
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor

def publish(job, task_id="publish", **more):
    return HttpSideEffectOperator(
        task_id=task_id, job=job, http_conn_id="cms", method="PUT", endpoint="/posts/1", **more
    )

def draft(**more):
    return OpenAIBackgroundResponseOperator(
        task_id="draft", job_type="t", job_key="k", model="gpt-5.2", input="Write.", **more
    )

with DAG("examined", schedule=None):
"""


def examine(folder: Path, lines: str) -> list[Finding]:
    body = "".join(f"    {line}\n" for line in lines.splitlines())
    (folder / "examined.py").write_text(BEGIN + body)
    return list(check_dags(str(folder)))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("d = draft()\nd >> ApprovalSensor(task_id='approve', job=d) >> publish(d)", None),
        ("d = draft(approval='not required', approval_reason='a test')\nd >> publish(d)", None),
        ("d = draft()\nd >> publish(d)", "No task approves the effect 'publish'"),
        (
            "d = draft()\nd >> [ApprovalSensor(task_id='approve', job=d), publish(d)]",
            "does not come after the approval",
        ),
        ("d = draft()\nd >> ApprovalSensor(task_id='approve', job=d) >> publish(d)\nd >> publish(d, 'tell')", "'tell'"),
        (
            "d = draft()\nd >> [ApprovalSensor(task_id='approve', job=d), w := publish(d, wait_for_decisions=True)]\n"
            "w >> publish(d, 'tell')",
            None,
        ),
        ("publish(7)", None),
    ],
)
def test_an_effect_that_nothing_approves_before_it_is_an_error(tmp_path: Path, lines: str, said: str | None) -> None:
    (found,) = examine(tmp_path, lines)
    assert found.level is (Level.OK if said is None else Level.ERROR)
    assert said is None or said in found.what


def test_a_file_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    broken, ok = examine(tmp_path, "raise RuntimeError('no settings here')")
    assert (broken.level, "no settings here" in broken.what, "examined.py" in broken.subject) == (
        Level.WARNING,
        True,
        True,
    )
    assert ok.level is Level.OK


def test_the_template_dags_are_fine() -> None:
    (found,) = check_dags(str(ROOT / "dags"))
    assert (found.level, found.subject) == (Level.OK, "Dags")
