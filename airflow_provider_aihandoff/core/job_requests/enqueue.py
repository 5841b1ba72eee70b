"""Asks for a job from a program that has a connection to the ledger's database: in its own transaction.

It needs neither Airflow nor the rest of this package: a row of ``aihandoff.job_requests`` is the whole contract.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row
from psycopg.types.json import Json

from airflow_provider_aihandoff.core.arguments import MAX_JOB_KEY, MAX_JOB_TYPE, identifier, json_value
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import JobRequestConflict, JobRequestRefused

#: The channel on which those who make runs hear that there is something to do.
REQUEST_CHANNEL = "aihandoff_requests"

_INSERT = """
    INSERT INTO aihandoff.job_requests (job_type, job_key, input, permissions, requested_by)
    VALUES (%s, %s, %s, %s, %s) ON CONFLICT (job_type, job_key) DO NOTHING RETURNING request_id"""
_READ = """
    SELECT request_id, input, permissions, requested_by FROM aihandoff.job_requests
    WHERE job_type = %s AND job_key = %s"""
_NOTIFY = f"NOTIFY {REQUEST_CHANNEL}"


def enqueue(
    connection: psycopg.Connection[Any],
    job_type: str,
    key: str,
    input: Mapping[str, Any],
    *,
    requested_by: str,
    permissions: Mapping[str, Any] | None = None,
) -> UUID:
    """Ask for a job. It is asked for exactly if the transaction of the connection commits.

    Call it as often as you like with the same arguments: there is one request for a type and a key. While another
    transaction that has the same key is under way, it waits for it.

    The input is checked when a run is to be made, within a second of your commit: what the type does not take is
    refused then, and the request says why.

    :param connection: to the ledger's database. Nothing is committed here.
    :param job_type: as a Dag declares it.
    :param key: what identifies this piece of work among its kind.
    :param requested_by: who asked. It is believed: who may insert into the table may ask in any name. The role of the
        database session is on the record too.
    :param permissions: what the work may touch, for reviewers and policies.
    :return: the id of the request, for its address: ``/aihandoff/api/v1/requests/ID``.
    :raises JobRequestConflict: the key is that of another request. Your transaction can go on.
    :raises JobRequestRefused: the arguments cannot be kept as JSON. Your transaction can go on.
    :raises RequestError: a name cannot be stored.
    """
    job_type = identifier("job_type", job_type, max_bytes=MAX_JOB_TYPE)
    key = identifier("key", key, max_bytes=MAX_JOB_KEY)
    requested_by = identifier("requested_by", requested_by)
    if not isinstance(input, Mapping) or not isinstance(permissions or {}, Mapping):
        raise JobRequestRefused("input and permissions must be objects with fields.")
    wanted = (json_value("input", dict(input)), json_value("permissions", dict(permissions or {})), requested_by)
    kept = [Json(part, dumps=canonical_json) for part in wanted[:2]]
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(_INSERT, [job_type, key, *kept, requested_by]).fetchone()
        if row is not None:
            cursor.execute(_NOTIFY)
            return UUID(str(row[0]))
        row = cursor.execute(_READ, [job_type, key]).fetchone()
    if row is None or canonical_json(row[1:]) != canonical_json(wanted):
        raise JobRequestConflict(
            f"the key {key!r} of the type {job_type!r} was used before, by a request with another content.",
            written="Nothing was recorded, and no external write was made.",
            remedy="Give new work a key of its own.",
        )
    return UUID(str(row[0]))
