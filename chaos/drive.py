"""Drives a run to its end, as Airflow's scheduler would: one attempt after the other, whatever becomes of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from airflow_provider_aihandoff.core.errors import LedgerUnavailable, NothingLost
from airflow_provider_aihandoff.core.generation.lost import LostWait, wait_of
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, Revision
from airflow_provider_aihandoff.core.states import EffectState
from chaos.attempts import RETRY_SECONDS, Attempt, Outcome, jobs_of
from chaos.target import Change
from chaos.work import Work

#: Attempts after which a step counts as stuck.
MAX_ATTEMPTS = 400

#: Makes one attempt; returns its outcome, or None where it was killed.
Try = Callable[[Attempt], Outcome | None]

#: What a person finds in the target: the id of the record that was written with this effect key, or None.
Search = Callable[[Effect], str | None]


class Stuck(RuntimeError):
    """A step has not ended."""


@dataclass(frozen=True)
class Step:
    """The result of one step.

    :param held: how many writes a person had to resolve.
    """

    outcome: Outcome
    attempts: int
    held: int


def drive(ledger: Ledger, work: Work, step: str, *, attempt: Try, search: Search, think: float = 0.0) -> Step:
    """Run a step until it is done or has failed for good. A person resolves what is held, and lets a lost request be
    sent again where it waits for them.

    :param think: seconds that this person takes before they search.
    :raises Stuck: it has not come to its end.
    """
    not_now, held, outcome = 0, 0, None
    for number in range(1, MAX_ATTEMPTS + 1):
        outcome = attempt(Attempt(work, step, number, not_now))
        if outcome is None:  # killed: Airflow finds out, and tries again
            time.sleep(RETRY_SECONDS)
            continue
        not_now = outcome.not_now
        if outcome.state in ("done", "failed"):
            return Step(outcome, number, held)
        if outcome.state == "held":
            time.sleep(think)
            held += answer(ledger, work, search)
        time.sleep(outcome.seconds)
    raise Stuck(f"{step} of {work} has not ended after {MAX_ATTEMPTS} attempts; the last one: {outcome}")


def answer(ledger: Ledger, work: Work, search: Search) -> int:
    """Resolve every unknown effect of a run's jobs, and a lost request; return how many effects those were.

    While the ledger is unavailable, nothing is resolved; the caller tries again.
    """
    unknown = 0
    try:
        for job in jobs_of(ledger, work):
            record = ledger.record(job.job_id)
            if wait_of(record.revision) is LostWait.ASKS:
                _send_again(ledger, record.revision)
            for effect in record.effects:
                if effect.state is EffectState.UNKNOWN:
                    _resolve(ledger, effect, search(effect))
                    unknown += 1
    except LedgerUnavailable:
        return 0
    return unknown


def _resolve(ledger: Ledger, effect: Effect, found: str | None) -> None:
    ledger.effects.resolve(
        effect.effect_id,
        applied=found is not None,
        external_id=found,
        actor=Actor.user("bob"),
        why="searched the target's log",
        attempt=effect.attempt,
    )


def _send_again(ledger: Ledger, revision: Revision) -> None:
    with suppress(NothingLost):  # its response was found meanwhile
        ledger.submission.resolve(
            revision.job_id,
            send_again=True,
            seen=revision.unknown_submissions,
            actor=Actor.user("bob"),
            why="nothing in the logs",
        )


def search_in(changes: Callable[[], Iterable[Change]]) -> Search:
    """A person who searches the target's log."""

    def search(effect: Effect) -> str | None:
        return next((change.record for change in changes() if change.key == effect.effect_key), None)

    return search
