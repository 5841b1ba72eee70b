"""Examines the Airflow around the provider: triggerers, and settings that belong together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.doctor.finding import Finding, Level
from airflow_provider_aihandoff.heartbeats import live_triggerers
from airflow_provider_aihandoff.hooks.model_provider import tool_prices

#: With Airflow's default heartbeat interval, a task that resumes sooner after its deferral can be lost.
_SAFE_DEFERRAL = 8.0

#: The part of the triggerers' capacity that may be in use.
_FULL = 0.8

#: Executors that fork a process for each leg of a task.
_FORKING = ("LocalExecutor", "CeleryExecutor")


def check_airflow() -> Iterator[Finding]:
    """Everything about Airflow. Needs its metadata database."""
    yield from _check_triggerers()
    yield check_preloading(conf.get("core", "executor"), _local_settings())
    prices = tool_prices()
    yield check_tool_prices(prices.usd, prices.wrong)
    yield check_deferral(settings.number("min_deferral"), conf.getfloat("workers", "min_heartbeat_interval"))
    yield check_link(conf.get("api", "base_url", fallback=""))


def check_tool_prices(tools: Collection[str], wrong: str | None) -> Finding:
    """Whether the configured prices of OpenAI's own tools can be read.

    :param tools: those that have one.
    """
    if wrong is None:
        named = ", ".join(sorted(tools)) or "none is configured"
        return Finding(Level.OK, "prices of tools", f"For a call of OpenAI's own tools: {named}.")
    return Finding(
        Level.ERROR,
        "prices of tools",
        f"[aihandoff] tool_prices is not valid: {wrong}.",
        "What a request with these tools can cost is not known: where a budget is about it, it is refused.",
        'Write a JSON object with US dollars a call, such as {"web_search": 0.01}.',
    )


def _check_triggerers() -> Iterator[Finding]:
    from airflow.models.trigger import Trigger
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    try:
        alive = live_triggerers()
        with create_session() as session:
            waiting = session.scalar(select(func.count()).select_from(Trigger)) or 0
    except Exception as error:  # noqa: BLE001 - a worker has no metadata database, and is no reason to stop
        what = f"Airflow's database cannot be read from here ({type(error).__name__})."
        yield Finding(
            Level.WARNING, "triggerers", what, "They were not checked.", "Run this where `airflow db check` works."
        )
        return
    yield triggerers(alive)
    if alive:
        yield check_capacity(waiting, len(alive), conf.getint("triggerer", "capacity"))


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


def check_capacity(waiting: int, triggerers: int, capacity: int) -> Finding:
    """Whether the triggerers have room for what waits.

    :param waiting: triggers of Airflow, of all tasks.
    :param capacity: of each triggerer, as configured here.
    """
    room = triggerers * capacity
    what = f"{waiting} triggers wait, and {triggerers} triggerers take {room}."
    if waiting < _FULL * room:
        return Finding(Level.OK, "capacity", what)
    level = Level.ERROR if waiting >= room else Level.WARNING
    why = "A task whose trigger finds no room does not see that its response has ended, or that it was approved."
    return Finding(level, "capacity", what, why, "Start another triggerer, or raise [triggerer] capacity.")


def check_preloading(executor: str, local_settings: str | None) -> Finding:
    """Whether tasks are forked from a process that has imported the operators. It costs time, and breaks nothing.

    :param local_settings: the source of the module ``airflow_local_settings``; None without one.
    """
    if not any(name in executor for name in _FORKING):
        return Finding(Level.OK, "preloading", f"The executor {executor} starts each task in a new place.")
    if local_settings is not None and "airflow_provider_aihandoff" in local_settings:
        return Finding(Level.OK, "preloading", "airflow_local_settings imports the operators before tasks are forked.")
    return Finding(
        Level.OK,
        "preloading",
        "Each leg of a task imports the operators and OpenAI's client by itself.",
        "That takes seconds of a CPU for each.",
        "To import them once, copy demo/airflow_local_settings.py: docs/performance.md, What a resumed task costs.",
    )


def _local_settings() -> str | None:
    found = find_spec("airflow_local_settings")
    return None if found is None or found.origin is None else Path(found.origin).read_text("utf-8")


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
