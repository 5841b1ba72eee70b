"""What the author of a Dag says of the work that others may ask it for. Dag files import it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from airflow_provider_aihandoff.core.arguments import MAX_JOB_TYPE, identifier, json_value
from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.review.rules import Approvers

#: The tag of the Dags that declare a job type.
TAG = "aihandoff:job-type"

#: The param of such a Dag, which has the request in a run, and the declaration in its schema.
PARAM = "job_request"

#: Where the declaration stands in the schema of the param. JSON schema leaves unknown keywords alone.
KEYWORD = "x-aihandoff-job-type"

#: Bytes that an input has at most, whatever the author allows: Airflow keeps it in the conf of the run.
MAX_BYTES = 1_048_576


@dataclass(frozen=True)
class DeclaredType:
    """A kind of work that a Dag does for those who ask.

    :param name: the job type; one Dag declares it.
    :param input: which fields it takes: a Pydantic model, or the JSON schema of an object.
    :param description: for those who ask, as a sentence.
    :param users: the login names of those who may ask for it; and ``roles`` and ``groups``: those of Airflow's auth
        manager. None of the three: everyone who may trigger the Dag.
    :param max_bytes: how large an input may be, as JSON.
    :param per_minute: how many requests one login may make in a minute.
    :param shows_result: those who ask see the output when the job is done. They never see what reviewers say.
    :param shows_draft: those who ask see what the model writes while it works, before anyone has reviewed it; the draft
        needs ``stream=True``. By default they see no output before the job is done.
    :param events_show_result: the event that the job is done has the output, for all who subscribe to it.
    """

    name: str
    input: Any
    description: str = ""
    users: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    max_bytes: int = 65_536
    per_minute: int = 30
    shows_result: bool = True
    shows_draft: bool = False
    events_show_result: bool = False
    schema: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        identifier("name", self.name, max_bytes=MAX_JOB_TYPE)
        for name in ("max_bytes", "per_minute"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} of the job type {self.name!r} must be a whole number from 1, not {value!r}.")
        if self.max_bytes > MAX_BYTES:
            raise ValueError(f"max_bytes of the job type {self.name!r} must be at most {MAX_BYTES:,}.")
        who = Approvers(self.users, self.roles, self.groups)
        for name in ("users", "roles", "groups"):
            object.__setattr__(self, name, getattr(who, name))
        object.__setattr__(self, "schema", _schema_of(self.name, self.input))

    @property
    def named(self) -> Approvers:
        """Those whom the author names as people who may ask."""
        return Approvers(self.users, self.roles, self.groups)

    def to_json(self) -> dict[str, Any]:
        """The declaration, as it stands in a Dag."""
        return {
            "name": self.name,
            "input": dict(self.schema),
            "description": self.description,
            **self.named.to_json(),
            "max_bytes": self.max_bytes,
            "per_minute": self.per_minute,
            "shows_result": self.shows_result,
            # An API server of an older release refuses what it does not know.
            **({"shows_draft": True} if self.shows_draft else {}),
            **({"events_show_result": True} if self.events_show_result else {}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The declaration that stands in a Dag.

        :raises HandoffError: it is none that this release can read. A ``ValueError``, ``TypeError`` or ``KeyError``
            means the same.
        """
        return cls(**value)


def _schema_of(name: str, given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        schema = dict(given)
    elif hasattr(given, "model_json_schema"):
        schema = given.model_json_schema(mode="validation")
    else:
        raise RequestError(
            f"the input of the job type {name!r} must be a Pydantic model or a JSON schema, not {given!r}."
        )
    json_value("input", schema)
    if schema.get("type") != "object" and "$ref" not in schema:
        raise RequestError(f"the input of the job type {name!r} must be an object with fields.")
    return schema
