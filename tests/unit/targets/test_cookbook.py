"""What docs/targets.md tells an author to declare: each declaration in it is made, planned and read."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jinja2
import pytest

from airflow_provider_aihandoff.core.effects.placeholders import declared_in
from airflow_provider_aihandoff.core.effects.undo import plan_undo
from airflow_provider_aihandoff.operators.email import EmailSideEffectOperator
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.targets.http_answers import EXTRA, rules_of
from airflow_provider_aihandoff.targets.http_probe import check_probe
from airflow_provider_aihandoff.targets.postgres import rows_of

PAGE = Path(__file__).parents[3].joinpath("docs", "targets.md").read_text("utf-8")
COOKBOOK = PAGE.partition("## My API does this")[2].partition("## ")[0]

#: A probe that a part of one is added to.
PROBE = {"endpoint": "/tickets", "found_in": "$.tickets", "found": {"$.ref": "{effect_key}"}}


def spans() -> Iterator[str]:
    """What stands as code in the column of declarations."""
    for line in COOKBOOK.splitlines():
        if line.startswith("| ") and not line.startswith(("| my API", "| ---")):
            _, declared = line.strip("| ").split(" | ", 1)
            yield from (text.replace("\\|", "|") for text in re.findall(r"`([^`]+)`", declared))


SPANS = list(dict.fromkeys(spans()))
ARGUMENTS = [text for text in SPANS if re.match(r"\w+=", text)]
PARTS = [text for text in SPANS if text.startswith('"')]


@pytest.fixture(autouse=True)
def _connection(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "http", "host": "cms.test", "schema": "https"}
    monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(connection))


def block(begins: str) -> str:
    """The Python code block of the page that has this text in it."""
    return next(str(code) for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if begins in code)


def templates_in(value: Any) -> Iterator[str]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from templates_in(item)
    if isinstance(value, str):
        yield value


def test_the_page_declares_nothing_that_is_not_made_here() -> None:
    assert len(ARGUMENTS) > 25
    assert len(PARTS) == 3
    placeholders = {text for text in SPANS if declared_in(text) == {text}}
    assert len(placeholders) == 3
    rest = set(SPANS) - {*ARGUMENTS, *PARTS, *placeholders}
    assert {text for text in rest if set(text) & set('={}"')} == set()


@pytest.mark.parametrize("text", ARGUMENTS)
def test_what_an_author_is_to_declare_can_be_declared_and_planned(text: str, tmp_path: Path) -> None:
    arguments: dict[str, Any] = eval(f"dict({text})", {"timedelta": timedelta})  # noqa: S307 - our own page
    for template in templates_in(arguments):
        jinja2.Environment(autoescape=True).parse(template)
    if "rows" in arguments:
        assert rows_of(arguments["rows"], "write") == (1, 1)
        return
    if "files" in arguments:
        file = tmp_path / "june.pdf"
        file.write_bytes(b"%PDF")
        arguments["files"]["document"]["path"] = str(file)
    condition = arguments.pop("when", None)
    task = HttpSideEffectOperator(
        task_id="write", job=1, http_conn_id="cms", **{"method": "POST", "endpoint": "/tickets", **arguments}
    )
    job: Any = SimpleNamespace(job_id=1)
    planned = task.effect_plan(job, key="the key", after=())
    assert planned.plan["url"].startswith("https://cms.test/")
    assert condition is None or condition.startswith("{{")


@pytest.mark.parametrize("text", PARTS)
def test_what_an_author_is_to_add_to_a_probe_can_be_added(text: str) -> None:
    check_probe({**PROBE, **ast.literal_eval(f"{{{text}}}")}, "write")


def test_what_the_page_says_of_answers_is_read() -> None:
    answers = ast.literal_eval(block("answers = {").partition("=")[2].strip())
    assert len(rules_of(answers, "write")) == 4
    (extra,) = re.findall(rf"`(\{{\"{EXTRA}\".*?\}})`", PAGE)
    assert rules_of(json.loads(extra)[EXTRA], "write")


def test_an_undo_of_another_kind_is_planned() -> None:
    declared = ast.literal_eval(block('undo = {"kind"').partition("=")[2].strip())
    undo = plan_undo({**declared, "connection": "cms"}, kind="email", name="tell", defaults={})
    assert undo["plan"]["url"] == "https://cms.test/recalls/{external_id}"


def test_the_mail_that_the_page_shows_can_be_declared() -> None:
    names: dict[str, Any] = {"draft": 1}
    tree = ast.parse(block("EmailSideEffectOperator("))
    tree.body = [node for node in tree.body if isinstance(node, (ast.ImportFrom, ast.Assign))]
    exec(compile(tree, "docs/targets.md", "exec"), names)  # noqa: S102 - our own page
    assert isinstance(names["tell"], EmailSideEffectOperator)
