"""Counts for Airflow's metrics."""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import Any

from airflow.providers.common.compat.sdk import conf

log = logging.getLogger(__name__)

#: The metric; its tags are ``conn_id`` and ``outcome``.
WEBHOOKS = "aihandoff.webhooks"


def count(outcome: str, conn_id: str) -> None:
    """Count one webhook. Metrics that are misconfigured do not keep it from being taken."""
    with suppress(Exception):
        stats().incr(WEBHOOKS, tags={"conn_id": conn_id, "outcome": outcome})


def set_up() -> None:
    """Send the metrics where Airflow's go, in a process that is no API server."""
    try:
        stats_utils = import_module("airflow.observability.metrics.stats_utils")
        legacy_names = conf.getboolean("metrics", "legacy_names_on")
        stats().initialize(factory=stats_utils.get_stats_factory(), export_legacy_names=legacy_names)
    except Exception as error:  # noqa: BLE001  webhooks are taken without metrics too
        log.warning("Metrics are off: %s", error)


@cache
def stats() -> Any:
    """The metrics of the API server. Those of `airflow.sdk` are not set up in that process."""
    try:
        module = import_module("airflow.observability.stats")
    except ImportError:  # Airflow 3.1
        module = import_module("airflow.stats")
    return module.Stats
