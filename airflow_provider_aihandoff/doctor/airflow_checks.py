"""Examines the Airflow around the provider: triggerers, and settings that belong together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.doctor.finding import Finding, Level
from airflow_provider_aihandoff.heartbeats import live_triggerers

#: With Airflow's default heartbeat interval, a task that resumes sooner after its deferral can be lost.
_SAFE_DEFERRAL = 8.0


def check_airflow() -> Iterator[Finding]:
    """Everything about Airflow. Needs its metadata database."""
    yield _check_triggerers()
    yield check_deferral(settings.number("min_deferral"), conf.getfloat("workers", "min_heartbeat_interval"))
    yield check_link(conf.get("api", "base_url", fallback=""))


def _check_triggerers() -> Finding:
    try:
        alive = live_triggerers()
    except Exception as error:  # noqa: BLE001 - a worker has no metadata database, and is no reason to stop
        what = f"Airflow's database cannot be read from here ({type(error).__name__})."
        return Finding(
            Level.WARNING, "triggerers", what, "They were not checked.", "Run this where `airflow db check` works."
        )
    return triggerers(alive)


def triggerers(alive: Sequence[str]) -> Finding:
    """What the hosts of the triggerers that have a heartbeat mean."""
    if alive:
        return Finding(Level.OK, "triggerers", f"{len(alive)} with a heartbeat: {', '.join(sorted(alive))}.")
    return Finding(
        Level.ERROR,
        "triggerers",
        "None has a heartbeat.",
        "Deferred tasks do not go on: no answer of the model, and no decision, is seen.",
        "Start one: `airflow triggerer`.",
    )


def check_deferral(min_deferral: float, heartbeat: float) -> Finding:
    """Whether ``[aihandoff] min_deferral`` is safe with ``[workers] min_heartbeat_interval``, both in seconds."""
    what = f"min_deferral is {min_deferral:g} s, and Airflow's min_heartbeat_interval is {heartbeat:g} s."
    if min_deferral >= _SAFE_DEFERRAL or heartbeat <= 1:
        return Finding(Level.OK, "deferral", what)
    return Finding(
        Level.WARNING,
        "deferral",
        what,
        "The scheduler can lose a task that resumes within seconds of deferring; it is retried or fails.",
        f"Set [aihandoff] min_deferral to {_SAFE_DEFERRAL:g}, or [workers] min_heartbeat_interval to 1.",
    )


def check_link(base_url: str) -> Finding:
    """Whether the links in notifications lead anywhere."""
    if base_url:
        return Finding(Level.OK, "links", f"Notifications link to {base_url}.")
    return Finding(
        Level.WARNING,
        "links",
        "[api] base_url is not set.",
        "Notifications have no link to the review page.",
        "Set [api] base_url to the address at which people open Airflow.",
    )
