"""Where the metrics of the core go in an Airflow process: to Airflow's own, over StatsD, Datadog or OpenTelemetry."""

from __future__ import annotations

import logging
from datetime import timedelta
from importlib import import_module
from typing import Any

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aihandoff.core import signals

log = logging.getLogger(__name__)

#: Airflow has its metrics twice, and each process sets up one of them: a task that of the Task SDK; a triggerer and an
#: API server the other.
_TASK = ("airflow.sdk.observability.stats", "airflow.observability.stats")
_SERVER = ("airflow.observability.stats", "airflow.sdk.observability.stats")


class AirflowMetrics:
    """Airflow's own metrics.

    :param in_task: this process runs a task, and is no server.
    """

    def __init__(self, *, in_task: bool) -> None:
        self._modules = _TASK if in_task else _SERVER

    def count(self, name: str, value: int, labels: dict[str, str]) -> None:
        """Add to a counter."""
        self._stats().incr(name, value, tags=labels)

    def gauge(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Set a gauge."""
        self._stats().gauge(name, value, tags=labels)

    def timing(self, name: str, seconds: float, labels: dict[str, str]) -> None:
        """Add a duration to a timer."""
        self._stats().timing(name, timedelta(seconds=seconds), tags=labels)

    def _stats(self) -> Any:
        """The metrics that this process has set up; those that it would set up, where it has none yet."""
        try:
            preferred, other = map(import_module, self._modules)
        except ImportError:  # Airflow 3.1
            return import_module("airflow.stats").Stats
        return (other if _is_set_up(other) and not _is_set_up(preferred) else preferred).Stats


def _is_set_up(module: Any) -> bool:
    """Whether a process has said where these metrics go. They keep it in the module that defines them."""
    return module.incr.__globals__.get("_factory") is not None


def observe(*, in_task: bool) -> None:
    """Send the metrics of this process to Airflow's, from the first time on that it opens a ledger."""
    if not signals.is_used():
        signals.use(AirflowMetrics(in_task=in_task))


def set_up_metrics() -> None:
    """Send Airflow's metrics where they are configured to go, in a process for which Airflow does not do that."""
    try:
        stats_utils = import_module("airflow.observability.metrics.stats_utils")
        stats = import_module("airflow.observability.stats")
        legacy_names = conf.getboolean("metrics", "legacy_names_on")
        stats.initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=legacy_names)
    except Exception as error:  # noqa: BLE001  webhooks are taken without metrics too
        log.warning("Metrics are off: %s", error)
