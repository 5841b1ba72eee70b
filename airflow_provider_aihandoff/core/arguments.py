"""What an argument may be: a name that can be looked up, a text for the record, JSON that can be kept. Pure."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.strict_json import TOO_DEEP, is_shallow
from airflow_provider_aihandoff.core.text import unstorable

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.models import JobSpec

#: Bytes that a job type and a job key may have in UTF-8: together they fit into one entry of an index in PostgreSQL.
MAX_JOB_TYPE = 500
MAX_JOB_KEY = 2_000

#: Bytes of other names.
MAX_NAME = 500

#: Characters of a text that people read beside a job, such as why it needs no approval.
MAX_REASON = 10_000


def checked(spec: JobSpec) -> JobSpec:
    """What a task asks for, with each name as a text.

    :raises RequestError: an argument could not be stored, or found again.
    """
    if not isinstance(spec.permissions, dict):
        raise _refused("permissions", f"must be a dict, not {type(spec.permissions).__name__}")
    json_value("permissions", spec.permissions)
    if spec.approval_reason is not None:
        reason_text("approval_reason", spec.approval_reason)
    if spec.rate_key is not None:
        spec = replace(spec, rate_key=identifier("rate_key", spec.rate_key))
    return replace(
        spec,
        job_type=identifier("job_type", spec.job_type, max_bytes=MAX_JOB_TYPE),
        job_key=identifier("job_key", spec.job_key, max_bytes=MAX_JOB_KEY),
        conn_id=identifier("openai_conn_id", spec.conn_id),
        requested_by=identifier("requested_by", spec.requested_by),
        tags=tuple(dict.fromkeys(identifier("tags", tag) for tag in spec.tags)),
    )


def identifier(argument: str, value: Any, *, max_bytes: int = MAX_NAME) -> str:
    """The name that an argument gives. A whole number, as a template may make of one, is its digits.

    :param argument: its name, for the message.
    :raises RequestError: it names nothing, or is no name that can be stored, looked up and shown.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise _refused(argument, f"must be a text, not {type(value).__name__}")
    if not value.strip():
        raise _refused(argument, "is empty" if not value else "has only spaces")
    for character in value:
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise _refused(argument, f"has the character {_named(character)}, which a name cannot have")
    if len(value.encode()) > max_bytes:
        raise _refused(argument, f"has {len(value.encode())} bytes in UTF-8; at most {max_bytes} are possible")
    return value


def json_value(argument: str, value: Any) -> Any:
    """A value that is kept as JSON.

    :raises RequestError: it is none, or is nested too deeply.
    """
    if not is_shallow(value):
        raise _refused(argument, f"cannot be kept: {TOO_DEEP}")
    try:
        canonical_json(value)
    except ValueError as error:
        raise _refused(argument, f"is not JSON: {error}") from error
    return value


def reason_text(argument: str, value: Any) -> str:
    """A text for people that is part of the record, with its line breaks.

    :raises RequestError: there is none, or PostgreSQL cannot store it.
    """
    if not isinstance(value, str):
        raise _refused(argument, f"must be a text, not {type(value).__name__}")
    if not value.strip():
        raise _refused(argument, "is empty")
    if len(value) > MAX_REASON:
        raise _refused(argument, f"has {len(value)} characters; at most {MAX_REASON} are possible")
    if found := unstorable(value):
        raise _refused(argument, f"has {found}")
    return value


def _named(character: str) -> str:
    return f"U+{ord(character):04X}"


def _refused(argument: str, why: str) -> RequestError:
    return RequestError(f"the argument {argument} {why}.", remedy="Check what its template renders to.")
