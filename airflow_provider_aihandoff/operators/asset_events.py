"""Has the asset of a job type an event once all effects of a job are applied, and only then.

Airflow makes an event of each asset among the outlets of a task that succeeds. So the asset stands there as an alias,
which has the events that the task adds.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from airflow.providers.common.compat.sdk import Asset, AssetAlias
from airflow.sdk.definitions.mappedoperator import MappedOperator

from airflow_provider_aihandoff import airflow_compat
from airflow_provider_aihandoff.assets import APPLIED, applied_asset
from airflow_provider_aihandoff.core.error_text import said
from airflow_provider_aihandoff.core.errors import PlanError
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.operators.job_tasks import effect_tasks
from airflow_provider_aihandoff.task_states import asking, lost_tasks, owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_aihandoff.core.effects.completion import Completion
    from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
    from airflow_provider_aihandoff.core.models import Actor

log = logging.getLogger(__name__)

#: External ids that one event has at most.
_NAMED = 100

#: How far the clocks of Airflow and of the ledger may be apart; how many events are read at once, and how often.
_CLOCKS_APART = timedelta(minutes=5)
_EVENTS, _PAGES = 1_000, 20


def as_aliases(outlets: Iterable[Any]) -> list[Any]:
    """The outlets of a task, with an alias in the place of each asset of a job type."""
    return [AssetAlias(outlet.uri) if _is_applied(outlet) else outlet for outlet in outlets]


def _is_applied(outlet: Any) -> bool:
    return isinstance(outlet, Asset) and outlet.uri.startswith(APPLIED)


def _aliases(outlets: Iterable[Any]) -> list[AssetAlias]:
    return [each for each in outlets if isinstance(each, AssetAlias) and each.name.startswith(APPLIED)]


def _asset_of(alias: AssetAlias) -> Asset:
    return applied_asset(_type_of(alias))


def _type_of(alias: AssetAlias) -> str:
    return unquote(alias.name.removeprefix(APPLIED))


def check_type(outlets: Iterable[Any], job_type: str, *, job: str) -> None:
    """Refuse a job whose effects would be said to be those of a job of another type.

    :param job: its label.
    :raises PlanError: an outlet is the asset of another type.
    """
    for alias in _aliases(outlets):
        if _type_of(alias) != job_type:
            raise PlanError(
                f"the outlets name the asset of jobs of the type {_type_of(alias)!r}, and this one is of the type "
                f"{job_type!r}.",
                job=job,
                remedy="Name the asset of its own type; then clear this task.",
            )


def is_written(aliases: Sequence[AssetAlias], ledger: Ledger, job_id: int) -> bool:
    """Whether a job is completed already; the ledger is asked only where a task names the asset."""
    return bool(aliases) and ledger.job(job_id).state is JobState.COMPLETED


def announce(task: Any, context: Context, ledger: Ledger, job_id: int, written_before: bool = False) -> None:
    """Add an event for a job whose effects are all applied, where this task is the one to say so, and has not yet.

    :param task: the one that runs now. Its asset may be named by any task that writes for the same job.
    :param written_before: it was completed when the task began: by an earlier attempt, by one with the same number in a
        run that was deleted since, or by a person for whom the task has waited.
    """
    from airflow_provider_aihandoff.core.effects.completion import completion_of

    if not (aliases := declared(task, context)):
        return
    record = ledger.record(job_id)
    completion, own = completion_of(record), owner_of(context).actor
    if completion is None or not _speaks(completion.by, own, context):
        return
    # Airflow makes an event in the same transaction as the success of the task: an attempt that was cut off made none.
    before = () if completion.by == own and not written_before else _events_since(aliases, completion)
    same = {"job_id": job_id, "revision": record.job.revision}
    if any(same.items() <= extra.items() for extra in before):
        log.info("%s: its asset has had the event of these effects.", record.job.label)
        return
    _add(task, context, aliases, job_extra(record, completion))


def announce_set(task: Any, context: Context, ledger: Ledger, set_id: int) -> None:
    """The same for the jobs of a set: one event, unless the newest one is about as many jobs that were written."""
    from airflow_provider_aihandoff.core.effects.completion import completion_of

    if not (aliases := declared(task, context)):
        return
    number, newest = ledger.sets.completed(set_id)
    completion = None if newest is None else completion_of(ledger.record(newest))
    if completion is None or not _speaks(completion.by, owner_of(context).actor, context):
        return
    found = ledger.sets.read(set_id)
    before = _events_since(aliases, completion)
    if any(extra.get("set_id") == set_id and extra.get("applied", 0) >= number for extra in before):
        log.info("%s: its asset has had the event of these effects.", found.label)
        return
    extra = {"set_id": set_id, "set_key": found.set_key, "job_type": found.set_type, "applied": number}
    _add(task, context, aliases, extra)


def _speaks(by: Actor | None, own: Actor, context: Context) -> bool:
    """Whether this task says that a job is written: it wrote the last effect, or the task that did makes no event any
    more: it has failed, such as one that was cut off at its last attempt."""
    from airflow_provider_aihandoff.core.models import Owner

    if by is None or by.instance == own.instance:
        return by is not None
    last = Owner(str(by.dag_id), str(by.run_id), str(by.task_id), -1 if by.map_index is None else by.map_index, "", 0)
    return last in lost_tasks([last], asking(context))


def job_extra(record: JobRecord, completion: Completion) -> dict[str, Any]:
    """What an event says: which job, and which records it has written. No content."""
    ids = {effect.name: effect.external_id for effect in completion.applied if effect.external_id is not None}
    return {
        "job_id": record.job.job_id,
        "job_type": record.job.job_type,
        "job_key": record.job.job_key,
        "revision": record.job.revision,
        "applied": len(completion.applied),
        "external_ids": dict(list(ids.items())[:_NAMED]),
    }


def declared(task: Any, context: Context) -> list[AssetAlias]:
    """The assets that the tasks name which write for the same job, each once."""
    task.outlets = as_aliases(task.outlets)  # ``task > asset`` may have added one since it was made
    outlets = [
        outlet
        for each in effect_tasks(context["dag"], task.job_source)
        for outlet in as_aliases(each.partial_kwargs.get("outlets", ()) if _is_mapped(each) else each.outlets)
    ]
    return list({alias.name: alias for alias in _aliases([*task.outlets, *outlets])}.values())


def _is_mapped(task: Any) -> bool:
    return isinstance(task, MappedOperator)


def _events_since(aliases: Sequence[AssetAlias], completion: Completion) -> list[Mapping[str, Any]]:
    """The extras of the events since a job was completed; none where Airflow does not say."""
    since = completion.at - _CLOCKS_APART
    extras: list[Mapping[str, Any]] = []
    try:
        for _ in range(_PAGES):
            events = list(airflow_compat.asset_events(_asset_of(aliases[0]), since=since, limit=_EVENTS))
            extras += [event.extra or {} for event in events]
            if len(events) != _EVENTS or events[-1].timestamp <= since:
                break
            since = events[-1].timestamp
        return extras
    except Exception as error:  # noqa: BLE001 - an event twice does less harm than none
        log.warning("The events of the asset cannot be read: %s. It may have this one twice.", said(error))
        return []


def _add(task: Any, context: Context, aliases: Sequence[AssetAlias], extra: dict[str, Any]) -> None:
    own = {alias.name for alias in _aliases(task.outlets)}
    task.outlets = [*task.outlets, *(alias for alias in aliases if alias.name not in own)]
    for alias in aliases:
        context["outlet_events"][alias].add(_asset_of(alias), extra=extra)
