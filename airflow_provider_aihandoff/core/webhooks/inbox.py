"""The webhook protocol: record each delivery once, and find the revision that it is about.

A caller that needs both locks takes the one on a response id before the one on a job. A webhook before the worker
has stored the id, and the worker that stores it, see each other in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from psycopg.types.json import Json

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.errors import JobNotFound, WebhookNotFound, WebhookSettled
from airflow_provider_aihandoff.core.generation.batch_provider import BatchStatus
from airflow_provider_aihandoff.core.generation.response_counts import count_response
from airflow_provider_aihandoff.core.generation.revision_store import Output, find_revision, is_given_up, mark_running
from airflow_provider_aihandoff.core.generation.surplus_store import keep_surplus, mark_settled
from airflow_provider_aihandoff.core.models import Actor, InboxEntry, Job, Revision, columns
from airflow_provider_aihandoff.core.sets.batch_told_store import told
from airflow_provider_aihandoff.core.states import (
    ENDED_RESPONSE_STATUSES,
    Disposition,
    JobEvent,
    JobState,
    ResponseStatus,
    RevisionState,
)
from airflow_provider_aihandoff.core.text import plain, plain_or_none
from airflow_provider_aihandoff.core.webhooks.event_types import ended_batch_status, ended_status, is_safety_notice

#: Seconds from one poll of OpenAI to the next, for a webhook whose response is not known here. Afterwards it is left
#: to a person. The first one leaves the worker the time to store the id.
POLL_AFTER = (2, 30, 120, 600, 3600)

#: How much older than the revision that it names a response may seem to be: the clocks are OpenAI's and the database's.
CLOCK_SKEW = timedelta(minutes=5)

#: How many rows one statement removes: short transactions, however large the inbox is.
_PRUNE_BATCH = 10_000

_COLUMNS = columns(InboxEntry)
_FIND = f"""
    SELECT {columns(Job, "j")}, {", ".join(f"r.{field.name} AS r_{field.name}" for field in fields(Revision))}
    FROM aihandoff.revisions AS r JOIN aihandoff.jobs AS j USING (job_id)
    WHERE r.response_id = %s FOR UPDATE OF j, r"""
_LOCK_RESPONSE = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
#: In the order of the ids, so that two transactions that record the same webhooks do not wait for each other.
_RECORD = f"""
    INSERT INTO aihandoff.inbox AS i (webhook_id, conn_id, event_type, response_id, body, disposition, job_id,
        received_at, updated_at, poll_at, note)
    SELECT webhook_id, conn_id, event_type, response_id, body::json, disposition, job_id, clock_timestamp(),
        clock_timestamp(), clock_timestamp() + poll_after * interval '1 second', note
    FROM json_to_recordset(%s) AS delivery (webhook_id text, conn_id text, event_type text, response_id text, body text,
        disposition text, job_id bigint, poll_after float, note text)
    ORDER BY webhook_id
    ON CONFLICT (webhook_id) DO UPDATE SET deliveries = i.deliveries + 1, updated_at = clock_timestamp()
    RETURNING {columns(InboxEntry, "i", without=frozenset({"body"}))},
        CASE WHEN i.deliveries > 1 THEN i.body END AS body"""
_REPLACE_RESPONSE = f"""
    UPDATE aihandoff.revisions SET response_id = %s, response_status = 'running',
        unknown_submissions = unknown_submissions - 1
    WHERE revision_id = %s
    RETURNING {columns(Revision)}"""
#: The id and the cost of a response whose output was taken from the provider's handle.
_COMPLETE_FOUND = """
    UPDATE aihandoff.revisions SET response_id = %(response_id)s, response_status = %(status)s, usage = %(usage)s,
        cost_usd = %(cost_usd)s
    WHERE revision_id = %(revision_id)s"""
_MARK_ENDED = "UPDATE aihandoff.revisions SET response_status = %s WHERE revision_id = %s"
_LOCK_ENTRY = f"SELECT {_COLUMNS} FROM aihandoff.inbox WHERE webhook_id = %s FOR UPDATE"
_READ_ENTRY = f"SELECT {_COLUMNS} FROM aihandoff.inbox WHERE webhook_id = %s"
_LOCK_QUARANTINED = f"""
    SELECT {_COLUMNS} FROM aihandoff.inbox WHERE response_id = %s AND disposition = 'quarantined'
    ORDER BY received_at FOR UPDATE"""
_SETTLE = f"""
    UPDATE aihandoff.inbox SET disposition = %(disposition)s, job_id = %(job_id)s, note = %(note)s,
        poll_at = clock_timestamp() + %(poll_after)s::interval, polls = %(polls)s, updated_at = clock_timestamp()
    WHERE webhook_id = %(webhook_id)s
    RETURNING {_COLUMNS}"""
_POLLED = f"""
    UPDATE aihandoff.inbox SET polls = %(polls)s, note = %(note)s, updated_at = clock_timestamp(),
        poll_at = clock_timestamp() + %(poll_after)s::interval
    WHERE webhook_id = %(webhook_id)s
    RETURNING {_COLUMNS}"""
_LIST = f"""
    SELECT {_COLUMNS} FROM aihandoff.inbox
    WHERE %(dispositions)s::text[] = '{{}}' OR disposition = ANY(%(dispositions)s)
    ORDER BY received_at DESC LIMIT %(limit)s"""
_IN_QUARANTINE = f"""
    SELECT {_COLUMNS} FROM aihandoff.inbox WHERE disposition = 'quarantined' ORDER BY received_at DESC LIMIT %s"""
_NEWEST = "SELECT max(received_at) AS newest FROM aihandoff.inbox WHERE conn_id = %s"
_DUE = f"""
    SELECT {_COLUMNS} FROM aihandoff.inbox WHERE poll_at <= clock_timestamp() ORDER BY poll_at LIMIT %s"""
_COUNT = """
    SELECT disposition, count(*) AS webhooks, sum(deliveries) AS deliveries FROM aihandoff.inbox GROUP BY disposition"""
_PRUNE = f"""
    DELETE FROM aihandoff.inbox WHERE webhook_id = ANY(ARRAY(
        SELECT webhook_id FROM aihandoff.inbox
        WHERE received_at < clock_timestamp() - %s AND disposition <> 'quarantined'
        ORDER BY received_at LIMIT {_PRUNE_BATCH} FOR UPDATE SKIP LOCKED))"""
_LATE_LINES = "SELECT detail FROM aihandoff.events WHERE job_id = %s AND event = %s"


@dataclass(frozen=True)
class Delivery:
    """One delivery of a webhook, whose signature was verified.

    :param webhook_id: the header of that name.
    :param conn_id: the OpenAI connection whose secret verified it.
    :param response_id: None where the event names none.
    """

    webhook_id: str
    conn_id: str
    event_type: str
    response_id: str | None
    body: dict[str, Any]


@dataclass(frozen=True)
class Receipt:
    """What was recorded of a delivery.

    :param repeated: the same webhook was delivered before; this delivery was counted, and changed nothing else.
    """

    entry: InboxEntry
    repeated: bool


@dataclass(frozen=True)
class Judged:
    """A delivery, and what it means.

    :param poll_after: when to ask OpenAI about its response, in seconds.
    :param note: the result, as text.
    """

    delivery: Delivery
    disposition: Disposition
    job_id: int | None = None
    poll_after: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class _Match:
    """A revision and its locked job."""

    job: Job
    revision: Revision


def record_all(connection: LedgerConnection, judged: Sequence[Judged]) -> list[Receipt]:
    """Record deliveries of different webhooks; return what was recorded of each."""
    rows = [
        {
            "webhook_id": plain(each.delivery.webhook_id),
            "conn_id": each.delivery.conn_id,
            "event_type": plain(each.delivery.event_type),
            "response_id": plain_or_none(each.delivery.response_id),
            "body": canonical_json(each.delivery.body),
            "disposition": each.disposition,
            "job_id": each.job_id,
            "poll_after": each.poll_after,
            "note": plain_or_none(each.note),
        }
        for each in judged
    ]
    recorded = {row["webhook_id"]: row for row in connection.execute(_RECORD, [Json(rows)])}
    return [_receipt(recorded[row["webhook_id"]], each.delivery) for row, each in zip(rows, judged, strict=True)]


def _receipt(row: dict[str, Any], delivery: Delivery) -> Receipt:
    """What was recorded of a delivery; its body comes back only where it came first in an earlier one."""
    repeated = row["deliveries"] > 1
    return Receipt(InboxEntry(**row if repeated else {**row, "body": delivery.body}), repeated)


def disposition_of(state: RevisionState, response_status: str | None, error_kind: str | None) -> Disposition | None:
    """What a webhook about the end of a revision's response means; None where its job's history decides."""
    if state is RevisionState.RUNNING:
        return Disposition.DUPLICATE if response_status in ENDED_RESPONSE_STATUSES else Disposition.APPLIED
    return None if is_given_up(state, error_kind) else Disposition.DUPLICATE


def lock_response(connection: LedgerConnection, response_id: str) -> None:
    """Keep others from correlating this response id until the transaction ends. Before any lock on a job."""
    connection.execute(_LOCK_RESPONSE, [plain(response_id)])


def adopt_early(connection: LedgerConnection, job: Job, revision: Revision) -> Revision:
    """Apply every webhook that came before the id of its response was known. The response and the job are locked.

    :return: the revision as it is now.
    """
    match = _Match(job, revision)
    assert revision.response_id is not None
    for entry in _lock_waiting(connection, revision.response_id):
        match = _apply(connection, match, entry)
    return match.revision


class Inbox:
    """Every webhook that was accepted, and its result, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def receive(self, delivery: Delivery) -> Receipt:
        """Record a delivery, and that a response has ended, if a job waits for it. Safe to repeat.

        :raises LedgerUnavailable: nothing is known to be recorded; the sender has to deliver it again.
        """
        return self._database.transact(lambda connection: _receive(connection, delivery), step="receive.insert")

    def read(self, webhook_id: str) -> InboxEntry:
        """Return one webhook.

        :raises WebhookNotFound: the inbox has none with this id.
        """
        return self._database.transact(lambda connection: _entry(connection, _READ_ENTRY, webhook_id))

    def last_received(self, conn_id: str) -> datetime | None:
        """Return when the newest webhook of a connection came first; None where none ever came."""
        row = self._database.transact(lambda connection: connection.execute(_NEWEST, [conn_id]).fetchone())
        return None if row is None else row["newest"]

    def entries(self, *, dispositions: Sequence[Disposition] = (), limit: int = 100) -> list[InboxEntry]:
        """Return webhooks, newest first.

        :param dispositions: only those with one of these; empty for all.
        """
        values = {"dispositions": [str(disposition) for disposition in dispositions], "limit": limit}
        return self._database.transact(
            lambda connection: [InboxEntry(**row) for row in connection.execute(_LIST, values).fetchall()]
        )

    def quarantined(self, limit: int) -> list[InboxEntry]:
        """Return the webhooks in quarantine, newest first."""
        return self._database.transact(
            lambda connection: [InboxEntry(**row) for row in connection.execute(_IN_QUARANTINE, [limit]).fetchall()]
        )

    def due(self, limit: int) -> list[InboxEntry]:
        """Return the webhooks about whose response OpenAI should be asked now, the longest due first."""
        return self._database.transact(
            lambda connection: [InboxEntry(**row) for row in connection.execute(_DUE, [limit]).fetchall()]
        )

    def counts(self) -> dict[Disposition, tuple[int, int]]:
        """Return how many webhooks have each disposition, and how often they were delivered. Reads the whole table."""
        rows = self._database.transact(lambda connection: connection.execute(_COUNT).fetchall())
        return {Disposition(row["disposition"]): (row["webhooks"], int(row["deliveries"])) for row in rows}

    def correlate(self, webhook_id: str) -> InboxEntry:
        """Search the ledger again for the revision that a quarantined webhook is about."""

        def work(connection: LedgerConnection) -> InboxEntry:
            entry = _entry(connection, _READ_ENTRY, webhook_id)
            if entry.response_id is None:
                return entry
            lock_response(connection, entry.response_id)
            match = _find(connection, entry.response_id)
            if match is not None:
                adopt_early(connection, match.job, match.revision)
            return _entry(connection, _READ_ENTRY, webhook_id)

        return self._database.transact(work, step="receive.correlate")

    def replay(self, webhook_id: str, *, actor: Actor) -> InboxEntry:
        """Put a webhook that had no effect back into quarantine, and correlate it again.

        :raises WebhookSettled: it was applied, or is known to change nothing.
        """

        def work(connection: LedgerConnection) -> None:
            entry = _entry(connection, _LOCK_ENTRY, webhook_id)
            again = (Disposition.QUARANTINED, Disposition.FOREIGN, Disposition.DISCARDED)
            if entry.disposition not in again or entry.response_id is None:
                raise _settled(entry, "replayed")
            _settle(connection, entry, Disposition.QUARANTINED, None, note=f"replayed by {actor}", poll_after=0)

        self._database.transact(work)
        return self.correlate(webhook_id)

    def discard(self, webhook_id: str, *, actor: Actor, why: str) -> InboxEntry:
        """Record that a person has checked a quarantined webhook, and that it means nothing.

        :raises WebhookSettled: it is not in quarantine.
        """

        def work(connection: LedgerConnection) -> InboxEntry:
            entry = _entry(connection, _LOCK_ENTRY, webhook_id)
            if entry.disposition is not Disposition.QUARANTINED:
                raise _settled(entry, "discarded")
            return _settle(connection, entry, Disposition.DISCARDED, None, note=f"{actor}: {why}")

        return self._database.transact(work)

    def foreign(self, webhook_id: str, *, note: str) -> InboxEntry:
        """Record that the response of a quarantined webhook is not of this ledger. Does nothing to any other."""

        def work(connection: LedgerConnection) -> InboxEntry:
            entry = _entry(connection, _LOCK_ENTRY, webhook_id)
            if entry.disposition is not Disposition.QUARANTINED:
                return entry
            return _settle(connection, entry, Disposition.FOREIGN, None, note=note)

        return self._database.transact(work)

    def polled(self, webhook_id: str, *, note: str, again: bool) -> InboxEntry:
        """Record that OpenAI was asked, and when to ask again: later each time, and not forever.

        Does nothing where the webhook was settled meanwhile, and nothing is left to ask.

        :param again: asking again may help.
        """

        def work(connection: LedgerConnection) -> InboxEntry:
            entry = _entry(connection, _LOCK_ENTRY, webhook_id)
            return entry if entry.poll_at is None else _polled(connection, entry, note=note, again=again)

        return self._database.transact(work, step="receive.polled")

    def adopt(
        self,
        webhook_id: str,
        *,
        job_id: int,
        number: int,
        created_at: datetime | None,
        output: Output,
        actor: Actor,
    ) -> InboxEntry:
        """Give a job the response that it asked for and whose id was lost in transit: its metadata names the revision.

        A revision that still waits for its id gets it. Otherwise the response is an orphan, late and billed: what it
        cost goes on the record, once. A ledger that was restored from a backup may not know the revision, or have
        given its number to another one since: then the webhook stays in quarantine, for a person.

        :param created_at: when OpenAI created the response, if it says so.
        :param output: what OpenAI says about the response.
        """

        def work(connection: LedgerConnection) -> InboxEntry:
            entry = _entry(connection, _READ_ENTRY, webhook_id)
            assert entry.response_id is not None
            lock_response(connection, entry.response_id)
            match = _find(connection, entry.response_id)
            named = _named(connection, job_id, number) if match is None else match
            waiting = _lock_waiting(connection, entry.response_id)
            if entry.webhook_id not in [each.webhook_id for each in waiting]:
                return _entry(connection, _READ_ENTRY, webhook_id)
            if named is None:
                return _polled(connection, entry, note=f"this ledger has no revision {number} of a job {job_id}")
            if match is None and _is_older(created_at, named.revision):
                note = f"it is older than revision {number} of job {job_id}, which it names"
                return _polled(connection, entry, note=note)
            match = match or _adopt(connection, named, entry.response_id, output, actor)
            if match is not None:
                adopt_early(connection, match.job, match.revision)
            else:
                _record_orphan(connection, named, waiting, output, actor)
            return _entry(connection, _READ_ENTRY, webhook_id)

        return self._database.transact(work, step="receive.adopt")

    def prune(self, older_than: timedelta) -> int:
        """Remove what was received longer ago, except what is in quarantine; return how many rows.

        :param older_than: well above the 72 hours for which OpenAI delivers again: a webhook that is forgotten here
            and comes again would not be recognised.
        """
        removed = 0
        while True:
            batch = self._database.transact(lambda connection: connection.execute(_PRUNE, [older_than]).rowcount)
            removed += batch
            if batch < _PRUNE_BATCH:
                return removed


def _receive(connection: LedgerConnection, delivery: Delivery) -> Receipt:
    if is_safety_notice(delivery.event_type):
        # What it names is a case or an alert. It stays in quarantine until a person has read it.
        note = f"a safety notice by OpenAI about {delivery.response_id or 'no case'}"
        return _record(connection, replace(delivery, response_id=None), Disposition.QUARANTINED, note=note)
    if (status := ended_batch_status(delivery.event_type)) is not None:
        return _receive_of_batch(connection, delivery, status)
    if ended_status(delivery.event_type) is None:
        return _record(connection, delivery, Disposition.IGNORED)
    if delivery.response_id is None:
        return _record(connection, delivery, Disposition.QUARANTINED, note="it names no response")
    match = _find(connection, delivery.response_id)
    if match is None:
        # The worker that stores this id may be about to commit: it takes the same lock first.
        lock_response(connection, delivery.response_id)
        match = _find(connection, delivery.response_id)
    if match is None:
        return _record(connection, delivery, Disposition.QUARANTINED, poll_after=POLL_AFTER[0])
    disposition = _disposition(connection, match)
    receipt = _record(
        connection,
        delivery,
        disposition,
        job_id=match.job.job_id,
        poll_after=_poll_for_cost(disposition, match.revision),
    )
    if not receipt.repeated:
        _write(connection, match, disposition, receipt.entry, at=receipt.entry.received_at)
    return receipt


def _receive_of_batch(connection: LedgerConnection, delivery: Delivery, status: BatchStatus) -> Receipt:
    """Record that a batch has ended. What it has left is read by the task of its set, which is woken by that.

    One whose id is not known, or not yet, changes nothing: a batch is asked about in any case.
    """
    new = told(connection, plain(delivery.response_id or ""), delivery.conn_id, status)
    if new is None:
        return _record(connection, delivery, Disposition.IGNORED, note="no batch of this ledger has this id")
    return _record(connection, delivery, Disposition.APPLIED if new else Disposition.DUPLICATE)


def _record(
    connection: LedgerConnection,
    delivery: Delivery,
    disposition: Disposition,
    *,
    job_id: int | None = None,
    poll_after: float | None = None,
    note: str | None = None,
) -> Receipt:
    (receipt,) = record_all(connection, [Judged(delivery, disposition, job_id, poll_after, note)])
    return receipt


def _find(connection: LedgerConnection, response_id: str) -> _Match | None:
    """The revision with this response id, which may have changed while its job was locked by others: as it is now."""
    row = connection.execute(_FIND, [plain(response_id)]).fetchone()
    if row is None:
        return None
    revision = {field.name: row.pop(f"r_{field.name}") for field in fields(Revision)}
    return _Match(Job(**row), Revision(**revision))


def _lock_waiting(connection: LedgerConnection, response_id: str) -> list[InboxEntry]:
    """The webhooks in quarantine that are about this response, oldest first."""
    return [InboxEntry(**row) for row in connection.execute(_LOCK_QUARANTINED, [response_id]).fetchall()]


def _disposition(connection: LedgerConnection, match: _Match) -> Disposition:
    """What a webhook about the end of this revision's response means now."""
    revision = match.revision
    known = disposition_of(revision.state, revision.response_status, (revision.error or {}).get("kind"))
    if known is not None:
        return known
    recorded = any("webhook_id" in line for line in _late_lines(connection, match.job, revision.response_id))
    return Disposition.DUPLICATE if recorded else Disposition.LATE


def _late_lines(connection: LedgerConnection, job: Job, response_id: str | None) -> list[dict[str, Any]]:
    """What the history of a locked job says about an orphaned response."""
    rows = connection.execute(_LATE_LINES, [job.job_id, JobEvent.OUTPUT_LATE.value]).fetchall()
    return [row["detail"] for row in rows if row["detail"].get("response_id") == response_id]


def _poll_for_cost(disposition: Disposition, revision: Revision) -> float | None:
    """When to ask OpenAI what an orphaned response has cost, in seconds; None where that is known."""
    return POLL_AFTER[0] if disposition is Disposition.LATE and revision.usage is None else None


def _write(
    connection: LedgerConnection,
    match: _Match,
    disposition: Disposition,
    entry: InboxEntry,
    at: datetime | None = None,
) -> tuple[Job, Revision]:
    """Write into the job's history what a webhook says, where it says something new.

    :param at: the time of the new line, if the database was just asked for it.
    """
    job, revision = match.job, match.revision
    if disposition not in (Disposition.APPLIED, Disposition.LATE):
        return job, revision
    status = ended_status(entry.event_type)
    assert status is not None
    event = JobEvent.RESPONSE_ENDED if disposition is Disposition.APPLIED else JobEvent.OUTPUT_LATE
    detail = {
        "revision": revision.number,
        "response_id": revision.response_id,
        "status": status,
        "webhook_id": entry.webhook_id,
    }
    job = history.move(connection, job, event, actor=Actor.webhook(entry.conn_id), detail=detail, at=at)
    if disposition is Disposition.APPLIED:
        connection.execute(_MARK_ENDED, [status, revision.revision_id])
        revision = replace(revision, response_status=status)
    return job, revision


def _apply(connection: LedgerConnection, match: _Match, entry: InboxEntry) -> _Match:
    """Apply a webhook that was in quarantine, now that its revision is known."""
    disposition = _disposition(connection, match)
    job, revision = _write(connection, match, disposition, entry)
    _settle(connection, entry, disposition, job.job_id, poll_after=_poll_for_cost(disposition, revision))
    return _Match(job, revision)


def _settle(
    connection: LedgerConnection,
    entry: InboxEntry,
    disposition: Disposition,
    job_id: int | None,
    *,
    note: str | None = None,
    poll_after: float | None = None,
) -> InboxEntry:
    row = connection.execute(
        _SETTLE,
        {
            "disposition": disposition,
            "job_id": job_id,
            "note": plain_or_none(note),
            "poll_after": None if poll_after is None else timedelta(seconds=poll_after),
            "polls": 0 if disposition is Disposition.QUARANTINED else entry.polls,
            "webhook_id": entry.webhook_id,
        },
    ).fetchone()
    assert row is not None
    return InboxEntry(**row)


def _polled(connection: LedgerConnection, entry: InboxEntry, *, note: str, again: bool = False) -> InboxEntry:
    polls = entry.polls + 1
    after = timedelta(seconds=POLL_AFTER[polls]) if again and polls < len(POLL_AFTER) else None
    values = {"polls": polls, "note": plain(note), "poll_after": after, "webhook_id": entry.webhook_id}
    row = connection.execute(_POLLED, values).fetchone()
    assert row is not None
    return InboxEntry(**row)


def _named(connection: LedgerConnection, job_id: int, number: int) -> _Match | None:
    """The revision with this number and its job, locked; None where the ledger has no such."""
    try:
        job = history.lock(connection, job_id)
    except JobNotFound:
        return None
    revision = find_revision(connection, job_id, number)
    return None if revision is None else _Match(job, revision)


def _is_older(created_at: datetime | None, revision: Revision) -> bool:
    """Whether a response was there before the revision that it names: it answers another one of that number."""
    return created_at is not None and created_at < revision.created_at - CLOCK_SKEW


def _adopt(
    connection: LedgerConnection, named: _Match, response_id: str, output: Output, actor: Actor
) -> _Match | None:
    """Give the revision its response; None where it has another one, or was given up, and this one is an orphan."""
    job, revision = named.job, named.revision
    # One that its worker brought too late was cancelled at OpenAI: the job waits for another.
    if job.revision != revision.number or _late_lines(connection, job, response_id):
        return None
    if _comes_first(job, revision, output):
        return _replace_response(connection, named, response_id, actor)
    if job.state is not JobState.QUEUED:
        return None
    revision = mark_running(connection, revision, response_id, ResponseStatus.RUNNING, found=True)
    detail = {"revision": revision.number, "response_id": response_id}
    reason = "found by its webhook: the answer to the request was lost"
    return _Match(
        history.move(connection, job, JobEvent.SUBMITTED, actor=actor, reason=reason, detail=detail), revision
    )


def _comes_first(job: Job, revision: Revision, output: Output) -> bool:
    """Whether a response has completed before the one that was asked for when its own id was lost."""
    waits = job.state is JobState.RUNNING and revision.state is RevisionState.RUNNING and job.cancelling is None
    known = revision.response_status in ENDED_RESPONSE_STATUSES
    return waits and not known and revision.unknown_submissions > 0 and output.status == ResponseStatus.COMPLETED


def _replace_response(connection: LedgerConnection, named: _Match, response_id: str, actor: Actor) -> _Match:
    """Take the response that has completed, in place of the one that runs, which is to be cancelled."""
    revision = named.revision
    assert revision.response_id is not None
    keep_surplus(connection, revision, revision.response_id)
    row = connection.execute(_REPLACE_RESPONSE, [response_id, revision.revision_id]).fetchone()
    assert row is not None
    reason = "the response whose id was lost has ended first: it is taken, and the other one is cancelled"
    detail = {"revision": revision.number, "response_id": response_id, "surplus": revision.response_id}
    job = history.move(connection, named.job, JobEvent.RESPONSE_REPLACED, actor=actor, reason=reason, detail=detail)
    return _Match(job, Revision(**row))


def _record_orphan(
    connection: LedgerConnection, named: _Match, waiting: Sequence[InboxEntry], output: Output, actor: Actor
) -> None:
    """Write what a response has cost that its job does not wait for into the history, with the first webhook of it."""
    job, response_id = named.job, waiting[0].response_id
    assert response_id is not None
    known = {"webhook_id", "cost_usd"}
    recorded = any(known & line.keys() for line in _late_lines(connection, job, response_id))
    mark_settled(connection, named.revision, response_id, output.cost_usd, output.usage)
    if not recorded:
        count_response(connection, job, named.revision, output, counted=_was_found(named.revision))
    if _was_found(named.revision):
        values = {"response_id": response_id, "status": output.status, "cost_usd": output.cost_usd}
        usage = None if output.usage is None else history.as_json(output.usage)
        connection.execute(_COMPLETE_FOUND, {**values, "usage": usage, "revision_id": named.revision.revision_id})
    for entry in waiting:
        disposition = Disposition.DUPLICATE if recorded else Disposition.LATE
        _settle(connection, entry, disposition, job.job_id, note="an orphan of its job")
        if not recorded:
            detail = {
                "revision": named.revision.number,
                "response_id": response_id,
                "status": output.status,
                "usage": output.usage,
                "cost_usd": output.cost_usd,
                "webhook_id": entry.webhook_id,
            }
            reason = "an orphan: the answer to the request that created it was lost"
            job = history.move(connection, job, JobEvent.OUTPUT_LATE, actor=actor, reason=reason, detail=detail)
        recorded = True


def _was_found(revision: Revision) -> bool:
    """Whether its output was taken from the provider's handle, so that its response was not known until now."""
    found = revision.state in (RevisionState.COMPLETED, RevisionState.FAILED) and revision.response_id is None
    return found and revision.conversation_id is not None and revision.response_status in ENDED_RESPONSE_STATUSES


def _entry(connection: LedgerConnection, query: str, webhook_id: str) -> InboxEntry:
    row = connection.execute(query, [plain(webhook_id)]).fetchone()
    if row is None:
        raise WebhookNotFound(
            f"the inbox has no webhook {webhook_id}.",
            written="Nothing was changed. This step made no external write.",
            remedy="`airflow aihandoff inbox list` shows the ones it has.",
        )
    return InboxEntry(**row)


def _settled(entry: InboxEntry, wish: str) -> WebhookSettled:
    return WebhookSettled(
        f"the webhook {entry.webhook_id} is {entry.disposition.value}: it cannot be {wish}.",
        written="Nothing was changed. This step made no external write.",
        remedy=f"`airflow aihandoff inbox show {entry.webhook_id}` shows its result.",
    )
