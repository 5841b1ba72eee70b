"""What was spent, from the record of every response: by day, type, Dag, requester, model, tag, or what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection

#: What each of them is, as SQL. `approved` is whatever a person or a policy has let through.
_KEYS = {
    SpentBy.DAY: "to_char(c.at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    SpentBy.TYPE: "j.job_type",
    SpentBy.DAG: "j.dag_id",
    SpentBy.REQUESTER: "j.requested_by",
    SpentBy.MODEL: "coalesce(c.model, '')",
    SpentBy.TAG: "coalesce(t.tag, '')",
    SpentBy.FATE: """CASE
        WHEN j.state IN ('approved', 'applying', 'completed', 'rolling_back', 'rolled_back') THEN 'approved'
        WHEN j.state IN ('rejected', 'failed', 'cancelled') THEN j.state ELSE 'open' END""",
}
#: What became of jobs whose responses were of no use.
THROWN_AWAY = ("rejected", "failed", "cancelled")

_TAGS = "LEFT JOIN LATERAL unnest(j.tags) AS t (tag) ON true"
#: Every response that was billed, or may have been: those of revisions, and those that no revision has waited for.
_COSTS = """
    SELECT job_id, completed_at AS at, model, cost_usd FROM aihandoff.revisions
    WHERE response_id IS NOT NULL AND completed_at >= %(since)s
    UNION ALL
    SELECT s.job_id, s.settled_at, r.model, s.cost_usd FROM aihandoff.surplus_responses AS s
    JOIN aihandoff.revisions AS r ON r.job_id = s.job_id AND r.number = s.revision
    WHERE s.settled_at >= %(since)s"""


#: How many rows an answer has.
ROWS = 1000


@dataclass(frozen=True)
class Spent:
    """What was spent on one thing.

    :param key: a day, a type, ...; empty where there is none.
    :param responses: how many have ended.
    :param cost_usd: of those whose price is known.
    :param unpriced: how many have a price that is not known.
    """

    key: str
    responses: int
    cost_usd: Decimal
    unpriced: int


class Spending:
    """What was spent, on one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def by(
        self, what: SpentBy, *, since: datetime, dag_ids: Sequence[str] | None = None, limit: int | None = ROWS
    ) -> list[Spent]:
        """Return what was spent since a moment: all days in order, and of everything else the dearest first.

        :param dag_ids: only jobs of these Dags; None for every Dag.
        :param limit: rows of what is no day; None for all.
        """
        found = self.report([what], since=since, dag_ids=dag_ids)[what]
        return found if what is SpentBy.DAY else found[:limit]

    def report(
        self, kinds: Sequence[SpentBy], *, since: datetime, dag_ids: Sequence[str] | None = None
    ) -> dict[SpentBy, list[Spent]]:
        """The same by several things at once, as of one moment."""
        values = {"since": since, "dag_ids": None if dag_ids is None else list(dag_ids)}
        once = [what for what in kinds if what is not SpentBy.TAG]  # a job with several tags counts for each
        groups = [group for group in (once, [what for what in kinds if what is SpentBy.TAG]) if group]

        def work(connection: LedgerConnection) -> dict[SpentBy, list[Spent]]:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            found: dict[SpentBy, list[Spent]] = {what: [] for what in kinds}
            for group in groups:
                for row in connection.execute(query_of(group), values).fetchall():
                    found[SpentBy(row.pop("what"))].append(Spent(**row))
            return found

        return self._database.transact(work)


def query_of(kinds: Sequence[SpentBy]) -> str:
    """The query of :meth:`Spending.report`, with ``since`` and ``dag_ids``: each row says ``what`` its key is."""
    keys = ", ".join(f"{_KEYS[what]} AS by_{what.value}" for what in kinds)
    sets = ", ".join(f"(by_{what.value})" for what in kinds)
    named = " ".join(f"WHEN GROUPING(by_{what.value}) = 0 THEN '{what.value}'" for what in kinds)
    found = ", ".join(f"by_{what.value}" for what in kinds)
    return f"""
        SELECT * FROM (
            SELECT CASE {named} END AS what, coalesce({found}) AS key, count(*) AS responses,
                coalesce(sum(cost_usd), 0) AS cost_usd, count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
            FROM (
                SELECT c.cost_usd, {keys}
                FROM ({_COSTS}) AS c JOIN aihandoff.jobs AS j USING (job_id) {_TAGS if SpentBy.TAG in kinds else ""}
                WHERE %(dag_ids)s::text[] IS NULL OR j.dag_id = ANY(%(dag_ids)s)) AS spent
            GROUP BY GROUPING SETS ({sets})) AS added
        ORDER BY what, CASE WHEN what <> '{SpentBy.DAY.value}' THEN cost_usd END DESC, key"""
