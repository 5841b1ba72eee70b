"""The routes of one job's page: show it, decide on it, resolve, stop and undo. No script, and no GET that changes."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Form, Request, Response

from airflow_provider_aihandoff.core.effects.resolve import answer
from airflow_provider_aihandoff.core.effects.roll_back import Unfinished, roll_back_now
from airflow_provider_aihandoff.core.errors import (
    CannotCancel,
    CannotChange,
    CannotResolve,
    CannotRollBack,
    EffectNotFound,
    HandoffError,
    JobNotApproved,
    LedgerSchemaError,
    LedgerUnavailable,
    StaleDecision,
)
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.jobs.cancel_and_roll_back import CAN_ROLL_BACK
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.hooks.openai import providers
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    LedgerDep,
    ViewerDep,
    check_may_act,
    check_may_decide,
    check_same_origin,
    check_visible,
    visible_record,
)
from airflow_provider_aihandoff.web.pages.job_page import Notice, job_page, offered, refused, shown
from airflow_provider_aihandoff.web.render.environment import assets
from airflow_provider_aihandoff.web.render.formatting import (
    of_this_job,
)

router = APIRouter(include_in_schema=False)


@router.get("/jobs/{job_id}", name="show_job")
def show(request: Request, job_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show one job: what it says, what it would write, what happened to it; and ask for a decision on it."""
    return job_page(request, viewer, visible_record(ledger, viewer, job_id))


@router.post("/jobs/{job_id}/decision", name="decide_job", dependencies=[Depends(check_same_origin)])
def decide(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    verdict: Annotated[schemas.OwnVerdict, Form()],
    digest: Annotated[schemas.Digest, Form()],
    comment: Annotated[schemas.Comment, Form()] = None,
) -> Response:
    """Answer exactly what the page showed. What comes too late is answered with the job as it is now."""
    check_may_decide(viewer, check_visible(ledger, viewer, job_id))
    try:
        ledger.reviews.decide(job_id, verdict, digest=digest, person=viewer.person, comment=comment)
    except (StaleDecision, JobNotApproved) as error:
        notice = Notice("Your decision was not recorded", of_this_job(error.what), "decision", comment or "")
        return job_page(request, viewer, visible_record(ledger, viewer, job_id), notice, status=409)
    except CannotChange as error:
        title = "The model was not asked for changes"
        return refused(request, viewer, ledger, job_id, title, error, "decision", comment or "")
    return shown(request, job_id)


@router.post("/jobs/{job_id}/cancel", name="cancel_job", dependencies=[Depends(check_same_origin)])
def cancel(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
) -> Response:
    """Stop a job."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    try:
        with providers() as provider_for:
            cancel_job(ledger, provider_for, job_id, actor=viewer.actor, reason=reason)
    except CannotCancel as error:
        return refused(request, viewer, ledger, job_id, "The job was not cancelled", error, "cancel", reason)
    return shown(request, job_id)


@router.post("/jobs/{job_id}/rollback", name="roll_back_job", dependencies=[Depends(check_same_origin)])
def roll_back(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
    seen: Annotated[str, Form(max_length=schemas.MAX_COMMENT)] = "",
    leave: Annotated[schemas.Names, Form()] = [],  # noqa: B006
) -> Response:
    """Take back what a job has written, as far as that goes without waiting; sent again, it goes on.

    :param seen: the effects that the page offered to undo, as :func:`offered` writes them.
    """
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    try:
        _check_seen(ledger.record(job_id), seen)
        done = roll_back_now(ledger, job_id, actor=viewer.actor, reason=reason, leave=leave)
    except (LedgerUnavailable, LedgerSchemaError):
        raise
    except HandoffError as error:
        return refused(request, viewer, ledger, job_id, "Nothing was rolled back", error, "rollback", reason)
    if isinstance(done, Unfinished):
        when = "" if done.seconds is None else f" It can go on in {done.seconds:.0f} s."
        notice = Notice("The roll-back has begun, and is not done", f"{done.why}{when}", "rollback", reason, bad=False)
        return job_page(request, viewer, visible_record(ledger, viewer, job_id), notice)
    return shown(request, job_id)


def _check_seen(record: JobRecord, seen: str) -> None:
    """Refuse to begin a roll-back of other effects than the page showed.

    :raises CannotRollBack: something else is applied by now.
    """
    if record.job.state in CAN_ROLL_BACK and seen != offered(record):
        raise CannotRollBack(
            "it is not what you saw any more: other effects are applied by now.",
            job=record.job.label,
            written="Nothing was undone, nothing was sent.",
            remedy="Look at what would be undone now, then roll it back.",
        )


@router.post(
    "/jobs/{job_id}/effects/{effect_id}/resolution",
    name="resolve_effect",
    dependencies=[Depends(check_same_origin)],
)
def resolve(
    request: Request,
    job_id: schemas.JobId,
    effect_id: schemas.EffectId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    found: Annotated[Literal["applied", "not applied"], Form()],
    why: Annotated[schemas.Reason, Form()],
    attempt: Annotated[int, Form(ge=1, le=2**31 - 1)],
    external_id: Annotated[schemas.ExternalId, Form()] = None,
) -> Response:
    """Say what became of an effect whose outcome is not known."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    if ledger.effects.read(effect_id).job_id != job_id:
        raise EffectNotFound(f"job {job_id} has no effect {effect_id}.", written="")
    form, title = f"resolution of {effect_id}", "Your answer was not recorded"
    if found == "not applied" and external_id is not None:
        said = "You named a record in the target, and said that it was not applied. Say one of the two."
        notice = Notice(title, said, form, why, external_id)
        return job_page(request, viewer, visible_record(ledger, viewer, job_id), notice, status=422)
    try:
        answer(
            ledger,
            effect_id,
            applied=found == "applied",
            external_id=external_id,
            why=why,
            actor=viewer.actor,
            attempt=attempt,
        )
    except CannotResolve as error:
        return refused(request, viewer, ledger, job_id, title, error, form, why, external_id or "")
    return shown(request, job_id)


@router.get("/static/{name}", name="static")
def static(name: str) -> Response:
    """A file that pages use. Public, like those of Airflow's own pages."""
    asset = assets().get(name)
    if asset is None:
        return Response(status_code=404)
    return Response(
        asset.content, media_type=asset.media_type, headers={"Cache-Control": "public, max-age=31536000, immutable"}
    )
