"""One version of a job as plain text, whole: what its page may have no room for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from airflow_provider_aihandoff.core.errors import JobNotFound
from airflow_provider_aihandoff.core.invisible import reveal
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import Revision
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep, visible_record
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.render.formatting import output_of

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: Characters that are sent at once.
CHUNK = 64 * 2**10


@router.get("/jobs/{job_id}/text", name="job_text")
def text(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    revision: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None,
) -> Response:
    """The output and the requests of a revision, by default the current one."""
    record = visible_record(ledger, viewer, job_id)
    number = revision or record.job.revision
    for each in record.revisions:
        if each.number == number:
            return StreamingResponse(_chunks(_parts(record, each)), media_type="text/plain; charset=utf-8")
    raise JobNotFound(f"job {job_id} has no revision {number}.", written="")


def _parts(record: JobRecord, revision: Revision) -> Iterator[str]:
    job = record.job
    yield f"Job {job.job_id}: {job.job_type} {job.job_key}\nRevision {revision.number}\n"
    if revision.number == job.revision:
        yield f"Digest {job.review_digest or 'none yet'}\n"
    yield "\n== Output ==\n"
    yield from _written(output_of(revision) if revision.output is not None else revision.error)
    for effect in record.effects:
        if effect.revision == revision.number:
            yield f"\n\n== Effect {effect.name} ({effect.kind}) ==\n"
            parts = {
                "plan": effect.plan,
                "filled in": effect.filled,
                "undo": effect.undo,
                "target has now": effect.current,
            }
            yield from _written(parts)
    yield "\n"


def _written(value: Any) -> Iterator[str]:
    """A text as it is; anything else as JSON, indented unless it nests too deeply for that."""
    if isinstance(value, str):
        yield from (value[start : start + CHUNK] for start in range(0, len(value), CHUNK))
        return
    pieces = json.JSONEncoder(indent=2, ensure_ascii=False).iterencode(value)
    try:
        yield from pieces
    except RecursionError:
        yield f"\nIt nests too deeply to indent:\n{json.dumps(value, ensure_ascii=False)}"


def _chunks(parts: Iterator[str]) -> Iterator[str]:
    """The parts joined to chunks, with what is invisible shown."""
    held: list[str] = []
    size = 0
    for part in parts:
        held.append(part)
        size += len(part)
        if size >= CHUNK:
            yield reveal("".join(held))
            held, size = [], 0
    yield reveal("".join(held))
