"""Writes that a Python function makes, and that another function probes for."""

from __future__ import annotations

import ast
import hashlib
import inspect
import logging
import textwrap
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Self

from airflow_provider_aihandoff.core.effects.target import (
    Applied,
    Found,
    RequestView,
    Target,
    as_applied,
    as_found,
    resends_of,
    take_tables,
    take_text,
)
from airflow_provider_aihandoff.targets.rollback_functions import KEY_PARAMETER, check_marked, function_at

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FunctionTarget(Target):
    """A system that a Python function writes to.

    The function writes once, or raises: :class:`errors.EffectRefused` where it is certain that nothing was written,
    :class:`errors.EffectNotNow` where a retry is safe; everything else means that it is not known. What it returns is
    the external record id, an :class:`Applied`, or None.

    :param name: the effect's name, for messages.
    :param probe_function: finds out what became of a call: returns the external record id or an :class:`Applied` where
        it finds the write, ``NotApplied()`` or False where it sees no trace of it, None where it does not know.
    :param call_seconds: how long a call may take at most.
    """

    kind = "function"
    undo_fields = frozenset({"function", "arguments", "probe", "idempotent", "timeout", "grace", "resends"})
    undo_in_worker = True

    name: str
    function: Callable[..., Any]
    probe_function: Callable[..., Any] | None = None
    idempotent: bool = False
    call_seconds: float = 300.0
    grace_seconds: float = 30.0
    resends: int = 1
    verify: bool = False
    try_probe: bool = True

    @property
    def can_probe(self) -> bool:
        """There is a function that probes."""
        return self.probe_function is not None

    def apply(self, plan: dict[str, Any], key: str) -> Applied:
        """Call the function with the plan's arguments."""
        return as_applied(call(self.function, plan["arguments"], key), self.name)

    def probe(self, plan: dict[str, Any], key: str) -> Found:
        """Call the function that probes."""
        assert self.probe_function is not None
        return as_found(call(self.probe_function, plan["arguments"], key))

    @classmethod
    def plan_undo(cls, declared: Mapping[str, Any], *, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """The name of the function and its arguments; beside it, that of its probe and what its author says of it."""
        for path in (declared["function"], declared.get("probe")):
            if path:
                check_marked(str(path))
        plan = {"function": str(declared["function"]), "arguments": dict(declared.get("arguments") or {})}
        options: dict[str, Any] = {"idempotent": bool(declared.get("idempotent"))}
        options |= {field: float(declared[field]) for field in ("timeout", "grace") if field in declared}
        if "resends" in declared:
            options["resends"] = resends_of(declared["resends"], idempotent=options["idempotent"])
        return plan, options | ({"probe": str(declared["probe"])} if declared.get("probe") else {})

    @classmethod
    def from_undo(cls, name: str, plan: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        """Import the function, and its probe: only a worker does this.

        :raises PlanError: one of them cannot be imported, or is not marked with :func:`rollback_function`.
        """
        return cls(
            name,
            function_at(plan["function"]),
            function_at(options["probe"]) if options.get("probe") else None,
            idempotent=bool(options.get("idempotent")),
            resends=resends_of(options.get("resends"), idempotent=bool(options.get("idempotent"))),
            call_seconds=float(options.get("timeout", 300.0)),
            grace_seconds=float(options.get("grace", 30.0)),
            try_probe=False,
        )

    @classmethod
    def describe(cls, plan: Mapping[str, Any]) -> RequestView:
        """The function, its arguments, and the digest of its code."""
        rest = dict(plan)
        return RequestView(
            action="Call",
            address=take_text(rest, "function"),
            tables=take_tables(rest, "arguments"),
            rest=rest,
            writes=plan.get("arguments"),
        )


def call(function: Callable[..., Any], arguments: dict[str, Any], key: str) -> Any:
    """Call a function with those of the arguments, and the effect key, that it takes."""
    parameters = inspect.signature(function).parameters
    offered = {**arguments, KEY_PARAMETER: key}
    if not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        offered = {name: value for name, value in offered.items() if name in parameters}
    elif KEY_PARAMETER not in parameters:
        offered = arguments
    return function(**deepcopy(offered))  # what it does to them changes no plan


def source_digest(function: Callable[..., Any]) -> str | None:
    """SHA-256 of the function's own code, so that a changed one is not what was approved.

    Its decorators, comments and layout play no part, and neither does what it calls. None where there is no source.
    """
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(_code(source).encode()).hexdigest()


def _code(source: str) -> str:
    """The code of one function, without its decorators; what cannot be read by itself, such as a lambda, as it is."""
    try:
        (defined,) = ast.parse(source).body
    except (SyntaxError, ValueError):
        return source
    if isinstance(defined, ast.FunctionDef):
        defined.decorator_list = []
    return ast.unparse(defined)
