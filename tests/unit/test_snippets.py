"""Every example of the documentation runs.

A block of a page is run as it stands, after the blocks before it, by its language:

- `python` in an empty Dag, which is then serialized as the Dag processor does it. Classes and functions of earlier
  blocks of the page are there; a name that the page only speaks of is one of :class:`Assumed`.
- `sh`, `shell` and `console`: each command of this package, of Airflow, of `make` and of `python -m` is read by its own
  parser, each call of the REST API is one of its routes.
- `json`, `toml` and `ini` are parsed, and options of `[aihandoff]` exist. `sql` runs on a ledger:
  `tests/integration/test_snippets_on_ledger.py`.

What another test runs has `<!-- run by: ... -->` before it in the source of the page, and what none can run has
`<!-- not run: ... -->` with the reason.
"""

from __future__ import annotations

import ast
import configparser
import json
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import httpx
import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task, task_group
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.options import OPTIONS
from airflow_provider_aihandoff.job_types import JobType
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.items import SqlItems
from airflow_provider_aihandoff.operators.postgres import PostgresSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.policies import AllowedValues
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.web.app import build_app
from docs.snippets import PAGES, ROOT, Snippet, all_snippets, snippets_of
from tests.airflow_compat import DagSerialization, get_parser

SHELL = ("sh", "shell", "console")
#: Languages that are not run: pictures, the output of programs, and parts of the configuration of other systems.
SHOWN = {"mermaid", "text", "nginx", "js"}
RUN = {"python", *SHELL, "json", "toml", "ini", "sql"}
#: How many blocks no test runs, at most.
MOST_NOT_RUN = 12


class Answer(BaseModel):
    """What a page calls ProductNote, Report, Note or TicketLabel."""

    title: str
    body: str


class Assumed(dict[str, Any]):
    """The names that a page speaks of, and does not make: the job, its approval, other tasks, an output type."""

    def need(self, name: str) -> Any:
        """Make it, unless it is there."""
        if name not in self:
            self[name] = MADE[name](self)
        return self[name]


def _draft(_names: Assumed) -> Any:
    return OpenAIBackgroundResponseOperator(task_id="draft", job_type="note", model="gpt-5.2", input="...")


def _empty(name: str) -> Callable[[Assumed], Any]:
    return lambda _names: EmptyOperator(task_id=name)


def _is(value: Any) -> Callable[[Assumed], Any]:
    return lambda _names: value


def _open_tickets(_names: Assumed) -> Any:
    @task
    def open_tickets() -> list[dict[str, str]]:
        return []

    return open_tickets


MADE: dict[str, Callable[[Assumed], Any]] = {
    "draft": _draft,
    "approve": lambda names: ApprovalSensor(task_id="approve", job=names.need("draft")),
    **{name: _empty(name) for name in ("publish", "mail", "check")},
    **{name: _is(Answer) for name in ("ProductNote", "Report", "Note", "TicketLabel")},
    "KnownCustomers": _is(lambda: AllowedValues("title", ["plain"])),
    "password": _is("secret"),
    "PLAIN": _is(AllowedValues("title", ["plain"])),
    "open_tickets": _open_tickets,
    **{
        each.__name__: _is(each)
        for each in (
            ApprovalSensor,
            BaseModel,
            DAG,
            HttpSideEffectOperator,
            JobType,
            OpenAIBackgroundResponseOperator,
            OpenAIResponseSetOperator,
            PostgresSideEffectOperator,
            SqlItems,
            timedelta,
        )
    },
    "Field": _is(Field),
    "Literal": _is(Literal),
    "task": _is(task),
    "task_group": _is(task_group),
}


def run(snippet: Snippet, names: Assumed) -> None:
    """Run a block in a Dag, and serialize this Dag and those that the block makes by itself."""
    with DAG("snippet", schedule=None) as dag:
        tree = ast.parse(snippet.code)
        for name in read_of(tree) - names.keys():
            if name in MADE:
                names.need(name)
        exec(compile(tree, str(snippet), "exec", dont_inherit=True), names)  # noqa: S102 - our own pages
    for each in {dag, *(value for value in names.values() if isinstance(value, DAG))}:
        DagSerialization.to_dict(each)


def read_of(tree: ast.Module) -> set[str]:
    """The names that a block reads, and does not make by itself."""
    nodes = list(ast.walk(tree))
    used = {(node.id, isinstance(node.ctx, ast.Load)) for node in nodes if isinstance(node, ast.Name)}
    made = {node.name for node in nodes if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    made |= {name for name, is_read in used if not is_read}
    return {name for name, is_read in used if is_read} - made


def is_kept(value: Any) -> bool:
    """Whether later blocks of the page have it: no task, which belongs to one Dag."""
    return isinstance(value, (type, ModuleType)) or (callable(value) and not hasattr(value, "task_id"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The module that the page of operators puts its functions into."""
    (code,) = [each.code for each in snippets_of(ROOT / "docs" / "operators.md") if "def find_note" in each.code]
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").touch()
    (tmp_path / "shop" / "crm.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    for name in ("shop.crm", "shop"):
        sys.modules.pop(name, None)


@pytest.fixture
def airflow_example_com(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call over HTTP is a login, and answered."""
    answer = httpx.Response(201, json={"access_token": "a token"})
    monkeypatch.setattr(httpx.HTTPTransport, "handle_request", lambda *_: answer)


@pytest.mark.usefixtures("shop", "airflow_example_com")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_in_its_order(page: Path) -> None:
    earlier: dict[str, Any] = {}
    for snippet in snippets_of(page):
        if snippet.language != "python" or snippet.not_run or snippet.run_by:
            continue
        if ".loop(" in snippet.code and RELEASE < (3, 4):
            continue  # task loops are new in Airflow 3.4
        names = Assumed(earlier)
        try:
            run(snippet, names)
        except Exception as error:
            raise AssertionError(f"{snippet}: {type(error).__name__}: {error}") from error
        earlier |= {name: value for name, value in names.items() if name not in MADE and is_kept(value)}


@pytest.mark.parametrize("snippet", all_snippets("json", "toml", "ini"), ids=str)
def test_data_can_be_read(snippet: Snippet) -> None:
    if snippet.language == "json":
        json.loads(snippet.code)
    elif snippet.language == "toml":
        tomllib.loads(snippet.code)
    else:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read_string(snippet.code)
        if parser.has_section("aihandoff"):
            assert set(parser["aihandoff"]) <= set(OPTIONS)


def commands(snippet: Snippet) -> Iterator[str]:
    """Each command line of a block, without comments and without what a program has printed."""
    lines = re.sub(r"\\\n\s*", " ", snippet.code).splitlines()
    if snippet.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    quoted = ""
    for line in lines:
        quoted = f"{quoted}\n{line}" if quoted else line
        try:
            shlex.split(quoted, comments=True)
        except ValueError:
            continue  # a quotation that goes on
        if shlex.split(quoted, comments=True):
            yield quoted
        quoted = ""
    assert not quoted, f"{snippet}: a quotation does not end"


def parts(command: str) -> Iterator[list[str]]:
    """The words of each program that a command line starts, without where its output goes."""
    lexer = shlex.shlex(re.sub(r" (?:\d?>{1,2}|<) ?(?:&\d|\S+)", "", command), posix=True, punctuation_chars="();|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("();|&"):
            if words:
                yield words
            words = []
        else:
            words.append(word)


def check(words: list[str]) -> None:
    """Have the parser of a program read its arguments; of a program that is not ours, nothing is known.

    :raises SystemExit: the parser refuses them.
    """
    while words and (re.fullmatch(r"\w+=.*", words[0]) or words[0] in ("until", "do", "!", "then")):
        words = words[1:]
    if not words:
        return
    program, rest = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "airflow":
        get_parser().parse_args(_placed(rest))
    elif program == "make":
        check_make(rest)
    elif program == "python" and rest[:1] == ["-m"]:
        check_module(rest[1], rest[2:])
    elif program == "curl":
        check_call(rest)


def _placed(words: list[str]) -> list[str]:
    """With a number in the place of a name such as JOB_ID."""
    return ["7" if re.fullmatch(r"(JOB|EFFECT|SET|BULK|PAUSE|DELIVERY|REVISION)_ID", word) else word for word in words]


def check_make(words: list[str]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = [word for word in words if "=" not in word]
    assert set(named) <= targets, words


def check_module(module: str, words: list[str]) -> None:
    if module == "pytest":
        paths = [word.partition("::")[0] for word in words if word.startswith("tests")]
        assert all((ROOT / path).exists() for path in paths), words
    elif module == "airflow_provider_aihandoff":
        get_parser().parse_args(["aihandoff", *_placed(words)])
    else:
        assert find_spec(module) is not None, module


def check_call(words: list[str]) -> None:
    """The route is one of the API, with this method; its body is JSON."""
    method, body, path = "GET", None, None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "-X":
            method = following
        elif word == "-d":
            body = following
        elif found := re.match(r"\$AIRFLOW/aihandoff/api/v1(/[^?]*)", word):
            path = found[1]
    if path is None:
        return
    assert any(method in methods and pattern.fullmatch(path) for pattern, methods in routes()), (method, path)
    if body is not None and not body.startswith("@"):
        json.loads(body)


def routes() -> list[tuple[re.Pattern[str], set[str]]]:
    """The paths of the REST API, with their methods."""
    found = [(route.path, route.methods) for route in all_routes(build_app()) if "/api/v1/" in route.path]
    assert len(found) > 30
    return [
        (re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(path.partition("/api/v1")[2]))), methods)
        for path, methods in found
    ]


def all_routes(app: Any, prefix: str = "") -> Iterator[Any]:
    for route in app.routes:
        if hasattr(route, "methods"):
            yield route
        elif hasattr(route, "routes"):
            yield from all_routes(route)


@pytest.mark.parametrize("snippet", all_snippets(*SHELL), ids=str)
def test_each_command_is_one_that_there_is(snippet: Snippet) -> None:
    if snippet.run_by:
        return
    for command in commands(snippet):
        for words in parts(command):
            try:
                check(words)
            except SystemExit as error:
                raise AssertionError(f"{snippet}: {shlex.join(words)}") from error


def test_each_block_is_in_a_language_that_is_run_or_is_only_shown() -> None:
    assert {each.language for page in PAGES for each in snippets_of(page)} <= RUN | SHOWN


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [each for page in PAGES for each in snippets_of(page) if each.not_run]
    assert len(left_out) <= MOST_NOT_RUN
    assert all(len(each.not_run or "") > 10 for each in left_out)


def test_what_another_test_runs_is_read_by_that_test() -> None:
    for page in PAGES:
        for each in snippets_of(page):
            if each.run_by:
                assert page.name in (ROOT / each.run_by).read_text("utf-8"), str(each)


@pytest.mark.parametrize(
    "command",
    [
        "airflow aihandoff jobs lost",
        "airflow aihandoff review approve 1",
        ".venv/bin/python -m benchmarks.nothing",
        ".venv/bin/python -m pytest tests/nothing.py",
        "make nothing",
        'curl -sS "$AIRFLOW/aihandoff/api/v1/nothing"',
        'curl -sS "$AIRFLOW/aihandoff/api/v1/jobs/18/decisions"',
        """curl -X POST "$AIRFLOW/aihandoff/api/v1/jobs" -d '{"type"}'""",
    ],
)
def test_a_command_that_there_is_not_is_found(command: str) -> None:
    (words,) = parts(command)
    with pytest.raises((SystemExit, AssertionError, ValueError)):
        check(words)


def test_a_comment_says_who_runs_a_block_or_why_none_does(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- not run: it needs Docker -->\n```sh\ndocker\n```\n\n  ```sql\n  SELECT 1\n  ```\n")
    docker, select = snippets_of(page)
    assert (docker.not_run, docker.line, select.not_run, select.code) == ("it needs Docker", 4, None, "SELECT 1\n")
