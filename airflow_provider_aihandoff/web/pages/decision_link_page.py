"""The page that a decision link in a message opens: what the job's page shows, and one button. No GET decides."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response

from airflow_provider_aihandoff.core.errors import JobNotApproved, LinkSpent, MayNotDecide, StaleDecision
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.decision_link import DecisionLink
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    DecisionForbidden,
    LedgerDep,
    Viewer,
    ViewerDep,
    check_may_decide,
    check_visible,
    visible_record,
)
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.pages.job_page import Notice, job_page, shown
from airflow_provider_aihandoff.web.render.formatting import of_this_job

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

#: Why a link leads to no decision. Its person may see the job, and is shown how it is now.
_REFUSALS = (LinkSpent, StaleDecision, JobNotApproved, DecisionForbidden, MayNotDecide)
_Refusal = LinkSpent | StaleDecision | JobNotApproved | DecisionForbidden | MayNotDecide


@router.get("/decide/{token}", name="show_link")
def show(request: Request, token: str, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show what the link is about, and ask for the click. It changes nothing, however often it is opened."""
    link = ledger.decision_links.read(token, viewer.person)
    try:
        _check(ledger, viewer, link, token)
    except _REFUSALS as refusal:
        return _refused(request, viewer, ledger, link, refusal)
    record = visible_record(ledger, viewer, link.job_id)
    return _private(request, job_page(request, viewer, ledger, record, link=link))


@router.post("/decide/{token}", name="decide_by_link")
def decide(
    request: Request,
    token: str,
    viewer: ViewerDep,
    ledger: LedgerDep,
    comment: Annotated[schemas.Comment, Form()] = None,
) -> Response:
    """Decide as the link says, by the rules of the job's page. A link that is too late is answered with the job."""
    link = ledger.decision_links.read(token, viewer.person)
    try:
        _check(ledger, viewer, link, token)
        ledger.decision_links.decide(token, person=viewer.person, comment=comment)
    except _REFUSALS as refusal:
        return _refused(request, viewer, ledger, link, refusal, comment or "")
    return _private(request, shown(request, link.job_id))


def _check(ledger: Ledger, viewer: Viewer, link: DecisionLink, token: str) -> None:
    """Return when a decision with the link would count.

    :raises JobNotFound: the person may not see the job. The error does not say so.
    :raises HandoffError: one of :data:`_REFUSALS`.
    """
    job = check_visible(ledger, viewer, link.job_id)
    ledger.decision_links.check(token, viewer.person)
    check_may_decide(viewer, job)


def _refused(
    request: Request, viewer: Viewer, ledger: Ledger, link: DecisionLink, refusal: _Refusal, typed: str = ""
) -> Response:
    """Show the job as it is now, and why the link leads to nothing."""
    forbidden = isinstance(refusal, DecisionForbidden | MayNotDecide)
    what = of_this_job(refusal.what) if isinstance(refusal, StaleDecision | JobNotApproved) else refusal.what
    title = "You may not decide on this job" if forbidden else "This link no longer works"
    notice = Notice(title, f"{what[:1].upper()}{what[1:]}", "decision", typed)
    record, status = visible_record(ledger, viewer, link.job_id), 403 if forbidden else 410
    return _private(request, job_page(request, viewer, ledger, record, notice, status=status))


def _private(request: Request, response: Response) -> Response:
    """An answer from which no other request says where it came from.

    A browser that does not send ``Sec-Fetch-Site`` (over plain HTTP) would send ``Origin: null`` with the form, which
    is then refused: there, the address goes to pages of this site alone, as for every page.
    """
    if "sec-fetch-site" in request.headers:
        response.headers["Referrer-Policy"] = "no-referrer"
    return response
