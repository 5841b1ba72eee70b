"""Wakes the approval tasks that Airflow has parked, as the API server can, and sees what became of them.

A decision can be made where Airflow's database cannot be reached: in a terminal, for example. Each process of an API
server hears of it, and does what Airflow's own route for answers does. Of several that do so at the same time, one has
the lock of the task instance.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from airflow.models.hitl import HITLDetail
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import handle_event_submit
from airflow.triggers.base import TriggerEvent
from airflow.utils.session import create_session
from sqlalchemy import select
from sqlalchemy.orm import Session, lazyload

from airflow_provider_aihandoff.airflow_compat import map_index_column
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.parked_store import ParkedTask
from airflow_provider_aihandoff.core.review.required_action import PARAMS, Answer, RequiredAction, answer_in
from airflow_provider_aihandoff.operators.required_actions import record_answer
from airflow_provider_aihandoff.task_states import ENDED_TASK_STATES

log = logging.getLogger(__name__)

#: Tasks that one transaction of Airflow's database is about, tasks that are woken in one round, and tasks that are read
#: together.
_TOGETHER, _ROUND, _PAGE = 100, 1_000, 500

_AWAITING_INPUT = "awaiting_input"

#: What a parked task of ours goes on with. Whatever the ledger says, no other task is touched.
_METHOD = "resume_review"


@dataclass(frozen=True)
class _Listed:
    """What Airflow's list has of a task, and what was answered there."""

    action: RequiredAction | None = None
    answer: Answer | None = None


_NOT_ASKED = _Listed()


def wake_due(ledger: Ledger, job_ids: Collection[int] | None = None) -> int:
    """Wake the tasks that have something to do: their job is decided, or changed, or a time has come.

    :param job_ids: only those of these jobs; None for all.
    :return: how many were woken.
    """
    woken, due = 0, ledger.parked_tasks.due(job_ids, _ROUND)
    for start in range(0, len(due), _TOGETHER):
        gone_on = _wake(due[start : start + _TOGETHER])
        ledger.parked_tasks.remove(gone_on)
        woken += len(gone_on)
    return woken


def follow_up(ledger: Ledger, *, newer: float | None = None) -> None:
    """Record the answers of Airflow's list, have it show what is asked now, forget the tasks that are no longer parked,
    and cancel the jobs of those that were marked failed while they were.

    :param newer: only those that were parked within so many seconds.
    """
    for page in ledger.parked_tasks.pages(_PAGE, newer=newer):
        states, asked = _read(page)
        ended = [each for each in page if states.get(each.ti_id, ("", False))[0] in ENDED_TASK_STATES]
        unknown: list[ParkedTask] = []
        for each in page:
            # As a rule, the task has done so. Airflow can lose one that it resumes within seconds, and the answer too.
            listed = asked.get(each.ti_id, _NOT_ASKED)
            if each.ti_id not in states:
                exists, of_next = _of_next_attempt(each)
                # Before 3.4, the answer goes to the next attempt with the question; then it stays with this one.
                listed = of_next if listed.answer is None else listed
                (ended if exists else unknown).append(each)
            if listed.answer is not None:
                record_answer(ledger, each, listed.answer)
        for each in ended:
            if states.get(each.ti_id) == ("failed", True):
                ledger.cancels.cancel_review(
                    each.job_id,
                    run=(each.dag_id, each.run_id),
                    actor=each.owner.actor,
                    reason="the task that waited for its decision was marked failed",
                )
        ledger.parked_tasks.remove(ended)
        ledger.parked_tasks.remove_unknown(unknown)
        _ask_again([each for each in page if each.ti_id in asked and asked[each.ti_id].action != each.asked])


def _wake(parked: Iterable[ParkedTask]) -> list[ParkedTask]:
    """Resume those of the tasks that are parked; return which ones those are."""
    woken = []
    with create_session() as session:
        for each, instance in _locked(session, parked):
            if (detail := _detail(session, each)) is not None and detail.responded_at is None:
                # No one has answered here: it is decided elsewhere, and is no longer asked.
                detail.responded_at, detail.chosen_options = datetime.now(UTC), []
            handle_event_submit(TriggerEvent({"job_id": each.job_id}), task_instance=instance, session=session)
            woken.append(each)
    return woken


def _locked(session: Session, parked: Iterable[ParkedTask]) -> Iterator[tuple[ParkedTask, TaskInstance]]:
    """Those of the tasks that are parked, locked; one that is locked already is someone else's to wake."""
    by_id = {each.ti_id: each for each in parked}
    found = session.scalars(
        select(TaskInstance)
        .where(TaskInstance.id.in_([*by_id]), TaskInstance.state == _AWAITING_INPUT)
        .with_for_update(of=TaskInstance, skip_locked=True)
    )
    for instance in found.unique().all():
        if instance.next_method == _METHOD:
            yield by_id[UUID(str(instance.id))], instance


def _detail(session: Session, parked: ParkedTask) -> HITLDetail | None:
    """What Airflow's list has of a task that is locked, locked as well."""
    return session.scalar(select(HITLDetail).where(HITLDetail.ti_id == parked.ti_id).with_for_update(of=HITLDetail))


def _read(page: Collection[ParkedTask]) -> tuple[dict[UUID, tuple[str, bool]], dict[UUID, _Listed]]:
    """The state of each task instance by its id, and whether it came into it while it was parked, not by itself; and
    what Airflow's list has of it.

    One that was cleared has another id by now, and is left out.
    """
    ids = [each.ti_id for each in page]
    parked = {each.ti_id: each for each in page}
    instances = select(TaskInstance.id, TaskInstance.state, TaskInstance.next_method, TaskInstance.next_kwargs)
    with create_session() as session:
        states = {
            UUID(str(ti_id)): (str(getattr(state, "value", state)), method == _METHOD and "event" not in (kwargs or {}))
            for ti_id, state, method, kwargs in session.execute(instances.where(TaskInstance.id.in_(ids)))
        }
        details = session.scalars(select(HITLDetail).options(lazyload("*")).where(HITLDetail.ti_id.in_(ids)))
        asked = {UUID(str(each.ti_id)): _listed(each, parked[UUID(str(each.ti_id))]) for each in details}
    return states, asked


def _of_next_attempt(parked: ParkedTask) -> tuple[bool, _Listed]:
    """Whether this Airflow has a task that has another id by now, and what the attempt before was answered."""
    query = select(TaskInstance.id).where(
        TaskInstance.dag_id == parked.dag_id,
        TaskInstance.run_id == parked.run_id,
        TaskInstance.task_id == parked.task_id,
        map_index_column() == parked.map_index,
    )
    with create_session() as session:
        ids = session.scalars(query).all()
        details = select(HITLDetail).options(lazyload("*"))
        details = details.where(HITLDetail.ti_id.in_(ids), HITLDetail.responded_at.is_not(None))
        found = [_listed(detail, parked) for detail in session.scalars(details)]
    answered = (each for each in found if each.answer is not None and each.answer.verdict is not None)
    return bool(ids), next(answered, _NOT_ASKED)


def _listed(detail: HITLDetail, parked: ParkedTask) -> _Listed:
    answer = None
    if detail.responded_at is not None:
        answer = answer_in(detail.as_resume_event_payload(), parked.digest)
    return _Listed(RequiredAction(detail.subject, detail.body or "", tuple(detail.options)), answer)


def _ask_again(older: Collection[ParkedTask]) -> None:
    """Have Airflow's list show what is asked now, where it still shows what was asked before.

    Airflow refreshes no question of a task instance before 3.4.
    """
    if not older:
        return
    with create_session() as session:
        for each, _ in _locked(session, older):
            if (detail := _detail(session, each)) is None or detail.responded_at is not None:
                continue
            detail.subject, detail.body = each.asked.subject, each.asked.body
            detail.options, detail.params = [*each.asked.options], dict(PARAMS)  # type: ignore[assignment]
            detail.created_at = datetime.now(UTC)
