"""What was spent, from the record of every response: by day, type, Dag, requester, model, tag, or what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from airflow_provider_aihandoff.core.budgets.spent_by import SpentBy
from airflow_provider_aihandoff.core.database.connection import Database, LedgerConnection
from airflow_provider_aihandoff.core.models import columns

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
_TAGS = "LEFT JOIN LATERAL unnest(j.tags) AS t (tag) ON true"
#: PostgreSQL refuses to take a value out of JSON that has what it cannot keep as text, wherever that is in it.
_MODEL = r"regexp_replace({}::text, '\\u(0000|[dD][89a-fA-F][0-9a-fA-F]{{2}})', '\\u0020', 'g')::json ->> 'model'"
#: Every response that was billed, or may have been: those of revisions, and those that no revision has waited for.
_COSTS = f"""
    SELECT job_id, completed_at AS at, {_MODEL.format("request")} AS model, cost_usd FROM aihandoff.revisions
    WHERE response_id IS NOT NULL AND completed_at >= %(since)s
    UNION ALL
    SELECT s.job_id, s.settled_at, {_MODEL.format("r.request")}, s.cost_usd FROM aihandoff.surplus_responses AS s
    JOIN aihandoff.revisions AS r ON r.job_id = s.job_id AND r.number = s.revision
    WHERE s.settled_at >= %(since)s"""


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

    def by(self, what: SpentBy, *, since: datetime, dag_ids: list[str] | None = None, limit: int = 1000) -> list[Spent]:
        """Return what was spent since a moment, the days in order and everything else the dearest first.

        :param dag_ids: only jobs of these Dags; None for every Dag.
        """
        order = "key" if what is SpentBy.DAY else "cost_usd DESC, key"
        query = f"""
            SELECT {columns(Spent)} FROM (
                SELECT {_KEYS[what]} AS key, count(*) AS responses, coalesce(sum(c.cost_usd), 0) AS cost_usd,
                    count(*) FILTER (WHERE c.cost_usd IS NULL) AS unpriced
                FROM ({_COSTS}) AS c JOIN aihandoff.jobs AS j USING (job_id) {_TAGS if what is SpentBy.TAG else ""}
                WHERE %(dag_ids)s::text[] IS NULL OR j.dag_id = ANY(%(dag_ids)s)
                GROUP BY 1) AS spent
            ORDER BY {order} LIMIT %(limit)s"""
        values = {"since": since, "dag_ids": dag_ids, "limit": limit}

        def work(connection: LedgerConnection) -> list[Spent]:
            return [Spent(**row) for row in connection.execute(query, values).fetchall()]

        return self._database.transact(work)
