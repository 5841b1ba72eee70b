"""Sends what waits in a ledger to the metrics. From one place, so that no value is sent by two processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.reconcile.gauge_store import Waiting


def send_gauges(waiting: Waiting, conn_ids: Sequence[str]) -> None:
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
    signals.gauge(signals.UNKNOWN_EFFECTS, waiting.unknown_effects)
    signals.gauge(signals.LOST_REQUESTS, waiting.lost_requests)
    signals.gauge(signals.QUARANTINED, waiting.quarantined)
    signals.gauge(signals.OVERDUE_REVIEWS, waiting.overdue_reviews)
    signals.gauge(signals.OVERDUE_RESPONSES, waiting.overdue_responses)
    signals.gauge(signals.STALE_CLAIMS, waiting.stale_claims)
    signals.gauge(signals.LAST_RECONCILED, waiting.at.timestamp())
