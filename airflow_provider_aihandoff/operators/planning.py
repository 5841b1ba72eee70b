"""Renders the effects of a job to the exact requests that would be sent, before anything is sent."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, conf
from airflow.sdk.definitions.mappedoperator import MappedOperator

from airflow_provider_aihandoff.core.error_text import said
from airflow_provider_aihandoff.core.errors import HandoffError, PlanError, PlanNotApproved
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.operators.job_tasks import approval_task, effect_tasks
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.jobs.job_view import JobView
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import EffectPlan


def effects_before(dag: Any, task: Any) -> tuple[str, ...]:
    """The names of the effects of the same job that come before this one in the Dag, in topological order."""
    upstream = task.get_flat_relative_ids(upstream=True)
    return tuple(
        other.effect_name
        for other in effect_tasks(dag, task.job_source)
        if not isinstance(other, MappedOperator) and other.task_id in upstream
    )


def plan_effects(
    context: Context, source: Any, job: JobView, ledger: Ledger, *, ask_targets: bool = False
) -> list[EffectPlan]:
    """Render every effect of the job in the context of the task that runs now.

    :param ask_targets: read what each target has now, and try its probe, where its author says how.
    :raises PlanError: one of them cannot be rendered; the message says which, and why.
    """
    plans: list[EffectPlan] = []
    key = ledger.digest_key()
    readings = {} if ask_targets else _readings(ledger, job.job_id)
    for task in effect_tasks(context["dag"], source):
        if isinstance(task, MappedOperator):
            raise PlanError(
                f"the effect {task.task_id!r} is mapped by itself, so that what it writes is not known in advance.",
                job=f"job {job.job_id}",
                remedy="Map the whole task group from the draft to its effects, one job each.",
            )
        try:
            after = effects_before(context["dag"], task)
            plans += task.plans(context, job, key=key, after=after, ask_target=ask_targets, readings=readings)
            continue
        except (HandoffError, AirflowFailException):
            raise
        except Exception as error:  # noqa: BLE001 - raised below, where nothing is chained to it
            problem = said(error)
        raise PlanError(
            f"the effect {task.task_id!r} cannot be rendered: {problem}.",
            job=f"job {job.job_id} ({job.job_type} {job.job_key}, revision {job.revision})",
            remedy="Fix the templates of this task, or the output they use; then clear this task.",
        )
    return plans


def _readings(ledger: Ledger, job_id: int) -> dict[str, Any]:
    """What the targets had when they were read for the plan as it is stored, by the names of the effects."""
    effects = [effect for candidate in ledger.candidates([job_id]) for effect in candidate.effects]
    return {effect.name: effect.current for effect in effects if effect.current}


def ask_again(context: Context, source: Any, job: JobView, ledger: Ledger, refusal: PlanNotApproved) -> PlanNotApproved:
    """Ask a person about the plan as it is now, where nothing of the approved one was written.

    :return: the refusal, with what there is to do about it.
    """
    asked = ledger.reviews.ask_again(
        job.job_id,
        plan_effects(context, source, job, ledger, ask_targets=True),
        deadline=timedelta(seconds=_review_seconds(context["dag"], source)),
        actor=owner_of(context).actor,
        reason=refusal.what,
    )
    if asked.state is not JobState.REVIEW:
        return refusal
    return PlanNotApproved(
        refusal.what,
        job=refusal.job,
        written=refusal.written,
        remedy="A person is asked about the plan as it is now: decide on it on the job's review page, then clear this "
        "task. To go back to the plan that was approved, restore it and clear the approval task of this run.",
    )


def _review_seconds(dag: Any, source: Any) -> float:
    """How long people have to decide: as the job's approval task says."""
    approval = approval_task(dag, source)
    return float(conf.getfloat("sensors", "default_timeout") if approval is None else approval.timeout)
