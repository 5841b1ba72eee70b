"""The steps of one job of a set, done together with what other threads of its task ask for at the same time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Job, Revision
from airflow_provider_aihandoff.core.sets.combiner import Combiner
from airflow_provider_aihandoff.core.sets.together import Answer, Left, Wish
from airflow_provider_aihandoff.core.sets.written_together import WriteWish, Written

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.database.connection import Keep
    from airflow_provider_aihandoff.core.effects.effect_store import Claim
    from airflow_provider_aihandoff.core.generation.submission_store import Intent
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.states import ResponseStatus

log = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")

#: Of a request of which no one has said what it can need.
_NOT_KNOWN = WorstCase()


#: Seconds for which what a response has left waits for that of others: it holds up no request.
_PATIENCE = 0.1


def _no_one() -> int:
    return 0


class SharedSteps:
    """What permits and records the requests of one attempt of a set's task, as :class:`.SubmitSteps`.

    Threads that ask at the same time share a transaction; what is not plain has one of its own, as the request of a
    single job has. No more have a permission at the same time than are sent at once, however many threads there are.

    :param actor: the attempt.
    :param lease: how long a permission is valid.
    :param most: how many are sent at the same time.
    :param complete: as of :meth:`.Together.store`.
    """

    def __init__(self, ledger: Ledger, *, actor: Actor, lease: timedelta, most: int, complete: bool) -> None:
        self._ledger, self._most, together = ledger, most, ledger.together
        self.others: Callable[[], int] = _no_one
        """How many pieces of work on jobs of the set are under way, or about to be."""
        self._sending: set[int] = set()
        self._ended = threading.Condition()
        self._alone = threading.Semaphore(most)
        """Held for a step that is done alone: there are more threads than connections."""
        self._read: Combiner[tuple[int, int], Revision] = Combiner(together.read, most)

        def intend(wishes: Sequence[Wish]) -> list[Intent | None]:
            self._begin(wish.job_id for wish in wishes)
            asked = time.monotonic()
            found = together.intend(wishes, actor=actor, lease=lease)
            return [None if each is None else replace(each, asked=asked) for each in found]

        self._intend: Combiner[Wish, Intent | None] = Combiner(
            intend, most, room=self._room, others=lambda: self.others()
        )
        self._submitted: Combiner[Answer, Revision | None] = Combiner(
            lambda answers: together.submitted(answers, actor=actor),
            most,
            others=lambda: min(self.others(), len(self._sending)),
        )
        self._store: Combiner[Left, Job | None] = Combiner(
            lambda left: together.store(left, actor=actor, complete=complete),
            most,
            others=lambda: self.others(),
            patience=_PATIENCE,
        )

    def _room(self) -> int:
        """How many permissions may be given now; if none, one, which waits for another to end."""
        return max(1, self._most - len(self._sending))

    def _begin(self, job_ids: Iterable[int]) -> None:
        """Count requests as being sent, as soon as there is room for them."""
        with self._ended:
            new = set(job_ids) - self._sending
            self._ended.wait_for(lambda: len(self._sending) + len(new) <= max(self._most, len(new)))
            self._sending |= new

    @contextmanager
    def sending(self, job_id: int) -> Iterator[None]:
        """While the request of a job is sent, from its permission until what has become of it is recorded."""
        try:
            yield
        finally:
            with self._ended:
                self._sending.discard(job_id)
                self._ended.notify_all()

    def revision(self, job_id: int, number: int) -> Revision:
        """One revision, as the ledger has it now."""
        return self._read((job_id, number))

    def intend(
        self, job_id: int, number: int, *, handle: str | None = None, worst: WorstCase = _NOT_KNOWN, **more: Any
    ) -> Intent:
        """As :meth:`.Submission.intend`."""
        found = None
        if handle is None and job_id not in self._sending:
            found = _shared(self._intend, Wish(job_id, number, uuid4(), worst.cost_usd))
        else:
            self._begin([job_id])
        if found is not None:
            return found
        with self._alone:
            asked = time.monotonic()
            alone = self._ledger.submission.intend(job_id, number, handle=handle, worst=worst, **more)
        return replace(alone, asked=asked)

    def submitted(
        self, job_id: int, number: int, *, token: UUID, response_id: str, status: ResponseStatus, **more: Any
    ) -> Revision | None:
        """As :meth:`.Submission.submitted`."""
        found = None
        if not more.get("finds_out"):
            answer = Answer(job_id, number, token, response_id, status, more.get("heard"))
            found = _shared(self._submitted, answer, patient=True, keep=more.get("keep"))
        if found is not None:
            return found
        with self._alone:
            return self._ledger.submission.submitted(
                job_id, number, token=token, response_id=response_id, status=status, **more
            )

    def store(
        self, job_id: int, number: int, output: Output, *, actor: Actor, reason: str | None, response_id: str | None
    ) -> Job:
        """As :meth:`.Outputs.store`."""
        found = None
        if output.error is None and response_id is not None:
            found = _shared(self._store, Left(job_id, number, response_id, output))
        if found is not None:
            return found
        with self._alone:
            return self._ledger.outputs.store(
                job_id, number, output, actor=actor, reason=reason, response_id=response_id
            )


class SharedWrites:
    """What permits and records the writes of one attempt of a set's task, as :class:`.WriteSteps`.

    Threads that ask at the same time share a transaction; what is not plain has one of its own, as the effect of a
    single job has.

    :param actor: the attempt.
    :param most: how many share a transaction at most: as many as are written at the same time.
    """

    def __init__(self, ledger: Ledger, *, actor: Actor, most: int) -> None:
        self._ledger, together = ledger, ledger.written_together
        self.others: Callable[[], int] = _no_one
        """How many jobs of the set are being written, or about to be."""
        self._sending: set[int] = set()

        def claim(wishes: Sequence[WriteWish]) -> list[Claim | None]:
            found = together.claim(wishes, actor=actor)
            self._sending.update(wish.job_id for wish, each in zip(wishes, found, strict=True) if each is not None)
            return found

        self._claim: Combiner[WriteWish, Claim | None] = Combiner(
            claim, most, others=lambda: min(self.others(), most) - len(self._sending)
        )
        self._confirm: Combiner[Written, Effect | None] = Combiner(
            lambda written: together.confirm(written, actor=actor),
            most,
            others=lambda: min(self.others(), len(self._sending)),
        )

    @contextmanager
    def writing(self, job_id: int) -> Iterator[None]:
        """While an effect of a job is written: no other one waits for its confirmation after that."""
        try:
            yield
        finally:
            self._sending.discard(job_id)

    def claim(self, job_id: int, plan: EffectPlan, *, lease: timedelta, actor: Actor, resends: int = 0) -> Claim:
        """As :meth:`.Effects.claim`."""
        found = None
        if not resends:
            found = _shared(self._claim, WriteWish(job_id, plan, uuid4(), lease))
        if found is None:
            found = self._ledger.effects.claim(job_id, plan, lease=lease, actor=actor, resends=resends)
            self._sending.add(job_id)
        return found

    def confirm(
        self,
        claim: Claim,
        *,
        external_id: str | None,
        result: Mapping[str, Any] | None,
        actor: Actor,
        own: bool = True,
        keep: Keep | None = None,
    ) -> Effect:
        """As :meth:`.Effects.confirm`."""
        found = _shared(self._confirm, Written(claim, external_id, result, own), patient=True, keep=keep)
        return found or self._ledger.effects.confirm(
            claim, external_id=external_id, result=result, own=own, actor=actor, keep=keep
        )


def _shared(combiner: Combiner[A, R | None], what: A, *, patient: bool = False, keep: Keep | None = None) -> R | None:
    """What came of a step together with others; None where it is to be done alone.

    :param patient: also where the ledger is unavailable: the step alone waits for it, and keeps what it records.
    :param keep: as in :meth:`.Database.persist`.
    """
    try:
        return combiner(what)
    except LedgerUnavailable as error:
        if not patient:  # an error of its own: each thread says in it what it knows of its write
            raise LedgerUnavailable(error.what, written=error.written, remedy=error.remedy) from error
        if keep is not None:
            keep()
    except Exception as error:  # noqa: BLE001 - nothing of it was committed; alone, each says what is wrong with it
        log.info("A step of several jobs was refused (%s); each is done alone.", type(error).__name__)
    return None
