"""One ledger: the place where the protocols and the queries meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from airflow_provider_aihandoff.ledger import history, schema
from airflow_provider_aihandoff.ledger.connection import Database, LedgerConnection
from airflow_provider_aihandoff.ledger.effects import Effects
from airflow_provider_aihandoff.ledger.records import Decision, Effect, Event, Job, Revision, columns
from airflow_provider_aihandoff.ledger.reviews import Reviews
from airflow_provider_aihandoff.ledger.submission import Submission, read_revision
from airflow_provider_aihandoff.states import JobState


@dataclass(frozen=True)
class JobRecord:
    """Everything the ledger knows of one job, oldest first."""

    job: Job
    revisions: list[Revision]
    decisions: list[Decision]
    effects: list[Effect]
    events: list[Event]

    @property
    def revision(self) -> Revision:
        """The current revision."""
        return next(revision for revision in self.revisions if revision.number == self.job.revision)

    @property
    def current_effects(self) -> list[Effect]:
        """The effects of the current revision, in the order of the plan."""
        return [effect for effect in self.effects if effect.revision == self.job.revision]


class Ledger:
    """A ledger on one PostgreSQL database. Safe to share between threads; close it, or use it as a context manager.

    :param conninfo: libpq's connection parameters by name (``host``, ``password``, ``sslmode``, ...).
    :param max_size: the most connections that it opens.
    """

    def __init__(self, conninfo: Mapping[str, Any], *, max_size: int = 1) -> None:
        self._database = Database(conninfo, max_size=max_size)
        self.submission = Submission(self._database)
        self.reviews = Reviews(self._database)
        self.effects = Effects(self._database)

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
        """Return when the schema is the one that this package needs.

        :raises LedgerSchemaError: it is not; the message says the command to run.
        :raises LedgerUnavailable: the database cannot be reached.
        """
        self._database.transact(schema.check)

    def ledger_id(self) -> str:
        """The identity of this ledger, a UUID."""
        return str(self._one("SELECT ledger_id FROM aihandoff.ledger")["ledger_id"])

    def job(self, job_id: int) -> Job:
        """Return one job.

        :raises JobNotFound: there is none with this id.
        """
        return self._database.transact(lambda connection: history.read(connection, job_id))

    def revision(self, job_id: int, number: int) -> Revision:
        """Return one revision of a job that exists."""
        return self._database.transact(lambda connection: read_revision(connection, job_id, number))

    def record(self, job_id: int) -> JobRecord:
        """Return a job with all that belongs to it, as of one moment.

        :raises JobNotFound: there is none with this id.
        """

        def work(connection: LedgerConnection) -> JobRecord:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")

            def rows(record: type, table: str, order: str) -> list[dict[str, Any]]:
                query = f"SELECT {columns(record)} FROM aihandoff.{table} WHERE job_id = %s ORDER BY {order}"
                return connection.execute(query, [job_id]).fetchall()

            return JobRecord(
                job=history.read(connection, job_id),
                revisions=[Revision(**row) for row in rows(Revision, "revisions", "number")],
                decisions=[Decision(**row) for row in rows(Decision, "decisions", "decision_id")],
                effects=[Effect(**row) for row in rows(Effect, "effects", "revision, position")],
                events=[Event(**row) for row in rows(Event, "events", "seq")],
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
        :param dag_ids: only jobs of these Dags; None for every Dag.
        """
        query = f"""
            SELECT {columns(Job)} FROM aihandoff.jobs
            WHERE (%(states)s::text[] = '{{}}' OR state = ANY(%(states)s))
                AND (%(dag_id)s::text IS NULL OR dag_id = %(dag_id)s)
                AND (%(run_id)s::text IS NULL OR run_id = %(run_id)s)
                AND (%(dag_ids)s::text[] IS NULL OR dag_id = ANY(%(dag_ids)s))
            ORDER BY job_id {"ASC" if oldest_first else "DESC"} LIMIT %(limit)s"""
        values = {
            "states": [state.value for state in states],
            "dag_id": dag_id,
            "run_id": run_id,
            "dag_ids": None if dag_ids is None else list(dag_ids),
            "limit": limit,
        }
        return [Job(**row) for row in self._all(query, values)]

    def list_effects(self, *, states: Sequence[str] = (), limit: int = 100) -> list[Effect]:
        """Return effects, newest first.

        :param states: only effects in one of these; empty for every state.
        """
        query = f"""
            SELECT {columns(Effect)} FROM aihandoff.effects
            WHERE (%(states)s::text[] = '{{}}' OR state = ANY(%(states)s))
            ORDER BY effect_id DESC LIMIT %(limit)s"""
        return [Effect(**row) for row in self._all(query, {"states": list(states), "limit": limit})]

    def _all(self, query: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        return self._database.transact(lambda connection: connection.execute(query, values).fetchall())

    def _one(self, query: str) -> dict[str, Any]:
        row = self._database.transact(lambda connection: connection.execute(query).fetchone())
        assert row is not None
        return row
