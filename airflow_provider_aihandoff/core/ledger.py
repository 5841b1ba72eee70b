"""One ledger: the place where the protocols and the queries meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from airflow_provider_aihandoff.core.admission.pause_store import Pauses
from airflow_provider_aihandoff.core.admission.spending_limit_store import SpendingLimits
from airflow_provider_aihandoff.core.budgets.bill_store import Bills
from airflow_provider_aihandoff.core.budgets.budget_store import Budgets
from airflow_provider_aihandoff.core.budgets.reservation_store import Reservations
from airflow_provider_aihandoff.core.budgets.spending_store import Spending
from airflow_provider_aihandoff.core.bulk.bulk_store import Bulks
from airflow_provider_aihandoff.core.database import history, schema
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.effects.approved_undo import altered_undos
from airflow_provider_aihandoff.core.effects.effect_store import Effects
from airflow_provider_aihandoff.core.effects.plan_store import digest_key
from airflow_provider_aihandoff.core.effects.roll_back_store import RollBacks
from airflow_provider_aihandoff.core.event_delivery.delivery_store import Outbox
from airflow_provider_aihandoff.core.event_delivery.subscription_store import EventSubscriptions
from airflow_provider_aihandoff.core.generation.output_store import Outputs
from airflow_provider_aihandoff.core.generation.revision_store import COUNTED, read_revision
from airflow_provider_aihandoff.core.generation.sign_store import Signs
from airflow_provider_aihandoff.core.generation.submission_store import Submission
from airflow_provider_aihandoff.core.generation.surplus_store import SurplusResponses
from airflow_provider_aihandoff.core.job_requests.request_store import JobRequests
from airflow_provider_aihandoff.core.jobs.acknowledge_store import Acknowledgements
from airflow_provider_aihandoff.core.jobs.cancel_store import Cancels
from airflow_provider_aihandoff.core.jobs.job_search_store import JobSearch
from airflow_provider_aihandoff.core.jobs.of_run import OF_RUN
from airflow_provider_aihandoff.core.jobs.overview_store import Overviews
from airflow_provider_aihandoff.core.limits import WORKER, Limits
from airflow_provider_aihandoff.core.models import Decision, Effect, Event, Job, Revision, columns
from airflow_provider_aihandoff.core.rates.rate_limit_store import RateLimits
from airflow_provider_aihandoff.core.reconcile.gauge_store import Gauges
from airflow_provider_aihandoff.core.reconcile.notice_store import Notices
from airflow_provider_aihandoff.core.reconcile.scan_store import Abandoned
from airflow_provider_aihandoff.core.review.link_store import DecisionLinks
from airflow_provider_aihandoff.core.review.parked_store import ParkedTasks
from airflow_provider_aihandoff.core.review.queue_store import ReviewQueue
from airflow_provider_aihandoff.core.review.reassign_store import Reassignments
from airflow_provider_aihandoff.core.review.review_store import Reviews
from airflow_provider_aihandoff.core.sets.batch_store import Batches
from airflow_provider_aihandoff.core.sets.set_store import Sets
from airflow_provider_aihandoff.core.sets.together import Together
from airflow_provider_aihandoff.core.sets.written_together import WrittenTogether
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.core.text import plain
from airflow_provider_aihandoff.core.webhooks.inbox import Inbox
from airflow_provider_aihandoff.core.webhooks.inbox_batch import InboxBatches

#: Which jobs a list is about: empty or NULL parameters leave out nothing.
_JOB_FILTER = f"""
    (%(states)s::text[] = '{{}}' OR state = ANY(%(states)s))
    AND (%(dag_id)s::text IS NULL OR dag_id = %(dag_id)s)
    AND {OF_RUN}
    AND (%(dag_ids)s::text[] IS NULL OR dag_id = ANY(%(dag_ids)s))"""

#: The Dags that have a job, found by skipping from one to the next in the index, however many jobs each has.
_DAG_IDS = """
    WITH RECURSIVE found AS (
        (SELECT dag_id FROM aihandoff.jobs ORDER BY dag_id LIMIT 1)
        UNION ALL
        SELECT (SELECT dag_id FROM aihandoff.jobs WHERE dag_id > found.dag_id ORDER BY dag_id LIMIT 1)
        FROM found WHERE found.dag_id IS NOT NULL
    )
    SELECT dag_id FROM found WHERE dag_id IS NOT NULL"""

#: The jobs that a run has made or attached to, also those that belong to another run of the Dag by now.
_OF_RUN = """
    dag_id = %(dag_id)s AND job_id IN (
        SELECT job_id FROM aihandoff.jobs WHERE dag_id = %(dag_id)s AND run_id = %(run_id)s
        UNION ALL
        SELECT job_id FROM aihandoff.events
        WHERE actor_kind = 'task' AND actor_dag_id = %(dag_id)s AND actor_run_id = %(run_id)s)"""

#: When the newest webhook came on the connection of a revision, if one ever did.
_NEWEST_WEBHOOK = """
    SELECT max(received_at) AS at FROM aihandoff.inbox
    WHERE conn_id = (SELECT conn_id FROM aihandoff.revisions WHERE job_id = %s AND number = %s)"""


@dataclass(frozen=True)
class RunJob:
    """A job that a Dag run has made or attached to.

    :param effects: of its current revision, with their undos, in the order of the plan.
    :param model_revisions: how many revisions count towards ``max_revisions``.
    """

    job: Job
    effects: list[Effect]
    model_revisions: int


@dataclass(frozen=True)
class Candidate:
    """A job that may be decided on together with others.

    :param effects: the intended ones of its current revision, in the order of the plan.
    """

    job: Job
    output: Any
    effects: list[Effect]


@dataclass(frozen=True)
class JobRecord:
    """Everything the ledger knows of one job, oldest first.

    :param altered_undos: why applied effects have an undo that is not the approved one, by the ids of the effects.
    :param at: the moment, by the database's clock.
    :param unseen: lines of the history that its reader is not to know yet: they are not among the events.
    :param newest_webhook: when the newest webhook came on the connection of the current revision, if one ever did.
    """

    job: Job
    revisions: list[Revision]
    decisions: list[Decision]
    effects: list[Effect]
    events: list[Event]
    altered_undos: Mapping[int, str]
    at: datetime = field(compare=False)
    newest_webhook: datetime | None = field(compare=False)
    unseen: tuple[Event, ...] = ()

    @property
    def history(self) -> list[Event]:
        """Every line of the history."""
        return sorted((*self.events, *self.unseen), key=lambda line: line.seq)

    @property
    def revision(self) -> Revision:
        """The current revision."""
        return next(revision for revision in self.revisions if revision.number == self.job.revision)

    @property
    def current_effects(self) -> list[Effect]:
        """The intended effects of the current revision, in the order of the plan."""
        return [effect for effect in self.effects if effect.revision == self.job.revision and effect.undoes is None]

    @property
    def undos(self) -> list[Effect]:
        """The undos of effects of the current revision, in the order in which they are applied."""
        return [effect for effect in self.effects if effect.revision == self.job.revision and effect.undoes is not None]


class Ledger:
    """A ledger on one PostgreSQL database. Safe to share between threads; close it, or use it as a context manager.

    :param conninfo: libpq's connection parameters by name (``host``, ``password``, ``sslmode``, ...).
    :param max_size: the most connections that it opens.
    :param timeout: seconds to wait for a connection; by default :data:`connection.CONNECT_TIMEOUT`.
    :param limits: the time-outs of this kind of process.
    :param digest_key: the secret with which digests cover other secrets; empty: the one that the ledger keeps.
    """

    def __init__(
        self,
        conninfo: Mapping[str, Any],
        *,
        max_size: int = 1,
        timeout: float | None = None,
        limits: Limits = WORKER,
        digest_key: str = "",
    ) -> None:
        self._digest_key = digest_key
        self._ledger_id: str | None = None
        self._own_key = ""
        self._database = Database(conninfo, max_size=max_size, timeout=timeout, limits=limits)
        self.submission = Submission(self._database, digest_key)
        self.outputs = Outputs(self._database)
        self.inbox = Inbox(self._database)
        self.inbox_batches = InboxBatches(self._database)
        self.reviews = Reviews(self._database, digest_key)
        self.review_queue = ReviewQueue(self._database)
        self.reassignments = Reassignments(self._database)
        self.decision_links = DecisionLinks(self._database)
        self.parked_tasks = ParkedTasks(self._database)
        self.effects = Effects(self._database)
        self.cancels = Cancels(self._database)
        self.acknowledgements = Acknowledgements(self._database)
        self.roll_backs = RollBacks(self._database, digest_key)
        self.abandoned = Abandoned(self._database)
        self.surplus = SurplusResponses(self._database)
        self.gauges = Gauges(self._database)
        self.notices = Notices(self._database)
        self.search = JobSearch(self._database)
        self.overviews = Overviews(self._database)
        self.signs = Signs(self._database)
        self.bulks = Bulks(self._database)
        self.budgets = Budgets(self._database)
        self.reservations = Reservations(self._database)
        self.spending = Spending(self._database)
        self.bills = Bills(self._database)
        self.pauses = Pauses(self._database)
        self.spending_limits = SpendingLimits(self._database)
        self.rate_limits = RateLimits(self._database)
        self.batches = Batches(self._database, self.outputs)
        self.sets = Sets(self._database)
        self.together = Together(self._database)
        self.written_together = WrittenTogether(self._database)
        self.job_requests = JobRequests(self._database)
        self.event_subscriptions = EventSubscriptions(self._database)
        self.outbox = Outbox(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def check_schema(self) -> None:
        """Return when this package can use the ledger's schema.

        :raises LedgerSchemaError: it cannot; the message says the command to run.
        :raises LedgerUnavailable: the database cannot be reached.
        """
        self._database.transact(schema.check)

    def schema_version(self) -> str | None:
        """The version of the ledger's schema; None where there is no ledger."""
        return self._database.transact(schema.current_version)

    def now(self) -> datetime:
        """The database's clock, by which every deadline is made and compared: those of workers may differ."""
        return self._database.transact(history.now)

    def ledger_id(self) -> str:
        """The identity of this ledger, a UUID. It never changes, so that it is read once."""
        if self._ledger_id is None:
            self._ledger_id = str(self._one("SELECT ledger_id FROM aihandoff.ledger")["ledger_id"])
        return self._ledger_id

    def digest_key(self) -> str:
        """The secret with which digests cover other secrets: the configured one, or else the ledger's own."""
        self._own_key = self._digest_key or self._own_key or self._database.transact(digest_key)
        return self._own_key

    def job(self, job_id: int) -> Job:
        """Return one job.

        :raises JobNotFound: there is none with this id.
        """
        return self._database.transact(lambda connection: history.read(connection, job_id))

    def job_id_of(self, job_type: str, job_key: str) -> int | None:
        """The id of the job with this key; None where there is none."""
        query = "SELECT job_id FROM aihandoff.jobs WHERE job_type = %(job_type)s AND job_key = %(job_key)s"
        rows = self._all(query, {"job_type": plain(job_type), "job_key": plain(job_key)})
        return rows[0]["job_id"] if rows else None

    def revision(self, job_id: int, number: int) -> Revision:
        """Return one revision of a job that exists."""
        return self._database.transact(lambda connection: read_revision(connection, job_id, number))

    def events(self, job_id: int, *, after: int) -> list[Event]:
        """Return the lines of a job's history after one of them, oldest first.

        :param after: the number of the line; 0 for all.
        """
        query = (
            f"SELECT {columns(Event)} FROM aihandoff.events WHERE job_id = %(job_id)s AND seq > %(after)s ORDER BY seq"
        )
        return [Event(**row) for row in self._all(query, {"job_id": job_id, "after": after})]

    def record(self, job_id: int) -> JobRecord:
        """Return a job with all that belongs to it, as of one moment.

        :raises JobNotFound: there is none with this id.
        """

        def work(connection: LedgerConnection) -> JobRecord:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

            def rows(record: type, table: str, order: str) -> list[dict[str, Any]]:
                query = f"SELECT {columns(record)} FROM aihandoff.{table} WHERE job_id = %s ORDER BY {order}"
                return connection.execute(query, [job_id]).fetchall()

            job = history.read(connection, job_id)
            effects = [Effect(**row) for row in rows(Effect, "effects", "revision, position")]
            events = [Event(**row) for row in rows(Event, "events", "seq")]
            current = [effect for effect in effects if effect.revision == job.revision]
            (newest,) = connection.execute(_NEWEST_WEBHOOK, [job_id, job.revision]).fetchall()
            return JobRecord(
                job=job,
                revisions=[Revision(**row) for row in rows(Revision, "revisions", "number")],
                decisions=[Decision(**row) for row in rows(Decision, "decisions", "decision_id")],
                effects=effects,
                events=events,
                altered_undos=altered_undos(job, current, events, self._digest_key or digest_key(connection)),
                at=history.now(connection),
                newest_webhook=newest["at"],
            )

        return self._database.transact(work)

    def jobs(
        self,
        *,
        states: Sequence[JobState] = (),
        dag_id: str | None = None,
        run_id: str | None = None,
        dag_ids: Sequence[str] | None = None,
        oldest_first: bool = False,
        limit: int = 100,
    ) -> list[Job]:
        """Return jobs, newest first.

        :param states: only jobs in one of these; empty for every state.
        :param run_id: only jobs that this run has made or attached to.
        :param dag_ids: only jobs of these Dags; None for every Dag.
        """
        query = f"""
            SELECT {columns(Job)} FROM aihandoff.jobs
            WHERE {_JOB_FILTER}
            ORDER BY job_id {"ASC" if oldest_first else "DESC"} LIMIT %(limit)s"""
        values = {
            "states": [str(state) for state in states],
            "dag_id": dag_id,
            "run_id": run_id,
            "dag_ids": None if dag_ids is None else list(dag_ids),
            "limit": limit,
        }
        return [Job(**row) for row in self._all(query, values)]

    def jobs_of_run(self, dag_id: str, run_id: str) -> list[RunJob]:
        """Return the jobs that a Dag run has made or attached to, the oldest first, as of one moment.

        A job that another Dag has taken over since is not among them.
        """

        def work(connection: LedgerConnection) -> list[RunJob]:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            values = {"dag_id": dag_id, "run_id": run_id}
            query = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE {_OF_RUN} ORDER BY job_id"
            jobs = [Job(**row) for row in connection.execute(query, values).fetchall()]
            ids = [job.job_id for job in jobs]
            effects: dict[tuple[int, int], list[Effect]] = {}
            query = f"SELECT {columns(Effect)} FROM aihandoff.effects WHERE job_id = ANY(%s) ORDER BY position"
            for row in connection.execute(query, [ids]).fetchall():
                effects.setdefault((row["job_id"], row["revision"]), []).append(Effect(**row))
            query = f"""SELECT job_id, count(*) AS made FROM aihandoff.revisions
                WHERE job_id = ANY(%s) AND {COUNTED} GROUP BY job_id"""
            made = {row["job_id"]: row["made"] for row in connection.execute(query, [ids]).fetchall()}
            return [RunJob(job, effects.get((job.job_id, job.revision), []), made.get(job.job_id, 0)) for job in jobs]

        return self._database.transact(work)

    def candidates(self, job_ids: Sequence[int]) -> list[Candidate]:
        """Return jobs with the output and the plan of their current revisions, by id, as of one moment."""

        def work(connection: LedgerConnection) -> list[Candidate]:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

            def rows(record: type, table: str, order: str) -> list[dict[str, Any]]:
                query = f"""SELECT {columns(record, "found")} FROM aihandoff.{table} AS found
                    JOIN aihandoff.jobs ON jobs.job_id = found.job_id AND jobs.revision = found.{order}
                    WHERE found.job_id = ANY(%s) ORDER BY found.job_id"""
                return connection.execute(query, [list(job_ids)]).fetchall()

            query = f"SELECT {columns(Job)} FROM aihandoff.jobs WHERE job_id = ANY(%s) ORDER BY job_id"
            jobs = [Job(**row) for row in connection.execute(query, [list(job_ids)]).fetchall()]
            outputs = {row["job_id"]: row["output"] for row in rows(Revision, "revisions", "number")}
            effects: dict[int, list[Effect]] = {}
            for row in rows(Effect, "effects", "revision"):
                if row["undoes"] is None:
                    effects.setdefault(row["job_id"], []).append(Effect(**row))
            return [
                Candidate(job, outputs[job.job_id], sorted(effects.get(job.job_id, []), key=lambda each: each.position))
                for job in jobs
            ]

        return self._database.transact(work)

    def dag_ids(self) -> list[str]:
        """The Dags that own at least one job."""
        return [row["dag_id"] for row in self._all(_DAG_IDS, {})]

    def list_effects(
        self,
        *,
        states: Sequence[str] = (),
        dag_ids: Sequence[str] | None = None,
        after: int | None = None,
        limit: int = 100,
    ) -> list[Effect]:
        """Return one page of effects, newest first.

        :param states: only effects in one of these; empty for every state.
        :param dag_ids: only effects of jobs of these Dags; None for every Dag.
        :param after: the last effect of the page before.
        """
        query = f"""
            SELECT {columns(Effect, "effects")} FROM aihandoff.effects JOIN aihandoff.jobs USING (job_id)
            WHERE (%(states)s::text[] = '{{}}' OR effects.state = ANY(%(states)s))
                AND (%(dag_ids)s::text[] IS NULL OR jobs.dag_id = ANY(%(dag_ids)s))
                AND (%(after)s::bigint IS NULL OR effect_id < %(after)s)
            ORDER BY effect_id DESC LIMIT %(limit)s"""
        values = {"dag_ids": None if dag_ids is None else list(dag_ids), "after": after, "limit": limit}
        return [Effect(**row) for row in self._all(query, {**values, "states": [str(state) for state in states]})]

    def _all(self, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._database.transact(lambda connection: connection.execute(query, values).fetchall())

    def _one(self, query: str) -> dict[str, Any]:
        row = self._database.transact(lambda connection: connection.execute(query).fetchone())
        assert row is not None
        return row
