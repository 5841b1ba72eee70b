"""Follows the `$ref`s of a JSON schema inside its own document. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from referencing import Registry, Resource
from referencing.exceptions import Unresolvable

#: How many references may follow each other before they count as leading back to themselves.
MAX_REFERENCES = 40


class UnresolvedReference(ValueError):
    """A reference leads out of the document, to something that is not a schema, or back to itself."""


class Document:
    """A JSON schema whose references can be followed.

    Only JSON pointers inside the document are followed: Pydantic and Structured Outputs use nothing else, and nothing
    is ever fetched.
    """

    def __init__(self, schema: Any) -> None:
        self._resolver = Registry().with_resource("", Resource.opaque(schema)).resolver()

    def resolve(self, schema: Any) -> Any:
        """The schema that its references lead to. Keywords next to a reference override those that it leads to.

        :raises UnresolvedReference: a reference cannot be followed.
        """
        for _ in range(MAX_REFERENCES):
            if not isinstance(schema, Mapping) or "$ref" not in schema:
                return schema
            siblings = {name: part for name, part in schema.items() if name != "$ref"}
            schema = {**self._target(schema["$ref"]), **siblings}
        raise UnresolvedReference("A $ref leads back to itself.")

    def _target(self, reference: Any) -> Mapping[str, Any]:
        try:
            target = self._resolver.lookup(reference).contents if isinstance(reference, str) else None
        except (Unresolvable, ValueError, TypeError):  # the last two: the pointer goes on inside a list or a scalar
            target = None
        if not isinstance(target, Mapping):
            raise UnresolvedReference(f"$ref {reference!r} does not point at a schema in this document.")
        return target
