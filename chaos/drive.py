"""Drives a run to its end, as Airflow's scheduler would: one attempt after the other, whatever becomes of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from airflow_provider_aihandoff.ledger import Ledger
from airflow_provider_aihandoff.ledger.records import Effect
from airflow_provider_aihandoff.states import EffectState
from chaos.attempts import RETRY_SECONDS, Attempt, Outcome, Work, job_of
from chaos.forks import Child, Fault, Forks
from chaos.target import Change

#: Attempts after which a step counts as stuck.
MAX_ATTEMPTS = 60

#: What somebody who looks finds: the id of the record that was written with this effect key, or None.
Look = Callable[[Effect], str | None]


class Stuck(RuntimeError):
    """A step has not come to its end."""


@dataclass
class Steps:
    """What became of one step: its attempts, in order."""

    step: str
    children: list[Child] = field(default_factory=list)
    outcome: Outcome | None = None
    held: int = 0
    """How many times a person had to say what became of a write."""


def drive(
    forks: Forks,
    ledger: Ledger,
    work: Work,
    step: str,
    *,
    look: Look,
    faults: Iterable[Fault] = (),
    trace: bool = False,
    retries: int = MAX_ATTEMPTS,
) -> Steps:
    """Run a step until it is done or has failed for good. What is held is answered by somebody who looks.

    :param faults: what the first attempts do to themselves, one after the other.
    :raises Stuck: it has not come to its end.
    """
    done, not_now, plan = Steps(step), 0, iter(faults)
    for number in range(1, retries + 1):
        child = forks.start(Attempt(work, step, number, not_now), next(plan, None), trace=trace)
        done.children.append(child)
        outcome = child.wait()
        if outcome is None:  # killed: Airflow finds out, and tries again
            time.sleep(RETRY_SECONDS)
            continue
        not_now = outcome.not_now
        if outcome.state in ("done", "failed"):
            done.outcome = outcome
            return done
        if outcome.state == "held":
            done.held += answer(ledger, work, look)
        time.sleep(outcome.seconds)
    last = done.children[-1].outcome
    raise Stuck(f"{step} of {work} has not ended after {retries} attempts; the last one: {last}")


def answer(ledger: Ledger, work: Work, look: Look) -> int:
    """Say what became of every effect of a job that is unknown; return how many those were."""
    record = ledger.record(job_of(ledger, work).job_id)
    unknown = [effect for effect in record.effects if effect.state is EffectState.UNKNOWN]
    for effect in unknown:
        found = look(effect)
        ledger.effects.resolve(
            effect.effect_id,
            applied=found is not None,
            external_id=found,
            actor="user:bob",
            why="looked in the target's log",
            attempt=effect.attempt,
        )
    return len(unknown)


def look_in(changes: Callable[[], Iterable[Change]]) -> Look:
    """Somebody who looks in the target's log."""

    def look(effect: Effect) -> str | None:
        return next((change.record for change in changes() if change.key == effect.effect_key), None)

    return look
