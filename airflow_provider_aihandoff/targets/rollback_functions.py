"""The functions that a roll-back may call, and how it finds one by the name that the ledger has.

The ledger is data: a name in it must not be able to run just any code. So a function carries a mark, and the mark is
read in the source of its module before anything of that module runs.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, TypeVar

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.errors import PlanError

Function = TypeVar("Function", bound=Callable[..., Any])

#: The parameter in which a function gets the effect key, if it has one of this name.
KEY_PARAMETER = "effect_key"

_MARK = "__aihandoff_rollback_function__"

#: How the name of a module begins that Airflow made from a Dag's file: no other process can import it.
_DAG_FILE = "unusual_prefix_"


def rollback_function(function: Function) -> Function:
    """Mark a function as one that a roll-back may call: an undo, or the probe of an undo.

    Put it directly above the function, by this name, at the top level of a module that workers can import.

    :raises ValueError: the function does not do its work when it is called.
    """
    if not (inspect.isfunction(function) and runs_when_called(function)):
        raise ValueError(
            f"{function!r} does not do its work when it is called: it is not a plain function, or it is asynchronous "
            "or a generator. Write a function that does the work and returns."
        )
    setattr(function, _MARK, True)
    return function


def runs_when_called(function: Callable[..., Any]) -> bool:
    """Whether a call does the work, and does not merely return a coroutine or a generator that would."""
    kinds = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    return not any(kind(function) for kind in kinds)


def path_of(function: Callable[..., Any]) -> str:
    """``module:name`` of a function; for one of a Dag's file, its name alone."""
    module = function.__module__
    return function.__qualname__ if module.startswith(_DAG_FILE) else f"{module}:{function.__qualname__}"


def importable_path(function: Callable[..., Any]) -> str:
    """``module:name`` of a function that a roll-back may find by it.

    :raises PlanError: it may not, since it is a lambda, stands in another function, a class or a Dag's file, or has no
        mark.
    """
    path = path_of(function)
    if ":" not in path or "." in function.__qualname__ or "<" in path:
        raise PlanError(
            f"the function {path!r} cannot be imported by its name.",
            remedy="Put it at the top level of a module that workers can import, beside the Dag's file.",
        )
    if not _is_marked(function):
        raise _unmarked(path)
    return path


def check_marked(path: str) -> None:
    """Return when a roll-back may import and call the function that ``module:name`` names. Runs nothing of its module.

    :raises PlanError: it may not.
    """
    module, _, name = path.partition(":")
    allowed = [each.strip() for each in settings.text("function_modules").split(",") if each.strip()]
    if allowed and not any(module == each or module.startswith(f"{each}.") for each in allowed):
        raise PlanError(
            f"the function {path!r} is not in one of the modules that [aihandoff] function_modules allows here.",
            remedy="Add its module there, where the function is planned and on the workers that roll back.",
        )
    source = _source_of(module)
    if source is None:
        raise PlanError(
            f"the function {path!r} cannot be imported: its module, or the module's source, is not installed here.",
            remedy="Put it into a module that workers can import, and name it as 'package.module:function'.",
        )
    if not _marks(source, name):
        raise _unmarked(path)


def function_at(path: str) -> Callable[..., Any]:
    """The function that ``module:name`` names. Only a worker calls this.

    :raises PlanError: there is none that a roll-back may call.
    """
    check_marked(path)
    module, _, name = path.partition(":")
    try:
        found: Any = vars(import_module(module)).get(name)
    except Exception as error:
        raise PlanError(
            f"the function {path!r} cannot be imported: {type(error).__name__}: {error}.",
            remedy="Fix its module, or install what that needs on the workers.",
        ) from error
    if not _is_marked(found):
        raise _unmarked(path)
    return found  # type: ignore[no-any-return]


def _is_marked(found: Any) -> bool:
    """Whether this is a function with our mark. Reads what it has, and calls nothing of it."""
    return inspect.isfunction(found) and vars(found).get(_MARK) is True


def _unmarked(path: str) -> PlanError:
    return PlanError(
        f"the function {path!r} is not marked as one that a roll-back may call.",
        remedy="Write @rollback_function directly above it, at the top level of its module: "
        "from airflow_provider_aihandoff.decorators.side_effect import rollback_function.",
    )


def _source_of(module: str) -> str | bytes | None:
    """The source of a module, found without importing it or a package that it is in; None where there is none."""
    try:
        spec = _spec_of(module)
        if spec is None:
            return None
        get_source = getattr(spec.loader, "get_source", None)
        if get_source is not None:
            found: str | None = get_source(module)
            return found
        return Path(spec.origin).read_bytes() if spec.origin and spec.origin.endswith(".py") else None
    except (ImportError, OSError, KeyError):  # a KeyError: a package without a file of its own, in another such package
        return None


def _spec_of(module: str) -> ModuleSpec | None:
    spec: ModuleSpec | None = None
    parts = module.split(".")
    for number, part in enumerate(parts, start=1):
        locations = None if spec is None else spec.submodule_search_locations
        if not part.isidentifier() or (spec is not None and locations is None):
            return None
        name = ".".join(parts[:number])
        found = (finder.find_spec(name, locations) for finder in sys.meta_path)
        spec = next((each for each in found if each is not None), None)
        if spec is None:
            return None
    return spec


def _marks(source: str | bytes, name: str) -> bool:
    """Whether the source defines a function of this name at its top level, with the mark above it."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(
        isinstance(node, ast.FunctionDef)
        and node.name == name
        and any(_name_of(decorator) == rollback_function.__name__ for decorator in node.decorator_list)
        for node in body
    )


def _name_of(decorator: ast.expr) -> str | None:
    if isinstance(decorator, ast.Attribute):
        return decorator.attr
    return decorator.id if isinstance(decorator, ast.Name) else None
