"""The rows of batches, and what is done with the requests in them. Every method is short transactions.

Requests are taken in pages, so that a batch of 50,000 holds no lock for long; each page can be repeated. A transaction
locks its batch first, then jobs in the order of their ids, then budgets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

from airflow_provider_aihandoff.core.admission import spending_limit_store
from airflow_provider_aihandoff.core.admission.admit import admit_in_batch
from airflow_provider_aihandoff.core.admission.hold import Admitted, Hold
from airflow_provider_aihandoff.core.admission.hold_store import hold_request
from airflow_provider_aihandoff.core.budgets import reservation_store
from airflow_provider_aihandoff.core.budgets.reserve import keep_worst_case
from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, Keep, LedgerConnection
from airflow_provider_aihandoff.core.database.history import Move
from airflow_provider_aihandoff.core.errors import BatchMovedOn, HandoffError
from airflow_provider_aihandoff.core.generation.batch_provider import BatchStatus, ModelBatch
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.output_store import Outputs
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.revision_store import fail_revision
from airflow_provider_aihandoff.core.generation.submission_store import MAX_REFUSALS
from airflow_provider_aihandoff.core.generation.surplus_store import keep_surplus, mark_settled
from airflow_provider_aihandoff.core.models import Actor, Job, Owner, Revision, columns
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind
from airflow_provider_aihandoff.core.rates.slowdown import Heard
from airflow_provider_aihandoff.core.rates.slowdown_store import hear
from airflow_provider_aihandoff.core.sets.batch_record import Batch, BatchState
from airflow_provider_aihandoff.core.states import JobEvent, JobState, RevisionState
from airflow_provider_aihandoff.core.text import plain, plain_or_none

T = TypeVar("T")

#: How many requests one transaction is about.
PAGE = 200

_REFUSED_TOO_OFTEN = f"The provider has not run its request {MAX_REFUSALS} times, each time for now."

_COLUMNS = columns(Batch)
_OPEN = f"""
    INSERT INTO aihandoff.batches (set_id, conn_id, state, token, lease_until, deadline, created_at, updated_at)
    SELECT set_id, %(conn_id)s, 'filling', %(token)s, clock_timestamp() + %(lease)s, deadline, clock_timestamp(),
        clock_timestamp()
    FROM aihandoff.sets WHERE set_id = %(set_id)s
    RETURNING {_COLUMNS}"""
_LOCK = f"SELECT {_COLUMNS} FROM aihandoff.batches WHERE batch_id = %s FOR UPDATE"
_READ = f"SELECT {_COLUMNS} FROM aihandoff.batches WHERE batch_id = %s"
_OF_SET = f"SELECT {_COLUMNS} FROM aihandoff.batches WHERE set_id = %s ORDER BY batch_id"
#: Also one of another set whose job has come to this one since.
_OPEN_OF_SET = f"""
    SELECT {_COLUMNS} FROM aihandoff.batches
    WHERE state NOT IN ('read', 'abandoned') AND (set_id = %(set_id)s OR batch_id IN (
        SELECT r.batch_id FROM aihandoff.jobs AS j
        JOIN aihandoff.revisions AS r ON r.job_id = j.job_id AND r.number = j.revision
        WHERE j.set_id = %(set_id)s AND j.state IN ('queued', 'running') AND r.state IN ('submitting', 'running')))
    ORDER BY batch_id"""
_OPEN_OF_ALL = f"""
    SELECT {columns(Batch, "b")}, s.dag_id, s.run_id, s.task_id, s.map_index
    FROM aihandoff.batches AS b JOIN aihandoff.sets AS s USING (set_id)
    WHERE b.state NOT IN ('read', 'abandoned') AND b.updated_at < statement_timestamp() - %(untouched)s
    ORDER BY b.updated_at LIMIT %(limit)s"""
_CHANGE = f"""
    UPDATE aihandoff.batches SET {{}}, updated_at = clock_timestamp() WHERE batch_id = %(batch_id)s
    RETURNING {_COLUMNS}"""
#: Its requests of which the ledger has no result.
_MEMBERS = f"""
    SELECT {columns(Revision)} FROM aihandoff.revisions
    WHERE batch_id = %(batch_id)s AND state = ANY(%(states)s) AND job_id > %(after)s
    ORDER BY job_id LIMIT %(limit)s"""
_REVISIONS = f"""
    SELECT {columns(Revision, "r")} FROM aihandoff.revisions AS r
    JOIN unnest(%s::bigint[], %s::integer[]) AS given (job_id, number) USING (job_id, number)"""
_LOCK_JOBS = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_id = ANY(%s) ORDER BY job_id FOR UPDATE"
_INTEND = """
    UPDATE aihandoff.revisions AS r SET state = 'submitting', submissions = submissions + 1, submit_token = %(token)s,
        submit_lease_until = r.deadline, submitted_at = clock_timestamp(), batch_id = %(batch_id)s, held_kind = NULL,
        held_name = NULL, held_why = NULL, held_since = NULL, worst_cost_usd = given.worst
    FROM unnest(%(ids)s::bigint[], %(worst)s::numeric[]) AS given (revision_id, worst)
    WHERE r.revision_id = given.revision_id"""
_RUN = """
    UPDATE aihandoff.revisions SET state = 'running', response_status = 'queued', submit_token = NULL,
        submit_lease_until = NULL
    WHERE revision_id = ANY(%s)"""
_FREE = """
    UPDATE aihandoff.revisions SET state = 'queued', batch_id = NULL, submissions = submissions - 1,
        refusals = refusals + %(refused)s, submit_token = NULL, submit_lease_until = NULL, response_status = NULL
    WHERE revision_id = ANY(%(ids)s)"""
_NAME_RESPONSE = f"""
    UPDATE aihandoff.revisions SET response_id = %(response_id)s WHERE revision_id = %(revision_id)s
    RETURNING {columns(Revision)}"""
#: It was given up before, and the batch has not run it: it costs nothing.
_CLOSE = """
    UPDATE aihandoff.revisions SET completed_at = clock_timestamp(), cost_usd = 0
    WHERE revision_id = ANY(%s) AND completed_at IS NULL"""
_OPEN_STATES = [RevisionState.SUBMITTING.value, RevisionState.RUNNING.value]


@dataclass(frozen=True)
class Line:
    """A request that is to go into a batch.

    :param worst: what it can need at most, at the price of a batch.
    """

    job_id: int
    number: int
    worst: WorstCase


@dataclass(frozen=True)
class Result:
    """What a batch has left of one of its requests, as the ledger keeps it.

    :param output: of its response; None where there is none.
    :param error: why there is none.
    :param is_paid: it may be billed all the same: its result cannot be read.
    """

    job_id: int
    number: int
    response_id: str | None
    output: Output | None
    error: dict[str, Any]
    reason: str | None
    is_paid: bool = False


@dataclass(frozen=True)
class LeftBatch:
    """A batch that nothing was done about for a while, with the task that its set belongs to."""

    batch: Batch
    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @property
    def owner(self) -> Owner:
        """The task instance that the set belongs to. Its attempt is not known."""
        return Owner(self.dag_id, self.run_id, self.task_id, self.map_index, "", 0)


class Batches:
    """Batches and their requests, on one ledger."""

    def __init__(self, database: Database, outputs: Outputs) -> None:
        self._database, self._outputs = database, outputs

    # What there is.

    def read(self, batch_id: int) -> Batch:
        """Return one batch that exists."""
        return self._all(_READ, [batch_id])[0]

    def of_set(self, set_id: int) -> list[Batch]:
        """Return the batches of a set, the oldest first."""
        return self._all(_OF_SET, [set_id])

    def open_of_set(self, set_id: int) -> list[Batch]:
        """Return the batches that are not over and have requests of a set, the oldest first."""
        return self._all(_OPEN_OF_SET, {"set_id": set_id})

    def untouched(self, since: timedelta, limit: int) -> list[LeftBatch]:
        """Return the batches that are not over, and to which nothing has happened for so long."""
        rows = self._rows(_OPEN_OF_ALL, {"untouched": since, "limit": limit})
        names = [field.name for field in fields(Batch)]
        return [
            LeftBatch(
                Batch(**{name: row.pop(name) for name in names}),
                **row,
            )
            for row in rows
        ]

    # Filling it, and sending it.

    def open(self, set_id: int, conn_id: str, *, lease: timedelta) -> Batch:
        """Make a batch of a set, with the permission to fill and to send it.

        :param lease: how long the permission is valid.
        """
        values = {"set_id": set_id, "conn_id": conn_id, "token": uuid4(), "lease": lease}
        return self._transact(lambda connection: _one(connection, _OPEN, values), step="batch.open")

    def intend(
        self, batch: Batch, lines: Sequence[Line], *, actor: Actor, lease: timedelta
    ) -> tuple[set[int], dict[int, str]]:
        """Write down that these requests are in a batch, as :meth:`Submission.intend` does for one that is sent.

        :param lines: of different jobs.
        :return: the jobs whose requests are; and of the others, why not: ``held``, ``failed`` or ``moved on``.
        :raises BatchMovedOn: another attempt has given up this batch.
        """
        wanted = {line.job_id: line for line in lines}

        def work(connection: LedgerConnection) -> tuple[set[int], dict[int, str]]:
            mine = _locked(connection, batch, BatchState.FILLING)
            jobs = _lock_jobs(connection, wanted)
            revisions = _revisions(connection, [(line.job_id, line.number) for line in lines])
            at = history.now(connection)
            taken: list[tuple[Job, Revision, WorstCase]] = []
            left: dict[int, str] = {}
            known = set[int]()
            for job_id in sorted(jobs):
                job, revision, line = jobs[job_id], revisions[job_id], wanted[job_id]
                if revision.submit_token == mine.token:
                    known.add(job_id)  # this was committed before
                    continue
                said = _admit_line(connection, job, revision, line, actor, at)
                if said is None:
                    taken.append((job, revision, line.worst))
                else:
                    left[job_id] = said
            if taken:
                values = {
                    "token": mine.token,
                    "batch_id": mine.batch_id,
                    "ids": [revision.revision_id for _, revision, _ in taken],
                    "worst": [worst.cost_usd for _, _, worst in taken],
                }
                connection.execute(_INTEND, values)
                steps = [
                    Move(job, JobEvent.SUBMIT_INTENDED, {"revision": revision.number, "batch": mine.batch_id})
                    for job, revision, _ in taken
                ]
                history.move_many(connection, steps, actor=actor, at=at)
            changes = "lines = lines + %(more)s, lease_until = clock_timestamp() + %(lease)s"
            _change(connection, batch, changes, more=len(taken), lease=lease)
            return {*known, *(job.job_id for job, _, _ in taken)}, left

        return self._transact(work, step="batch.intend")

    def uploaded(self, batch: Batch, file_id: str, *, lease: timedelta) -> Batch:
        """Record the file of a batch, and the permission to create the batch: from here on, it may exist.

        :raises BatchMovedOn: another attempt has given up this batch.
        """

        def work(connection: LedgerConnection) -> Batch:
            found = _one(connection, _LOCK, [batch.batch_id])
            if found.token == batch.token and found.state is BatchState.CREATING:
                return found
            _locked(connection, batch, BatchState.FILLING)
            changes = "state = 'creating', file_id = %(file_id)s, lease_until = clock_timestamp() + %(lease)s"
            return _change(connection, batch, changes, file_id=plain(file_id), lease=lease)

        return self._transact(work, step="batch.uploaded")

    def created(
        self, batch: Batch, model: ModelBatch, *, actor: Actor, keep: Keep | None = None, found: bool = False
    ) -> Batch:
        """Record the batch that was created at the provider, or was found there. Safe to repeat.

        Where it was given up meanwhile, another attempt has found out by then that it was not there. It is recorded as
        one that is to be stopped: what it has run belongs to no revision, and its cost is recorded as late.

        :param keep: as in :meth:`Database.persist`.
        :param found: it was searched for, since the answer was lost.
        """

        def work(connection: LedgerConnection) -> Batch:
            now = _one(connection, _LOCK, [batch.batch_id])
            if now.provider_id is not None:
                return now
            spending_limit_store.lifted(connection, now.conn_id)
            why = "The answer to its creation was lost; it was found by its metadata." if found else None
            late = now.state is BatchState.ABANDONED
            if late:
                why = "It was given up before the provider said that it was created."
            values = {"id": plain(model.id), "status": BatchStatus.RUNNING, "why": why, "late": late}
            changes = (
                "state = 'running', provider_id = %(id)s, provider_status = %(status)s, token = NULL, "
                "lease_until = NULL, sent_at = clock_timestamp(), why = coalesce(%(why)s, why), "
                "cancelled_at = CASE WHEN %(late)s THEN clock_timestamp() END"
            )
            return _change(connection, batch, changes, **values)

        created = self._database.persist(work, step="batch.created", keep=keep)
        self.run(created, actor=actor)
        return created

    def run(self, batch: Batch, *, actor: Actor) -> None:
        """Record of each request that its batch runs. Safe to repeat: a process that died may have left some."""

        def page(connection: LedgerConnection, jobs: Mapping[int, Job], revisions: Sequence[Revision]) -> None:
            connection.execute(_RUN, [[revision.revision_id for revision in revisions]])
            steps = [
                Move(
                    jobs[revision.job_id],
                    JobEvent.SUBMITTED,
                    {"revision": revision.number, "batch": batch.batch_id, "provider_batch": batch.provider_id},
                )
                for revision in revisions
                if _is_current(jobs[revision.job_id], revision, JobState.QUEUED)
            ]
            history.move_many(connection, steps, actor=actor)

        self._each_page(batch, [RevisionState.SUBMITTING], page, step="batch.run")

    def abandon(
        self,
        batch: Batch,
        *,
        actor: Actor,
        why: str,
        spent: bool = False,
        heard: Heard | None = None,
        is_left: bool = False,
    ) -> Batch:
        """Free the requests of a batch that does not exist at the provider, and never will. Safe to repeat.

        :param why: as a sentence.
        :param spent: the provider says that a limit of money is reached: all jobs of the connection are held.
        :param heard: what the answer says about the provider's limits of speed.
        :param is_left: another attempt has left it; it is given up only if its time to send has passed.
        :raises BatchMovedOn: it exists at the provider by now, or another attempt may be sending it.
        """

        def begin(connection: LedgerConnection) -> Batch:
            found = _one(connection, _LOCK, [batch.batch_id])
            if found.state is BatchState.ABANDONED:
                return found
            mine = found.is_left(history.now(connection)) if is_left else found.token == batch.token
            if found.state not in (BatchState.FILLING, BatchState.CREATING) or not mine:
                raise _moved_on(found)
            hear(connection, LimitKind.OPENAI, found.conn_id, heard)
            return _change(connection, found, "token = NULL, lease_until = NULL, why = %(why)s", why=plain(why))

        begun = self._transact(begin, step="batch.abandon")

        def page(connection: LedgerConnection, jobs: Mapping[int, Job], revisions: Sequence[Revision]) -> None:
            if spent:
                first = revisions[0]
                spending_limit_store.reached(connection, jobs[first.job_id], first, why)
            self._free(connection, jobs, revisions, actor=actor, why=why, refused=not spent)

        self._each_page(begun, [RevisionState.SUBMITTING], page, step="batch.free")
        self._close(begun)
        return self._transact(
            lambda connection: _change(connection, begun, "state = 'abandoned'"), step="batch.abandon"
        )

    # Its end, and its results.

    def cancel_requested(self, batch: Batch, *, why: str) -> Batch:
        """Record that the provider is to stop a batch, before it is asked to."""
        changes = "cancelled_at = coalesce(cancelled_at, clock_timestamp()), why = %(why)s"
        return self._transact(
            lambda connection: _change(connection, batch, changes, why=plain(why)), step="batch.cancel"
        )

    def ended(self, batch: Batch, model: ModelBatch) -> Batch:
        """Record that the provider is done with a batch, and where its results are. Safe to repeat."""

        def work(connection: LedgerConnection) -> Batch:
            found = _one(connection, _LOCK, [batch.batch_id])
            if found.state is not BatchState.RUNNING:
                return found
            problem = None if model.problem is None else f"OpenAI refused it: {model.problem}."
            values = {
                "status": model.status,
                "files": [plain(each) for each in model.files],
                "completed": model.completed,
                "failed": model.failed,
                "problem": plain_or_none(problem),
            }
            changes = (
                "state = 'ended', ended_at = clock_timestamp(), provider_status = %(status)s, "
                "result_files = %(files)s, completed = %(completed)s, failed = %(failed)s, "
                "why = coalesce(%(problem)s, why)"
            )
            return _change(connection, found, changes, **values)

        return self._transact(work, step="batch.ended")

    def polled(self, batch: Batch, model: ModelBatch) -> None:
        """Record what the provider says of a batch that has not ended."""
        values = {"completed": model.completed, "failed": model.failed, "status": model.status}
        changes = "completed = %(completed)s, failed = %(failed)s, provider_status = %(status)s"
        self._database.transact(lambda connection: _change(connection, batch, changes, **values), repeatable=True)

    def take(self, batch: Batch, results: Sequence[Result], *, actor: Actor, late_only: bool = False) -> None:
        """Store what some requests of a batch have left. Each is taken once.

        Of a request that the batch should not have any longer, the cost is recorded, and the output is not taken.

        :param late_only: only of revisions that were given up: the outputs of the others are left to their task.
        """
        wanted = {result.job_id: result for result in results}

        def work(connection: LedgerConnection) -> None:
            jobs = _lock_jobs(connection, wanted)
            revisions = _revisions(connection, [(each.job_id, each.number) for each in wanted.values()])
            for job_id in sorted(jobs.keys() & revisions.keys()):
                revision = revisions[job_id]
                if revision.batch_id != batch.batch_id:
                    _record_surplus(connection, jobs[job_id], revision, wanted[job_id], actor)
                    continue
                if late_only and revision.state in _OPEN_STATES:
                    continue
                self._take(connection, jobs[job_id], revision, wanted[job_id], actor)

        self._transact(work, step="batch.take")

    def _take(self, connection: LedgerConnection, job: Job, revision: Revision, result: Result, actor: Actor) -> None:
        """Store what one request has left, with its job locked."""
        number = revision.number
        if result.output is not None and result.response_id is not None:
            if revision.response_id is None:
                values = {"response_id": plain(result.response_id), "revision_id": revision.revision_id}
                row = connection.execute(_NAME_RESPONSE, values).fetchone()
                assert row is not None
                revision = Revision(**row)
                reservation_store.name_response(connection, job.job_id, number, str(revision.response_id), token=None)
            self._outputs.store_within(connection, job, revision, result.output, actor=actor, reason=result.reason)
            return
        if revision.completed_at is not None:
            return
        if result.is_paid:
            reservation_store.settle(connection, job.job_id, number, None, None)
        else:
            reservation_store.release(connection, job.job_id, number, None)
        if revision.state is RevisionState.RUNNING and _is_current(job, revision, JobState.RUNNING):
            fail_revision(connection, job, revision, actor=actor, reason=result.reason, error=result.error)

    def rest(self, batch: Batch, *, actor: Actor, why: str) -> None:
        """Free the requests that an ended batch has no result of, or fail those past their deadline. Safe to repeat.

        :param why: as a sentence.
        """

        def page(connection: LedgerConnection, jobs: Mapping[int, Job], revisions: Sequence[Revision]) -> None:
            at = history.now(connection)
            late = [each for each in revisions if at >= each.deadline]
            self._free(connection, jobs, [each for each in revisions if at < each.deadline], actor=actor, why=why)
            for revision in late:
                _fail(connection, jobs[revision.job_id], revision, why, actor)

        self._each_page(batch, _OPEN_STATES, page, step="batch.rest")
        self._close(batch)

    def give_up(self, batch: Batch, *, actor: Actor, why: str) -> None:
        """Fail the requests of a batch whose results did not come in time. What it has run is late when it is known.

        :param why: as a sentence.
        """

        def page(connection: LedgerConnection, jobs: Mapping[int, Job], revisions: Sequence[Revision]) -> None:
            for revision in revisions:
                _fail(connection, jobs[revision.job_id], revision, why, actor, release=False)

        self._each_page(batch, _OPEN_STATES, page, step="batch.rest")

    def has_open(self, batch: Batch) -> bool:
        """Whether a request of it waits for its result."""
        return bool(self._rows(_MEMBERS, _members(batch, _OPEN_STATES, 0, 1)))

    def has_late(self, batch: Batch) -> bool:
        """Whether a request of it was given up, and it is not known what that has cost."""
        rows = self._rows(_MEMBERS, _members(batch, [RevisionState.CANCELLED], 0, PAGE))
        return any(row["completed_at"] is None for row in rows)

    def done(self, batch: Batch) -> Batch:
        """Record that nothing is left to be done about a batch that has ended. Safe to repeat."""
        changes = "state = 'read'"
        return self._transact(lambda connection: _change(connection, batch, changes), step="batch.read")

    def _free(
        self,
        connection: LedgerConnection,
        jobs: Mapping[int, Job],
        revisions: Sequence[Revision],
        *,
        actor: Actor,
        why: str,
        refused: bool = True,
    ) -> None:
        """Queue requests again that a batch has not run; cancel the jobs that a person wants to be cancelled."""
        for revision in revisions:
            reservation_store.release(connection, revision.job_id, revision.number, None)
        stopped = [each for each in revisions if jobs[each.job_id].cancelling is not None]
        for revision in stopped:
            self._outputs.cancel_within(connection, jobs[revision.job_id], revision, actor=actor)
        again = [each for each in revisions if jobs[each.job_id].cancelling is None]
        connection.execute(_FREE, {"ids": [each.revision_id for each in again], "refused": int(refused)})
        steps = [
            Move(jobs[each.job_id], JobEvent.SUBMIT_REFUSED, {"revision": each.number}, reason=plain(why))
            for each in again
        ]
        history.move_many(connection, steps, actor=actor)

    def _close(self, batch: Batch) -> None:
        """Record that requests which were given up, and which the batch has not run, cost nothing."""

        def page(connection: LedgerConnection, jobs: Mapping[int, Job], revisions: Sequence[Revision]) -> None:
            left = [each for each in revisions if each.completed_at is None]
            for revision in left:
                reservation_store.release(connection, revision.job_id, revision.number, None)
            connection.execute(_CLOSE, [[each.revision_id for each in left]])

        self._each_page(batch, [RevisionState.CANCELLED], page, step="batch.rest")

    def _each_page(
        self,
        batch: Batch,
        states: Sequence[str],
        page: Callable[[LedgerConnection, Mapping[int, Job], Sequence[Revision]], None],
        *,
        step: str,
    ) -> None:
        """Do something with the requests of a batch in some states, a page in each transaction, with jobs locked."""
        after = 0
        while True:
            rows = self._rows(_MEMBERS, _members(batch, states, after, PAGE))
            if not rows:
                return
            wanted = [(row["job_id"], row["number"]) for row in rows]

            def work(connection: LedgerConnection, wanted: Sequence[tuple[int, int]] = wanted) -> None:
                jobs = _lock_jobs(connection, [job_id for job_id, _ in wanted])
                found = _revisions(connection, wanted).values()
                now = [each for each in found if each.batch_id == batch.batch_id and each.state in states]
                if now:
                    page(connection, jobs, sorted(now, key=lambda each: each.job_id))

            self._transact(work, step=step)
            after = rows[-1]["job_id"]

    def _transact(self, work: Callable[[LedgerConnection], T | HandoffError], *, step: str) -> T:
        return self._database.transact(work, repeatable=True, step=step)

    def _rows(self, query: str, values: Any) -> list[dict[str, Any]]:
        return self._database.transact(lambda connection: connection.execute(query, values).fetchall())

    def _all(self, query: str, values: Any) -> list[Batch]:
        return [Batch(**row) for row in self._rows(query, values)]


def _one(connection: LedgerConnection, statement: str, values: Any) -> Batch:
    row = connection.execute(statement, values).fetchone()
    assert row is not None
    return Batch(**row)


def _change(connection: LedgerConnection, batch: Batch, changes: str, **values: Any) -> Batch:
    """Write columns of a batch. The names in the changes are ours, and no values."""
    return _one(connection, _CHANGE.format(changes), {**values, "batch_id": batch.batch_id})


def _locked(connection: LedgerConnection, batch: Batch, state: BatchState) -> Batch:
    """The batch, locked, where this attempt still has the permission to send it.

    :raises BatchMovedOn: it has not.
    """
    found = _one(connection, _LOCK, [batch.batch_id])
    if found.token is None or found.token != batch.token or found.state is not state:
        raise _moved_on(found)
    return found


def _moved_on(batch: Batch) -> BatchMovedOn:
    return BatchMovedOn(
        f"{batch.label} is {batch.in_words()}: another attempt of its task has taken it over.",
        written="Nothing more was sent to the model, and no external write was made.",
        remedy="Retry: that is safe.",
    )


def _lock_jobs(connection: LedgerConnection, job_ids: Any) -> dict[int, Job]:
    rows = connection.execute(_LOCK_JOBS, [sorted(job_ids)]).fetchall()
    return {row["job_id"]: Job(**row) for row in rows}


def _revisions(connection: LedgerConnection, wanted: Sequence[tuple[int, int]]) -> dict[int, Revision]:
    """These ``(job id, number)``, by the ids of their jobs. Their jobs are locked."""
    values = [[job_id for job_id, _ in wanted], [number for _, number in wanted]]
    return {row["job_id"]: Revision(**row) for row in connection.execute(_REVISIONS, values).fetchall()}


def _members(batch: Batch, states: Sequence[str], after: int, limit: int) -> dict[str, Any]:
    return {"batch_id": batch.batch_id, "states": [str(state) for state in states], "after": after, "limit": limit}


def _is_current(job: Job, revision: Revision, state: JobState) -> bool:
    return job.state is state and job.revision == revision.number


def _admit_line(
    connection: LedgerConnection, job: Job, revision: Revision, line: Line, actor: Actor, at: datetime
) -> str | None:
    """Whether a request may go into a batch: None; else what became of it."""
    free = revision.state is RevisionState.QUEUED and revision.unknown_submissions == 0 and revision.batch_id is None
    if not free or not _is_current(job, revision, JobState.QUEUED):
        return "moved on"
    if at >= revision.deadline:
        _fail(connection, job, revision, "Its request was not accepted before.", actor)
        return "failed"
    if revision.refusals >= MAX_REFUSALS:
        error = {"kind": "refused too often", "final": True}
        fail_revision(connection, job, revision, actor=actor, reason=_REFUSED_TOO_OFTEN, error=error)
        return "failed"
    admitted = admit_in_batch(connection, job, revision, line.worst, at=at)
    if isinstance(admitted, Admitted):
        return None
    if isinstance(admitted, Hold):
        keep_worst_case(connection, revision, line.worst)
        hold_request(connection, job, revision, admitted, actor=actor)
        return "held"
    error = {"kind": admitted.kind, "final": True}
    fail_revision(connection, job, revision, actor=actor, reason=admitted.why, error=error)
    return "failed"


def _record_surplus(connection: LedgerConnection, job: Job, revision: Revision, result: Result, actor: Actor) -> None:
    """Record what a response has cost that a batch has made of a request which was free again, once."""
    if result.output is None or result.response_id is None or revision.response_id == result.response_id:
        return
    if not keep_surplus(connection, revision, result.response_id):
        return
    output = result.output
    mark_settled(connection, revision, result.response_id, output.cost_usd, output.usage)
    detail = {"revision": revision.number, "response_id": result.response_id, "usage": output.usage}
    reason = "a batch has run a request that had been given up"
    history.move(connection, job, JobEvent.OUTPUT_LATE, actor=actor, reason=reason, detail=detail)


def _fail(
    connection: LedgerConnection, job: Job, revision: Revision, why: str, actor: Actor, *, release: bool = True
) -> None:
    """End a revision whose deadline has passed.

    :param release: nothing of it is billed.
    """
    if release:
        reservation_store.release(connection, job.job_id, revision.number, None)
    reason = f"the deadline passed: {revision.deadline.isoformat()}; {why[:1].lower()}{why[1:].rstrip('.')}"
    fail_revision(connection, job, revision, actor=actor, reason=reason, error={"kind": "deadline"})
