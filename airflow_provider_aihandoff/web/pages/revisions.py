"""Pages of a job's revisions: edit the output in a form, and compare any two of them word by word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from airflow_provider_aihandoff.core.errors import CannotChange, JobNotApproved, StaleDecision
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import Revision
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    LedgerDep,
    Viewer,
    ViewerDep,
    check_may_decide,
    visible_record,
)
from airflow_provider_aihandoff.web.guard import GuardedRoute
from airflow_provider_aihandoff.web.pages.job_page import Notice, shown
from airflow_provider_aihandoff.web.render import json_form
from airflow_provider_aihandoff.web.render.budget import Budget
from airflow_provider_aihandoff.web.render.diff import FieldDifference, compare
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.formatting import of_this_job, output_of, schema_of
from airflow_provider_aihandoff.web.request_body import TypedDep

router = APIRouter(include_in_schema=False, route_class=GuardedRoute)

Number = Annotated[int | None, Query(ge=1, le=2**31 - 1)]


@router.get("/jobs/{job_id}/compare", name="compare_revisions")
def compare_page(
    request: Request,
    job_id: schemas.JobId,
    viewer: ViewerDep,
    ledger: LedgerDep,
    old: Number = None,
    new: Number = None,
) -> Response:
    """Show the difference of two revisions' outputs; by default the current one and the one before it."""
    record = visible_record(ledger, viewer, job_id)
    written = [revision for revision in record.revisions if revision.output is not None]
    after = _numbered(written, new) or (written[-1] if written else None)
    before = _numbered(written, old) or _before(written, after)
    budget = Budget()
    differences = compare(output_of(before), output_of(after), budget) if before and after else []
    changed = [part for part in differences if part.change != "same"]
    return page(
        request,
        "compare.html",
        {
            "viewer": viewer,
            "budget": budget,
            "job": record.job,
            "written": written,
            "before": before,
            "after": after,
            "changed": changed,
            "same": _unchanged(differences, changed),
        },
    )


def _unchanged(differences: list[FieldDifference], changed: list[FieldDifference]) -> list[str]:
    """The fields of the output in which nothing changed."""
    touched = {part.path[0] for part in changed if part.path}
    return [name for name in dict.fromkeys(part.path[0] for part in differences if part.path) if name not in touched]


def _numbered(revisions: list[Revision], number: int | None) -> Revision | None:
    return next((revision for revision in revisions if revision.number == number), None)


def _before(written: list[Revision], after: Revision | None) -> Revision | None:
    """The revision to compare with: the one that it continues or edits, else the one before it."""
    if after is None:
        return None
    earlier = [revision for revision in written if revision.number < after.number]
    return _numbered(earlier, after.based_on) or (earlier[-1] if earlier else None)


@router.get("/jobs/{job_id}/edit", name="edit_job")
def edit_page(request: Request, job_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep) -> Response:
    """Show the output in a form; if it cannot be edited, show the job."""
    record = visible_record(ledger, viewer, job_id)
    check_may_decide(viewer, record.job)
    if not _can_edit(record):
        return shown(request, job_id)
    typed = json_form.fill(schema_of(record.revision), record.revision.output)
    return _edit_page(request, viewer, record, record.revision, typed)


@router.post("/jobs/{job_id}/edit", name="save_edit")
def save(request: Request, job_id: schemas.JobId, viewer: ViewerDep, ledger: LedgerDep, typed: TypedDep) -> Response:
    """Save the form as a revision by this user; or check it, or add or remove a row, and show the form again."""
    sent = _edit_form(typed)
    record = visible_record(ledger, viewer, job_id)
    check_may_decide(viewer, record.job)
    base = _numbered(record.revisions, sent.revision) or record.revision
    action, _, name = sent.do.partition(" ")
    if action in ("add", "remove"):
        change = json_form.with_row if action == "add" else json_form.without_row
        return _edit_page(request, viewer, record, base, change(typed, name), digest=sent.digest)
    reading = json_form.read(schema_of(base), typed, base.output)
    if reading.errors or action != "save":
        return _checked(request, viewer, record, base, typed, sent, reading)
    if reading.value == base.output:
        notice = Notice("There is nothing to save", "You did not change the output.", "edit", bad=False)
        return _edit_page(request, viewer, record, base, typed, notice=notice, digest=sent.digest)
    try:
        ledger.reviews.edit(job_id, digest=sent.digest, output=reading.value, person=viewer.person)
    except (StaleDecision, JobNotApproved, CannotChange) as error:
        record = visible_record(ledger, viewer, job_id)
        notice = Notice("Your changes were not saved", _too_late(record, base, of_this_job(error.what)), "edit")
        return _edit_page(request, viewer, record, base, typed, notice=notice, status=409)
    return shown(request, job_id)


def _edit_form(typed: Mapping[str, str]) -> schemas.EditForm:
    try:
        return schemas.EditForm.model_validate(typed)
    except ValidationError as error:
        raise RequestValidationError([{**item, "loc": ("body", *item["loc"])} for item in error.errors()]) from error


def _checked(
    request: Request,
    viewer: Viewer,
    record: JobRecord,
    base: Revision,
    typed: Mapping[str, str],
    sent: schemas.EditForm,
    reading: json_form.Reading,
) -> Response:
    """Show the form with what is wrong with it."""
    notice = None if reading.errors else Notice("The form is valid", "Nothing is saved yet.", "edit", bad=False)
    wrong = reading.errors and sent.do == "save"
    return _edit_page(
        request,
        viewer,
        record,
        base,
        typed,
        errors=reading.errors,
        notice=notice,
        digest=sent.digest,
        status=422 if wrong else 200,
    )


def _can_edit(record: JobRecord) -> bool:
    return record.job.state is JobState.REVIEW and record.job.review_digest is not None


def _too_late(record: JobRecord, base: Revision, what: str) -> str:
    if record.job.state is not JobState.REVIEW:
        return f"{what} Your text is still below, so that you can copy it."
    if record.job.revision == base.number:
        return f"{what} Your text is still below. Save again to apply it to the current version."
    return (
        f"{what} Your text is still below. If you save it now, it replaces revision {record.job.revision}. Compare "
        "the two first."
    )


def _edit_page(
    request: Request,
    viewer: Viewer,
    record: JobRecord,
    base: Revision,
    typed: Mapping[str, str],
    *,
    errors: Mapping[str, str] | None = None,
    notice: Notice | None = None,
    digest: str | None = None,
    status: int = 200,
) -> Response:
    """Render the form.

    :param base: the revision that it was filled with.
    :param digest: the review digest that its first page named; by default the current one.
    """
    form = json_form.layout(schema_of(base), typed, base.output, errors or {})
    context: dict[str, Any] = {
        "viewer": viewer,
        "job": record.job,
        "base": base,
        "form": form,
        "wrong": json_form.wrong(form),
        "notice": notice,
        "digest": digest or record.job.review_digest,
        "open": _can_edit(record),
    }
    return page(request, "edit.html", context, status=status)
