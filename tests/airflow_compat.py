"""What the tests use of Airflow and what stands elsewhere in some release of it."""

from __future__ import annotations

import os
from argparse import ArgumentParser
from importlib import import_module
from typing import Any

import pytest

from airflow_provider_aihandoff import airflow_compat
from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.cli.definition import get_commands

_SERIALIZED = "airflow.serialization.serialized_objects"

#: A Dag as the scheduler and the API server have it.
SerializedDAG: Any = import_module(
    _SERIALIZED if RELEASE < (3, 2) else "airflow.serialization.definitions.dag"
).SerializedDAG

#: Where approval tasks wait in the stack tests: they run both ways, one after the other.
WAIT_IN = os.environ.get("AIHANDOFF_TEST_WAIT_IN", "awaiting_input")

#: The state in which they wait there.
WAITS_FOR_APPROVAL = "awaiting_input" if WAIT_IN == "awaiting_input" and RELEASE >= (3, 3) else "deferred"

#: What makes JSON of a Dag.
DagSerialization: Any = SerializedDAG if RELEASE < (3, 2) else import_module(_SERIALIZED).DagSerialization

#: What loads Airflow's plugins.
PLUGINS_MANAGER = "airflow.plugins_manager" if RELEASE < (3, 2) else "airflow.sdk.plugins_manager"

#: What a task makes of a value before it is kept as an XCom, and back: ``serialize`` and ``deserialize``.
serde: Any = import_module("airflow.serialization.serde" if RELEASE < (3, 2) else "airflow.sdk.serde")

#: The timetables of a cron expression: of the interval before each run, and of a moment.
CronDataIntervalTimetable: Any = import_module(
    "airflow.timetables.interval" if RELEASE < (3, 2) else "airflow.sdk"
).CronDataIntervalTimetable
CronTriggerTimetable: Any = import_module(
    "airflow.timetables.trigger" if RELEASE < (3, 2) else "airflow.sdk"
).CronTriggerTimetable


def get_parser() -> ArgumentParser:
    """The parser of ``airflow``, with the commands of this package."""
    from airflow.cli import cli_parser

    airflow_compat.add_commands(get_commands())
    parser: ArgumentParser = cli_parser.get_parser()
    return parser


async def start_reader(comms: Any) -> None:
    """Have a trigger's side of the supervisor's socket read answers; older releases read each where it is asked for."""
    if hasattr(comms, "start_reader"):
        await comms.start_reader()


def name_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have callbacks get what ended an attempt: before 3.2, they do not where it is one that no retry can fix."""
    if RELEASE >= (3, 2):
        return
    task_runner: Any = import_module("airflow.sdk.execution_time.task_runner")
    finalize = task_runner.finalize

    def named(ti: Any, state: Any, context: Any, log: Any, error: BaseException | None = None) -> None:
        if error is not None:
            context.setdefault("exception", error)
        finalize(ti, state, context, log, error)

    monkeypatch.setattr(task_runner, "finalize", named)


def register_timetable(timetable: type[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Airflow know a timetable, as a plugin does."""
    manager: Any = import_module("airflow.plugins_manager")
    known = {f"{timetable.__module__}.{timetable.__qualname__}": timetable}
    if RELEASE < (3, 2):
        monkeypatch.setattr(manager, "timetable_classes", known)
    else:
        monkeypatch.setattr(manager, "get_timetables_plugins", lambda: known)


def forget_bundles() -> None:
    """Have Airflow read again which bundles are configured: as of 3.4, a process reads that once."""
    if RELEASE >= (3, 4):
        import_module("airflow.dag_processing.bundles.manager")._load_bundle_config_snapshot.cache_clear()
