"""Whether an output type can be sent and stored at all: found out when a Dag is parsed, so without the SDK. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.generation.openai.strict_schema import NAME, Path, refusal_of

#: What an author can do about what is refused, by words of the refusal.
_REMEDIES = {
    "'default'": "Remove the default: every field is required of the model. For a field that may be absent, write "
    "`name: Kind | None`.",
    "'oneOf'": "Write the union without a discriminator.",
    "'prefixItems'": "Write a list, or a model with a field for each part.",
    "'uniqueItems'": "Write a list.",
    "'additionalProperties'": "Write the fields as a model, or a list of models with a name and a value.",
    "'patternProperties'": "Write the fields as a model, or a list of models with a name and a value.",
    "'propertyNames'": "Write the fields as a model, or a list of models with a name and a value.",
    "schema must have a 'type' key": "Write the type, or a union of types, instead of Any.",
    "array schema missing items": "Write what the list has in it: `list[str]`.",
    "regex lookaround": "Write a pattern without it. For a Decimal: "
    "`Annotated[Decimal, WithJsonSchema({'type': 'string'})]`.",
    "schema must be a JSON Schema": "Write a BaseModel with fields.",
    "is not a valid format": "Write `str`, and check the value where you use it.",
    "levels of nesting": "Write a flatter type.",
}


@lru_cache(maxsize=256)
def check_output_type(output_type: Any) -> None:
    """Refuse what OpenAI would refuse, and what could not be read again once it is stored.

    :raises RequestError: with the type, the field and what to do.
    """
    from pydantic import BaseModel
    from pydantic.errors import PydanticUserError

    if not isinstance(output_type, type) or not issubclass(output_type, BaseModel):
        raise RequestError(f"output_type must be a Pydantic model, a subclass of BaseModel, not {output_type!r}.")
    name = output_type.__name__
    if not NAME.fullmatch(name):
        raise RequestError(
            f"the output type {name!r} cannot be sent: its name has other characters than letters, digits, _ and -, "
            "or more than 64.",
            remedy="Give it another name: `class Page(Envelope[Note]): ...`.",
        )
    try:
        read = output_type.model_json_schema(mode="validation")
        written = output_type.model_json_schema(mode="serialization")
    except PydanticUserError as error:
        raise RequestError(f"the output type {name} has no JSON schema: {error.message}.") from error
    if refusal := refusal_of(as_sent(read)):
        path, why = refusal
        raise RequestError(
            f"OpenAI does not accept the output type {name}: {_field(path)}: {why}.",
            remedy=next((words for said, words in _REMEDIES.items() if said in why), ""),
        )
    _check_names(name, read, written)


def as_sent(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A Pydantic schema as the SDK sends it: closed objects, all fields required, no default that is None.

    Where keywords stand beside a ``$ref``, the SDK puts what it leads to in its place; here the reference stays, since
    what it leads to is checked in any case.
    """
    root = dict(schema)
    if isinstance(reference := root.pop("$ref", None), str):
        root = {**schema["$defs"][reference.removeprefix("#/$defs/")], **root}
    sent: dict[str, Any] = _sent(root)
    return sent


def _sent(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    sent = dict(node)
    if isinstance(sent.get("allOf"), list) and len(sent["allOf"]) == 1:
        sent |= sent.pop("allOf")[0]
    if "default" in sent and sent["default"] is None:
        del sent["default"]
    if sent.get("type") == "object":
        sent.setdefault("additionalProperties", False)
    if "$ref" in sent:  # a default beside it stays, and is refused
        return {keyword: part for keyword, part in sent.items() if keyword in ("$ref", "default")}
    return {keyword: _sent_part(keyword, part) for keyword, part in sent.items()} | _required(sent)


def _sent_part(keyword: str, part: Any) -> Any:
    """What stands under a keyword, with the schemas in it."""
    if keyword in ("properties", "$defs") and isinstance(part, Mapping):
        return {name: _sent(each) for name, each in part.items()}
    if keyword == "anyOf" and isinstance(part, list):
        return [_sent(choice) for choice in part]
    return _sent(part) if keyword == "items" else part


def _required(sent: Mapping[str, Any]) -> dict[str, Any]:
    return {"required": list(sent["properties"])} if "properties" in sent else {}


def _check_names(name: str, read: Mapping[str, Any], written: Mapping[str, Any]) -> None:
    """Refuse a type that writes a field by another name than it reads, or leaves it out."""
    models = {name: (read, written)}
    of_written = written.get("$defs", {})
    models |= {key: (part, of_written[key]) for key, part in read.get("$defs", {}).items() if key in of_written}
    for model, (reads, writes) in models.items():
        lost = sorted(set(reads.get("properties", {})) - set(writes.get("properties", {})))
        if lost:
            raise RequestError(
                f"the output type {name} cannot be stored: {model} reads a field as {lost[0]!r}, and writes it by "
                "another name or not at all.",
                remedy="Give the field an `alias`, which counts for both, and no validation_alias, serialization_alias "
                "or exclude.",
            )


def _field(path: Path) -> str:
    """Where a refused part stands, in the words of Python: ``Line.amount``, ``lines[]``."""
    words: list[str] = []
    names = iter(path)
    for keyword in names:
        if keyword == "items":
            words.append("[]")
        elif keyword in ("properties", "$defs", "definitions"):
            words.append(("." if words and keyword == "properties" else "") + next(names))
        else:  # one branch of a union is the field itself
            next(names)
    return "".join(words) or "the type itself"
