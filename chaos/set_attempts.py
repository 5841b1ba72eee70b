"""What one attempt of a task of a set does: the operators themselves, with what a worker of Airflow gives them.

- ``draft set``: make the items of the work the jobs of a set, and draft each.
- ``ask set``: render the plan of each, and ask people; ``decide set``: a person approves all that wait, as the bulk
  review does; ``approve set``: the approval task goes on.
- ``write set``: write what was approved, one record for each job.

Where a task defers, the attempt does what the trigger would, and resumes the task, within one process: so that this
process can die at any moment of both.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseNotifier, TaskDeferred
from airflow.sdk import DAG

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Owner
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.sets.set_record import JobSet
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from chaos.effects import create_request
from chaos.work import Work
from chaos.world import LEDGER, TARGET, World, connection_of

if TYPE_CHECKING:
    from chaos.attempts import Attempt, Outcome, Step

#: The Dag that the attempts belong to, and the user who asks and the one who decides.
DAG_ID, PERSON = "chaos", "alice"

#: Requests and writes at the same time.
AT_ONCE = 4

#: Seconds for which one attempt goes on after its task has deferred.
LONGEST = 20.0

#: What bounds the cost of a response.
MAX_OUTPUT_TOKENS = 1000

_TASKS = {"draft set": "draft", "ask set": "approve", "approve set": "approve", "write set": "write"}


def keys_of(work: Work) -> list[str]:
    """The keys of the jobs of a piece of work."""
    return [work.key] if work.items == 1 else [f"{work.key}-{number:03}" for number in range(work.items)]


def dag_of(world: World, work: Work) -> DAG:
    """The Dag of a set, as its author writes it."""
    with DAG(DAG_ID, schedule=None) as dag:
        draft = OpenAIResponseSetOperator(
            task_id="draft",
            items=keys_of(work),
            set_key=work.key,
            job_type="chaos",
            job_key="{{ item }}",
            model="gpt-5.2",
            input="Write the note {{ item }}.",
            metadata={"standin": work.model},
            max_output_tokens=MAX_OUTPUT_TOKENS,
            on_lost_submission=work.on_lost,
            deadline=timedelta(seconds=work.deadline_seconds),
            openai_conn_id=connection_of(work),
            ledger_conn_id=LEDGER,
            send_at_once=AT_ONCE,
            max_in_flight=2 * AT_ONCE,
            # The draft of one item waits deferred, that of several takes answers while they come.
            inline_wait=timedelta(0) if work.items == 1 else None,
        )
        approve = ApprovalSensor(task_id="approve", job=draft, ledger_conn_id=LEDGER, notifiers=[_Silent()])
        write = HttpSideEffectOperator(
            task_id="write",
            job=draft,
            effect="create",
            http_conn_id=TARGET,
            ledger_conn_id=LEDGER,
            write_at_once=AT_ONCE,
            **create_request(world, work),
        )
        draft >> approve >> write
    return dag


class _Silent(BaseNotifier):
    """A notifier that reaches no one."""

    def notify(self, context: Any) -> None:
        pass


class _Store:
    """What Airflow keeps for a task over its attempts: its task state store, as files."""

    def __init__(self, owner: Owner) -> None:
        self._folder = Path(os.environ["AIRFLOW_HOME"]) / "kept"
        self._folder.mkdir(exist_ok=True)
        self._owner = f"{owner.run_id} {owner.task_id}"

    def _file(self, name: str) -> Path:
        return self._folder / hashlib.sha256(f"{self._owner} {name}".encode()).hexdigest()

    def set(self, name: str, facts: Mapping[str, Any]) -> None:
        part = self._file(name).with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(facts), "utf-8")
        part.rename(self._file(name))

    def get(self, name: str) -> Any:
        file = self._file(name)
        return json.loads(file.read_text("utf-8")) if file.exists() else None

    def delete(self, name: str) -> None:
        self._file(name).unlink(missing_ok=True)


@dataclass(frozen=True)
class _TaskInstance:
    """As much of Airflow's task instance as the operators use."""

    owner: Owner
    task: Any
    xcom: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.owner, name)

    @property
    def id(self) -> str:
        return self.owner.ti_id

    @property
    def max_tries(self) -> int:
        """Each attempt is as the first one after a clear: what was refused is sent again."""
        return self.owner.try_number + 100

    def xcom_pull(self, *_: Any, **__: Any) -> Any:
        return self.xcom


def set_of(ledger: Ledger, work: Work) -> JobSet | None:
    """The set of a piece of work; None where it was not made yet."""
    return next((found for found in ledger.sets.newest(limit=1_000_000) if found.set_key == work.key), None)


def _execute(world: World, ledger: Ledger, attempt: Attempt, *, once: bool = False) -> Outcome:
    """Execute the task of a step, and resume it when it has deferred, for a while.

    :param once: it is done when the task defers.
    """
    from chaos.attempts import DONE, Outcome

    dag = dag_of(world, attempt.work)
    task: Any = dag.get_task(_TASKS[attempt.step])
    owner = Owner(DAG_ID, attempt.work.key, task.task_id, -1, attempt.owner.ti_id, attempt.number)
    found = set_of(ledger, attempt.work)
    ti = _TaskInstance(owner, task, None if found is None else {"set_id": found.set_id})
    run = SimpleNamespace(
        dag_id=DAG_ID, run_id=attempt.work.key, run_type="manual", triggering_user_name="bob", conf={}, clear_number=0
    )
    context: Any = {
        "dag": dag,
        "dag_run": run,
        "run_id": run.run_id,
        "task": task,
        "ti": ti,
        "task_instance": ti,
        "task_state_store": _Store(owner),
        "params": {},
    }
    task.render_template_fields(context)
    ends, event = time.monotonic() + LONGEST, None
    while True:
        try:
            if event is None or not isinstance(task, OpenAIResponseSetOperator):
                task.execute(context) if event is None else task.execute(context, event)
            else:
                task.execute_complete(context, event)
        except TaskDeferred:
            if once:
                return DONE
            if time.monotonic() > ends or isinstance(task, ApprovalSensor):
                return Outcome("wait", world.poll, f"{task.task_id} waits")
            time.sleep(world.poll)
            found = found or set_of(ledger, attempt.work)
            assert found is not None
            event = {"set_id": found.set_id, "gone": [], "not_now": 0}
            _trigger(ledger, found.set_id, owner)
            continue
        return DONE


def _trigger(ledger: Ledger, set_id: int, owner: Owner) -> None:
    """What the trigger of a draft does: record together which responses have ended."""
    with providers() as provider_for:
        seen = [
            (each.job_id, each.number, provider_for(each.conn_id).retrieve(each.response_id))
            for each in ledger.sets.waiting(set_id, ended=False)
            if each.response_id is not None
        ]
    ended = [(job_id, number, response.status) for job_id, number, response in seen if response.ended]
    if ended:
        ledger.sets.record_ended(ended, actor=owner.actor)


def _draft(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    return _execute(world, ledger, attempt)


def _ask(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    return _execute(world, ledger, attempt, once=True)


def _decide(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """A person approves all of the set that wait, each exactly as it is, or none."""
    from chaos.attempts import DONE

    waiting = ledger.jobs(dag_id=DAG_ID, run_id=attempt.work.key, states=[JobState.REVIEW], limit=1_000)
    choices = [(job.job_id, job.review_digest) for job in waiting if job.review_digest is not None]
    if choices:
        ledger.reviews.decide_many(choices, "approve", person=Person(PERSON))
    return DONE


def _write(world: World, ledger: Ledger, attempt: Attempt) -> Outcome:
    """Write; what no probe can tell waits for a person, and is then written, or known."""
    from chaos.attempts import RETRY_SECONDS, Outcome

    outcome = _execute(world, ledger, attempt)
    found = set_of(ledger, attempt.work)
    if outcome.state != "done" or found is None:
        return outcome
    states = ledger.sets.effect_states(found.set_id, "write")
    if states.get(EffectState.UNKNOWN):
        return Outcome("held", RETRY_SECONDS, "a person has to find out")
    if any(states.get(state) for state in (EffectState.PLANNED, EffectState.CLAIMED, EffectState.REFUSED)):
        return Outcome("wait", RETRY_SECONDS, "something is not written yet")
    return outcome


SET_STEPS: Mapping[str, Step] = {
    "draft set": _draft,
    "ask set": _ask,
    "decide set": _decide,
    "approve set": _draft,
    "write set": _write,
}
