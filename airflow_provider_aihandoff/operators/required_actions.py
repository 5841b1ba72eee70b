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
from airflow_provider_aihandoff.core.review.rules import Person, Reassignment, has_voted, rules_of
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Job
    from airflow_provider_aihandoff.core.review.parked_store import ParkedTask
    from airflow_provider_aihandoff.core.review.required_action import Answer

log = logging.getLogger(__name__)

#: Where an approval task waits: parked by Airflow in this state, or deferred to a triggerer.
ApprovalWait = Literal["awaiting_input", "triggerer"]


def check_wait_in(wait_in: str) -> None:
    """Return when an approval can wait there.

    :raises ValueError: it cannot.
    """
    if wait_in not in get_args(ApprovalWait):
        raise ValueError(f"wait_in must be 'awaiting_input' or 'triggerer', not {wait_in!r}.")


def is_parked_by_airflow(wait_in: ApprovalWait | None, ledger_conn_id: str) -> bool:
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


def may_be_answered_there(context: Context, job: Job) -> bool:
    """Whether Airflow's list may ask about a job.

    It shows to all who read it, and its audit log keeps, who has answered what: not where readers are blind. And an
    answer needs the permission on the Dag of the task alone: not where the job belongs to another one.
    """
    return job.dag_id == owner_of(context).dag_id and not rules_of(job).is_blind


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
    from airflow_provider_aihandoff.core.review.required_action import PARAMS, required_action
    from airflow_provider_aihandoff.operators.notices import handoff

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
    from airflow_provider_aihandoff.core.review.required_action import answer_in

    parked = ledger.parked_tasks.read(owner_of(context).ti_id)
    answer, refusal = answer_in(event, "" if parked is None else parked.digest), None
    if answer is not None:
        if parked is None or parked.job_id != job_id:
            refusal = _refused(answer, "it was about an older version of the job.")
        else:
            refusal = record_answer(ledger, parked, answer)
    if parked is not None:  # only now: where this attempt ends before, an API server records the answer
        ledger.parked_tasks.remove([parked])
    return refusal


def record_answer(ledger: Ledger, parked: ParkedTask, answer: Answer) -> str | None:
    """Record what a person has answered about what a parked task had asked. Safe to repeat.

    :return: why it was not recorded; None where it was.
    """
    if answer.verdict is None:
        return _refused(answer, "it was about an older version of the job.")
    if answer.login is None:
        return _refused(answer, "Airflow does not say who has answered.")
    if not _names_the_login(answer):
        why = "Airflow names who has answered by a name that users can change. Decide on the job's page."
        return _refused(answer, why)
    job = ledger.job(parked.job_id)
    if job.dag_id != parked.dag_id:  # Airflow has asked for the permission on that Dag alone
        return _refused(answer, f"the job belongs to the Dag {job.dag_id} by now, and this is {parked.dag_id}.")
    # Airflow says neither their roles nor their groups.
    person = Person(answer.login, user_id=answer.user_id)
    reassigned = Reassignment.from_json(job.reassigned).number != parked.reassigned
    if reassigned and not has_voted(person.actor, (vote.decider for vote in ledger.reviews.votes(job))):
        # It may have been recorded, and voided since. An answer counts once.
        return _refused(answer, "the review was reassigned since.")
    try:
        ledger.reviews.decide(
            job.job_id, answer.verdict, digest=parked.digest, person=person, comment=answer.comment or None
        )
    except (StaleDecision, JobNotApproved, MayNotDecide) as refused:
        return _refused(answer, refused.what)
    return None


def _names_the_login(answer: Answer) -> bool:
    """Whether what Airflow calls the user who has answered is their login, and nothing that they choose.

    Where names are those that are shown, that is known where the auth manager's id is the login. The ids of the FAB
    auth manager are numbers, and a user can call themselves like one.
    """
    is_id = answer.login == answer.user_id and not str(answer.user_id).isdecimal()
    return airflow_compat.answers_name_logins() or is_id


def _refused(answer: Answer, why: str) -> str:
    who = escape("someone" if answer.login is None else answer.login)
    log.warning("The answer of %s in Required Actions was not recorded: %s No external write was made.", who, why)
    return f"{who}: {why}"
