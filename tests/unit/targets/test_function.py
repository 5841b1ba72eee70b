"""Functions as effects: what they are called with, and what is known of their code."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.decorators.side_effect import (
    FunctionSideEffectOperator,
    bound_arguments,
    side_effect_task,
    undo_of,
)
from airflow_provider_aihandoff.targets.function import FunctionTarget, source_digest
from airflow_provider_aihandoff.targets.rollback_functions import importable_path, path_of, rollback_function

HERE = __name__


def put(title: str, shelf: str = "A", *, effect_key: str) -> None: ...


def put_all(title: str, **others: Any) -> None: ...


@rollback_function
def remove(external_id: str, title: str, effect_key: str) -> None: ...


async def put_later(title: str) -> None: ...


def put_each(title: str) -> Iterator[str]:
    yield title


async def put_each_later(title: str) -> AsyncIterator[str]:
    yield title


class Putter:
    def __call__(self, title: str) -> None: ...


class TestArguments:
    @pytest.mark.parametrize(
        ("function", "args", "kwargs", "expected"),
        [
            (put, ("Kettle",), {}, {"title": "Kettle", "shelf": "A"}),
            (put, (), {"shelf": "B", "title": "Kettle"}, {"title": "Kettle", "shelf": "B"}),
            (put_all, ("Kettle",), {"size": 2}, {"title": "Kettle", "size": 2}),
        ],
    )
    def test_arguments_are_bound_by_name_with_defaults_and_without_the_effect_key(
        self, function: Callable[..., Any], args: Any, kwargs: Any, expected: Any
    ) -> None:
        assert bound_arguments(function, args, kwargs) == expected

    @pytest.mark.parametrize(
        ("function", "kwargs", "complaint"),
        [
            (put, {}, "missing a required argument: 'title'"),
            (put, {"title": "Kettle", "size": 2}, "unexpected keyword argument 'size'"),
            (put, {"title": "Kettle", "effect_key": "mine"}, "multiple values for keyword argument 'effect_key'"),
            (lambda title, /: None, {}, "must take its parameter 'title' by name"),
            (lambda *titles: None, {}, "must take its parameter 'titles' by name"),
        ],
    )
    def test_a_call_that_cannot_be_made_is_refused_when_the_dag_is_parsed(
        self, function: Callable[..., Any], kwargs: Any, complaint: str
    ) -> None:
        with pytest.raises(TypeError, match=complaint):
            side_effect_task(job=1, task_id="put")(function)(**kwargs)

    @pytest.mark.parametrize("function", [put_later, put_each, put_each_later, Putter(), partial(put, shelf="B")])
    def test_a_callable_that_is_not_a_plain_function_is_refused(self, function: Any) -> None:
        for arguments in ({"python_callable": function}, {"probe": function}, {"undo": function}):
            with pytest.raises(ValueError, match="does not do its work when it is called"):
                FunctionSideEffectOperator(
                    **{"task_id": "put", "job": 1, "python_callable": remove, "op_args": ["1", "2"], **arguments}
                )


class TestUndo:
    def test_an_undo_function_gets_the_arguments_that_it_takes(self) -> None:
        assert undo_of(remove, {"title": "{{ job.output.title }}", "shelf": "A"}) == {
            "function": f"{HERE}:remove",
            "arguments": {"title": "{{ job.output.title }}", "external_id": "{external_id}"},
        }

    def test_an_undo_function_with_an_unknown_argument_is_refused(self) -> None:
        with pytest.raises(TypeError, match="missing a required argument: 'title'"):
            undo_of(remove, {"shelf": "A"})

    def test_an_undo_function_that_workers_cannot_import_is_refused(self, dag_file: ModuleType) -> None:
        for function in (lambda external_id: None, dag_file.put):
            with pytest.raises(PlanError, match="cannot be imported by its name"):
                importable_path(function)

    def test_an_undo_function_without_the_mark_is_refused_when_the_dag_is_parsed(self) -> None:
        with pytest.raises(PlanError, match="is not marked as one that a roll-back may call"):
            undo_of(put, {"title": "Kettle"})


class TestCode:
    """The digest of a function's code."""

    def test_only_a_change_of_the_code_changes_its_digest_and_not_comments_layout_or_decorators(
        self, tmp_path: Path
    ) -> None:
        body = "    return title"
        digests = [
            source_digest(module_of(tmp_path, source).put)
            for source in (
                f"def put(title):\n{body}\n",
                f"def put( title ):  # puts it\n    # there\n{body}\n",
                f"def same(function):\n    return function\n@same\ndef put(title):\n{body}\n",
                f"def put(title):\n{body} + '!'\n",
                f"def put(title, shelf='A'):\n{body}\n",
            )
        ]
        assert digests[0] == digests[1] == digests[2]
        assert len(set(digests)) == 3

    def test_a_lambda_has_a_code_digest(self) -> None:
        first, second = (lambda: 1), (lambda: 2)
        assert source_digest(first)
        assert source_digest(first) == source_digest(second)  # they stand in one line, which is all that is known

    def test_a_function_without_source_has_no_code_digest(self) -> None:
        assert source_digest(len) is None

    def test_a_function_of_a_dags_file_has_the_same_name_in_every_process(self, dag_file: ModuleType) -> None:
        assert (path_of(put), path_of(dag_file.put)) == (f"{HERE}:put", "put")


class TestTarget:
    @pytest.mark.parametrize(
        ("returned", "external_id"),
        [(None, None), ("7", "7"), (7, "7"), (Applied("7"), "7"), (True, None), (False, None), ({"id": 7}, None)],
    )
    def test_what_a_function_returns_is_its_external_id(self, returned: Any, external_id: str | None) -> None:
        assert FunctionTarget("put", lambda: returned).apply({"arguments": {}}, "key").external_id == external_id

    @pytest.mark.parametrize("returned", [False, NotApplied()])
    def test_a_probe_function_may_see_no_trace_of_the_write(self, returned: Any) -> None:
        target = FunctionTarget("put", lambda: None, lambda: returned)
        assert isinstance(target.probe({"arguments": {}}, "key"), NotApplied)


@pytest.fixture
def dag_file(tmp_path: Path) -> ModuleType:
    """A module as Airflow makes it of a Dag's file."""
    return module_of(tmp_path, "def put(external_id):\n    pass\n", "unusual_prefix_0123_shop")


def module_of(folder: Path, source: str, name: str = "shop") -> ModuleType:
    file = folder / f"{name}_{len(list(folder.iterdir()))}.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
