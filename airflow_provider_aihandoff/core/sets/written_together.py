"""The steps of the apply protocol for the effects of many jobs in one transaction, where nothing has to be weighed.

Each effect gets what the single step gives: its own token, its own line in the history, its own row. A process that
dies between the claims and the outcomes leaves a claim of each of the group, which expires: so a group is no larger
than what is written at the same time.

Only what is plain is done here. A write that a pause or a limit is about, that was claimed before, that comes after
another effect or needs what that has brought, and an outcome of a job that has moved on, are left to the step of the
single effect, which knows what to do. The jobs of a group are locked in the order of their ids, so that no two wait
for each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import count
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.database.history import Move
from airflow_provider_aihandoff.core.effects.effect_store import Claim
from airflow_provider_aihandoff.core.effects.plan_store import EffectMove, change_effects, progress, settle_many
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Job, columns
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind
from airflow_provider_aihandoff.core.rates.rate_store import connection_of
from airflow_provider_aihandoff.core.states import EffectEvent, EffectState, JobEvent, JobState
from airflow_provider_aihandoff.core.text import plain_or_none

#: The effects that are asked for, with what the decision in force approves.
_ASKED_FOR = f"""
    SELECT {columns(Effect, "e")}, d.verdict, d.digest
    FROM unnest(%(job_ids)s::bigint[], %(names)s::text[]) AS asked (job_id, name)
    JOIN aihandoff.jobs AS j ON j.job_id = asked.job_id
    JOIN aihandoff.effects AS e ON e.job_id = j.job_id AND e.revision = j.revision AND e.name = asked.name
    LEFT JOIN aihandoff.decisions AS d ON d.decision_id = j.decision_id"""
#: Whether there is anything that could hold one of these writes; some of it may be about other writes.
_IS_WEIGHED = """
    SELECT EXISTS (SELECT FROM aihandoff.pauses WHERE ended_at IS NULL AND writes
            AND (conn_id IS NULL OR conn_id = ANY(%(conn_ids)s))
            AND (job_type IS NULL OR job_type = ANY(%(job_types)s)) AND (dag_id IS NULL OR dag_id = ANY(%(dag_ids)s)))
        OR EXISTS (SELECT FROM aihandoff.rate_limits
            WHERE (kind = %(kind)s AND name = ANY(%(conn_ids)s) OR kind = 'key' AND name = ANY(%(rate_keys)s))
            AND (amount IS NOT NULL OR closed_until > clock_timestamp() OR slowed_at IS NOT NULL)) AS is_weighed,
        clock_timestamp() AS now"""
#: Whether someone may wait for one of these writes to end.
_FREES = """
    SELECT EXISTS (SELECT FROM aihandoff.rate_limits WHERE measure = 'in flight'
        AND (kind = %(kind)s AND name = ANY(%(conn_ids)s) OR kind = 'key' AND name = ANY(%(rate_keys)s))) AS frees,
        clock_timestamp() AS now"""
_OF_JOBS = f"""
    SELECT {columns(Effect, "e")} FROM aihandoff.jobs AS j
    JOIN aihandoff.effects AS e ON e.job_id = j.job_id AND e.revision = j.revision
    WHERE j.job_id = ANY(%s) ORDER BY e.job_id, e.position"""


@dataclass(frozen=True)
class WriteWish:
    """One write that a thread asks the permission for.

    :param token: of the permission.
    :param lease: how long it is valid.
    """

    job_id: int
    plan: EffectPlan
    token: UUID
    lease: timedelta


@dataclass(frozen=True)
class Written:
    """One write that its target has applied.

    :param own: as of :meth:`.Effects.confirm`.
    """

    claim: Claim
    external_id: str | None
    result: Mapping[str, Any] | None
    own: bool


class WrittenTogether:
    """Steps for the effects of many jobs at once, on one ledger. What is left to the step of a single effect is None in
    their results."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, wishes: Sequence[WriteWish], *, actor: Actor) -> list[Claim | None]:
        """Get the permissions to send effects, as :meth:`.Effects.claim` does for one. Safe to repeat."""
        tries = count()  # where the commit of the first one is in doubt, the next waits for what it may still hold
        found = self._database.transact(
            lambda connection: _claim(connection, wishes, actor, waits=next(tries) > 0),
            repeatable=True,
            step="set.claim",
        )
        return [found.get(wish.token) for wish in wishes]

    def confirm(self, written: Sequence[Written], *, actor: Actor) -> list[Effect | None]:
        """Record that targets have applied effects, as :meth:`.Effects.confirm` does for one. Safe to repeat."""
        found = self._database.transact(
            lambda connection: _confirm(connection, written, actor), repeatable=True, step="set.confirm"
        )
        return [found.get(each.claim.effect.effect_id) for each in written]


def _claim(
    connection: LedgerConnection, wishes: Sequence[WriteWish], actor: Actor, *, waits: bool
) -> dict[UUID, Claim]:
    """The permissions for those that are plain, and not locked by others, by their tokens."""
    wanted = {wish.job_id: wish for wish in wishes}
    jobs = history.lock_many(connection, list(wanted), waits=waits)
    values = {"job_ids": list(jobs), "names": [wanted[job_id].plan.name for job_id in jobs]}
    given: dict[UUID, Claim] = {}
    steps: list[EffectMove] = []
    for row in connection.execute(_ASKED_FOR, values).fetchall():
        verdict, approved = row.pop("verdict"), row.pop("digest")
        effect, job, wish = Effect(**row), jobs[row["job_id"]], wanted[row["job_id"]]
        if effect.claim_token == wish.token:  # it was committed, and that was in doubt
            given[wish.token] = Claim(effect, wish.token)
        elif _is_approved(job, verdict, approved) and _is_plain(effect, wish.plan):
            steps.append(EffectMove(job, effect, EffectEvent.CLAIM, _permission(effect, wish, actor)))
    if not steps:
        return given
    is_weighed, now = _is_weighed(connection, steps)
    if is_weighed:
        return given
    claimed = change_effects(connection, steps)
    lines = [
        Move(
            step.job,
            JobEvent.EFFECT_CLAIMED,
            {"effect": effect.name, "effect_key": effect.effect_key, "attempt": effect.attempt},
        )
        for step, effect in zip(steps, claimed, strict=True)
    ]
    history.move_many(connection, lines, actor=actor, at=now)
    tokens = {effect.job_id: wanted[effect.job_id].token for effect in claimed}
    return given | {tokens[effect.job_id]: Claim(effect, tokens[effect.job_id]) for effect in claimed}


def _is_approved(job: Job, verdict: str | None, digest: str | None) -> bool:
    """Whether the decision in force approves exactly the digest that a job has now."""
    return (
        job.state in (JobState.APPROVED, JobState.APPLYING)
        and job.cancelling is None
        and job.review_digest is not None
        and verdict == "approve"
        and (job.approval == "not required" or digest == job.review_digest)
    )


def _is_plain(effect: Effect, plan: EffectPlan) -> bool:
    """Whether an effect is what was approved, was never sent or held, and stands alone."""
    return (
        effect.state is EffectState.PLANNED
        and effect.plan_digest == plan.plan_digest
        and effect.attempt == 0
        and effect.held_kind is None
        and effect.undoes is None
        and not (plan.skipped or effect.after_effects or plan.names or plan.other_names)
    )


def _permission(effect: Effect, wish: WriteWish, actor: Actor) -> dict[str, Any]:
    """What a claim changes in an effect."""
    return {
        "attempt": effect.attempt + 1,
        "claim_token": wish.token,
        "claimed_by": str(actor),
        "lease": wish.lease,
        "rate_key": wish.plan.rate_key,
        "conn_id": connection_of(effect),
        "not_now": False,
        "error": None,
        "external_url": wish.plan.external_url,
    }


def _is_weighed(connection: LedgerConnection, steps: Sequence[EffectMove]) -> tuple[bool, datetime]:
    """Whether something has to be asked for each of these writes by itself; and the database's clock."""
    values = {
        "kind": LimitKind.TARGET,
        "conn_ids": list({each for step in steps if (each := step.changes["conn_id"]) is not None}),
        "rate_keys": list({each for step in steps if (each := step.changes["rate_key"]) is not None}),
        "job_types": list({step.job.job_type for step in steps}),
        "dag_ids": list({step.job.dag_id for step in steps}),
    }
    row = connection.execute(_IS_WEIGHED, values).fetchone()
    assert row is not None
    return bool(row["is_weighed"]), row["now"]


def _confirm(connection: LedgerConnection, written: Sequence[Written], actor: Actor) -> dict[int, Effect]:
    """Record those that are plain; the effects as they are now, by their ids."""
    told = {each.claim.effect.effect_id: each for each in written}
    jobs = history.lock_many(connection, list({each.claim.effect.job_id for each in written}), waits=False)
    of_job: dict[int, list[Effect]] = {}
    for row in connection.execute(_OF_JOBS, [list(jobs)]).fetchall():
        of_job.setdefault(row["job_id"], []).append(Effect(**row))
    done: dict[int, Effect] = {}
    steps: list[EffectMove] = []
    for job_id, effects in of_job.items():
        mine = [each for each in effects if each.effect_id in told]
        # Two of one job would each be the other's progress.
        if len(mine) != 1 or mine[0].claim_token != told[mine[0].effect_id].claim.token:
            continue
        job, effect = jobs[job_id], mine[0]
        if effect.state is EffectState.APPLIED:
            done[effect.effect_id] = effect
        elif effect.state is EffectState.CLAIMED and job.state is JobState.APPLYING and job.cancelling is None:
            steps.append(EffectMove(job, effect, EffectEvent.CONFIRM, _outcome(told[effect.effect_id])))
    if not steps:
        return done
    frees, at = _frees(connection, [step.effect for step in steps])
    if frees:
        return done
    applied, lines = change_effects(connection, steps), list[Move]()
    for step, effect in zip(steps, applied, strict=True):
        each = told[effect.effect_id]
        effects = [effect if other.effect_id == effect.effect_id else other for other in of_job[effect.job_id]]
        detail = {"effect": effect.name, "external_id": each.external_id, "attempt": effect.attempt}
        reason = progress(effects) + ("" if each.own else f"; {effect.name} was there before")
        lines.append(Move(step.job, JobEvent.EFFECT_APPLIED, detail, reason))
    settle_many(connection, history.move_many(connection, lines, actor=actor, at=at), actor=actor, at=at)
    return done | {effect.effect_id: effect for effect in applied}


def _outcome(written: Written) -> dict[str, Any]:
    """What a confirmation changes in an effect."""
    result = None if written.result is None else dict(written.result)
    return {"external_id": plain_or_none(written.external_id), "result": result, "own": written.own, "error": None}


def _frees(connection: LedgerConnection, effects: Sequence[Effect]) -> tuple[bool, datetime]:
    """Whether someone may wait for one of these writes to end, and has to be woken; and the database's clock."""
    values = {
        "kind": LimitKind.TARGET,
        "conn_ids": list({each for effect in effects if (each := connection_of(effect)) is not None}),
        "rate_keys": list({effect.rate_key for effect in effects if effect.rate_key is not None}),
    }
    row = connection.execute(_FREES, values).fetchone()
    assert row is not None
    return bool(row["frees"]), row["now"]
