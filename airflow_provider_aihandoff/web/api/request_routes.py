"""The front door, for programs: what may be asked for, asking for it, and following what was asked for."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from airflow_provider_aihandoff.core.generation.live_response import LiveResponse, live_response
from airflow_provider_aihandoff.core.job_requests.job_request import JobRequest
from airflow_provider_aihandoff.web import event_stream
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import LedgerDep, ViewerDep
from airflow_provider_aihandoff.web.conditional import Answer, respond_later
from airflow_provider_aihandoff.web.front_door import asking
from airflow_provider_aihandoff.web.front_door.asking import View
from airflow_provider_aihandoff.web.front_door.declared import JobTypeOfDag, job_types, may_ask
from airflow_provider_aihandoff.web.front_door.follow import doorkeeper, version_of
from airflow_provider_aihandoff.web.front_door.live_text import LiveText
from airflow_provider_aihandoff.web.guard import AskingRoute
from airflow_provider_aihandoff.web.links import API_PREFIX, path_to
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Problem} for status in (401, *statuses, 503)}


router = APIRouter(
    prefix=API_PREFIX, tags=["Requests"], default_response_class=AsciiJSONResponse, route_class=AskingRoute
)


@router.get("/job-types", responses=_problems())
def list_job_types(viewer: ViewerDep) -> schemas.JobTypeList:
    """List the types of jobs that you may ask for, with what each takes."""
    found = [_type_fields(each) for each in job_types() if may_ask(viewer, each)]
    return schemas.JobTypeList.model_validate({"job_types": found})


@router.post(
    "/jobs",
    status_code=202,
    response_model=schemas.JobRequest,
    responses=_problems(400, 403, 404, 408, 409, 413, 422, 429),
)
def ask(
    request: Request,
    body: schemas.JobRequestBody,
    viewer: ViewerDep,
    ledger: LedgerDep,
    idempotency_key: Annotated[str | None, Header(description="In place of `key`, or beside it.")] = None,
) -> Response:
    """Ask for a job. The same request, sent again, is the same job."""
    made = asking.ask(
        ledger,
        viewer,
        type_name=body.type,
        input=body.input,
        key=body.key,
        idempotency_key=idempotency_key,
        permissions=body.permissions,
        requested_for=body.requested_for,
    )
    view = asking.read(ledger, viewer, made.request_id)
    return AsciiJSONResponse(_content(request, view), 202, {"Location": _address(request, made)})


@router.get("/requests/{request_id}", responses=_problems(404, 422), response_model=schemas.JobRequest)
async def get_request(
    request: Request, request_id: UUID, viewer: ViewerDep, ledger: LedgerDep, wait: schemas.Wait = 0
) -> Response:
    """Return how a request of yours stands.

    With `wait`, the answer comes when it is another than the one that `If-None-Match` names; without that header, when
    the request has ended. It comes after so many seconds in any case.
    """

    def make() -> Answer:
        return _answer(request, asking.read(ledger, viewer, request_id))

    return await respond_later(request, make, partial(doorkeeper().watching, request_id), wait=wait)


@router.get("/requests/{request_id}/stream", responses=_problems(404, 422), response_class=StreamingResponse)
async def stream_request(
    request: Request,
    request_id: UUID,
    viewer: ViewerDep,
    ledger: LedgerDep,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Follow a request of yours with server-sent events: one named `request` with each change, until it has ended.

    A client that connects again says with `Last-Event-ID` what it has, and gets what is new. 204 where it has the end.

    Where the job type shows what the model writes, or you may see the job, `thinking` and `text` bring it, `progress`
    says how much it is, and `usage` what is billed; `reset` says that the text begins again. These have no id.
    """

    def make() -> Answer:
        return _answer(request, asking.read(ledger, viewer, request_id))

    def running() -> LiveResponse | None:
        followed = asking.read(ledger, viewer, request_id).followed
        return live_response(ledger, followed.job) if asking.may_watch(viewer, followed) else None

    answer = await run_in_threadpool(make)
    if answer.ended and last_event_id == answer.tag.strip('"'):
        return Response(status_code=204)
    doorkeeper().check_room()

    async def events() -> AsyncIterator[str]:
        until, now, sent = time.monotonic() + event_stream.LIFETIME, answer, last_event_id
        async with doorkeeper().watching(request_id, now.version) as watch:
            with LiveText(watch) as live:
                while True:
                    if (identity := now.tag.strip('"')) != sent:
                        yield event_stream.event("request", identity, now.body.decode())
                        sent = identity
                    if now.ended or time.monotonic() >= until:
                        return
                    live.follow(await run_in_threadpool(running))
                    async for news in live.until_changed(now.version, until=until):
                        yield news
                    now = await run_in_threadpool(make)

    return StreamingResponse(events(), media_type=event_stream.MEDIA_TYPE, headers=event_stream.HEADERS)


@router.post(
    "/requests/{request_id}/cancel", responses=_problems(403, 404, 409, 422), response_model=schemas.JobRequest
)
def cancel_job_request(request: Request, request_id: UUID, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Stop what you have asked for, as long as it is not being carried out. Sent again, it changes nothing."""
    return AsciiJSONResponse(_content(request, asking.cancel(ledger, viewer, request_id)))


def _content(request: Request, view: View) -> dict[str, Any]:
    """A request with its addresses."""
    request_id = view.followed.request.request_id
    links = {
        "href": _address(request, view.followed.request),
        "stream": path_to(request, "stream_request", request_id=request_id),
        "page": path_to(request, "show_request", request_id=request_id),
    }
    return {**view.content, **links}


def _address(request: Request, made: JobRequest) -> str:
    return path_to(request, "get_request", request_id=made.request_id)


def _answer(request: Request, view: View) -> Answer:
    return Answer.of(_content(request, view), version_of(view.followed), ended=view.ended)


def _type_fields(found: JobTypeOfDag) -> dict[str, Any]:
    declared = found.declared
    return {
        "type": declared.name,
        "description": declared.description,
        "dag_id": found.dag_id,
        "is_paused": found.is_paused,
        "input_schema": declared.schema,
        "max_bytes": declared.max_bytes,
        "per_minute": declared.per_minute,
        "shows_result": declared.shows_result,
        "shows_draft": declared.shows_draft,
    }
