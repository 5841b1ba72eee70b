"""Notifies people of a review, and of a write that waits for them, by Airflow's notifiers.

With a link, and no content unless the author says so.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.error_text import shown
from airflow_provider_aihandoff.core.invisible import escape
from airflow_provider_aihandoff.core.jobs.job_view import view
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.operators.notice_links import NoticeLinks
from airflow_provider_aihandoff.operators.task_links import base_url, job_page
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Job, Revision
    from airflow_provider_aihandoff.core.review.decision_link import LinkVerdict
    from airflow_provider_aihandoff.core.review.review_store import Notice

log = logging.getLogger(__name__)

#: Seconds after which notifiers that have all failed are called again.
NOTICE_RETRY = 300.0


@dataclass(frozen=True)
class Handoff:
    """``handoff`` in the templates of a notifier. Its texts are each one line that hides nothing: `core.invisible`.

    :param notice: ``asked``, ``reminder``, ``escalation``, ``reassigned`` or ``decided``; ``held`` where a write waits
        for a person, ``lost`` where a lost request does.
    :param message: what there is to say, in one or two sentences without content.
    :param link: the job's page.
    :param label: how messages name the job.
    :param approvers: who may decide, in words; empty where a write or a lost request waits.
    :param deadline: until when; None where there is no limit.
    :param state: the job's.
    :param links: makes its decision links; None where it has none.
    """

    notice: Notice
    message: str
    link: str
    label: str
    job_id: int
    job_type: str
    job_key: str
    requested_by: str
    approvers: str
    deadline: datetime | None
    state: str
    links: NoticeLinks | None = field(default=None, repr=False, compare=False)

    def approve_link(self, person: str, hours: float | None = None) -> str:
        """The address of a page where this person approves with one click, once; the job's page where there is
        nothing to decide.

        :param person: whom it is for: their login name, or the auth manager's id.
        :param hours: for how long it can be used; by default, and at most, until the deadline.
        """
        return self._decision_link("approve", person, hours)

    def reject_link(self, person: str, hours: float | None = None) -> str:
        """The same as :meth:`approve_link`, for a rejection."""
        return self._decision_link("reject", person, hours)

    def _decision_link(self, verdict: LinkVerdict, person: str, hours: float | None) -> str:
        made = None if self.links is None else self.links.address(verdict, person, hours)
        return made or self.link


def due_notices(job: Job, sent: set[str]) -> list[Notice]:
    """The notifications that are due for a job that is or was in review. Pure.

    :param sent: those that were sent since people were asked.
    """
    if job.state is not JobState.REVIEW:
        return ["decided"] if "asked" in sent and "decided" not in sent else []
    due: list[Notice] = ["asked"]
    due += ["reminder"] if job.reminded_at is not None else []
    due += ["escalation"] if job.escalated_at is not None else []
    due += ["reassigned"] if job.reassigned is not None else []
    return [notice for notice in due if notice not in sent]


def notify(notifiers: Sequence[BaseNotifier], context: Context, ledger: Ledger, job: Job) -> bool:
    """Send each notification that is due once; again after a crash between the sending and its record.

    :return: whether all of them were sent. What no notifier could send is due again.
    """
    if not notifiers or job.review_asked_at is None:
        return True
    sent = True
    for notice in due_notices(job, ledger.reviews.notices(job)):
        seen = view(job, ledger.revision(job.job_id, job.revision))
        about = replace(handoff(job, notice), links=NoticeLinks(ledger, job, base_url()))
        if send(notifiers, {**context, "handoff": about, "job": seen}):
            ledger.reviews.notified(job, notice, actor=owner_of(context).actor)
        else:
            sent = False
    return sent


def notify_wait(notifiers: Sequence[BaseNotifier], context: Context, ledger: Ledger, waits: Effect | Revision) -> bool:
    """Send once for each wait that a write, or a lost request, waits for a person; as :func:`notify` does.

    :param waits: the effect whose outcome is not known, or the revision whose request was lost.
    :return: whether it was sent. What no notifier could send is due again.
    """
    if not notifiers or ledger.reviews.wait_notified(waits):
        return True
    job = ledger.job(waits.job_id)
    seen, about = view(job, ledger.revision(job.job_id, job.revision)), waiting_for_a_person(job, waits)
    if not send(notifiers, {**context, "handoff": about, "job": seen}):
        return False
    ledger.reviews.notify_wait(waits, actor=owner_of(context).actor)
    return True


def send(notifiers: Sequence[BaseNotifier], context: dict[str, Any]) -> bool:
    """Have every notifier send. One that fails keeps no one from deciding.

    :param context: with ``handoff``.
    :return: whether any has sent it: else those that work would send it again for as long as another does not.
    """
    sent = False
    for notifier in notifiers:
        one: Any = copy.copy(notifier)  # rendering changes its fields
        try:
            one.render_template_fields(context)
            one.notify(context)
            sent = True
        except Exception as error:
            log.error(
                "%s could not send the notification (%s).",
                type(notifier).__name__,
                context["handoff"].notice,
                exc_info=shown(error),
            )
    return sent


def notify_set(notifiers: Sequence[BaseNotifier], context: Context, ledger: Ledger, job: Job, number: int) -> bool:
    """Say once that jobs of a set wait for a decision, and not once for each job.

    :param job: one of them: what templates of a notifier see as ``job``, and whose page the link leads to.
    :param number: how many there are.
    :return: whether it was sent, or there is no one to send it to.
    """
    if not notifiers:
        return True
    name = escape(job.job_type)
    until = "" if job.review_deadline is None else f" Decide by {job.review_deadline:%Y-%m-%d %H:%M %Z}."
    about = replace(handoff(job, "asked"), message=f"{number:,} jobs of a set of {name} wait for a decision.{until}")
    seen = view(job, ledger.revision(job.job_id, job.revision))
    return send(notifiers, {**context, "handoff": about, "job": seen})


def handoff(job: Job, notice: Notice) -> Handoff:
    """What a notifier is given."""
    from airflow_provider_aihandoff.core.review.rules import rules_of

    rules = rules_of(job)
    approvers = rules.escalate_to if notice == "escalation" else rules.approvers
    return Handoff(
        notice=notice,
        message=_message(job, notice),
        approvers=escape(str(approvers)),
        deadline=job.review_deadline,
        **_about(job),
    )


def waiting_for_a_person(job: Job, waits: Effect | Revision) -> Handoff:
    """What a notifier is given of a write, or of a lost request, that waits for a person."""
    name = escape(f"{job.job_type} {job.job_key}")
    if isinstance(waits, Effect):
        message = (
            f"{name}: the write {escape(repr(waits.name))} may have been made, and its outcome is not known. "
            "The job waits until you check the target and resolve it."
        )
        return Handoff(notice="held", message=message, approvers="", deadline=None, **_about(job))
    message = (
        f"{name}: a request to the model may have been accepted, and its answer was lost. "
        "Say on the job's page whether to send it again, or to fail the job."
    )
    return Handoff(notice="lost", message=message, approvers="", deadline=waits.submit_lease_until, **_about(job))


def _about(job: Job) -> dict[str, Any]:
    return {
        "link": job_page(job.job_id),
        "label": job.label,
        "job_id": job.job_id,
        "job_type": escape(job.job_type),
        "job_key": escape(job.job_key),
        "requested_by": escape(job.requested_by),
        "state": job.state.value,
    }


def _message(job: Job, notice: Notice) -> str:
    name = escape(f"{job.job_type} {job.job_key}")
    until = "" if job.review_deadline is None else f" Decide by {job.review_deadline:%Y-%m-%d %H:%M %Z}."
    sentences: dict[str, Sequence[str]] = {
        "asked": (f"{name} waits for your decision.", until),
        "reminder": (f"{name} still waits for a decision.", until),
        "escalation": (f"No one has decided on {name} yet. You may decide now.", until),
        "reassigned": (f"{name} was reassigned, and waits for your decision.", until),
        "decided": (f"{name} is {job.state.value}.", ""),
    }
    return "".join(sentences[notice])
