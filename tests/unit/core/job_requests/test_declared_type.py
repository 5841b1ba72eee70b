"""What the author of a Dag declares survives in the Dag, and is refused where it could not be used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.sdk import DAG
from pydantic import BaseModel, Field

from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.job_requests.declared_type import KEYWORD, PARAM, DeclaredType
from airflow_provider_aihandoff.job_types import JobType
from tests.airflow_compat import DagSerialization


class Part(BaseModel):
    name: str


class Note(BaseModel):
    slug: str = Field(min_length=3)
    parts: list[Part] = []


def test_it_can_be_read_from_the_serialized_dag() -> None:
    declared = JobType("note", Note, description="A note.", roles=("User",), users=("bob",), per_minute=3)
    with DAG("notes", schedule=None, params=declared.params, tags={*declared.tags, "mine"}) as dag:
        pass
    text = json.dumps(DagSerialization.to_dict(dag))
    read: Any = DagSerialization.from_dict(json.loads(text))
    said = read.params.get_param(PARAM).schema[KEYWORD]
    found = DeclaredType.from_json(said)
    assert found.to_json() == declared.to_json()
    assert found.schema == Note.model_json_schema()
    assert (found.per_minute, found.named.users, found.named.roles) == (3, ("bob",), ("User",))
    assert read.tags == {"mine", "aihandoff:job-type"}


def test_that_it_shows_the_draft_is_said_only_where_it_does() -> None:
    assert "shows_draft" not in JobType("note", Note).to_json(), "an API server of an older release can read it"
    said = JobType("note", Note, shows_draft=True).to_json()
    assert DeclaredType.from_json(said).shows_draft
    assert not DeclaredType.from_json(JobType("note", Note).to_json()).shows_draft


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"name": ""}, "name"),
        ({"input": 7}, "a Pydantic model or a JSON schema"),
        ({"input": {"type": "string"}}, "an object with fields"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"max_bytes": 2**20 + 1}, "max_bytes"),
        ({"per_minute": True}, "per_minute"),
        ({"users": "bob"}, "users"),
    ],
)
def test_what_could_not_be_used_is_refused_when_the_dag_is_parsed(arguments: dict[str, Any], why: str) -> None:
    with pytest.raises((ValueError, RequestError), match=why):
        JobType(**{"name": "note", "input": Note, **arguments})
