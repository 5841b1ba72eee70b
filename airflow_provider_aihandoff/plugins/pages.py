"""The review pages: what waits, one job, and the forms that decide on it, resolve, stop and undo. No script."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff.errors import (
    CannotCancel,
    CannotResolve,
    CannotRollBack,
    EffectNotFound,
    HandoffError,
    JobNotApproved,
    LedgerSchemaError,
    LedgerUnavailable,
    StaleDecision,
)
from airflow_provider_aihandoff.holds import answer
from airflow_provider_aihandoff.hooks.openai import clients
from airflow_provider_aihandoff.ledger import Ledger
from airflow_provider_aihandoff.ledger.endings import CAN_ROLL_BACK, cannot_roll_back
from airflow_provider_aihandoff.ledger.history import first_break
from airflow_provider_aihandoff.ledger.records import Job
from airflow_provider_aihandoff.ledger.store import JobRecord
from airflow_provider_aihandoff.plugins import models
from airflow_provider_aihandoff.plugins.access import (
    LedgerDep,
    Viewer,
    ViewerDep,
    check_may_decide,
    check_same_origin,
    check_visible,
    visible_dag_ids,
    visible_record,
)
from airflow_provider_aihandoff.plugins.links import airflow_path, path_to
from airflow_provider_aihandoff.plugins.presentation import (
    CANCELLING,
    EFFECTS_TITLE,
    job_cost,
    meaning,
    of_this_job,
)
from airflow_provider_aihandoff.plugins.rendering import assets, page
from airflow_provider_aihandoff.preview import ways_back
from airflow_provider_aihandoff.responses.stopped import cancel_job
from airflow_provider_aihandoff.states import TERMINAL_JOB_STATES, EffectState, JobState
from airflow_provider_aihandoff.targets.rollback import Unfinished, roll_back_now

PAGE_SIZE = 100


class Tab(StrEnum):
    """A list of jobs."""

    REVIEW = "review"
    PROGRESS = "progress"
    UNKNOWN = "unknown"
    DONE = "done"
    ALL = "all"


@dataclass(frozen=True)
class TabView:
    """What a list shows.

    :param states: the states that it is about; empty for every state.
    :param empty: what stands where there is nothing to list, as a heading and a sentence.
    """

    title: str
    states: tuple[JobState, ...]
    empty: tuple[str, str]


_IN_PROGRESS = tuple(state for state in JobState if state not in TERMINAL_JOB_STATES and state is not JobState.REVIEW)

TABS = {
    Tab.REVIEW: TabView(
        "In review",
        (JobState.REVIEW,),
        ("Nothing waits for a decision", "When a job's output is ready, it appears here with what it would write."),
    ),
    Tab.PROGRESS: TabView(
        "In progress",
        _IN_PROGRESS,
        ("Nothing is in progress", "Jobs that the model works on, or that are being written outside, appear here."),
    ),
    Tab.UNKNOWN: TabView(
        "Unknown effects",
        (),
        ("No effect is unknown", "Every write is known to be applied, or known not to be."),
    ),
    Tab.DONE: TabView(
        "Done",
        tuple(state for state in JobState if state in TERMINAL_JOB_STATES),
        ("Nothing is done yet", "Completed, rejected, failed, cancelled and rolled back jobs appear here."),
    ),
    Tab.ALL: TabView("All", (), ("There are no jobs", "A job appears here as soon as a task asks for it.")),
}

router = APIRouter(include_in_schema=False)


@router.get("/")
def list_page(
    request: Request,
    viewer: ViewerDep,
    ledger: LedgerDep,
    tab: Tab = Tab.REVIEW,
    dag_id: str | None = None,
    run_id: Annotated[str | None, Query(pattern=r"^[^\x00]*$")] = None,
    after: models.JobId | None = None,
) -> Response:
    """List the jobs that the user may see: what waits longest first, elsewhere the newest first."""
    view = TABS[tab]
    dag_ids = visible_dag_ids(ledger, viewer, dag_id or None)
    found = ledger.summaries(
        states=view.states,
        unknown_effects=tab is Tab.UNKNOWN,
        run_id=run_id or None,
        dag_ids=dag_ids,
        oldest_first=tab is Tab.REVIEW,
        after=after,
        limit=PAGE_SIZE + 1,
    )
    jobs = found[:PAGE_SIZE]
    scope = {name: value for name, value in (("dag_id", dag_id), ("run_id", run_id)) if value}
    return page(
        request,
        "list.html",
        {
            "viewer": viewer,
            "tab": tab,
            "view": view,
            "tabs": TABS,
            "counts": _counts(ledger.count_open(run_id=run_id or None, dag_ids=dag_ids)),
            "jobs": jobs,
            "ended": TERMINAL_JOB_STATES,
            "scope": scope,
            "address": partial(_list_path, request, scope),
            "after": after,
            "next": jobs[-1].job_id if len(found) > PAGE_SIZE else None,
        },
    )


def _list_path(request: Request, scope: dict[str, str], tab: Tab, **more: Any) -> str:
    """The path of a list, about the same Dag or run."""
    return f"{path_to(request, 'list_page')}?{urlencode({'tab': tab.value, **scope, **more})}"


def _counts(by_state: dict[str, int]) -> dict[Tab, int]:
    """How many jobs stand in the lists that somebody may have to act on."""
    return {
        Tab.REVIEW: by_state.get(JobState.REVIEW.value, 0),
        Tab.PROGRESS: sum(by_state.get(state.value, 0) for state in _IN_PROGRESS),
        Tab.UNKNOWN: by_state.get("unknown effects", 0),
    }


@router.get("/jobs/{job_id}", name="show_job")
def job_page(request: Request, job_id: models.JobId, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show one job: what it says, what it would write, what happened to it; and ask for a decision on it."""
    return _job_page(request, viewer, visible_record(ledger, viewer, job_id))


@router.post("/jobs/{job_id}/decision", name="decide_job", dependencies=[Depends(check_same_origin)])
def decide(
    request: Request,
    job_id: models.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    verdict: Annotated[models.OwnVerdict, Form()],
    digest: Annotated[models.Digest, Form()],
    comment: Annotated[models.Comment, Form()] = None,
) -> Response:
    """Approve or reject exactly what the page showed. A decision that comes too late is answered with the job."""
    job = check_visible(ledger, viewer, job_id)
    check_may_decide(viewer, job)
    try:
        ledger.reviews.decide(job_id, verdict, digest=digest, person=viewer.person, comment=comment)
    except (StaleDecision, JobNotApproved) as error:
        notice = Notice("Your decision was not recorded", of_this_job(error.what), "decision", comment or "")
        return _job_page(request, viewer, visible_record(ledger, viewer, job_id), notice, status=409)
    return _shown(request, job_id)


@router.post("/jobs/{job_id}/cancel", name="cancel_job", dependencies=[Depends(check_same_origin)])
def cancel(
    request: Request,
    job_id: models.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[models.Reason, Form()],
) -> Response:
    """Stop a job."""
    check_may_decide(viewer, check_visible(ledger, viewer, job_id))
    try:
        with clients() as client_for:
            cancel_job(ledger, client_for, job_id, actor=viewer.actor, reason=reason)
    except CannotCancel as error:
        return _refused(request, viewer, ledger, job_id, "The job was not cancelled", error, "cancel", reason)
    return _shown(request, job_id)


@router.post("/jobs/{job_id}/rollback", name="roll_back_job", dependencies=[Depends(check_same_origin)])
def roll_back(
    request: Request,
    job_id: models.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    reason: Annotated[models.Reason, Form()],
    seen: Annotated[str, Form(max_length=models.MAX_COMMENT)] = "",
    leave: Annotated[models.Names, Form()] = [],  # noqa: B006
) -> Response:
    """Take back what a job has written, as far as that goes without waiting; sent again, it goes on.

    :param seen: the effects that the page offered to undo, as :func:`_seen` writes them.
    """
    check_may_decide(viewer, check_visible(ledger, viewer, job_id))
    try:
        _check_seen(ledger.record(job_id), seen)
        done = roll_back_now(ledger, job_id, actor=viewer.actor, reason=reason, leave=leave)
    except (LedgerUnavailable, LedgerSchemaError):
        raise
    except HandoffError as error:
        return _refused(request, viewer, ledger, job_id, "Nothing was rolled back", error, "rollback", reason)
    if isinstance(done, Unfinished):
        when = "" if done.seconds is None else f" It can go on in {done.seconds:.0f} s."
        notice = Notice("The roll-back has begun, and is not done", f"{done.why}{when}", "rollback", reason, bad=False)
        return _job_page(request, viewer, visible_record(ledger, viewer, job_id), notice)
    return _shown(request, job_id)


def _seen(record: JobRecord) -> str:
    """The effects that a roll-back would undo, by their ids."""
    return " ".join(str(way.effect.effect_id) for way in ways_back(record.current_effects))


def _check_seen(record: JobRecord, seen: str) -> None:
    """Refuse to begin a roll-back of other effects than the page showed.

    :raises CannotRollBack: something else is applied by now.
    """
    if record.job.state in CAN_ROLL_BACK and seen != _seen(record):
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
    job_id: models.JobId,
    effect_id: models.EffectId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    found: Annotated[Literal["applied", "not applied"], Form()],
    why: Annotated[models.Reason, Form()],
    attempt: Annotated[int, Form(ge=1, le=2**31 - 1)],
    external_id: Annotated[models.ExternalId, Form()] = None,
) -> Response:
    """Say what became of an effect whose outcome is not known."""
    check_may_decide(viewer, check_visible(ledger, viewer, job_id))
    if ledger.effects.read(effect_id).job_id != job_id:
        raise EffectNotFound(f"job {job_id} has no effect {effect_id}.", written="")
    form, title = f"resolution of {effect_id}", "Your answer was not recorded"
    if found == "not applied" and external_id is not None:
        said = "You named a record in the target, and said that it was not applied. Say one of the two."
        notice = Notice(title, said, form, why, external_id)
        return _job_page(request, viewer, visible_record(ledger, viewer, job_id), notice, status=422)
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
        return _refused(request, viewer, ledger, job_id, title, error, form, why, external_id or "")
    return _shown(request, job_id)


@router.get("/static/{name}", name="static")
def static(name: str) -> Response:
    """A file that pages use. Public, like those of Airflow's own pages."""
    asset = assets().get(name)
    if asset is None:
        return Response(status_code=404)
    return Response(
        asset.content, media_type=asset.media_type, headers={"Cache-Control": "public, max-age=31536000, immutable"}
    )


@dataclass(frozen=True)
class Notice:
    """What came of the form that was just sent.

    :param form: the form, as the page knows it.
    :param typed: what was written in it.
    :param bad: it was refused.
    """

    title: str
    text: str
    form: str
    typed: str = ""
    external_id: str = ""
    bad: bool = True


def _shown(request: Request, job_id: int) -> Response:
    """Show the job again, so that reloading the page sends nothing."""
    return RedirectResponse(path_to(request, "show_job", job_id=job_id), 303)


def _refused(
    request: Request,
    viewer: Viewer,
    ledger: Ledger,
    job_id: int,
    title: str,
    error: HandoffError,
    form: str,
    typed: str,
    external_id: str = "",
) -> Response:
    """Show the job as it is now, and why what was just sent was refused."""
    words = " ".join(part for part in (of_this_job(error.what), error.written, error.remedy) if part)
    notice = Notice(title, f"{words[:1].upper()}{words[1:]}", form, typed, external_id)
    return _job_page(request, viewer, visible_record(ledger, viewer, job_id), notice, status=409)


def _job_page(
    request: Request, viewer: Viewer, record: JobRecord, notice: Notice | None = None, *, status: int = 200
) -> Response:
    """Render one job.

    :param notice: what came of the form that was just sent.
    """
    job, effects = record.job, record.current_effects
    unknown = [effect for effect in record.effects if effect.state is EffectState.UNKNOWN]
    undone = {undo.undoes for undo in record.undos if undo.state is EffectState.APPLIED}
    ways = ways_back(effects) if job.state in CAN_ROLL_BACK else []
    under_way = any(effect.state in (EffectState.CLAIMED, EffectState.UNKNOWN) for effect in effects)
    return page(
        request,
        "job.html",
        {
            "viewer": viewer,
            "record": record,
            "job": job,
            "revision": record.revision,
            "earlier": [revision for revision in record.revisions if revision.number != job.revision][::-1],
            "effects": effects,
            "earlier_effects": [effect for effect in record.effects if effect.revision != job.revision],
            "unknown": unknown,
            "undone": undone,
            "undos": record.undos,
            "ways": ways,
            "blocked": cannot_roll_back(job, effects) if under_way else None,
            "seen": _seen(record),
            "decision": next((item for item in record.decisions if item.decision_id == job.decision_id), None),
            "policy": _policy(record),
            "meaning": meaning(job, effects, record.undos),
            "cancelling": CANCELLING.get(job.state),
            "effects_title": EFFECTS_TITLE[job.state],
            "may_decide": job.state is JobState.REVIEW and viewer.may_decide(job),
            "forms": _forms(record, bool(ways) and not under_way) if viewer.may_decide(job) else [],
            "notice": notice,
            "max_comment": models.MAX_COMMENT,
            "max_external_id": models.MAX_EXTERNAL_ID,
            "cost": job_cost(record.revisions),
            "broken_at": first_break(record.events, record.job),
            "run_path": _run_path(request, job),
        },
        status=status,
    )


def _forms(record: JobRecord, can_undo: bool) -> list[str]:
    """The forms that the page of a job has for somebody who may decide on it."""
    job = record.job
    forms = [f"resolution of {effect.effect_id}" for effect in record.effects if effect.state is EffectState.UNKNOWN]
    if job.state is JobState.REVIEW and job.review_digest is not None:
        forms.append("decision")
    if job.state in CANCELLING and job.cancelling is None:
        forms.append("cancel")
    if job.state is JobState.ROLLING_BACK or can_undo:
        forms.append("rollback")
    return forms


def _policy(record: JobRecord) -> str | None:
    """The policy that was asked before a person, as the newest plan names it."""
    plans = [event.detail for event in record.events if "components" in event.detail]
    policy = plans[-1]["components"].get("policy") if plans else None
    return None if policy is None else str(policy)


def _run_path(request: Request, job: Job) -> str | None:
    """Where Airflow shows the run; None in a frame within Airflow, which would show Airflow within itself."""
    if request.headers.get("sec-fetch-dest") != "document":
        return None
    return airflow_path(request, f"/dags/{quote(job.dag_id, safe='')}/runs/{quote(job.run_id, safe='')}")
