"""Makes the models of the jobs API from the records of the ledger: each field is declared once, in the record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeVar, get_type_hints

from pydantic import BaseModel, Field, create_model

Model = TypeVar("Model", bound=BaseModel)


def from_record(
    record: type, *, internal: frozenset[str] = frozenset(), notes: Mapping[str, str] | None = None
) -> Callable[[type[Model]], type[Model]]:
    """Give a model the fields of a record, in its order, before those that the model itself declares.

    A field that is added to the record is on the API at once; one that must not be seen is named in ``internal``.

    :param record: a dataclass.
    :param internal: fields that the API does not show.
    :param notes: what the OpenAPI description says of a field.
    :raises ValueError: ``internal`` or ``notes`` name a field that the record does not have.
    """
    said = notes or {}
    if unknown := (internal | said.keys()) - {field.name for field in fields(record)}:
        raise ValueError(f"{record.__name__} has no field {', '.join(sorted(unknown))}.")

    def make(model: type[Model]) -> type[Model]:
        types = get_type_hints(record)
        shown: dict[str, Any] = {
            field.name: (types[field.name], Field(description=said.get(field.name)))
            for field in fields(record)
            if field.name not in internal
        }
        own: dict[str, Any] = {
            name: (field.annotation, field)
            for name, field in model.model_fields.items()
            if name in model.__annotations__
        }
        base: Any = model.__bases__[0]
        made: type[Model] = create_model(
            model.__name__, __base__=base, __module__=model.__module__, __doc__=model.__doc__, **{**shown, **own}
        )
        return made

    return make
