"""What OpenLineage gets of a task: which job, which model, who approved, and what was written where. No content.

Airflow's OpenLineage provider calls it in the worker after the task, within a time-out of its own. It is imported only
there: neither that provider nor its client is required.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.openlineage.extractors import OperatorLineage
from attrs import define
from openlineage.client.facet_v2 import RunFacet

from airflow_provider_aihandoff.core.states import EffectState
from airflow_provider_aihandoff.operators.task_links import job_id_of

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import JobRecord

#: Effects of one task that a facet has at most.
_NAMED = 100


@define
class AIHandoffDraftRunFacet(RunFacet):
    """What was asked of which model, as digests.

    :param promptDigest: of everything that decides what the model is asked: its input, instructions, tools and schema.
    :param outputDigest: of the output as it is now; None where there is none.
    """

    jobId: int  # noqa: N815 - facets are written in camel case
    jobType: str  # noqa: N815
    jobKey: str  # noqa: N815
    revision: int
    model: str | None
    promptDigest: str  # noqa: N815
    outputDigest: str | None  # noqa: N815
    responseId: str | None  # noqa: N815


@define
class AIHandoffEffectsRunFacet(RunFacet):
    """What was written where, and who had approved it.

    :param outputDigest: of the output that was written from.
    :param approvers: those who approved it, each with the kind of actor, such as ``user`` or ``policy``, and the name.
    :param effects: with name, kind of target, connection, state and external id; so many of them at most.
    """

    jobId: int  # noqa: N815
    jobType: str  # noqa: N815
    jobKey: str  # noqa: N815
    revision: int
    outputDigest: str | None  # noqa: N815
    approvers: list[dict[str, str]]
    effects: list[dict[str, str | None]]


def draft_lineage(task: Any, ledger_conn_id: str | None) -> OperatorLineage[Any, Any] | None:
    """Of a task that asks the model; None where it has no job, or is for a set."""
    record = _record(task, ledger_conn_id)
    return None if record is None else OperatorLineage(run_facets={"aihandoff_draft": draft_facet(record)})


def effect_lineage(task: Any, ledger_conn_id: str | None) -> OperatorLineage[Any, Any] | None:
    """Of a task that writes; None where it has no job, or is for a set."""
    record = _record(task, ledger_conn_id)
    if record is None:
        return None
    return OperatorLineage(run_facets={"aihandoff_effects": effects_facet(record, task.task_id)})


def _record(task: Any, ledger_conn_id: str | None) -> JobRecord | None:
    from airflow_provider_aihandoff.hooks.ledger import LedgerHook

    job_id = job_id_of(task)
    if job_id is None:
        return None
    with LedgerHook(ledger_conn_id).get_conn() as ledger:
        return ledger.record(job_id)


def draft_facet(record: JobRecord) -> AIHandoffDraftRunFacet:
    """Of the newest revision that the model has made."""
    by_model = [revision for revision in record.revisions if revision.author_kind == "model"]
    made = by_model[-1] if by_model else record.revision
    return AIHandoffDraftRunFacet(
        jobId=record.job.job_id,
        jobType=record.job.job_type,
        jobKey=record.job.job_key,
        revision=made.number,
        model=made.model,
        promptDigest=record.job.input_digest,
        outputDigest=made.output_digest,
        responseId=made.response_id,
    )


def effects_facet(record: JobRecord, task_id: str) -> AIHandoffEffectsRunFacet:
    """Of the effects of one task."""
    approvers = {
        decision.decider.label: decision.decided_by_kind
        for decision in record.decisions
        if decision.verdict == "approve" and decision.digest == record.job.review_digest and not decision.voided_at
    }
    effects: list[dict[str, str | None]] = [
        {
            "name": effect.name,
            "target": effect.kind,
            "connection": effect.conn_id,
            "state": effect.state.value,
            "externalId": effect.external_id if effect.state is EffectState.APPLIED else None,
        }
        for effect in record.current_effects
        if effect.task_id == task_id
    ]
    return AIHandoffEffectsRunFacet(
        jobId=record.job.job_id,
        jobType=record.job.job_type,
        jobKey=record.job.job_key,
        revision=record.job.revision,
        outputDigest=record.revision.output_digest,
        approvers=[{"kind": kind, "name": name} for name, kind in approvers.items()],
        effects=effects[:_NAMED],
    )
