"""The jobs API shows what the records have, and none of what is internal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.api.record_fields import from_record


@dataclass(frozen=True)
class Record:
    first: int
    second: str | None
    secret: str


def test_a_model_has_the_fields_of_its_record_in_their_order_and_then_its_own() -> None:
    @from_record(Record, internal=frozenset({"secret"}), notes={"second": "What it is."})
    class Shown(BaseModel):
        """A record, as the API shows it."""

        own: bool = Field(description="Mine.")

    fields = Shown.model_json_schema()["properties"]
    assert list(fields) == ["first", "second", "own"]
    assert fields["second"]["description"] == "What it is."
    assert fields["own"]["description"] == "Mine."
    assert Shown.model_json_schema()["description"] == "A record, as the API shows it."
    assert Shown.model_json_schema()["required"] == ["first", "second", "own"]


@pytest.mark.parametrize("said", [{"internal": frozenset({"gone"})}, {"notes": {"gone": "?"}}])
def test_a_field_that_the_record_does_not_have_is_an_error(said: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="Record has no field gone"):
        from_record(Record, **said)


MODELS = (
    schemas.JobItem,
    schemas.Job,
    schemas.RevisionItem,
    schemas.Revision,
    schemas.Effect,
    schemas.Decision,
    schemas.Event,
    schemas.PendingReview,
)


@pytest.mark.parametrize("model", MODELS)
def test_no_token_of_a_claim_is_on_the_api(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert "token" not in name.split("_"), "it may count tokens of the model"
        assert UUID not in (field.annotation, *get_args(field.annotation))


def test_the_list_of_revisions_leaves_out_their_content() -> None:
    assert schemas.Revision.model_fields.keys() - schemas.RevisionItem.model_fields.keys() == {"output", "error"}
