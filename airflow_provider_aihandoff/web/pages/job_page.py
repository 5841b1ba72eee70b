"""The page of one job: its output, what it would write, its history, and the forms that act on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.effects.roll_back_store import CAN_ROLL_BACK, cannot_roll_back
from airflow_provider_aihandoff.core.effects.undo import needs_worker, undo_steps
from airflow_provider_aihandoff.core.errors import (
    HandoffError,
)
from airflow_provider_aihandoff.core.generation.response_stream import is_streamed
from airflow_provider_aihandoff.core.generation.submission_store import MAX_REFUSALS
from airflow_provider_aihandoff.core.jobs.explanation import explain
from airflow_provider_aihandoff.core.jobs.state_words import CANCELLING, EFFECTS_TITLE
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review.blind import is_kept_from
from airflow_provider_aihandoff.core.review.change_cost import CHARACTERS, change_cost
from airflow_provider_aihandoff.core.review.decision_link import DecisionLink
from airflow_provider_aihandoff.core.review.rules import (
    Reassignment,
    approvals_of,
    author_rules,
    has_asked,
    has_voted,
    rules_of,
)
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.hooks.model_provider import facts_for
from airflow_provider_aihandoff.web.api import schemas
from airflow_provider_aihandoff.web.auth import (
    Viewer,
    visible_record,
)
from airflow_provider_aihandoff.web.links import airflow_path, in_own_window, path_to
from airflow_provider_aihandoff.web.pages.refreshing import JOB, refreshing
from airflow_provider_aihandoff.web.render.environment import page
from airflow_provider_aihandoff.web.render.formatting import (
    asked,
    job_cost,
    of_this_job,
)
from airflow_provider_aihandoff.web.render.job_time import job_time
from airflow_provider_aihandoff.web.reviewers_form import APPROVER_FIELDS, FIELDS, MAX_TEXT

#: States of jobs that change without a person.
_CHANGES_ALONE = frozenset({JobState.QUEUED, JobState.RUNNING, JobState.APPROVED, JobState.APPLYING})

#: Effects of which a person can say that they were applied.
_CAN_RESOLVE = frozenset({EffectState.UNKNOWN, EffectState.REFUSED})


@dataclass(frozen=True)
class Notice:
    """The result of the form that was just sent.

    :param form: the form, as the page knows it.
    :param typed: what was written in it.
    :param bad: it was refused.
    :param names: who was named in it as those who may decide, by the fields.
    """

    title: str
    text: str
    form: str
    typed: str = ""
    external_id: str = ""
    bad: bool = True
    names: Mapping[str, str] = field(default_factory=dict)


def shown(request: Request, job_id: int) -> Response:
    """Show the job again, so that reloading the page sends nothing."""
    return RedirectResponse(path_to(request, "show_job", job_id=job_id), 303)


def refused(
    request: Request,
    viewer: Viewer,
    ledger: Ledger,
    job_id: int,
    title: str,
    error: HandoffError,
    form: str,
    typed: str,
    external_id: str = "",
    names: Mapping[str, str] | None = None,
) -> Response:
    """Show the job as it is now, and why what was just sent was refused."""
    words = " ".join(part for part in (of_this_job(error.what), error.written, error.remedy) if part)
    notice = Notice(title, f"{words[:1].upper()}{words[1:]}", form, typed, external_id, names=names or {})
    return job_page(request, viewer, ledger, visible_record(ledger, viewer, job_id), notice, status=409)


def job_page(
    request: Request,
    viewer: Viewer,
    ledger: Ledger,
    record: JobRecord,
    notice: Notice | None = None,
    *,
    status: int = 200,
    link: DecisionLink | None = None,
) -> Response:
    """Render one job. While it can change without a person, the page refreshes itself.

    :param notice: the result of the form that was just sent.
    :param link: the decision link that was opened: the page then has one form, for what the link is for.
    """
    job, effects = record.job, record.current_effects
    steps = undo_steps(effects, record.altered_undos) if job.state in CAN_ROLL_BACK else []
    left = [undo.as_plan for undo in record.undos if undo.state is not EffectState.APPLIED]
    planned = [step.plan for step in steps if step.plan is not None] or left
    under_way = any(effect.state in (EffectState.CLAIMED, EffectState.UNKNOWN) for effect in effects)
    why_not, votes = viewer.why_not(job), votes_of(record)
    refreshes = refreshing(request, JOB, moves=notice is None and _moves(record))
    rights = {"decides": why_not is None, "reassigns": not has_asked(job, viewer.person)}
    forms = _forms(record, bool(steps) and not under_way, **rights) if viewer.may_act(job) else []
    decides = "decision" in forms and link is None
    if link is not None:
        forms = ["decision"]
    return page(
        request,
        "job.html" if link is None else "decide.html",
        {
            "link": link,
            "viewer": viewer,
            "record": record,
            "job": job,
            "revision": record.revision,
            "earlier": [revision for revision in record.revisions if revision.number != job.revision][::-1],
            "effects": effects,
            "earlier_effects": [effect for effect in record.effects if effect.revision != job.revision],
            "unresolved": [effect for effect in record.effects if effect.state in _CAN_RESOLVE],
            "undone": {undo.undoes for undo in record.undos if undo.state is EffectState.APPLIED},
            "undos": record.undos,
            "undo_steps": steps,
            "blocked": cannot_roll_back(job, effects, record.altered_undos) if under_way else None,
            "needs_worker": [plan.name for plan in planned if needs_worker(plan)],
            "altered": {effect.name: record.altered_undos.get(effect.effect_id) for effect in effects},
            "seen": offered(record),
            "decision": next((item for item in record.decisions if item.decision_id == job.decision_id), None),
            "rules": rules_of(job),
            "author_rules": author_rules(job),
            "reassignment": Reassignment.from_json(job.reassigned),
            "reviewer_names": FIELDS if author_rules(job).escalate_to else APPROVER_FIELDS,
            "max_names": MAX_TEXT,
            "votes": votes,
            "reads_blind": is_kept_from(job, viewer.actor, votes),
            "max_refusals": MAX_REFUSALS,
            "voted": has_voted(viewer.actor, votes),
            "why_not": why_not,
            "policy": _policy(record),
            "explanation": explain(record),
            "time_of_job": job_time(record),
            "asked": asked(job.input),
            "cancelling": CANCELLING.get(job.state),
            "effects_title": EFFECTS_TITLE[job.state],
            "forms": forms,
            "refreshes": refreshes,
            "sign": ledger.signs.of_job(job.job_id) if job.state is JobState.RUNNING else None,
            "quiet_after": settings.quiet_after(),
            "live": path_to(request, "stream_job", job_id=job.job_id) if _can_be_watched(record) else None,
            "notice": notice,
            "max_comment": schemas.MAX_COMMENT,
            "max_external_id": schemas.MAX_EXTERNAL_ID,
            "cost": job_cost(record.revisions),
            "change_cost": change_cost(ledger, record, facts_for(record.revision.conn_id)) if decides else None,
            "change_characters": CHARACTERS,
            "broken_at": first_break(record.history, record.job),
            "run_path": _run_path(request, job),
        },
        status=status,
    )


def _forms(record: JobRecord, can_undo: bool, *, decides: bool, reassigns: bool) -> list[str]:
    """The forms that the page of a job has for a user who may act on it.

    :param decides: they may decide on it, too.
    :param reassigns: they may let others decide: they have not asked for it.
    """
    job = record.job
    forms = [f"resolution of {effect.effect_id}" for effect in record.effects if effect.state in _CAN_RESOLVE]
    if decides and job.state is JobState.REVIEW and job.review_digest is not None:
        forms.append("decision")
    if reassigns and job.state is JobState.REVIEW and job.review_digest is not None:
        forms.append("reassign")
    if record.revision.is_lost:
        forms.append("submission")
    if job.state is JobState.FAILED and job.acknowledged_at is None:
        forms.append("acknowledgement")
    if job.state in CANCELLING and job.cancelling is None:
        forms.append("cancel")
    if job.state is JobState.ROLLING_BACK or can_undo:
        forms.append("rollback")
    return forms


def _moves(record: JobRecord) -> bool:
    """Whether the job can change without a person."""
    job = record.job
    if job.state is JobState.REVIEW:
        return job.review_digest is None
    unknown = any(effect.state is EffectState.UNKNOWN for effect in record.effects)
    return job.state in _CHANGES_ALONE and not unknown and not record.revision.is_lost


def _can_be_watched(record: JobRecord) -> bool:
    """Whether what the model writes may arrive now, or soon."""
    return record.job.state in (JobState.QUEUED, JobState.RUNNING) and is_streamed(record.revision.request)


def votes_of(record: JobRecord) -> list[Actor]:
    """Who has approved the current version, while more approvals are needed."""
    if record.job.state is not JobState.REVIEW:
        return []
    return [approval.decider for approval in approvals_of(record.job, record.decisions)]


def _policy(record: JobRecord) -> str | None:
    """The policy that was asked before a person, as the newest plan names it."""
    plans = [event.detail for event in record.events if "components" in event.detail]
    policy = plans[-1]["components"].get("policy") if plans else None
    return None if policy is None else str(policy)


def _run_path(request: Request, job: Job) -> str | None:
    """Where Airflow shows the run; None in a frame within Airflow, which would show Airflow within itself."""
    if not in_own_window(request):
        return None
    return airflow_path(request, f"/dags/{quote(job.dag_id, safe='')}/runs/{quote(job.run_id, safe='')}")


def offered(record: JobRecord) -> str:
    """The effects that a roll-back would undo, by their ids."""
    return " ".join(str(step.effect.effect_id) for step in undo_steps(record.current_effects, record.altered_undos))
