"""Decision links on one ledger: made for a message, checked when they are opened, and used once.

Every method is one short transaction.
"""

from __future__ import annotations

from datetime import timedelta

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.errors import LinkNotFound
from airflow_provider_aihandoff.core.models import Job, columns
from airflow_provider_aihandoff.core.review.decide import check_digest, counts_already, decide_as, of_now
from airflow_provider_aihandoff.core.review.decision_link import (
    DecisionLink,
    LinkVerdict,
    already_given,
    check_is_for,
    check_is_open,
    check_named,
    hash_of,
    new_token,
)
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.text import plain, plain_or_none

#: A link never outlives the review. Where the job has moved on since the message was begun, none is made.
_INSERT = """
    INSERT INTO aihandoff.decision_links (token_hash, job_id, revision, digest, verdict, person, expires_at)
    SELECT %(token_hash)s, job_id, revision, review_digest, %(verdict)s, %(person)s,
        least(review_deadline, clock_timestamp() + %(lifetime)s::interval)
    FROM aihandoff.jobs
    WHERE job_id = %(job_id)s AND state = 'review' AND revision = %(revision)s AND review_digest = %(digest)s
        AND review_deadline IS NOT NULL
    RETURNING token_hash"""
_READ = f"SELECT {columns(DecisionLink)} FROM aihandoff.decision_links WHERE token_hash = %s"
_USE = "UPDATE aihandoff.decision_links SET used_at = clock_timestamp() WHERE token_hash = %s"


class DecisionLinks:
    """The decision links of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def make(self, job: Job, verdict: LinkVerdict, person: str, *, lifetime: timedelta | None = None) -> str | None:
        """Make a link for one person, one verdict, and what the job says now. Earlier ones stay as they are.

        :param person: their login name, or the auth manager's id.
        :param lifetime: how long it can be used; by default, and at most, until the review's deadline.
        :return: its token, which the ledger does not keep; None where the job waits for no decision on this digest.
        :raises ValueError: it names no one who can log in.
        """
        check_named(person)
        token = new_token()
        values = {
            "token_hash": hash_of(token),
            "verdict": verdict,
            "person": plain(person).strip(),
            "lifetime": lifetime,
            "job_id": job.job_id,
            "revision": job.revision,
            "digest": job.review_digest,
        }
        row = self._database.transact(lambda connection: connection.execute(_INSERT, values).fetchone())
        return None if row is None else token

    def read(self, token: str, person: Person) -> DecisionLink:
        """Return the link with this token, for the person whom it is for.

        :raises LinkNotFound: there is none.
        :raises LinkForAnotherUser: it is for another user.
        """
        link = self._database.transact(lambda connection: _read(connection, token))
        check_is_for(link, person)
        return link

    def check(self, token: str, person: Person) -> None:
        """Return when a decision with the link would count, as far as it is the link's to say. Changes nothing.

        :raises LinkNotFound: there is none.
        :raises LinkForAnotherUser: it is for another user.
        :raises LinkSpent: it was used, has expired, or is about an earlier revision; or its person has said so already.
        :raises StaleDecision: the job says something else by now, or is decided.
        :raises JobNotApproved: the job has no plan yet to decide on.
        """

        def work(connection: LedgerConnection) -> None:
            link = _read(connection, token)
            _check(connection, link, history.read(connection, link.job_id), person)

        self._database.transact(work, repeatable=True)

    def decide(self, token: str, *, person: Person, comment: str | None = None) -> Job:
        """Record the decision that a link is for, as :meth:`Reviews.decide` does, and that the link was used.

        :return: the job as it is now.
        :raises HandoffError: what :meth:`check` and :meth:`Reviews.decide` raise. Nothing was recorded then, and the
            link was not used.
        """

        def work(connection: LedgerConnection) -> Job:
            job = history.lock(connection, _read(connection, token).job_id)
            link = _read(connection, token)  # as the one that had the lock before has left it
            _check(connection, link, job, person)
            connection.execute(_USE, [link.token_hash])
            return decide_as(connection, job, link.verdict, link.digest, person, plain_or_none(comment))

        return self._database.transact(work, step="review.decide")


def _read(connection: LedgerConnection, token: str) -> DecisionLink:
    row = connection.execute(_READ, [hash_of(token)]).fetchone()
    if row is None:
        raise LinkNotFound(
            "there is no such link.",
            written="Nothing was recorded. No external write was made.",
            remedy="Copy all of it from the message. What waits for you is in the review queue.",
        )
    return DecisionLink(**row)


def _check(connection: LedgerConnection, link: DecisionLink, job: Job, person: Person) -> None:
    check_is_for(link, person)
    check_is_open(link, job, history.now(connection))
    if counts_already(job, of_now(connection, job), link.verdict, link.digest, person.actor):
        raise already_given(link, job)
    check_digest(connection, job, link.digest, since="this link was sent")
