"""`airflow aihandoff init`: what it writes is what is in the wheel, and nothing of yours is overwritten."""

from __future__ import annotations

import ast
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_aihandoff.cli.init import TEMPLATES
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from tests.airflow_compat import get_parser

CHECKOUT = Path(__file__).parents[3]
DAGS = CHECKOUT / "dags"

Init = Callable[..., str]


@pytest.fixture
def init(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Init:
    monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(tmp_path / "dags"))
    # No metadata database: what Airflow knows is in the environment.
    monkeypatch.setattr("airflow_provider_aihandoff.cli.common._CONTEXT", "AIHANDOFF_TEST_CONTEXT")

    def run(*words: object) -> str:
        args = get_parser().parse_args(["aihandoff", "init", *map(str, words)])
        args.func(args)
        return capsys.readouterr().out

    return run


def test_each_template_is_listed_and_nothing_written_without_a_name(init: Init, tmp_path: Path) -> None:
    listed = init()
    assert {line.split()[0] for line in listed.splitlines()[:-1]} == set(TEMPLATES)
    assert not (tmp_path / "dags").exists()


def test_templates_are_written_and_what_they_need_is_said(
    init: Init, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_CMS", '{"conn_type": "http", "host": "cms", "password": "a secret"}')
    said = init("publishing", "rollback")
    assert sorted(path.name for path in (tmp_path / "dags").iterdir()) == ["aihandoff_rollback.py", "publishing.py"]
    assert (tmp_path / "dags/publishing.py").read_text() == (DAGS / "publishing.py").read_text()
    added = [line.split()[3] for line in said.splitlines() if "connections add" in line]
    assert added == ["aihandoff_ledger", "openai_default"], "cms is there"
    assert "a secret" not in said
    assert "airflow dags unpause publishing" in said


def test_written_again_it_says_so(init: Init, tmp_path: Path) -> None:
    init("reconcile")
    assert "is there already" in init("reconcile", "--folder", tmp_path / "dags")


def test_a_file_with_another_content_stays_and_no_other_is_written(init: Init, tmp_path: Path) -> None:
    mine = tmp_path / "dags" / "publishing.py"
    mine.parent.mkdir()
    mine.write_text("# mine")
    with pytest.raises(SystemExit, match=r"publishing.py: there is such a file already.*Nothing was written"):
        init("report", "publishing")
    assert mine.read_text() == "# mine"
    assert list(mine.parent.iterdir()) == [mine]


def test_an_unknown_template_is_named_with_those_that_there_are(init: Init) -> None:
    with pytest.raises(
        SystemExit, match=r"no template reports\. Nothing was written\. There are: first, publishing, report"
    ):
        init("reports")


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_connections_are_those_that_the_dag_names(name: str) -> None:
    tree = ast.parse((DAGS / TEMPLATES[name].file).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = {
        keyword.value.value
        for call in calls
        for keyword in call.keywords
        if keyword.arg and keyword.arg.endswith("conn_id") and isinstance(keyword.value, ast.Constant)
    }
    named |= {
        argument.value
        for call in calls
        if ast.unparse(call.func).endswith("Hook")
        for argument in call.args[-1:]
        if isinstance(argument, ast.Constant) and argument.value != "GET"
    }
    drafts = (OpenAIBackgroundResponseOperator.__name__, OpenAIResponseSetOperator.__name__)
    if any(ast.unparse(call.func).startswith(drafts) for call in calls):
        named.add("openai_default")
    assert set(TEMPLATES[name].conn_ids) == named


def test_every_template_of_the_checkout_can_be_written() -> None:
    assert {template.file for template in TEMPLATES.values()} == {path.name for path in DAGS.glob("*.py")}


def test_the_wheel_has_them(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    assert {f"airflow_provider_aihandoff/dags/{template.file}" for template in TEMPLATES.values()} <= names
