"""The test of a Dag that the documentation shows: it runs as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

ROOT = Path(__file__).parents[3]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

CALL_NOTE = """

import pydantic
from airflow.sdk import dag

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor


class CallNote(pydantic.BaseModel):
    title: str
    text: str


@dag(schedule=None, params={"call": "", "transcript": "", "customer": "ann"})
def call_note():
    draft = OpenAIBackgroundResponseOperator(
        task_id="draft",
        job_type="call note",
        job_key="{{ params.call }}",
        model="gpt-5.2",
        input="{{ params.transcript }}",
        output_type=CallNote,
    )
    note = CrmNoteOperator(
        task_id="note",
        job=draft,
        customer="{{ params.customer }}",
        text="{{ job.output.title }}\\n\\n{{ job.output.text }}",
        undo={"kind": "http", "connection": "crm", "method": "DELETE", "endpoint": "/notes/{external_id}"},
    )
    draft >> ApprovalSensor(task_id="approve", job=draft) >> note
"""

CONFTEST = """
import json

import pytest
from call_note import call_note

from tests.integration.operators.dag_runs import Dags
from tests.target import Answer, serve


class Crm:
    def __init__(self, target):
        self.target = target

    @property
    def notes(self):
        return [request.json for request in self.target.received if request.method == "POST"]


@pytest.fixture
def crm(monkeypatch):
    Dags._stored(call_note())
    with serve() as target:
        target.answers = [Answer(201, {"id": 7})]
        connection = {"conn_type": "http", "host": "127.0.0.1", "port": target.port, "schema": "http"}
        monkeypatch.setenv("AIRFLOW_CONN_CRM", json.dumps(connection))
        yield Crm(target)
"""


def example(part: str) -> str:
    """The one example of the page that has this in it."""
    found: list[str] = [
        code for code in BLOCK.findall((ROOT / "docs" / "operators.md").read_text("utf-8")) if part in code
    ]
    assert len(found) == 1
    return str(found[0])


@pytest.mark.usefixtures("airflow", "connections")
def test_the_test_of_a_dag_in_the_docs_passes_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "call_note.py").write_text(example("class CrmNoteOperator") + dedent(CALL_NOTE))
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_call_note.py").write_text(example("def approve_when_asked"))

    command = [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )

    assert "3 passed" in done.stdout, done.stdout[-5000:]
