"""What differs between Airflow's releases: the only module that asks which one is installed.

What Airflow's own provider ``common.compat`` covers is imported from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from airflow import __version__ as installed

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

#: Major and minor release. A pre-release counts as the release that it comes before.
RELEASE: tuple[int, ...] = tuple(int(part) for part in installed.split(".")[:2])

#: The name of this package's command line as people type it: before 3.2, Airflow takes no commands from providers.
PROGRAM = "airflow aihandoff" if RELEASE >= (3, 2) else "python -m airflow_provider_aihandoff"

#: Airflow has its metrics twice as of 3.2, and each process sets up one of them: a task that of the Task SDK; a
#: triggerer and an API server the other.
_SDK_METRICS, _CORE_METRICS = "airflow.sdk.observability.stats", "airflow.observability.stats"


def dag_bag() -> Any:
    """The class that reads Dags from files."""
    return import_module("airflow.models.dagbag" if RELEASE < (3, 2) else "airflow.dag_processing.dagbag").DagBag


def metrics(*, in_task: bool) -> Any:
    """Airflow's metrics that this process has set up; those that it would set up, where it has none yet.

    :param in_task: this process runs a task, and is no server.
    """
    if RELEASE < (3, 2):
        return import_module("airflow.stats").Stats
    sdk, core = _metrics_modules()
    preferred, other = (sdk, core) if in_task else (core, sdk)
    return (other if _is_set_up(other) and not _is_set_up(preferred) else preferred).Stats


@cache
def _metrics_modules() -> tuple[Any, Any]:
    """Both, imported once: every step of a job is counted."""
    return import_module(_SDK_METRICS), import_module(_CORE_METRICS)


def _is_set_up(module: Any) -> bool:
    """Whether a process has said where these metrics go."""
    if RELEASE < (3, 3):
        factory = vars(module.Stats).get("factory")
        return factory is not None and factory.__name__ != "NoStatsLogger"
    # They keep it in the module that defines them.
    return module.incr.__globals__.get("_factory") is not None


def set_up_metrics() -> None:
    """Send Airflow's metrics where they are configured to go, in a process for which Airflow does not do that."""
    if RELEASE < (3, 2):
        return  # they set themselves up
    from airflow.providers.common.compat.sdk import conf

    stats = import_module(_CORE_METRICS)
    factory_for = import_module("airflow.observability.metrics.stats_utils").get_stats_factory
    if RELEASE < (3, 3):
        stats.Stats.initialize(factory=factory_for(stats.Stats))
    else:
        stats.initialize(factory=factory_for(), export_legacy_names=conf.getboolean("metrics", "legacy_names_on"))


def loop_iteration(context: Context) -> int | None:
    """Which iteration of a task loop (Airflow 3.4 and newer) the task that runs now is in, from 0; None outside one."""
    loop: Any = context.get("loop")
    return None if loop is None else int(loop.index)


def can_await_input() -> bool:
    """Whether the task that runs now can be parked in the state ``awaiting_input`` (Airflow 3.3 and newer).

    Not in ``dag.test()``, where no scheduler and no API server of its own would resume it.
    """
    if RELEASE < (3, 3):
        return False
    supervisor = getattr(import_module("airflow.sdk.execution_time.task_runner"), "SUPERVISOR_COMMS", None)
    return supervisor is not None and type(supervisor).__name__ != "InProcessSupervisorComms"


def await_input(
    ti_id: str,
    *,
    subject: str,
    body: str,
    options: Sequence[str],
    params: Mapping[str, Any],
    method_name: str,
    timeout: timedelta,
) -> NoReturn:
    """Ask in Airflow's *Required Actions*, and park the task that runs now until it is answered, or woken.

    Before 3.4, Airflow keeps the text of what a task instance has asked before.

    :param ti_id: the id of the task instance.
    :param params: the form beside the options.
    :param method_name: what is called when the task goes on.
    :param timeout: after which it goes on in any case.
    :raises TaskAwaitingInput: always.
    """
    import_module("airflow.sdk.execution_time.hitl").upsert_hitl_detail(
        ti_id=UUID(ti_id), options=[*options], subject=subject, body=body, params=dict(params)
    )
    raise import_module("airflow.sdk.exceptions").TaskAwaitingInput(method_name=method_name, timeout=timeout)


def answers_name_logins() -> bool:
    """Whether Airflow names who has answered in *Required Actions* by their login.

    As of 3.4 it gives the name that it shows for them: with the FAB auth manager their first and last name, which each
    user can change.
    """
    return RELEASE < (3, 4)


def map_index_column() -> Any:
    """The map index of a task instance as a column: -1 of each iteration of an unmapped task in a loop."""
    from airflow.models.taskinstance import TaskInstance

    if RELEASE < (3, 4):
        return TaskInstance.map_index
    return import_module("airflow.models.task_coordinates").public_map_index_expression(TaskInstance)


def view_only_where(fields: dict[str, list[str]]) -> dict[str, Any]:
    """What has Airflow's UI show a view only where fields have one of these values. Before 3.4 it shows it always."""
    return {} if RELEASE < (3, 4) else {"applies_to": fields}


def asset_events(asset: Any, *, since: datetime, limit: int) -> Sequence[Any]:
    """The events of an asset, the first one first, as a task sees them. Before 3.2, all that there are.

    :param since: the first ones since then, and so many at most.
    """
    events = import_module("airflow.sdk.execution_time.context").InletEventsAccessors([asset])[asset]
    found: Sequence[Any] = events if RELEASE < (3, 2) else events.after(since.isoformat()).limit(limit)
    return found


def add_commands(commands: Iterable[Any]) -> None:
    """Have this process's ``airflow`` know commands that it does not take from providers: before 3.2, it takes none.

    :param commands: what the provider info names under ``cli``.
    """
    if RELEASE >= (3, 2):
        return
    parser: Any = import_module("airflow.cli.cli_parser")
    for command in commands:
        if command.name not in parser.ALL_COMMANDS_DICT:
            parser.airflow_commands.append(command)
            parser.ALL_COMMANDS_DICT[command.name] = command
            parser.get_parser.cache_clear()
