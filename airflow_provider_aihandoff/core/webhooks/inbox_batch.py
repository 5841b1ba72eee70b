"""Records webhooks that came together in one transaction, each statement of which is for all of them.

A webhook alone takes seven round trips and a commit. Here any number takes as many: begin, find the revisions and lock
their jobs, record the webhooks, append the lines of the histories, mark the revisions, commit, notify; and two more
where the response of one is not known.

Only what is plain is recorded here. The transaction waits for no job and no response that another one has locked, so
that one of them neither holds up the others nor is waited for in a circle. What is left is for :meth:`Inbox.receive`:
webhooks of such jobs and responses, of responses that were given up, of batches, safety notices, and those that name no
response.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.models import Actor, InboxEntry, JobHead, columns
from airflow_provider_aihandoff.core.states import Disposition, JobEvent, ResponseStatus, RevisionState
from airflow_provider_aihandoff.core.text import plain
from airflow_provider_aihandoff.core.webhooks.event_types import ended_batch_status, ended_status, is_safety_notice
from airflow_provider_aihandoff.core.webhooks.inbox import (
    POLL_AFTER,
    Delivery,
    Judged,
    Receipt,
    disposition_of,
    record_all,
)

_FIND = f"""
    SELECT r.response_id, r.revision_id, r.number, r.state AS revision_state, r.response_status,
        r.error ->> 'kind' AS error_kind, {columns(JobHead, "j")}
    FROM aihandoff.revisions AS r JOIN aihandoff.jobs AS j USING (job_id)
    WHERE r.response_id = ANY(%s) FOR UPDATE OF j, r SKIP LOCKED"""
#: The worker that stores one of these ids may be about to commit: it has taken this lock, and its webhook is left.
_LOCK_RESPONSES = """
    SELECT response_id FROM unnest(%s::text[]) AS response_id
    WHERE pg_try_advisory_xact_lock(hashtextextended(response_id, 0))"""
_KNOWN = "SELECT response_id FROM aihandoff.revisions WHERE response_id = ANY(%s)"
_MARK_ENDED = """
    UPDATE aihandoff.revisions AS r SET response_status = ended.status
    FROM unnest(%s::bigint[], %s::text[]) AS ended (revision_id, status) WHERE r.revision_id = ended.revision_id"""


@dataclass(frozen=True)
class _Match:
    """A revision and its job, both locked."""

    revision_id: int
    number: int
    revision_state: RevisionState
    response_status: str | None
    error_kind: str | None
    job: JobHead


class InboxBatches:
    """The way into the inbox of one ledger for webhooks that came together."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def receive(self, deliveries: Sequence[Delivery]) -> list[Receipt | None]:
        """Record deliveries as :meth:`Inbox.receive` does each of them, in one transaction. Safe to repeat.

        :return: what was recorded of each; None for one that is left to :meth:`Inbox.receive`. Of those that name the
            same webhook, response or job, all but the first are left.
        :raises LedgerUnavailable: none of them is known to be recorded; the sender has to deliver them again.
        :raises psycopg.Error: the database refuses one of them, and none is recorded.
        :raises HandoffError: the history of a job refuses one of them, and none is recorded.
        """
        return self._database.transact(
            lambda connection: _receive_together(connection, deliveries), step="receive.batch"
        )


def _receive_together(connection: LedgerConnection, deliveries: Sequence[Delivery]) -> list[Receipt | None]:
    ended = {response_id for each in deliveries if (response_id := _ended_response(each)) is not None}
    matches = _find(connection, ended)
    unknown = _find_unknown(connection, ended - matches.keys())
    judged = _first_of_each([_judge(delivery, matches, unknown) for delivery in deliveries])
    taken = [each for each in judged if each is not None]
    receipts = record_all(connection, taken) if taken else []
    _write(
        connection,
        [(each, receipt.entry) for each, receipt in zip(taken, receipts, strict=True) if not receipt.repeated],
        matches,
    )
    left = iter(receipts)
    return [None if each is None else next(left) for each in judged]


def _ended_response(delivery: Delivery) -> str | None:
    """The response that a delivery says has ended; None where it says something else."""
    if ended_status(delivery.event_type) is None or delivery.response_id is None:
        return None
    return plain(delivery.response_id)


def _find(connection: LedgerConnection, response_ids: Collection[str]) -> dict[str, _Match]:
    """The revisions with these response ids whose jobs are locked by no one else, by the id."""
    if not response_ids:
        return {}
    return {row.pop("response_id"): _match(row) for row in connection.execute(_FIND, [list(response_ids)])}


def _match(row: dict[str, Any]) -> _Match:
    own = {name: row.pop(name) for name in ("revision_id", "number", "response_status", "error_kind")}
    return _Match(**own, revision_state=RevisionState(row.pop("revision_state")), job=JobHead(**row))


def _find_unknown(connection: LedgerConnection, response_ids: Collection[str]) -> set[str]:
    """Of these response ids, those that no revision has, nor gets until the transaction ends."""
    if not response_ids:
        return set()
    locked = {row["response_id"] for row in connection.execute(_LOCK_RESPONSES, [sorted(response_ids)])}
    return locked - {row["response_id"] for row in connection.execute(_KNOWN, [list(locked)])}


def _judge(delivery: Delivery, matches: Mapping[str, _Match], unknown: Collection[str]) -> Judged | None:
    """What a delivery means; None where that takes more than this transaction knows."""
    if is_safety_notice(delivery.event_type) or ended_batch_status(delivery.event_type) is not None:
        return None
    if ended_status(delivery.event_type) is None:
        return Judged(delivery, Disposition.IGNORED)
    response_id = _ended_response(delivery)
    if response_id in unknown:
        return Judged(delivery, Disposition.QUARANTINED, poll_after=POLL_AFTER[0])
    match = matches.get(response_id) if response_id is not None else None
    if match is None:
        return None
    disposition = disposition_of(match.revision_state, match.response_status, match.error_kind)
    return None if disposition is None else Judged(delivery, disposition, match.job.job_id)


def _first_of_each(judged: Sequence[Judged | None]) -> list[Judged | None]:
    """The same without those that name the webhook, response or job of one before them."""
    seen: set[tuple[str, object]] = set()
    first: list[Judged | None] = []
    for each in judged:
        names = _names(each) if each is not None else set()
        first.append(None if names & seen else each)
        seen |= names
    return first


def _names(judged: Judged) -> set[tuple[str, object]]:
    delivery = judged.delivery
    names = ("webhook", delivery.webhook_id), ("response", delivery.response_id), ("job", judged.job_id)
    return {name for name in names if name[1] is not None}


def _write(
    connection: LedgerConnection, news: Sequence[tuple[Judged, InboxEntry]], matches: Mapping[str, _Match]
) -> None:
    """Write into the histories which responses have ended, and mark their revisions.

    :param news: what was recorded for the first time.
    """
    ends: list[tuple[_Match, InboxEntry, ResponseStatus]] = []
    for judged, entry in news:
        status = ended_status(entry.event_type)
        if judged.disposition is Disposition.APPLIED and status is not None:
            ends.append((matches[str(entry.response_id)], entry, status))
    if not ends:
        return
    actors = {conn_id: Actor.webhook(conn_id) for conn_id in {entry.conn_id for _, entry, _ in ends}}
    history.append_each(connection, [_step(*end, actors[end[1].conn_id]) for end in ends])
    values = [match.revision_id for match, _, _ in ends], [status for _, _, status in ends]
    connection.execute(_MARK_ENDED, values)


def _step(match: _Match, entry: InboxEntry, status: ResponseStatus, actor: Actor) -> history.Step:
    detail = {
        "revision": match.number,
        "response_id": entry.response_id,
        "status": status,
        "webhook_id": entry.webhook_id,
    }
    return history.Step(match.job, JobEvent.RESPONSE_ENDED, actor=actor, detail=detail, at=entry.received_at)
