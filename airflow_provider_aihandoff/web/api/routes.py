"""The jobs API: all that the review pages show and do, for programs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.effects.resolve import answer
from airflow_provider_aihandoff.core.effects.roll_back import Unfinished, roll_back_now
from airflow_provider_aihandoff.core.errors import JobNotApproved, JobNotFound, StaleDecision
from airflow_provider_aihandoff.core.generation.live_response import live_response
from airflow_provider_aihandoff.core.generation.lost import in_words
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.jobs.explanation import explain
from airflow_provider_aihandoff.core.jobs.overview import overview_of
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Event
from airflow_provider_aihandoff.core.review.blind import as_seen_by, is_vote
from airflow_provider_aihandoff.core.review.change_cost import change_cost
from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.hooks.model_provider import facts_for, providers
from airflow_provider_aihandoff.web import event_stream
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    LedgerDep,
    Viewer,
    ViewerDep,
    check_may_act,
    check_may_decide,
    check_visible,
    visible_dag_ids,
    visible_effect,
    visible_record,
)
from airflow_provider_aihandoff.web.conditional import Answer, respond_later
from airflow_provider_aihandoff.web.front_door.follow import doorkeeper
from airflow_provider_aihandoff.web.front_door.live_text import LiveText
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.job_query import JobFilterDep
from airflow_provider_aihandoff.web.links import API_PREFIX
from airflow_provider_aihandoff.web.pages.job_page import votes_of
from airflow_provider_aihandoff.web.pages.review_queue import decide_in_bulk, queued, review_queue
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse, describe, problem_response
from airflow_provider_aihandoff.web.render import json_form
from airflow_provider_aihandoff.web.render.formatting import schema_of


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": schemas.Problem} for status in (401, *statuses, 503)}


#: What every route that changes one job has in common.
_CHANGES_ONE_JOB: dict[str, Any] = {"responses": _problems(403, 404, 409, 422)}

#: What the list of reviews says beside the jobs themselves.
_OWN = ("votes", "mine", "why_not")

_FIGURES = ("by_state", "days", "waits")

router = APIRouter(prefix=API_PREFIX, tags=["Jobs"], default_response_class=AsciiJSONResponse, route_class=GuardedRoute)


@router.get("/overview", responses=_problems())
def get_overview(viewer: ViewerDep, ledger: LedgerDep) -> schemas.Overview:
    """Return what needs a person now, and the state of things."""
    silence = settings.number("webhook_silence")
    found = overview_of(ledger, visible_dag_ids(ledger, viewer), silence=silence)
    figures = {name: getattr(found.figures, name) for name in _FIGURES}
    needs = {
        "needs": found.needs.jobs,
        "quarantined": found.needs.quarantined,
        "connections": found.needs.connections,
        "silent": [each.conn_id for each in found.needs.silent],
    }
    return schemas.Overview.model_validate({**figures, **needs})


@router.get("/jobs", responses=_problems(422))
def list_jobs(
    viewer: ViewerDep,
    ledger: LedgerDep,
    wanted: JobFilterDep,
    after: Annotated[schemas.JobId | None, Query(description="`next` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> schemas.JobList:
    """List the jobs that you may see and that the filter is about, newest first."""
    dag_ids = visible_dag_ids(ledger, viewer, wanted.dag_id)
    found = ledger.search.page(wanted, dag_ids=dag_ids, after=after, limit=limit + 1)
    jobs = found[:limit]
    return schemas.JobList.model_validate({"jobs": jobs, "next": jobs[-1].job_id if len(found) > limit else None})


@router.get("/jobs/{job_id}", responses=_problems(404, 422), response_model=schemas.JobRecord)
async def get_job(
    request: Request, job_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep, wait: schemas.Wait = 0
) -> Response:
    """Return everything the ledger knows about one job.

    With `wait` and `If-None-Match`, the answer comes when it is another than the one that the header names, or after so
    many seconds.
    """

    def make() -> Answer:
        newest = check_visible(ledger, viewer, job_id).event_seq  # also of a line that the user is not to know yet
        content = _record_content(ledger, viewer, job_id)
        return Answer.of(content, str(newest), ended=True, without=frozenset({"explanation"}))

    return await respond_later(request, make, partial(doorkeeper().watching, job_id), wait=wait)


@router.get("/jobs/{job_id}/stream", responses=_problems(404, 422), response_class=StreamingResponse)
async def stream_job(
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """Follow a job with server-sent events: one for each line of its history, by the name of the line's event.

    A client that connects again says with `Last-Event-ID` the line that it has, and gets those after it.

    While the model works on a response that can be watched, `thinking` and `text` bring what it writes, `progress` how
    much that is, and `usage` what is billed; `reset` says that the text begins again. These have no id.
    """
    known = (last_event_id or "").strip()
    first = int(known) if known.isascii() and known.isdigit() and len(known) < 10 else 0
    await run_in_threadpool(check_visible, ledger, viewer, job_id)
    doorkeeper().check_room()

    def read(after: int) -> list[tuple[int, str]]:
        lines = ledger.events(job_id, after=after)
        record = as_seen_by(ledger.record(job_id), viewer.actor) if any(map(is_vote, lines)) else None
        kept = set() if record is None else {line.seq for line in record.unseen}
        return [
            (line.seq, "" if line.seq in kept else event_stream.event(line.event, str(line.seq), _one_line(line)))
            for line in lines
        ]

    async def events() -> AsyncIterator[str]:
        until, sent = time.monotonic() + event_stream.LIFETIME, first
        async with doorkeeper().watching(job_id, str(sent)) as watch:
            with LiveText(watch) as live:
                while time.monotonic() < until:
                    for seq, text in await run_in_threadpool(read, sent):
                        if text:
                            yield text
                        sent = seq
                    live.follow(await run_in_threadpool(lambda: live_response(ledger, ledger.job(job_id))))
                    async for news in live.until_changed(str(sent), until=until):
                        yield news

    return StreamingResponse(events(), media_type=event_stream.MEDIA_TYPE, headers=event_stream.HEADERS)


@router.post("/jobs/{job_id}/decisions", response_model=schemas.JobRecord, **_CHANGES_ONE_JOB)
def decide(job_id: schemas.JobId, body: schemas.DecisionBody, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Approve, reject, or request changes to exactly what you saw. The same decision, sent again, changes nothing."""
    check_may_decide(viewer, check_visible(ledger, viewer, job_id))
    try:
        ledger.reviews.decide(job_id, body.verdict, digest=body.digest, person=viewer.person, comment=body.comment)
    except (StaleDecision, JobNotApproved) as error:
        return problem_response(describe(error, digest=ledger.job(job_id).review_digest))
    return _record(ledger, viewer, job_id)


@router.get("/jobs/{job_id}/revisions/{number}", responses=_problems(404, 422), response_model=schemas.Revision)
def get_revision(job_id: schemas.JobId, number: schemas.Number, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Return one version of a job's output."""
    for revision in visible_record(ledger, viewer, job_id).revisions:
        if revision.number == number:
            return AsciiJSONResponse(_fields(schemas.Revision, revision))
    raise JobNotFound(f"job {job_id} has no revision {number}.", written="")


@router.post("/jobs/{job_id}/revisions", response_model=schemas.JobRecord, **_CHANGES_ONE_JOB)
def edit(job_id: schemas.JobId, body: schemas.EditBody, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Replace the output that you saw by your version. Its plan is then rendered again, for a new decision."""
    check_may_decide(viewer, check_visible(ledger, viewer, job_id))
    schema = schema_of(ledger.record(job_id).revision)
    if errors := json_form.check(schema, body.output):
        raise RequestValidationError([{"loc": ("body", "output", *path), "msg": said} for path, said in errors])
    try:
        ledger.reviews.edit(job_id, digest=body.digest, output=body.output, person=viewer.person)
    except (StaleDecision, JobNotApproved) as error:
        return problem_response(describe(error, digest=ledger.job(job_id).review_digest))
    return _record(ledger, viewer, job_id)


@router.get("/reviews", responses=_problems(422), response_model=schemas.ReviewList)
def list_reviews(
    viewer: ViewerDep,
    ledger: LedgerDep,
    mine: Annotated[bool, Query(description="Only jobs that wait for you.")] = False,
    dag_id: str | None = None,
    run_id: schemas.RunId = None,
    set: Annotated[schemas.JobId | None, Query(description="Only jobs of the set with this id.")] = None,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List the jobs that wait for a decision: yours first, and the oldest first."""
    waiting = review_queue(ledger, viewer, dag_id, run_id, set_id=set)
    listed = waiting.ids[: waiting.mine] if mine else waiting.ids
    reviews = [
        {
            **{name: getattr(item.review, name) for name in schemas.PendingReview.model_fields if name not in _OWN},
            **{name: getattr(item, name) for name in _OWN},
        }
        for item in queued(ledger, viewer, listed[offset : offset + limit])
    ]
    return AsciiJSONResponse({"reviews": reviews, "total": len(waiting.ids), "mine": waiting.mine})


@router.post(
    "/decisions",
    responses=_problems(409, 422),
    response_model=schemas.BulkDecisionAnswer,
)
def decide_many(body: schemas.BulkDecisionBody, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Approve or reject many jobs, each exactly as you saw it: all or none. The same, sent again, changes nothing."""
    choices = [(choice.job_id, choice.digest) for choice in body.jobs]
    jobs = decide_in_bulk(ledger, viewer, choices, body.verdict, body.comment)
    return AsciiJSONResponse({"jobs": [_fields(schemas.DecidedJob, job) for job in jobs]})


@router.post("/jobs/{job_id}/cancel", response_model=schemas.JobRecord, **_CHANGES_ONE_JOB)
def cancel(job_id: schemas.JobId, body: schemas.CancelBody, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Cancel a job: none of its effects is sent from now on. A job that is cancelled already does not change."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    with providers() as provider_for:
        cancel_job(ledger, provider_for, job_id, actor=viewer.actor, reason=body.reason)
    return _record(ledger, viewer, job_id)


@router.post("/jobs/{job_id}/reviewers", response_model=schemas.JobRecord, **_CHANGES_ONE_JOB)
def reassign(job_id: schemas.JobId, body: schemas.ReassignBody, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Let other people decide than those who are named now. The author's other rules stay."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    ledger.reassignments.reassign(job_id, body.reviewers, actor=viewer.actor, reason=body.reason, seen=body.reassigned)
    return _record(ledger, viewer, job_id)


@router.post("/jobs/{job_id}/acknowledgement", response_model=schemas.JobRecord, **_CHANGES_ONE_JOB)
def acknowledge(
    job_id: schemas.JobId, body: schemas.AcknowledgementBody, viewer: ViewerDep, ledger: LedgerDep
) -> Response:
    """Record that a failed job was seen: it needs no person until it fails again. Sent again, it changes nothing."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    ledger.acknowledgements.acknowledge(job_id, revision=body.revision, actor=viewer.actor, reason=body.reason)
    return _record(ledger, viewer, job_id)


@router.post("/jobs/{job_id}/rollback", response_model=schemas.RollBackAnswer, **_CHANGES_ONE_JOB)
def roll_back(job_id: schemas.JobId, body: schemas.RollBackBody, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Undo what a job has written, as far as possible without waiting. Send it again to continue."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    done = roll_back_now(ledger, job_id, actor=viewer.actor, reason=body.reason, leave=body.leave)
    return _record(ledger, viewer, job_id, unfinished=_unfinished(done) if isinstance(done, Unfinished) else None)


def _unfinished(left: Unfinished) -> dict[str, Any]:
    effect_id = None if left.effect is None else left.effect.effect_id
    return {"reason": left.why, "retry_after": left.seconds, "effect_id": effect_id}


@router.get("/effects", responses=_problems(422), response_model=schemas.EffectList)
def list_effects(
    viewer: ViewerDep,
    ledger: LedgerDep,
    state: Annotated[
        list[EffectState], Query(description="Only effects in this state. Repeat it for several states.")
    ] = [],  # noqa: B006
    dag_id: str | None = None,
    after: Annotated[schemas.EffectId | None, Query(description="`next` of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Response:
    """List the writes of the jobs that you may see, newest first. Those in the state `unknown` wait for a person."""
    dag_ids = visible_dag_ids(ledger, viewer, dag_id)
    found = ledger.list_effects(states=state, dag_ids=dag_ids, after=after, limit=limit + 1)
    effects = [{"job_id": effect.job_id, **_fields(schemas.Effect, effect)} for effect in found[:limit]]
    return AsciiJSONResponse({"effects": effects, "next": found[limit - 1].effect_id if len(found) > limit else None})


@router.post("/effects/{effect_id}/resolution", response_model=schemas.JobRecord, **_CHANGES_ONE_JOB)
def resolve(
    effect_id: schemas.EffectId, body: schemas.ResolutionBody, viewer: ViewerDep, ledger: LedgerDep
) -> Response:
    """Resolve an effect whose outcome is unknown. The same answer, sent again, changes nothing."""
    effect, job = visible_effect(ledger, viewer, effect_id)
    check_may_act(viewer, job)
    answer(
        ledger,
        effect.effect_id,
        applied=body.applied,
        external_id=body.external_id,
        why=body.reason,
        actor=viewer.actor,
        attempt=body.attempt,
    )
    return _record(ledger, viewer, effect.job_id)


@router.post("/jobs/{job_id}/submission", response_model=schemas.JobRecord, **_CHANGES_ONE_JOB)
def resolve_submission(
    job_id: schemas.JobId, body: schemas.SubmissionBody, viewer: ViewerDep, ledger: LedgerDep
) -> Response:
    """Say what to do about a request whose answer was lost: send it again, or fail the job."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    ledger.submission.resolve(
        job_id,
        send_again=body.action == "send again",
        seen=body.unknown_submissions,
        actor=viewer.actor,
        why=body.reason,
    )
    return _record(ledger, viewer, job_id)


@router.get("/openapi.json", include_in_schema=False)
def openapi(request: Request, viewer: ViewerDep) -> Response:
    """The OpenAPI description of this API, for users who are logged in."""
    schema = {**request.app.openapi(), "servers": [{"url": request.scope["root_path"]}]}
    return AsciiJSONResponse(schema)


def _one_line(line: Event) -> str:
    return bytes(AsciiJSONResponse(_fields(schemas.Event, line)).body).decode()


def _record(ledger: Ledger, viewer: Viewer, job_id: int, **more: Any) -> Response:
    """A job as an answer.

    :param more: what the answer has beside that.
    """
    return AsciiJSONResponse({**_record_content(ledger, viewer, job_id), **more})


def _record_content(ledger: Ledger, viewer: Viewer, job_id: int) -> dict[str, Any]:
    """A job as :class:`schemas.JobRecord` describes it, not made by it: Pydantic bounds how deep an output may nest."""
    record = visible_record(ledger, viewer, job_id)
    why_not = viewer.why_not(record.job)
    change = change_cost(ledger, record, facts_for(record.revision.conn_id))
    return {
        "job": _fields(schemas.Job, record.job),
        "revision": _fields(schemas.Revision, record.revision),
        "revisions": [_fields(schemas.RevisionItem, revision) for revision in record.revisions],
        "effects": [_fields(schemas.Effect, effect) for effect in record.effects],
        "decisions": [_fields(schemas.Decision, decision) for decision in record.decisions],
        "events": [_fields(schemas.Event, event) for event in record.events],
        "votes": [voter.label for voter in votes_of(record)],
        "may_decide": why_not is None,
        "why_not": why_not,
        "waits_for": in_words(record.revision),
        "cost_of_changes": None if change is None else vars(change),
        "explanation": str(explain(record)),
    }


def _fields(model: type[BaseModel], row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in model.model_fields}
