"""References are followed inside their own document, and nowhere else."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given

from airflow_provider_aihandoff.core.json_schema import Document, UnresolvedReference
from tests.unit.core.test_strict_json import VALUES

DOCUMENT: dict[str, Any] = {
    "type": "object",
    "$defs": {
        "A": {"$ref": "#/$defs/B", "description": "of A"},
        "B": {"type": "string", "description": "of B"},
        "a/b~c": {"type": "integer"},
        "Loop": {"$ref": "#/$defs/Loop"},
        "List": [{"type": "null"}],
    },
}


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("#", DOCUMENT),
        ("#/$defs/B", {"type": "string", "description": "of B"}),
        ("#/$defs/A", {"type": "string", "description": "of A"}),
        ("#/$defs/a~1b~0c", {"type": "integer"}),
        ("#/$defs/List/0", {"type": "null"}),
    ],
)
def test_a_reference_leads_to_its_schema(reference: str, found: dict[str, Any]) -> None:
    assert Document(DOCUMENT).resolve({"$ref": reference}) == found


def test_keywords_next_to_a_reference_override_it() -> None:
    found = Document(DOCUMENT).resolve({"$ref": "#/$defs/A", "description": "mine"})
    assert found == {"type": "string", "description": "mine"}


@pytest.mark.parametrize("schema", [True, None, 5, {"type": "string"}])
def test_a_schema_without_a_reference_is_itself(schema: Any) -> None:
    assert Document(DOCUMENT).resolve(schema) is schema


@pytest.mark.parametrize(
    "reference",
    ["#/$defs/None", "#/$defs/Loop", "#/$defs/List", "#/$defs/List/x", "#/$defs/B/type/x", "#B", "http://x/", 5, None],
)
def test_a_reference_that_leads_nowhere_is_refused(reference: Any) -> None:
    with pytest.raises(UnresolvedReference):
        Document(DOCUMENT).resolve({"$ref": reference})


@given(VALUES)
def test_no_reference_of_any_document_breaks_it(value: Any) -> None:
    document = Document({"$defs": value, "items": value})
    for reference in (value, "#/$defs/0", "#/$defs//0", "#/items/a"):
        with suppress(UnresolvedReference):
            document.resolve({"$ref": reference})
