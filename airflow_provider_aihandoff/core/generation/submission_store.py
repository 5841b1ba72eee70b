"""The submit and wait protocols: one job, one bill.

Open or attach → intend (commit) → send → record the response id, or what became of the request.
Every function is one short transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

from psycopg.types.json import Json

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.admission import spending_limit_store
from airflow_provider_aihandoff.core.admission.admit import Permitted, admit_request
from airflow_provider_aihandoff.core.admission.hold import Hold, Refusal
from airflow_provider_aihandoff.core.admission.hold_store import hold_request
from airflow_provider_aihandoff.core.arguments import checked
from airflow_provider_aihandoff.core.budgets import reservation_store
from airflow_provider_aihandoff.core.budgets.reserve import keep_worst_case
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, Keep, LedgerConnection
from airflow_provider_aihandoff.core.database.history import as_json, json_of_text
from airflow_provider_aihandoff.core.digests import canonical_json, digest, input_digest, input_digest_of_json
from airflow_provider_aihandoff.core.effects.plan_store import anything_touched, digest_key, void_plans
from airflow_provider_aihandoff.core.errors import (
    CannotRegenerate,
    HandoffError,
    InputChanged,
    JobCancelled,
    JobFailed,
    NothingLost,
    RequestError,
    RevisionsExhausted,
)
from airflow_provider_aihandoff.core.generation.lost import LostWait, wait_of
from airflow_provider_aihandoff.core.generation.lost_store import count_lost, wait_less
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.revision_store import (
    COUNTED,
    count_unknown,
    fail_revision,
    give_up,
    mark_running,
    next_number,
    read_revision,
)
from airflow_provider_aihandoff.core.generation.surplus_store import keep_surplus
from airflow_provider_aihandoff.core.jobs.attach import Attachment, Step, decide_attachment
from airflow_provider_aihandoff.core.models import Actor, Job, JobSpec, OnLost, Owner, Revision, columns
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind
from airflow_provider_aihandoff.core.rates.rate_store import slot_freed
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.rates.slowdown_store import hear
from airflow_provider_aihandoff.core.states import (
    TOUCHED_EFFECT_STATES,
    JobEvent,
    JobState,
    ResponseStatus,
    RevisionState,
)
from airflow_provider_aihandoff.core.text import plain_or_none
from airflow_provider_aihandoff.core.webhooks.inbox import adopt_early, lock_response

#: Requests of one revision that may have been accepted without the id being known. One is allowed, since a crash
#: looks the same as a loss; a second would break "one job, one bill".
MAX_UNKNOWN_SUBMISSIONS = 1

#: Of a request of which no one has said what it can need.
_NOT_KNOWN = WorstCase()

#: Requests of one revision that may be refused for now, over all attempts and retries.
MAX_REFUSALS = 50

_REFUSED_TOO_OFTEN = Refusal(
    "refused too often",
    f"The provider has refused its request {MAX_REFUSALS} times, each time for now.",
    "Find out why it takes none (the history has each answer); then clear the task, which makes a new revision.",
)


@dataclass(frozen=True)
class Opened:
    """What :meth:`Submission.open` found or made.

    :param superseded: the response of an older revision that still runs and is no longer needed.
    """

    job: Job
    revision: Revision
    next: Attachment
    superseded: Revision | None = None


@dataclass(frozen=True)
class Intent:
    """The permission to send one request.

    :param token: proof of the permission; None when another attempt has it, or has just got an id.
    :param wait: seconds until another one may get it: another attempt has it, a request is lost, or it is held.
    :param left: seconds until the deadline, by the database's clock.
    :param finds_out: the request is to find out whether a limit of money is still reached.
    :param asked: when the ledger was asked for it, by the monotonic clock, where that is later than the question: those
        that are sent together wait for room before.
    """

    revision: Revision
    token: UUID | None
    wait: float = 0.0
    left: float = 0.0
    finds_out: bool = False
    asked: float | None = None


#: What stands in a new job, and how it is handed over for many.
_OF_A_JOB = {
    "job_type": "text",
    "job_key": "text",
    "input": "json",
    "input_digest": "text",
    "requested_by": "text",
    "permissions": "json",
    "approval": "text",
    "approval_reason": "text",
    "max_revisions": "integer",
    "max_cost_usd": "numeric",
    "triggered_by": "text",
    "dag_id": "text",
    "run_id": "text",
    "task_id": "text",
    "map_index": "integer",
    "ti_id": "text",
    "try_number": "integer",
    "tags": "json",
    "set_id": "bigint",
}
_NEW_JOB = """
    INSERT INTO aihandoff.jobs (job_type, job_key, state, input, input_digest, requested_by, permissions, approval,
        approval_reason, max_revisions, max_cost_usd, triggered_by, revision, dag_id, run_id, task_id, map_index, ti_id,
        try_number, event_seq, event_hash, created_at, updated_at, tags, set_id)
    SELECT {job_type}, {job_key}, 'queued', {input}, {input_digest}, {requested_by}, {permissions}, {approval},
        {approval_reason}, {max_revisions}, {max_cost_usd}, {triggered_by}, 1, {dag_id}, {run_id}, {task_id},
        {map_index}, {ti_id}, {try_number}, 0, %(genesis)s, clock_timestamp(), clock_timestamp(),
        ARRAY(SELECT json_array_elements_text({tags})), {set_id}"""
_IF_NEW = f"""
    ON CONFLICT (job_type, job_key) DO NOTHING
    RETURNING {columns(Job)}"""
_INSERT_JOB = _NEW_JOB.format_map({name: f"%({name})s::{kind}" for name, kind in _OF_A_JOB.items()}) + _IF_NEW
#: In the order that is given: two of these lock what they make in the same order.
_INSERT_JOBS = f"""{_NEW_JOB.format_map({name: f"given.{name}" for name in _OF_A_JOB})}
    FROM unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in _OF_A_JOB.items())}) WITH ORDINALITY
        AS given ({", ".join(_OF_A_JOB)}, place) ORDER BY given.place{_IF_NEW}"""
_LOCK_JOB_BY_KEY = f"""
    SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_type = %s AND job_key = %s FOR UPDATE"""
#: What stands in a new revision, and how it is handed over for many.
_OF_A_REVISION = {
    "job_id": "bigint",
    "number": "integer",
    "conn_id": "text",
    "request": "json",
    "request_digest": "text",
    "until": "timestamptz",
    "lasts": "interval",
    "on_lost": "text",
    "priority": "text",
    "rate_key": "text",
    "max_wait": "interval",
    "expected_output_tokens": "integer",
    "unpriced_usd": "numeric",
    "model": "text",
}
_NEW_REVISION = """
    INSERT INTO aihandoff.revisions
        (job_id, number, author, author_kind, state, conn_id, request, request_digest, deadline, created_at, on_lost,
        priority, rate_key, max_wait, expected_output_tokens, unpriced_usd, model)
    SELECT {job_id}, {number}, 'model', 'model', 'queued', {conn_id}, {request}, {request_digest},
        coalesce({until}, clock_timestamp() + {lasts}), clock_timestamp(), {on_lost}, {priority}, {rate_key},
        {max_wait}, {expected_output_tokens}, {unpriced_usd}, {model}"""
_INSERT_REVISION = f"""{
    _NEW_REVISION.format_map({name: f"%({name})s::{kind}" for name, kind in _OF_A_REVISION.items()})
}
    RETURNING {columns(Revision)}"""
_INSERT_REVISIONS = f"""{_NEW_REVISION.format_map({name: f"given.{name}" for name in _OF_A_REVISION})}
    FROM unnest({", ".join(f"%({name})s::{kind}[]" for name, kind in _OF_A_REVISION.items())})
        AS given ({", ".join(_OF_A_REVISION)})
    RETURNING {columns(Revision)}"""
_REFRESH_UNSENT = """
    UPDATE aihandoff.revisions SET conn_id = %(conn_id)s, request = %(request)s, request_digest = %(request_digest)s,
        on_lost = %(on_lost)s, priority = %(priority)s, rate_key = %(rate_key)s, max_wait = %(max_wait)s,
        expected_output_tokens = %(expected_output_tokens)s, unpriced_usd = %(unpriced_usd)s, model = %(model)s
    WHERE job_id = %(job_id)s AND number = %(number)s AND state = 'queued' AND based_on IS NULL"""
_KEEP_REQUEST = """
    UPDATE aihandoff.revisions SET request = %s, request_digest = %s, on_lost = %s, model = %s
    WHERE job_id = %s AND number = %s AND state = 'queued'"""
_READ_FIRST_REQUEST = """
    SELECT request, request_digest FROM aihandoff.revisions
    WHERE job_id = %(job_id)s AND number <= %(number)s AND based_on IS NULL ORDER BY number DESC LIMIT 1"""
_COUNT_MODEL_REVISIONS = f"SELECT count(*) AS n FROM aihandoff.revisions WHERE job_id = %s AND {COUNTED}"
#: A line that a task of a Dag run has written.
_OF_RUN = "actor_kind = 'task' AND actor_dag_id = %s AND actor_run_id = %s"
_MARK_SUBMITTING = f"""
    UPDATE aihandoff.revisions SET state = 'submitting', submissions = submissions + 1, submit_token = %(token)s,
        submit_lease_until = clock_timestamp() + %(lease)s, submitted_at = clock_timestamp(),
        conversation_id = coalesce(conversation_id, %(handle)s), held_kind = NULL, held_name = NULL, held_why = NULL,
        held_since = NULL, worst_cost_usd = %(worst)s
    WHERE revision_id = %(revision_id)s
    RETURNING {columns(Revision)}"""
_MARK_NOT_SENT = """
    UPDATE aihandoff.revisions SET state = 'queued', submissions = submissions - 1, submit_token = NULL,
        submit_lease_until = NULL, refusals = refusals + %s
    WHERE revision_id = %s"""
_MARK_RUNS_IN_HANDLE = """
    UPDATE aihandoff.revisions SET unknown_submissions = 1, submissions = greatest(submissions - 1, 1),
        submit_token = NULL, submit_lease_until = least(clock_timestamp() + %s, deadline)
    WHERE revision_id = %s"""
_MARK_MAY_BE_SENT = """
    UPDATE aihandoff.revisions SET state = 'queued', submit_lease_until = NULL WHERE revision_id = %s"""


def _has_seen(connection: LedgerConnection, job: Job, owner: Owner) -> bool:
    """Whether a task of the same Dag run has made or attached to the job before."""
    row = connection.execute(
        f"SELECT EXISTS (SELECT FROM aihandoff.events WHERE job_id = %s AND {_OF_RUN}) AS seen",
        [job.job_id, owner.dag_id, owner.run_id],
    ).fetchone()
    assert row is not None
    return bool(row["seen"])


def _has_made(connection: LedgerConnection, job: Job, owner: Owner) -> bool:
    """Whether a task of the same Dag run has made a revision of the job: a retry or a clear does not make another."""
    row = connection.execute(
        f"""SELECT EXISTS (SELECT FROM aihandoff.events WHERE job_id = %s AND event IN ('created', 'revised')
            AND {_OF_RUN}) AS made""",
        [job.job_id, owner.dag_id, owner.run_id],
    ).fetchone()
    assert row is not None
    return bool(row["made"])


def _written(connection: LedgerConnection, job: Job) -> str:
    """The external writes that may have been made for the job, as text."""
    rows = connection.execute(
        "SELECT name, state FROM aihandoff.effects WHERE job_id = %s AND state = ANY(%s) ORDER BY position",
        [job.job_id, [state.value for state in TOUCHED_EFFECT_STATES]],
    ).fetchall()
    return ", ".join(f"{row['name']} is {row['state']}" for row in rows) or "no external write was made"


def _nothing_lost(job: Job, revision: Revision) -> NothingLost:
    if revision.state is RevisionState.SUBMITTING and revision.submit_token is not None:
        what, remedy = "a request is being sent now.", "Try again when its outcome is known, in less than a minute."
    elif revision.is_lost:
        what = f"{revision.unknown_submissions} requests are lost by now, more than you saw."
        remedy = "Check the job again, then decide."
    else:
        what, remedy = f"no request is lost: it is {job.state.value.replace('_', ' ')}.", "There is nothing to decide."
    return NothingLost(
        what, job=job.label, written="Your answer was not recorded. It causes no external write.", remedy=remedy
    )


def _check_current(job: Job, number: int) -> None:
    """Return where this revision may still be sent.

    :raises JobCancelled: the job was cancelled meanwhile.
    :raises InputChanged: a task with other input has taken the key over meanwhile.
    """
    if job.state is JobState.CANCELLED:
        raise JobCancelled("it was cancelled before the request was sent.", job=job.label)
    if job.revision != number:
        raise InputChanged(
            f"revision {number} was replaced by {job.revision}: a task with other input came meanwhile.",
            job=job.label,
            remedy="Give each piece of work a job_key of its own.",
        )


def _admit(
    connection: LedgerConnection,
    job: Job,
    revision: Revision,
    worst: WorstCase,
    permit: Callable[[], Revision],
    token: UUID,
    at: datetime,
    tokens: int,
) -> Hold | Refusal | Permitted:
    """Whether a request may be sent now: it was not refused too often, and nothing holds it."""
    if revision.refusals >= MAX_REFUSALS:
        return _REFUSED_TOO_OFTEN
    return admit_request(connection, job, revision, worst, permit, token=token, at=at, tokens=tokens)


def _permit(
    connection: LedgerConnection, job: Job, revision: Revision, actor: Actor, marks: Mapping[str, Any]
) -> Revision:
    """Write down the permission to send the request of a revision.

    :param marks: its token, lease, handle and worst cost.
    """
    detail = {"revision": revision.number, "token": str(marks["token"])}
    history.move(connection, job, JobEvent.SUBMIT_INTENDED, actor=actor, detail=detail)
    connection.count(signals.RETRIES, int(revision.submitted_at is not None), what="request")
    row = connection.execute(_MARK_SUBMITTING, {**marks, "revision_id": revision.revision_id}).fetchone()
    assert row is not None
    return Revision(**row)


def _refuse(connection: LedgerConnection, job: Job, revision: Revision, refusal: Refusal, actor: Actor) -> HandoffError:
    """End a revision whose request may not be sent."""
    error = {"kind": refusal.kind, "final": True}
    fail_revision(connection, job, revision, actor=actor, reason=refusal.why, error=error)
    return JobFailed(refusal.why, job=job.label, written="No request was sent.", remedy=refusal.remedy)


def _model_of(request: Mapping[str, Any]) -> str | None:
    """The model that a request names, as text that PostgreSQL can keep."""
    name = request.get("model")
    return plain_or_none(name) if isinstance(name, str) and name else None


def _lease_left(revision: Revision, at: datetime) -> float:
    """Seconds until the request of a revision may be asked for; 0 where it may."""
    until = revision.submit_lease_until
    return 0.0 if until is None else max(0.0, (until - at).total_seconds())


def _job_values(spec: JobSpec, key: str) -> dict[str, Any]:
    """The columns of a new job.

    :param key: of the digests.
    """
    kept, its_digest = _kept(spec.input, spec.kept_input, key)
    return {
        **vars(spec),
        **vars(spec.owner),
        "input": kept,
        "permissions": as_json(spec.permissions),
        "triggered_by": plain_or_none(spec.triggered_by),
        "input_digest": its_digest,
        "genesis": history.GENESIS,
        "tags": as_json(list(spec.tags)),
    }


def _kept(whole: dict[str, Any], shown: dict[str, Any], key: str) -> tuple[Json, str]:
    """A value as the ledger keeps it, and the digest of the whole of it.

    :param shown: the same where secrets are masked.
    :param key: of the digest.
    """
    text = canonical_json(whole)
    kept = json_of_text(text) if shown is whole or shown == whole else as_json(shown)
    return kept, input_digest_of_json(text, key)


def _created_detail(spec: JobSpec, job: Job) -> dict[str, Any]:
    """The detail of the first line of a job."""
    return {"requested_by": spec.requested_by, "input_digest": job.input_digest}


def _revision_values(job: Job, spec: JobSpec, key: str) -> dict[str, Any]:
    """The columns of a new revision.

    :param key: of the digests.
    """
    kept, its_digest = _kept(spec.request, spec.kept_request, key)
    return {
        "job_id": job.job_id,
        "number": job.revision,
        "conn_id": spec.conn_id,
        "request": kept,
        "request_digest": its_digest,
        "until": None if isinstance(spec.deadline, timedelta) else spec.deadline,
        "lasts": spec.deadline if isinstance(spec.deadline, timedelta) else None,
        "on_lost": spec.on_lost,
        "priority": spec.priority,
        "rate_key": spec.rate_key,
        "max_wait": spec.max_wait,
        "expected_output_tokens": spec.expected_output_tokens,
        "unpriced_usd": spec.unpriced_usd,
        "model": _model_of(spec.request),
    }


class Submission:
    """The steps from a task's request to a stored output, on one ledger.

    :param digest_key: the configured key of digests; empty: the ledger's own.
    """

    def __init__(self, database: Database, digest_key: str) -> None:
        self._database = database
        self._digest_key = digest_key

    def is_input(self, job: Job, value: Mapping[str, Any]) -> bool:
        """Whether a job was made, or last revised, with this input."""
        return job.input_digest in self._database.transact(lambda connection: self._digests(connection, value))

    def first_request(self, job_id: int, number: int) -> dict[str, Any] | None:
        """The request by which the model was first asked for what a revision has become; None where the ledger does
        not have it whole, since it has secrets."""

        def work(connection: LedgerConnection) -> dict[str, Any] | None:
            row = connection.execute(_READ_FIRST_REQUEST, {"job_id": job_id, "number": number}).fetchone()
            assert row is not None
            request: dict[str, Any] = row["request"]
            return request if row["request_digest"] in self._digests(connection, request) else None

        return self._database.transact(work)

    def _digests(self, connection: LedgerConnection, value: Any) -> list[str]:
        """The digest of an input or a request, and the one that it had before a key was configured."""
        own = digest_key(connection)
        return [input_digest(value, key) for key in dict.fromkeys((self._digest_key or own, own))]

    def open(self, spec: JobSpec) -> Opened:
        """Create the job, or attach to the one with the same type and key. Safe to repeat.

        :raises RequestError: an argument could not be stored, or found again.
        :raises InputChanged: the key stands for other work, and something may have been written for it.
        :raises RevisionsExhausted: a new revision is called for, and there have been ``max_revisions`` already.
        :raises JobCancelled: the job was cancelled.
        :raises CannotRegenerate: a new revision is asked for, and something is applied that was not undone.
        """
        named = checked(spec)
        return self._database.transact(lambda connection: self._open(connection, named), step="submit.open")

    def open_many(self, specs: Sequence[JobSpec]) -> list[Opened | HandoffError]:
        """:meth:`open` for many jobs with different keys, in one transaction: those that are new in few round trips.

        :return: in the order of the specs; in the place of a job that may not be opened, why: what :meth:`open` raises.
            That one holds up no other.
        """
        named: list[JobSpec | HandoffError] = []
        for spec in specs:
            try:
                named.append(checked(spec))
            except RequestError as refused:
                named.append(refused)
        # Always in this order, so that no two wait for each other.
        wanted = sorted(
            (each for each in named if isinstance(each, JobSpec)), key=lambda each: (each.job_type, each.job_key)
        )

        def work(connection: LedgerConnection) -> dict[tuple[str, str], Opened | HandoffError]:
            done: dict[tuple[str, str], Opened | HandoffError] = dict(self._create_many(connection, wanted))
            for spec in wanted:
                if (key := (spec.job_type, spec.job_key)) in done:
                    continue
                try:
                    done[key] = self._attach(connection, spec)
                except HandoffError as refused:  # before anything was written for it
                    done[key] = refused
            return done

        found = self._database.transact(work, step="set.open jobs") if wanted else {}
        return [found[each.job_type, each.job_key] if isinstance(each, JobSpec) else each for each in named]

    def _create_many(
        self, connection: LedgerConnection, specs: Sequence[JobSpec]
    ) -> Iterator[tuple[tuple[str, str], Opened]]:
        """Make the jobs that there are not yet, by type and key."""
        key = self._digest_key or digest_key(connection)
        wanted = [_job_values(spec, key) for spec in specs]
        given = {name: [values[name] for values in wanted] for name in _OF_A_JOB}
        rows = connection.execute(_INSERT_JOBS, {**given, "genesis": history.GENESIS}).fetchall()
        new = {(row["job_type"], row["job_key"]): Job(**row) for row in rows}
        # Of two specs with one key, the first has made the job.
        named = [(spec, new.pop((spec.job_type, spec.job_key), None)) for spec in specs]
        made = [(spec, job) for spec, job in named if job is not None]
        if not made:
            return
        details = [(job, _created_detail(spec, job)) for spec, job in made]
        jobs = history.begin_many(connection, details, actor=specs[0].owner.actor)
        firsts = [_revision_values(job, spec, key) for (spec, _), job in zip(made, jobs, strict=True)]
        given = {name: [values[name] for values in firsts] for name in _OF_A_REVISION}
        rows = connection.execute(_INSERT_REVISIONS, given).fetchall()
        revisions = {row["job_id"]: Revision(**row) for row in rows}
        for job in jobs:
            yield (job.job_type, job.job_key), Opened(job, revisions[job.job_id], Attachment.SUBMIT)

    def _open(self, connection: LedgerConnection, spec: JobSpec) -> Opened:
        values = _job_values(spec, self._digest_key or digest_key(connection))
        row = connection.execute(_INSERT_JOB, values).fetchone()
        if row is not None:
            return self._created(connection, Job(**row), spec)
        return self._attach(connection, spec)

    def _attach(self, connection: LedgerConnection, spec: JobSpec) -> Opened:
        """Take a job that exists as the task's own, and say what the task does with it."""
        digests = self._digests(connection, spec.input)
        row = connection.execute(_LOCK_JOB_BY_KEY, [spec.job_type, spec.job_key]).fetchone()
        assert row is not None
        job = Job(**row)
        step = decide_attachment(
            job.state,
            same_input=job.input_digest in digests,
            same_run=_has_seen(connection, job, spec.owner),
            touched=anything_touched(connection, job.job_id),
            regenerate=spec.regenerate and not _has_made(connection, job, spec.owner),
            cancelling=job.cancelling is not None,
        )
        if step is Step.REVISE:
            return self._revise(connection, job, spec, digests)
        if step is Step.REFUSE_CANCELLED:
            raise JobCancelled(
                f"it was cancelled ({job.state_reason}).",
                job=job.label,
                remedy="A cancelled job stays cancelled. For the same work, give the task another job_key.",
            )
        if step is Step.REFUSE_CHANGED:
            raise self._input_changed(connection, job, spec)
        if step is Step.REFUSE_REGENERATE:
            raise CannotRegenerate(
                f"it is {job.state.value.replace('_', ' ')}, and {_written(connection, job)}.",
                job=job.label,
                written="No external write was made now.",
                remedy=f"Roll back what was applied (`airflow aihandoff rollback {job.job_id}`), then run this again.",
            )
        job = history.move(
            connection,
            job,
            JobEvent.ATTACHED,
            actor=spec.owner.actor,
            **vars(spec.owner),
            detail={"next": step},
            input_digest=digests[0],
            set_id=spec.set_id or job.set_id,
        )
        # How it is processed, and over which connection, may have changed since: a request not sent yet is the newest.
        connection.execute(_REFRESH_UNSENT, _revision_values(job, spec, self._digest_key or digest_key(connection)))
        return Opened(job, read_revision(connection, job.job_id, job.revision), Attachment(step))

    def _created(self, connection: LedgerConnection, job: Job, spec: JobSpec) -> Opened:
        job = history.begin(connection, job, actor=spec.owner.actor, detail=_created_detail(spec, job))
        return Opened(job, self._new_revision(connection, job, spec), Attachment.SUBMIT)

    def _new_revision(self, connection: LedgerConnection, job: Job, spec: JobSpec) -> Revision:
        values = _revision_values(job, spec, self._digest_key or digest_key(connection))
        row = connection.execute(_INSERT_REVISION, values).fetchone()
        assert row is not None
        return Revision(**row)

    def _revise(self, connection: LedgerConnection, job: Job, spec: JobSpec, digests: list[str]) -> Opened:
        row = connection.execute(_COUNT_MODEL_REVISIONS, [job.job_id]).fetchone()
        assert row is not None
        if row["n"] >= spec.max_revisions:
            raise RevisionsExhausted(
                f"it is {job.state.value} ({job.state_reason}) after {row['n']} of {spec.max_revisions} revisions.",
                job=job.label,
                remedy="Raise max_revisions to let the model try again, or give the task another job_key.",
            )
        old, number = read_revision(connection, job.job_id, job.revision), next_number(connection, job.job_id)
        job, _ = count_unknown(
            connection, job, old, actor=spec.owner.actor, reason="its revision was replaced while it was being sent"
        )
        give_up(connection, job.job_id, job.revision)
        void_plans(connection, job)
        if job.input_digest not in digests:
            why = "the input changed"
        else:
            asked = ", and a new revision was requested" if spec.regenerate else ""
            why = f"revision {old.number} was {job.state.value.replace('_', ' ')}{asked}"
        job = history.move(
            connection,
            job,
            JobEvent.REVISED,
            actor=spec.owner.actor,
            reason=why,
            detail={
                "revision": number,
                "input_digest": digests[0],
                "requested_by": spec.requested_by,
                "superseded": old.response_id if old.state is RevisionState.RUNNING else None,
            },
            input=spec.kept_input,
            requested_by=spec.requested_by,
            permissions=spec.permissions,
            input_digest=digests[0],
            triggered_by=plain_or_none(spec.triggered_by),
            revision=number,
            approval=spec.approval,
            approval_reason=spec.approval_reason,
            max_revisions=spec.max_revisions,
            max_cost_usd=spec.max_cost_usd,
            tags=list(spec.tags),
            review_digest=None,
            review_deadline=None,
            decision_id=None,
            cancelling=None,
            reassigned=None,
            set_id=spec.set_id or job.set_id,
            **vars(spec.owner),
        )
        superseded = old if old.state is RevisionState.RUNNING else None
        return Opened(job, self._new_revision(connection, job, spec), Attachment.SUBMIT, superseded)

    @staticmethod
    def _input_changed(connection: LedgerConnection, job: Job, spec: JobSpec) -> InputChanged:
        fields = sorted(
            name
            for name in job.input.keys() | spec.kept_input.keys()
            if digest(job.input.get(name)) != digest(spec.kept_input.get(name))
        )
        written = _written(connection, job)
        what = ", ".join(fields) or "a masked value"
        return InputChanged(
            f"this key was used for other work (changed: {what}), and the job is {job.state.value}.",
            job=job.label,
            written=f"For the earlier input, {written}.",
            remedy="Give the new work a job_key of its own, or restore the input to attach to the job that exists.",
        )

    def take_over(
        self, job_id: int, number: int, *, owner: Owner, request: dict[str, Any], on_lost: OnLost | None = None
    ) -> Revision | None:
        """Make the task that goes on with a revision the owner of its job, and keep the request as it will be sent.

        :param request: with its secrets masked.
        :param on_lost: as in :class:`JobSpec`.
        :return: the revision; None where another one is current by now, or nothing is left to send or to wait for.
        """

        def work(connection: LedgerConnection) -> Revision | None:
            job = history.lock(connection, job_id)
            if job.revision != number or job.state not in (JobState.QUEUED, JobState.RUNNING):
                return None
            if job.owner != owner:
                history.move(connection, job, JobEvent.ATTACHED, actor=owner.actor, **vars(owner))
            kept = [
                as_json(request),
                self._digests(connection, request)[0],
                on_lost,
                _model_of(request),
                job_id,
                number,
            ]
            connection.execute(_KEEP_REQUEST, kept)
            return read_revision(connection, job_id, number)

        return self._database.transact(work, step="submit.open")

    def intend(
        self,
        job_id: int,
        number: int,
        *,
        actor: Actor,
        lease: timedelta,
        orphan_wait: timedelta = timedelta(0),
        handle: str | None = None,
        worst: WorstCase = _NOT_KNOWN,
        tokens: int = 0,
    ) -> Intent:
        """Write down that a request is about to be sent, and get the one permission to send it.

        An earlier permission that expired without an id means that its request may have been accepted: it is counted
        as an unknown submission, and no request is sent for as long as :mod:`core.generation.lost` says. Without a
        person's word there may be :data:`MAX_UNKNOWN_SUBMISSIONS` of them. Asking before that time has ended
        shortens it, as :meth:`wait_less` does.

        :param lease: how long the permission is valid: longer than the request may take.
        :param orphan_wait: the shortest time that a webhook may take to bring the response of a lost request.
        :param handle: the provider's conversation that was made for this revision, if it has none yet.
        :param worst: what the request can need at most: it is reserved in the budgets that are about it.
        :param tokens: how many the request counts for in limits of tokens.
        :raises JobFailed: one more unknown submission or refusal would break its bound, the deadline has passed by
            the database's clock, it can cost more than it may, or a limit of speed can never let it through; the job
            is failed.
        :raises JobCancelled: the job was cancelled meanwhile.
        :raises InputChanged: a task with other input has taken the key over meanwhile.
        """
        token = uuid4()
        granted: Intent | None = None

        def work(connection: LedgerConnection) -> Intent | HandoffError:
            nonlocal granted
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if revision.submit_token == token:  # its commit was in doubt
                assert granted is not None
                return granted
            _check_current(job, number)
            if revision.state not in (RevisionState.QUEUED, RevisionState.SUBMITTING):
                return Intent(revision, None)
            at = history.now(connection)
            if at >= revision.deadline:
                return self._too_late(connection, job, revision, actor)
            revision = wait_less(connection, job, revision, orphan_wait)
            # What is held asks each time: what holds it may have ended.
            if not revision.is_held and (left := _lease_left(revision, at)) > 0:
                return Intent(revision, None, left)
            wait = count_lost(
                connection,
                job,
                revision,
                actor,
                "an attempt ended without recording the outcome of its request",
                orphan_wait,
            )
            job, revision = history.lock(connection, job_id), read_revision(connection, job_id, number)
            if wait:
                return Intent(revision, None, wait.total_seconds())
            # A person who said that it may be sent again has put it back to queued.
            if revision.is_lost and revision.unknown_submissions > MAX_UNKNOWN_SUBMISSIONS:
                return self._too_many_unknown(connection, job, revision, actor)
            marks = {"token": token, "lease": lease, "handle": handle, "worst": worst.cost_usd}
            permit = partial(_permit, connection, job, revision, actor, marks)
            admitted = _admit(connection, job, revision, worst, permit, token, at, tokens)
            if isinstance(admitted, Hold):
                keep_worst_case(connection, revision, worst)
                revision = hold_request(connection, job, revision, admitted, actor=actor)
                return Intent(revision, None, _lease_left(revision, at))
            if isinstance(admitted, Refusal):
                return _refuse(connection, job, revision, admitted, actor)
            left = (revision.deadline - at).total_seconds()
            granted = Intent(admitted.revision, token, left=left, finds_out=admitted.finds_out)
            return granted

        return self._database.transact(work, repeatable=True, step="submit.intend")

    @staticmethod
    def _too_late(connection: LedgerConnection, job: Job, revision: Revision, actor: Actor) -> HandoffError:
        lost = revision.state is RevisionState.SUBMITTING
        what = "it was known whether the request was accepted" if lost else "a request was accepted"
        reason = f"the deadline passed before {what}: {revision.deadline.isoformat()}"
        if revision.is_held:
            reason += f"; it was held: {str(revision.held_why).rstrip('.')}"
        fail_revision(connection, job, revision, actor=actor, reason=reason, error={"kind": "deadline"})
        remedy = "Clear the task to make a new revision with a new deadline."
        if lost:
            remedy = "A response may exist, and may be billed: search OpenAI's logs for this job's metadata. " + remedy
        return JobFailed(f"{reason}.", job=job.label, remedy=remedy)

    def _too_many_unknown(
        self, connection: LedgerConnection, job: Job, revision: Revision, actor: Actor
    ) -> HandoffError:
        fail_revision(
            connection,
            job,
            revision,
            actor=actor,
            reason="unknown submission, twice: whether a response exists cannot be proved, so none is requested again",
            error={"kind": "unknown submission"},
        )
        return JobFailed(
            "two requests may have been accepted by OpenAI, and their answers were lost.",
            job=job.label,
            remedy="Search OpenAI's logs for responses with this job's metadata; clear the task to send another one. "
            "Where each request times out, the server may have no background mode.",
        )

    def submitted(
        self,
        job_id: int,
        number: int,
        *,
        token: UUID,
        response_id: str,
        status: ResponseStatus,
        actor: Actor,
        keep: Keep | None = None,
        finds_out: bool = False,
        heard: Heard | None = None,
    ) -> Revision | None:
        """Store the id of the response that was created, and apply the webhooks that came before it. Safe to repeat.

        Where the permission expired, and no one has asked for another one yet, this is the response that is waited for.

        :param keep: as in :meth:`Database.persist`.
        :param finds_out: as in :class:`Intent`: the limit is lifted, and the jobs that it holds are woken.
        :param heard: what the answer says about the provider's limits of speed.
        :return: the revision; None when it was given up meanwhile (the job was cancelled or revised, or another
            attempt took over the permission), and the response is orphaned: the caller cancels it at OpenAI.
        """

        def work(connection: LedgerConnection) -> Revision | None:
            lock_response(connection, response_id)
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if revision.response_id == response_id:
                return revision
            if finds_out:
                spending_limit_store.lifted(connection, revision.conn_id)
            hear(connection, LimitKind.OPENAI, revision.conn_id, heard)
            found = revision.submit_token is None and revision.state in (RevisionState.QUEUED, RevisionState.SUBMITTING)
            if revision.submit_token != token and not (found and revision.unknown_submissions):
                history.move(
                    connection,
                    job,
                    JobEvent.OUTPUT_LATE,
                    actor=actor,
                    reason="a response was created for a revision that had been given up",
                    detail={"revision": number, "response_id": response_id},
                )
                keep_surplus(connection, revision, response_id, token=token)
                return None
            revision = mark_running(connection, revision, response_id, status, found=found, token=token)
            detail = {"revision": number, "response_id": response_id}
            job = history.move(connection, job, JobEvent.SUBMITTED, actor=actor, detail=detail)
            return adopt_early(connection, job, revision)

        return self._database.persist(work, step="submit.store", keep=keep)

    def not_submitted(
        self,
        job_id: int,
        number: int,
        *,
        token: UUID,
        actor: Actor,
        reason: str,
        spent: bool = False,
        heard: Heard | None = None,
    ) -> None:
        """Record that the request was refused or never sent, so that no response exists and it may be sent again.

        :param spent: the provider says that a limit of money is reached: all jobs of the connection are held.
        :param heard: what the answer says about the provider's limits of speed: the whole fleet keeps to it at once.
        """

        def work(connection: LedgerConnection) -> None:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if revision.submit_token == token:
                connection.execute(_MARK_NOT_SENT, [int(not spent), revision.revision_id])
                # In the order of admission, so that no two wait for each other.
                if spent:
                    spending_limit_store.reached(connection, job, revision, reason)
                reservation_store.release(connection, job_id, number, token)
                slot_freed(connection, LimitKind.OPENAI, revision.conn_id, revision.rate_key)
                hear(connection, LimitKind.OPENAI, revision.conn_id, heard)
                history.move(connection, job, JobEvent.SUBMIT_REFUSED, actor=actor, reason=reason)

        self._database.persist(work, step="submit.refused")

    def submission_lost(
        self,
        job_id: int,
        number: int,
        *,
        token: UUID,
        actor: Actor,
        reason: str,
        orphan_wait: timedelta = timedelta(0),
    ) -> None:
        """Record that the request was sent and no answer came: a response may exist. Ends the permission at once.

        :param orphan_wait: as in :meth:`intend`.
        """

        def work(connection: LedgerConnection) -> None:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if revision.submit_token == token:
                count_lost(connection, job, revision, actor, reason, orphan_wait)

        self._database.persist(work, step="submit.lost")

    def wait_less(self, job_id: int, number: int, *, orphan_wait: timedelta) -> bool:
        """Shorten the wait for a lost request, where the ledger knows more of its job type now than when it was lost.

        Safe to repeat: what is no longer waited for until its deadline is left as it is.

        :param orphan_wait: as in :meth:`intend`.
        :return: whether it is not, or no longer, waited for until its deadline.
        """

        def work(connection: LedgerConnection) -> bool:
            job = history.lock(connection, job_id)
            now = wait_less(connection, job, read_revision(connection, job_id, number), orphan_wait)
            return wait_of(now) is not LostWait.FAILS

        return self._database.transact(work, repeatable=True, step="submit.lost")

    def runs_in_handle(
        self,
        job_id: int,
        number: int,
        *,
        token: UUID,
        actor: Actor,
        reason: str,
        check_after: timedelta,
        surplus: str | None = None,
    ) -> Revision:
        """Record that the handle knows of a response to an earlier request, so that this one is not needed.

        :param check_after: how long no request is sent; the handle is polled meanwhile.
        :param surplus: the id of a response that was created for this request all the same.
        :return: the revision as it is now.
        """

        def work(connection: LedgerConnection) -> Revision:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, number)
            if surplus is not None:
                keep_surplus(connection, revision, surplus, token=token)
            if revision.submit_token == token:
                if surplus is None:
                    reservation_store.release(connection, job_id, number, token)
                connection.execute(_MARK_RUNS_IN_HANDLE, [check_after, revision.revision_id])
                detail = {"revision": number, "surplus": surplus}
                history.move(connection, job, JobEvent.SUBMIT_UNKNOWN, actor=actor, reason=reason, detail=detail)
            elif surplus is not None:
                detail = {"revision": number, "response_id": surplus}
                history.move(connection, job, JobEvent.OUTPUT_LATE, actor=actor, reason=reason, detail=detail)
            return read_revision(connection, job_id, number)

        return self._database.persist(work, step="submit.lost")

    def resolve(self, job_id: int, *, send_again: bool, seen: int, actor: Actor, why: str) -> Job:
        """Record what a person wants after a lost request: to send it again, or that the job fails.

        :param seen: how many unknown submissions the revision had when they decided.
        :return: the job as it is now.
        :raises JobNotFound: there is none with this id.
        :raises NothingLost: no request is lost, or another one was lost since; nothing was recorded.
        """

        def work(connection: LedgerConnection) -> Job | HandoffError:
            job = history.lock(connection, job_id)
            revision = read_revision(connection, job_id, job.revision)
            if job.state is not JobState.QUEUED or not revision.is_lost or revision.unknown_submissions != seen:
                return _nothing_lost(job, revision)
            if send_again:
                connection.execute(_MARK_MAY_BE_SENT, [revision.revision_id])
                detail = {"revision": revision.number, "unknown_submissions": seen}
                reason = f"sent again by a person: {why}"
                return history.move(
                    connection, job, JobEvent.SUBMIT_RESOLVED, actor=actor, reason=reason, detail=detail
                )
            error = {"kind": "unknown submission", "final": True}
            return fail_revision(
                connection,
                job,
                revision,
                actor=actor,
                reason=f"unknown submission, ended by a person: {why}",
                error=error,
            )

        return self._database.transact(work, step="submit.resolve")
