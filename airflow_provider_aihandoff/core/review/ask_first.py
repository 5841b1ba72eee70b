"""Stores the plans of many jobs that were never asked about, and what their policy decides, in one transaction.

Asking about a single job takes some fifteen round trips and a commit, and the decision of its policy as many again.
Only what is new is done here: a job with a plan, a decision or an edit is left to :meth:`.Reviews.ask`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import Move
from airflow_provider_aihandoff.core.digests import digest, review_components
from airflow_provider_aihandoff.core.effects.approved_undo import SEALS, seals
from airflow_provider_aihandoff.core.effects.plan_store import digest_key, insert_plans
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, Job, OnTimeout
from airflow_provider_aihandoff.core.review.decide import record_each
from airflow_provider_aihandoff.core.review.rules import ReviewRules
from airflow_provider_aihandoff.core.states import JobEvent, JobState
from airflow_provider_aihandoff.core.text import plain

#: What the output of each is; not of a job that was planned or decided before, whatever became of that.
_NEW = """
    SELECT r.job_id, r.output_digest FROM aihandoff.revisions AS r
    JOIN unnest(%(job_ids)s::bigint[], %(numbers)s::integer[]) AS given (job_id, number) USING (job_id, number)
    WHERE r.output_digest IS NOT NULL AND r.based_on IS NULL
        AND NOT EXISTS (SELECT FROM aihandoff.effects AS e WHERE e.job_id = r.job_id)
        AND NOT EXISTS (SELECT FROM aihandoff.decisions AS d WHERE d.job_id = r.job_id)"""


@dataclass(frozen=True)
class FirstAsk:
    """What is asked about one job for the first time.

    :param revision: for which the plans were rendered.
    :param rules: who decides, where a person does.
    :param approved_since: why the policy approves it; None: it does not.
    :param reason: why a person is asked, as a text for the reviewer.
    """

    job_id: int
    revision: int
    plans: Sequence[EffectPlan]
    rules: ReviewRules
    approved_since: str | None = None
    reason: str | None = None


def ask_first(
    connection: LedgerConnection,
    asks: Sequence[FirstAsk],
    *,
    policy: str | None,
    deadline: timedelta | datetime,
    actor: Actor,
    on_timeout: OnTimeout | None,
    configured_key: str,
) -> dict[int, Job]:
    """Ask about those that are new; the jobs as they are now, by id. The others are left out.

    :param policy: as of :meth:`.Reviews.ask`, and so are ``deadline`` and ``on_timeout``.
    :param configured_key: of digests; empty: the ledger's own.
    """
    wanted = {ask.job_id: ask for ask in asks}
    jobs = {
        job_id: job
        for job_id, job in history.lock_many(connection, list(wanted)).items()
        if _is_new(job, wanted[job_id])
    }
    values = {"job_ids": list(jobs), "numbers": [job.revision for job in jobs.values()]}
    outputs = {row["job_id"]: row["output_digest"] for row in connection.execute(_NEW, values).fetchall()}
    new = [(job, wanted[job_id]) for job_id, job in jobs.items() if job_id in outputs]
    if not new:
        return {}
    insert_plans(connection, [(job, ask.plans) for job, ask in new])
    now, key = history.now(connection), configured_key or digest_key(connection)
    until = now + deadline if isinstance(deadline, timedelta) else deadline
    times = {"review_on_timeout": on_timeout, "review_deadline": until, "review_asked_at": now}
    steps = [_planned(job, ask, outputs[job.job_id], policy, key, times) for job, ask in new]
    planned = history.move_many(connection, steps, actor=actor, at=now)
    found = {job.job_id: job for job in planned}
    if policy is not None:
        reasons = {job_id: plain(why) for job_id, ask in wanted.items() if (why := ask.approved_since) is not None}
        answers = [(job, str(job.review_digest)) for job in planned if job.job_id in reasons]
        done = record_each(connection, answers, "approve", by=Actor.policy(policy), comments=reasons)
        found |= {job.job_id: job for job in done}
    return found


def _is_new(job: Job, ask: FirstAsk) -> bool:
    return (
        job.state is JobState.REVIEW
        and job.revision == ask.revision
        and job.review_digest is None
        and job.review_deadline is None
        and job.cancelling is None
        and job.reassigned is None
        and job.approval == "required"
    )


def _planned(
    job: Job, ask: FirstAsk, output_digest: str, policy: str | None, key: str, times: Mapping[str, Any]
) -> Move:
    effects = [(plan.name, plan.plan_digest) for plan in ask.plans]
    components = review_components(output_digest, effects, policy, ask.rules.bound)
    new_digest = digest(components)
    detail = {"digest": new_digest, "components": components, SEALS: seals(job, ask.plans, key)}
    changes = {**times, "review_digest": new_digest, "review": ask.rules.to_json()}
    return Move(job, JobEvent.PLANNED, detail, ask.reason, changes)
