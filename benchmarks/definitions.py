"""Finds the definitions of a Python package by their qualified names, in whichever of its modules they are."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

_Named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Definition:
    """A function, a class, or what a name of a module or of a class is given: whole lines, decorators included.

    :param start: where it begins in the text of its file, in characters.
    """

    path: Path
    start: int
    text: str


class Definitions:
    """Everything that a package defines, as it was when this was made. Files of SQL are found by their names.

    :param package: its folder.
    """

    def __init__(self, package: Path) -> None:
        self._found: dict[str, list[tuple[str, Definition]]] = {}
        for path in sorted(package.rglob("*.py")):
            module = ".".join(path.relative_to(package).with_suffix("").parts)
            for name, definition in definitions_of(path):
                self._found.setdefault(name, []).append((module, definition))
        for path in sorted(package.rglob("*.sql")):
            self._found.setdefault(path.name, []).append(
                (path.parent.name, Definition(path, 0, path.read_text("utf-8")))
            )

    def find(self, name: str) -> Definition:
        """Return the definition of a qualified name: ``function``, ``Class.method``, ``CONSTANT`` or ``file.sql``.

        Where several modules have it, the end of a module's name stands before it: ``store:Store.read``.

        :raises LookupError: there is none, or more than one.
        """
        tail, _, qualified = name.rpartition(":")
        fitting = [
            (module, definition)
            for module, definition in self._found.get(qualified, ())
            if not tail or f".{module}".endswith(f".{tail}")
        ]
        if len(fitting) == 1:
            return fitting[0][1]
        where = ", ".join(f"{module}:{qualified}" for module, _ in fitting)
        raise LookupError(f"{name} is defined {len(fitting)} times, not once{where and f': {where}'}.")


def definitions_of(path: Path) -> Iterator[tuple[str, Definition]]:
    """The definitions of one file, by their qualified names; a function within another is ``outer.inner``."""
    text = path.read_text("utf-8")
    lines = [f"{line}\n" for line in text.split("\n")]  # as the parser counts them
    starts = [0, *accumulate(map(len, lines))]
    for name, node in _named(ast.parse(text).body, ""):
        decorators = node.decorator_list if isinstance(node, _Named) else []
        first = min([node.lineno, *(each.lineno for each in decorators)]) - 1
        assert node.end_lineno is not None
        yield name, Definition(path, starts[first], "".join(lines[first : node.end_lineno]))


def _named(body: Iterable[ast.AST], prefix: str, *, local: bool = False) -> Iterator[tuple[str, ast.stmt]]:
    """The statements that define a name, with the qualified name of each; local variables are none."""
    for node in body:
        if isinstance(node, _Named):
            yield prefix + node.name, node
            yield from _named(node.body, f"{prefix}{node.name}.", local=not isinstance(node, ast.ClassDef))
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((prefix + each.id, node) for each in targets if isinstance(each, ast.Name) and not local)
        else:
            yield from _named(ast.iter_child_nodes(node), prefix, local=local)
