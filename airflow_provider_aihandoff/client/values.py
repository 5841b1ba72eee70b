"""What the API answers, as values. A test compares their fields with the OpenAPI description.

A field that a newer server adds is left out; one that it no longer has is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

#: How a request stands. A newer server may know others.
State = Literal["queued", "working", "in review", "done", "stopped", "failed"]


@dataclass(frozen=True)
class MadeRecord:
    """A record that the job has made in another system.

    :param name: of the effect, as the author of the Dag calls it.
    :param external_id: of the record there.
    :param link: its address, where its author declares it.
    """

    name: str
    external_id: str | None
    link: str | None


@dataclass(frozen=True)
class JobRequest:
    """A request for a job, as those who asked see it.

    :param said: ``state`` as a sentence.
    :param ended: nothing more happens by itself.
    :param sent_by: the account that has asked for the requester.
    :param job_id: of its job; None while there is none.
    :param result: the output, when the job is done and its author shows it.
    :param records: what the job has made, when the result is shown.
    :param href: its path in the API; ``stream``: that of its events; ``page``: that of its page.
    """

    request_id: UUID
    type: str
    key: str
    state: State
    said: str
    ended: bool
    requested_by: str
    sent_by: str | None
    created_at: datetime
    changed_at: datetime
    job_id: int | None
    may_cancel: bool
    result: Any
    records: tuple[MadeRecord, ...]
    href: str
    stream: str
    page: str

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The request in an answer.

        :raises KeyError: a field is missing: the server is older than this client.
        """
        read = {
            "request_id": UUID(content["request_id"]),
            "created_at": datetime.fromisoformat(content["created_at"]),
            "changed_at": datetime.fromisoformat(content["changed_at"]),
            "records": tuple(MadeRecord(**_known(MadeRecord, each)) for each in content["records"]),
        }
        return cls(**{**_known(cls, content), **read})


@dataclass(frozen=True)
class JobType:
    """A type of job that you may ask for.

    :param is_paused: its Dag is paused: requests wait.
    :param input_schema: what it takes, as a JSON schema.
    :param max_bytes: how large an input may be as JSON.
    :param per_minute: how many requests you may make in a minute.
    :param shows_result: a request has the ``result`` when it is done.
    :param shows_draft: its stream has what the model writes, before it is reviewed.
    """

    type: str
    description: str
    dag_id: str
    is_paused: bool
    input_schema: Mapping[str, Any]
    max_bytes: int
    per_minute: int
    shows_result: bool
    shows_draft: bool

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """The type in an answer.

        :raises KeyError: a field is missing: the server is older than this client.
        """
        return cls(**_known(cls, content))


def _known(kind: type[Any], content: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: content[field.name] for field in fields(kind)}
