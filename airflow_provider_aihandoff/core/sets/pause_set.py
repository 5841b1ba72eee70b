"""Pauses one set: a pause as any other, which is about the set alone, and stops requests and external writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_aihandoff.core.admission.pause_store import Pause, Scope
from airflow_provider_aihandoff.core.errors import PauseNotFound
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.sets.set_record import JobSet

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger


def pause_set(ledger: Ledger, found: JobSet, *, reason: str, actor: Actor) -> Pause:
    """Hold each request and each write of a set that is permitted after this has returned.

    :raises ValueError: there is no reason.
    """
    scope = Scope(dag_id=found.dag_id, set_id=found.set_id)
    return ledger.pauses.begin(scope, writes=True, reason=reason, actor=actor)


def pauses_of(ledger: Ledger, set_id: int) -> list[Pause]:
    """The pauses in force that are about one set alone, the newest first."""
    return [pause for pause in ledger.pauses.find() if pause.set_id == set_id]


def resume_set(ledger: Ledger, found: JobSet, *, reason: str, actor: Actor) -> list[Pause]:
    """End each pause that is about a set alone: what it holds continues.

    A pause of its Dag, of a type, of a connection or of everything stays in force.

    :return: the pauses, ended.
    :raises ValueError: there is no reason.
    :raises PauseNotFound: there is none in force.
    """
    ended = [ledger.pauses.end(each.pause_id, reason=reason, actor=actor) for each in pauses_of(ledger, found.set_id)]
    if not ended:
        raise PauseNotFound(
            f"{found.label} is not paused by itself.", remedy="`airflow aihandoff pauses` lists the pauses in force."
        )
    return ended
