"""What the provider has billed beside what the ledger knows of, by project and day, and who was notified of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.generation.bill import Billed
from airflow_provider_aihandoff.core.models import columns

#: Complete days that are compared each time: a bill can change for a while.
DAYS = 7


@dataclass(frozen=True)
class BillDay:
    """What one project was billed for one day of UTC, and what the ledger knows of it.

    :param ledger_usd: what responses have cost that ended on that day, as far as their price is known.
    :param unpriced: how many have a price that is not known.
    """

    project_id: str
    day: date
    billed_usd: Decimal
    ledger_usd: Decimal
    unpriced: int
    compared_at: datetime
    notified_at: datetime | None

    @property
    def difference_usd(self) -> Decimal:
        """What was billed beyond what the ledger knows of; negative where the ledger knows of more."""
        return self.billed_usd - self.ledger_usd


_COMPARED_TODAY = """
    SELECT max(compared_at AT TIME ZONE 'UTC')::date >= (clock_timestamp() AT TIME ZONE 'UTC')::date AS done
    FROM aihandoff.bill_days"""
_CONNECTIONS = """
    SELECT conn_id FROM aihandoff.revisions WHERE response_id IS NOT NULL AND completed_at >= %(since)s
    UNION SELECT conn_id FROM aihandoff.surplus_responses WHERE settled_at >= %(since)s ORDER BY conn_id"""
_COMPARE = f"""
    WITH costs AS (
        SELECT conn_id, (completed_at AT TIME ZONE 'UTC')::date AS day, cost_usd FROM aihandoff.revisions
        WHERE response_id IS NOT NULL AND completed_at >= %(since)s::date::timestamp AT TIME ZONE 'UTC'
        UNION ALL
        SELECT conn_id, (settled_at AT TIME ZONE 'UTC')::date, cost_usd FROM aihandoff.surplus_responses
        WHERE settled_at >= %(since)s::date::timestamp AT TIME ZONE 'UTC'
    ), known AS (
        SELECT project_id, day, coalesce(sum(cost_usd), 0) AS cost_usd,
            count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
        FROM costs JOIN unnest(%(conn_ids)s::text[], %(projects)s::text[]) AS named (conn_id, project_id)
            USING (conn_id)
        GROUP BY project_id, day
    ), billed AS (
        SELECT * FROM unnest(%(billed_projects)s::text[], %(billed_days)s::date[], %(amounts)s::numeric[])
            AS each (project_id, day, amount_usd)
    )
    INSERT INTO aihandoff.bill_days AS b (project_id, day, billed_usd, ledger_usd, unpriced, compared_at)
    SELECT project_id, day, coalesce(billed.amount_usd, 0), coalesce(known.cost_usd, 0), coalesce(known.unpriced, 0),
        clock_timestamp()
    FROM (SELECT DISTINCT unnest(%(projects)s::text[]) AS project_id) AS project
    CROSS JOIN unnest(%(days)s::date[]) AS days (day)
    LEFT JOIN known USING (project_id, day) LEFT JOIN billed USING (project_id, day)
    ORDER BY project_id, day
    ON CONFLICT (project_id, day) DO UPDATE SET billed_usd = excluded.billed_usd, ledger_usd = excluded.ledger_usd,
        unpriced = excluded.unpriced, compared_at = excluded.compared_at
    RETURNING {columns(BillDay, "b")}"""
_FIND = f"""
    SELECT {columns(BillDay)} FROM aihandoff.bill_days
    WHERE day >= (clock_timestamp() AT TIME ZONE 'UTC')::date - %s ORDER BY day DESC, project_id"""
_NOTIFIED = """
    UPDATE aihandoff.bill_days SET notified_at = clock_timestamp() WHERE project_id = %s AND day = %s"""


class Bills:
    """The comparisons with the provider's bill, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_due(self) -> bool:
        """Whether nothing was compared yet on this day of UTC."""
        row = self._database.transact(lambda connection: connection.execute(_COMPARED_TODAY).fetchone())
        assert row is not None
        return not row["done"]

    def days(self) -> list[date]:
        """The days that are to be compared: the last complete ones."""
        today = self._database.transact(history.now).astimezone(UTC).date()
        return [today - timedelta(days=back) for back in range(DAYS, 0, -1)]

    def conn_ids(self, since: date) -> list[str]:
        """The connections over which responses were made that have ended since a day."""
        rows = self._database.transact(lambda connection: connection.execute(_CONNECTIONS, {"since": since}).fetchall())
        return [row["conn_id"] for row in rows]

    def compare(self, projects: Mapping[str, str], billed: Sequence[Billed], days: Sequence[date]) -> list[BillDay]:
        """Record what was billed beside what the ledger has, and return it. Safe to repeat: the newest counts.

        :param projects: the project of each connection.
        :param billed: what the provider says of these days, those of other projects too.
        """
        values = {
            "conn_ids": list(projects),
            "projects": list(projects.values()),
            "days": list(days),
            "since": min(days),
            "billed_projects": [each.project_id for each in billed],
            "billed_days": [each.day for each in billed],
            "amounts": [each.amount_usd for each in billed],
        }

        def work(connection: LedgerConnection) -> list[BillDay]:
            return [BillDay(**row) for row in connection.execute(_COMPARE, values).fetchall()]

        return self._database.transact(work, repeatable=True)

    def find(self, days: int = DAYS) -> list[BillDay]:
        """Return what was compared of the last days, the newest first."""
        return self._database.transact(
            lambda connection: [BillDay(**row) for row in connection.execute(_FIND, [days]).fetchall()]
        )

    def notified(self, found: BillDay) -> None:
        """Record that people were notified of the difference of a day."""
        self._database.transact(
            lambda connection: connection.execute(_NOTIFIED, [found.project_id, found.day]) and None, repeatable=True
        )
