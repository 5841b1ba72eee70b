"""The review pages: what waits, one job, and the form that decides on it. Plain HTML, no script."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff.errors import HandoffError, JobNotApproved, StaleDecision
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
from airflow_provider_aihandoff.plugins.presentation import EFFECTS_TITLE, STATE_MEANING, job_cost
from airflow_provider_aihandoff.plugins.rendering import assets, page
from airflow_provider_aihandoff.states import TERMINAL_JOB_STATES, EffectState, JobState

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
        ("Nothing is done yet", "Completed, rejected, failed and cancelled jobs appear here."),
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
        ledger.reviews.decide(job_id, verdict, digest=digest, decided_by=viewer.name, comment=comment)
    except (StaleDecision, JobNotApproved) as error:
        record = visible_record(ledger, viewer, job_id)
        return _job_page(request, viewer, record, refused=error, comment=comment or "", status=409)
    return RedirectResponse(path_to(request, "show_job", job_id=job_id), 303)


@router.get("/static/{name}", name="static")
def static(name: str) -> Response:
    """A file that pages use. Public, like those of Airflow's own pages."""
    asset = assets().get(name)
    if asset is None:
        return Response(status_code=404)
    return Response(
        asset.content, media_type=asset.media_type, headers={"Cache-Control": "public, max-age=31536000, immutable"}
    )


def _job_page(
    request: Request,
    viewer: Viewer,
    record: JobRecord,
    *,
    refused: HandoffError | None = None,
    comment: str = "",
    status: int = 200,
) -> Response:
    """Render one job.

    :param refused: why the decision that was just sent was not recorded.
    :param comment: what was typed with it.
    """
    job = record.job
    return page(
        request,
        "job.html",
        {
            "viewer": viewer,
            "record": record,
            "job": job,
            "revision": record.revision,
            "earlier": [revision for revision in record.revisions if revision.number != job.revision][::-1],
            "effects": record.current_effects,
            "earlier_effects": [effect for effect in record.effects if effect.revision != job.revision],
            "unknown": [effect for effect in record.effects if effect.state is EffectState.UNKNOWN],
            "decision": next((item for item in record.decisions if item.decision_id == job.decision_id), None),
            "policy": _policy(record),
            "meaning": STATE_MEANING[job.state],
            "effects_title": EFFECTS_TITLE[job.state],
            "may_decide": job.state is JobState.REVIEW and viewer.may_decide(job),
            "refused": refused,
            "comment": comment,
            "max_comment": models.MAX_COMMENT,
            "cost": job_cost(record.revisions),
            "broken_at": first_break(record.events, record.job),
            "run_path": _run_path(request, job),
        },
        status=status,
    )


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
