"""The routes of one job's page: show, decide, resolve, acknowledge, cancel, roll back. No GET changes anything."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request, Response

from airflow_provider_aihandoff.core.effects.resolve import answer
from airflow_provider_aihandoff.core.effects.roll_back import Unfinished, roll_back_now
from airflow_provider_aihandoff.core.effects.roll_back_store import CAN_ROLL_BACK
from airflow_provider_aihandoff.core.errors import (
    CannotAcknowledge,
    CannotCancel,
    CannotChange,
    CannotReassign,
    CannotResolve,
    CannotRollBack,
    EffectNotFound,
    HandoffError,
    JobNotApproved,
    LedgerSchemaError,
    LedgerUnavailable,
    NothingLost,
    StaleDecision,
)
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    LedgerDep,
    ViewerDep,
    check_may_act,
    check_may_decide,
    check_visible,
    visible_record,
)
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.pages.job_page import Notice, job_page, offered, refused, shown
from airflow_provider_aihandoff.web.render.environment import assets
from airflow_provider_aihandoff.web.render.formatting import of_this_job
from airflow_provider_aihandoff.web.reviewers_form import SentReviewersDep, reviewers_of

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)


@router.get("/jobs/{job_id}", name="show_job")
def show(request: Request, job_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show one job: its output, what it would write, and its history, with the form for a decision."""
    return job_page(request, viewer, ledger, visible_record(ledger, viewer, job_id))


@router.post("/jobs/{job_id}/decision", name="decide_job")
def decide(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    verdict: Annotated[schemas.OwnVerdict, Form()],
    digest: Annotated[schemas.Digest, Form()],
    comment: Annotated[schemas.Comment, Form()] = None,
) -> Response:
    """Decide on exactly what the page showed. A decision that is too late is answered with the current job."""
    check_may_decide(viewer, check_visible(ledger, viewer, job_id))
    try:
        ledger.reviews.decide(job_id, verdict, digest=digest, person=viewer.person, comment=comment)
    except (StaleDecision, JobNotApproved) as error:
        notice = Notice("Your decision was not recorded", of_this_job(error.what), "decision", comment or "")
        return job_page(request, viewer, ledger, visible_record(ledger, viewer, job_id), notice, status=409)
    except CannotChange as error:
        title = "Changes were not requested"
        return refused(request, viewer, ledger, job_id, title, error, "decision", comment or "")
    return shown(request, job_id)


@router.post("/jobs/{job_id}/cancel", name="cancel_job")
def cancel(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
) -> Response:
    """Cancel a job."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    try:
        with providers() as provider_for:
            cancel_job(ledger, provider_for, job_id, actor=viewer.actor, reason=reason)
    except CannotCancel as error:
        return refused(request, viewer, ledger, job_id, "The job was not cancelled", error, "cancel", reason)
    return shown(request, job_id)


@router.post("/jobs/{job_id}/reviewers", name="reassign_job")
def reassign(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    named: SentReviewersDep,
    reason: Annotated[schemas.Reason, Form()],
    reassigned: Annotated[schemas.Reassigned, Form()],
) -> Response:
    """Let other people decide than those who are named now.

    :param reassigned: how often the page showed that the review was reassigned.
    """
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    try:
        ledger.reassignments.reassign(job_id, reviewers_of(named), actor=viewer.actor, reason=reason, seen=reassigned)
    except CannotReassign as error:
        title = "The review was not reassigned"
        return refused(request, viewer, ledger, job_id, title, error, "reassign", reason, names=named)
    return shown(request, job_id)


@router.post("/jobs/{job_id}/acknowledgement", name="acknowledge_job")
def acknowledge(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
    revision: Annotated[schemas.Number, Form()],
) -> Response:
    """Record that a failed job was seen.

    :param revision: the one that had failed when the page was shown.
    """
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    try:
        ledger.acknowledgements.acknowledge(job_id, revision=revision, actor=viewer.actor, reason=reason)
    except CannotAcknowledge as error:
        title = "The failure was not acknowledged"
        return refused(request, viewer, ledger, job_id, title, error, "acknowledgement", reason)
    return shown(request, job_id)


@router.post("/jobs/{job_id}/submission", name="resolve_lost_request")
def resolve_submission(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    action: Annotated[schemas.LostAction, Form()],
    reason: Annotated[schemas.Reason, Form()],
    seen: Annotated[schemas.Seen, Form()],
) -> Response:
    """Say what to do about a request whose answer was lost.

    :param seen: how many unknown submissions the page showed.
    """
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    try:
        ledger.submission.resolve(job_id, send_again=action == "send again", seen=seen, actor=viewer.actor, why=reason)
    except NothingLost as error:
        return refused(request, viewer, ledger, job_id, "Your answer was not recorded", error, "submission", reason)
    return shown(request, job_id)


@router.post("/jobs/{job_id}/rollback", name="roll_back_job")
def roll_back(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[schemas.Reason, Form()],
    seen: Annotated[str, Form(max_length=schemas.MAX_COMMENT)] = "",
    leave: Annotated[schemas.Names, Form()] = [],  # noqa: B006
) -> Response:
    """Undo what a job has written, as far as possible without waiting. Sent again, it continues.

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
        when = "" if done.seconds is None else f" Continue in {done.seconds:.0f} s."
        notice = Notice(
            "The roll-back has started, but is not finished", f"{done.why}{when}", "rollback", reason, bad=False
        )
        return job_page(request, viewer, ledger, visible_record(ledger, viewer, job_id), notice)
    return shown(request, job_id)


def _check_seen(record: JobRecord, seen: str) -> None:
    """Refuse to start a roll-back of other effects than the page showed.

    :raises CannotRollBack: other effects are applied now.
    """
    if record.job.state in CAN_ROLL_BACK and seen != offered(record):
        raise CannotRollBack(
            "it has changed since you opened it: other effects are applied now.",
            job=record.job.label,
            written="Nothing was undone. This request made no external write.",
            remedy="Check what would be undone now, then roll it back.",
        )


@router.post(
    "/jobs/{job_id}/effects/{effect_id}/resolution",
    name="resolve_effect",
)
def resolve(
    request: Request,
    job_id: schemas.JobId,
    effect_id: schemas.EffectId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    found: Annotated[Literal["applied", "not applied"], Form()],
    reason: Annotated[schemas.Reason, Form()],
    attempt: Annotated[int, Form(ge=1, le=2**31 - 1)],
    external_id: Annotated[schemas.ExternalId, Form()] = None,
) -> Response:
    """Resolve an effect whose outcome is unknown."""
    check_may_act(viewer, check_visible(ledger, viewer, job_id))
    _check_effect_of(ledger, job_id, effect_id)
    form, title = f"resolution of {effect_id}", "Your answer was not recorded"
    if found == "not applied" and external_id is not None:
        said = "You gave the id of a record, but an effect that was not applied has none. Remove one of the two."
        notice = Notice(title, said, form, reason, external_id)
        return job_page(request, viewer, ledger, visible_record(ledger, viewer, job_id), notice, status=422)
    try:
        answer(
            ledger,
            effect_id,
            applied=found == "applied",
            external_id=external_id,
            why=reason,
            actor=viewer.actor,
            attempt=attempt,
        )
    except CannotResolve as error:
        return refused(request, viewer, ledger, job_id, title, error, form, reason, external_id or "")
    return shown(request, job_id)


def _check_effect_of(ledger: Ledger, job_id: int, effect_id: int) -> None:
    """Return when the effect is one of the job.

    :raises EffectNotFound: it is not. The error does not say whether another job has it, which the user may not see.
    """
    if effect_id not in {effect.effect_id for effect in ledger.record(job_id).effects}:
        raise EffectNotFound(f"job {job_id} has no effect {effect_id}.", written="")


@router.get("/static/{name}", name="static")
def static(name: str) -> Response:
    """A file that pages use. Public, like those of Airflow's own pages."""
    asset = assets().get(name)
    if asset is None:
        return Response(status_code=404)
    return Response(
        asset.content, media_type=asset.media_type, headers={"Cache-Control": "public, max-age=31536000, immutable"}
    )
