"""Has Airflow park an approval task among its *Required Actions*, and takes the answer that a person gives there.

What such an answer is worth, the ledger decides, as for one that was given on its own pages.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

from airflow_provider_aihandoff import airflow_compat, settings
from airflow_provider_aihandoff.core.errors import JobNotApproved, MayNotDecide, StaleDecision
from airflow_provider_aihandoff.core.invisible import escape
from airflow_provider_aihandoff.core.review.required_action import PARAMS, Answer, answer_in, required_action
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.operators.notices import handoff
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Job

log = logging.getLogger(__name__)

#: Where an approval task waits: parked by Airflow in this state, or deferred to a triggerer.
WaitIn = Literal["awaiting_input", "triggerer"]

_NOT_RECORDED = "Nothing was recorded. No external write was made."


def check_wait_in(wait_in: str) -> None:
    """Return when an approval can wait there.

    :raises ValueError: it cannot.
    """
    if wait_in not in get_args(WaitIn):
        raise ValueError(f"wait_in must be 'awaiting_input' or 'triggerer', not {wait_in!r}.")


def is_parked_by_airflow(wait_in: WaitIn | None, ledger_conn_id: str) -> bool:
    """Whether the task that runs waits in Airflow's state ``awaiting_input``.

    :param wait_in: what its author says; None: ``[aihandoff] approvals_wait_in``.
    :param ledger_conn_id: connection of its ledger. API servers wake what waits on the configured one alone.
    :raises ValueError: the option names no place where it can wait.
    """
    where = wait_in or settings.text("approvals_wait_in")
    check_wait_in(where)
    return (
        where == "awaiting_input"
        and ledger_conn_id == settings.text("ledger_conn_id")
        and airflow_compat.can_await_input()
    )


def park(
    context: Context,
    ledger: Ledger,
    job: Job,
    *,
    now: datetime,
    until: datetime,
    refusal: str | None,
) -> NoReturn:
    """Ask in Airflow's list, and end the attempt until there is something to do. The ledger is closed.

    :param now: by the ledger's clock.
    :param until: when there is something to do at the latest. Airflow resumes the task then, if no API server has.
    :param refusal: why the answer before was not recorded.
    :raises TaskAwaitingInput: always.
    """
    owner = owner_of(context)
    effects = ledger.record(job.job_id).current_effects
    asked = required_action(job, effects, handoff(job, "asked").link, refusal)
    not_before = now + settings.seconds("min_deferral")
    ledger.parked_tasks.park(owner, job, asked, not_before=not_before, until=until)
    ledger.close()
    airflow_compat.await_input(
        owner.ti_id,
        subject=asked.subject,
        body=asked.body,
        options=asked.options,
        params=PARAMS,
        method_name="resume_review",
        timeout=max(until, not_before) - now,
    )


def take_answer(context: Context, ledger: Ledger, job_id: int, event: Mapping[str, Any] | None) -> str | None:
    """Record what a person has answered in Airflow's list, if that is why the task runs.

    :param event: as Airflow hands it over.
    :return: why the answer was not recorded; None where it was, or there is none.
    """
    parked = ledger.parked_tasks.take(owner_of(context).ti_id)
    answer = answer_in(event, "" if parked is None else parked.digest)
    if answer is None:
        return None
    try:
        job = ledger.job(job_id)
        person = _person(context, job, answer)
        if parked is None or parked.job_id != job_id or answer.verdict is None:
            raise StaleDecision("it was about an older version of the job.", job=job.label, written=_NOT_RECORDED)
        ledger.reviews.decide(
            job_id, answer.verdict, digest=parked.digest, person=person, comment=answer.comment or None
        )
    except (StaleDecision, JobNotApproved, MayNotDecide) as refused:
        who = escape(str(answer.login))
        log.warning("The answer of %s in Required Actions was not recorded: %s", who, refused)
        return f"{who}: {refused.what}"
    return None


def _person(context: Context, job: Job, answer: Answer) -> Person:
    """Who has answered. Airflow says neither their roles nor their groups.

    :raises MayNotDecide: Airflow names no one, or has asked for their permission on another Dag than the job's.
    """
    if answer.login is None:
        raise MayNotDecide("Airflow does not say who has answered.", job=job.label, written=_NOT_RECORDED)
    dag_id = context["ti"].dag_id
    if job.dag_id != dag_id:
        raise MayNotDecide(
            f"the job belongs to the Dag {job.dag_id} by now, and the answer was given on the Dag {dag_id}.",
            job=job.label,
            written=_NOT_RECORDED,
        )
    return Person(answer.login, user_id=answer.user_id)
