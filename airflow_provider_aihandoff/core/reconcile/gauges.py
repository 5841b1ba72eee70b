"""Sends what waits in a ledger, and what needs a person, to the metrics.

From one place, so that no value is sent by two processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.jobs.job_filter import Need
from airflow_provider_aihandoff.core.jobs.needs import Needs
from airflow_provider_aihandoff.core.reconcile.gauge_store import Waiting

#: The gauge of each reason for which a job needs a person.
GAUGES: Mapping[Need, signals.Metric] = {
    Need.UNKNOWN_EFFECT: signals.UNKNOWN_EFFECTS,
    Need.FAILED: signals.FAILED_JOBS,
    Need.PAST_DEADLINE: signals.OVERDUE_RESPONSES,
    Need.HELD: signals.LOST_REQUESTS,
    Need.REVIEW_OVERDUE: signals.OVERDUE_REVIEWS,
    Need.CLAIM_EXPIRED: signals.STALE_CLAIMS,
    Need.SLOW_RESPONSE: signals.SLOW_RESPONSES,
}


def send_gauges(waiting: Waiting, needs: Needs, conn_ids: Sequence[str]) -> None:
    """Set every gauge, also those that are 0: one that is left out would keep its last value.

    :param conn_ids: as in :meth:`Gauges.read`.
    """
    jobs: Counter[tuple[str, str]] = Counter()
    for (job_type, state), count in waiting.jobs.items():
        jobs[signals.label_value("job_type", job_type), state] += count
    for (job_type, state), count in jobs.items():
        signals.gauge(signals.JOBS, count, job_type=job_type, state=state)
    for cause, since in waiting.since.items():
        age = 0.0 if since is None else max((waiting.at - since).total_seconds(), 0.0)
        signals.gauge(signals.OLDEST_WAIT, age, cause=cause)
    for conn_id in conn_ids:
        signals.gauge(signals.WEBHOOK_AGE, waiting.webhook_age.get(conn_id, 0.0), conn_id=conn_id)
    for need, metric in GAUGES.items():
        signals.gauge(metric, needs.jobs[need])
    signals.gauge(signals.BUDGET_WAITS, sum(view.held for view in needs.budgets))
    signals.gauge(signals.DEAD_EVENTS, waiting.dead_events)
    signals.gauge(signals.QUARANTINED, needs.quarantined)
    silent = {each.conn_id for each in needs.silent}
    for conn_id in silent.union(conn_ids, (each.conn_id for each in needs.connections)):
        signals.gauge(signals.SILENT, int(conn_id in silent), conn_id=conn_id)
    signals.gauge(signals.LAST_RECONCILED, waiting.at.timestamp())
