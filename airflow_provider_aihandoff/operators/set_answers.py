"""Takes what the responses of a set have left, for as long as one leg of the task that drafts it works."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff import settings
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, JobState, RevisionState

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.generation.provider import ModelResponse, ProviderFor
    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor, Revision
    from airflow_provider_aihandoff.core.sets.crew import Crew
    from airflow_provider_aihandoff.core.sets.flight import Due, Flight
    from airflow_provider_aihandoff.core.sets.shared_steps import SharedSteps

log = logging.getLogger(__name__)

#: Of how many responses that run it keeps what the ledger says of them, so that it need not be read again: a set that
#: has more in flight needs no more memory.
_KEPT = 2_000

#: Characters of the request of one that is kept at most: a large one is read again.
_KEPT_LENGTH = 10_000

#: Seconds after which it reads again in the ledger what has ended.
_READ_EVERY = 1.0


class Answers:
    """The answers to the requests of a set. They are handed over to a crew, whose threads read and store them.

    :param actor: the attempt of the task.
    :param steps: what those threads do together.
    :param complete: a job that needs no approval has no effect either: it is completed.
    :param output_type: of the task: what an output must match.
    :param at_once: how many are asked about at the same time, and handed over at a time: where many have ended at once,
        the first ones make room for other requests.
    :param flight: when they are asked about.
    """

    def __init__(
        self,
        ledger: Ledger,
        provider_for: ProviderFor,
        steps: SharedSteps,
        set_id: int,
        *,
        actor: Actor,
        complete: bool,
        output_type: Any,
        at_once: int,
        flight: Flight,
    ) -> None:
        self._ledger, self._provider_for, self._steps = ledger, provider_for, steps
        self._set_id, self._actor, self._complete, self._output_type = set_id, actor, complete, output_type
        self._at_once, self._asking, self._flight = at_once, threading.Semaphore(at_once), flight
        self._running: dict[int, Revision] = {}
        """As they were when their responses were last known to run, by the id of their job."""
        self._in_hand = set[int]()
        """The jobs whose responses are being asked about, or taken."""
        self._seen: dict[int, int] = {}
        """The revisions, by the id of their job, whose responses were seen to run since that was last recorded."""
        self._ended: deque[tuple[int, int]] = deque()
        """Of which the ledger has said that their responses have ended, and that are not handed over yet."""
        self._ended_after = 0
        """The last job of that page, after which the next one begins; 0 where there is none."""
        self._noted_at = self._read_at = time.monotonic()

    def __len__(self) -> int:
        """How many are to be asked about later."""
        return len(self._flight)

    def expect(self, revision: Revision) -> None:
        """A response runs from now on: it is asked about when it is about due."""
        self._keep(revision)
        self._flight.sent(revision.job_id, revision.number)

    def hand_over_some(self, crew: Crew[str]) -> None:
        """Hand over some responses that are due, and some of which the ledger says that they have ended; and record,
        now and then, which were seen to run."""
        for due in islice(self._flight.due(), self._at_once):
            if due.job_id in self._in_hand:
                self._flight.later(due)
            else:
                self._hand_over(crew, due.job_id, due.number, due)
        if not self._ended and (self._ended_after or self._reads_again()):
            self._ended.extend(self._ledger.sets.ended(self._set_id, after=self._ended_after))
            self._ended_after = self._ended[-1][0] if self._ended else 0
        for _ in range(min(self._at_once, len(self._ended))):
            self._hand_over(crew, *self._ended.popleft())
        self._record_seen()

    def hand_over_ended(self, crew: Crew[str]) -> None:
        """Hand over each response of which the ledger says that it has ended, or is too late; and each that is known by
        its handle alone."""
        after = 0
        while page := self._ledger.sets.ended(self._set_id, after=after):
            for job_id, number in page:
                self._hand_over(crew, job_id, number)
            after = page[-1][0]
        after = 0
        while page := self._ledger.sets.lost(self._set_id, in_handles=True, after=after):
            for job_id, number in page:
                crew.give(self._take_lost, job_id, number)
            after = page[-1][0]

    def wait_less(self) -> None:
        """See that no lost request is waited for until its deadline where what has ended says how long one may take.

        It says that of all of them, or of none yet: then the others are left, too.
        """
        after, orphan_wait = 0, settings.seconds("orphan_wait")
        while page := self._ledger.sets.lost(self._set_id, in_handles=False, after=after):
            for job_id, number in page:
                if not self._ledger.submission.wait_less(job_id, number, orphan_wait=orphan_wait):
                    return
            after = page[-1][0]

    def take_from_handle(self, revision: Revision) -> None:
        """Store what a lost request has left in its handle, if that is there."""
        from airflow_provider_aihandoff.core.generation.handle import take_from_handle
        from airflow_provider_aihandoff.core.generation.provider import ProviderError

        provider = self._provider_for(revision.conn_id)
        try:
            take_from_handle(self._ledger, provider, revision, output_type=self._output_type, actor=self._actor)
        except ProviderError as error:  # the trigger polls it
            log.info("Reading %s: %s", revision.conversation_id, error.what)

    # In the thread that hands them over.

    def _hand_over(self, crew: Crew[str], job_id: int, number: int, due: Due | None = None) -> None:
        if job_id not in self._in_hand:
            self._in_hand.add(job_id)
            crew.give(self._take, job_id, number, due)

    def _reads_again(self) -> bool:
        """Whether it is time to read again in the ledger what has ended; if so, that counts."""
        now = time.monotonic()
        if now - self._read_at < _READ_EVERY:
            return False
        self._read_at = now
        return True

    def _record_seen(self) -> None:
        """Record which responses were seen to run, when it is time to."""
        from airflow_provider_aihandoff.operators.responding import NOTE_EVERY

        now = time.monotonic()
        if now - self._noted_at < NOTE_EVERY:
            return
        self._noted_at, seen, self._seen = now, self._seen, {}
        if seen:
            self._ledger.signs.seen(seen)

    # In the threads of the crew.

    def _take(self, job_id: int, number: int, due: Due | None) -> str:
        """Store what the response of one job has left.

        :param due: it was sent for in this leg, and it is not known whether it has ended.
        """
        try:
            if due is None:
                # The flight asks about it too, later on: then the ledger says that it is taken, and not what is kept.
                self._running.pop(job_id, None)
                revision = self._steps.revision(job_id, number)
            else:  # what has become of it since is seen by the step that stores what it has left
                revision = self._kept(job_id, number)
            if revision.state is not RevisionState.RUNNING:
                return "gone on"
            if revision.response_status in ENDED_RESPONSE_STATUSES:
                return self._take_known(revision)
            if due is None:
                return self._take_late(revision)
            return self._take_if_ended(revision, due)
        finally:
            self._in_hand.discard(job_id)

    def _take_known(self, revision: Revision) -> str:
        """Store what a response has left that is known to have ended."""
        from airflow_provider_aihandoff.core.generation.settle import ResponseUnreadable, read_ended

        provider = self._provider_for(revision.conn_id)
        try:
            with self._asking:
                response = read_ended(provider, str(revision.response_id))
        except ResponseUnreadable as error:
            log.warning("%s", error)
            if self._ledger.now() < revision.deadline:
                return "unreadable"
            reason = "its response has ended, and could not be read by the deadline"
            error_of = {"kind": "deadline"}
            self._ledger.outputs.fail(
                revision.job_id, revision.number, actor=self._actor, reason=reason, error=error_of
            )
            return "too late"
        self._store(revision, response)
        return "taken"

    def _take_late(self, revision: Revision) -> str:
        """Give a response up that has not ended by its deadline; or store what it has left, where it has after all."""
        from airflow_provider_aihandoff.core.generation.stop import give_up

        job_id, number, provider = revision.job_id, revision.number, self._provider_for(revision.conn_id)
        if give_up(self._ledger, provider, job_id, number, why="deadline", actor=self._actor) is None:
            return "too late"
        return self._take_known(self._steps.revision(job_id, number))

    def _take_if_ended(self, revision: Revision, due: Due) -> str:
        """Ask about a response, and store what it has left, where it has ended."""
        from airflow_provider_aihandoff.core.generation.provider import ProviderError

        with self._asking:
            asked = self._flight.asks(due)
            if asked is None:
                self._keep(revision)
                return "not asked"
            try:
                response = self._provider_for(revision.conn_id).retrieve(str(revision.response_id))
            except ProviderError as error:
                log.info("Asking about %s: %s", revision.response_id, error.what)
                response = None
        if response is not None and not response.ended:
            self._seen[revision.job_id] = revision.number
        if response is None or not response.readable:
            self._keep(revision)
            self._flight.runs(asked)
            return "runs"
        self._flight.ended(asked)
        self._store(revision, response)
        return "taken"

    def _take_lost(self, job_id: int, number: int) -> str:
        self.take_from_handle(self._steps.revision(job_id, number))
        return "asked"

    def _store(self, revision: Revision, response: ModelResponse) -> None:
        """Store what a response in hand has left."""
        from airflow_provider_aihandoff.operators.responding import store_ended, store_response

        ledger, provider, actor = self._ledger, self._provider_for(revision.conn_id), self._actor
        output_type = self._output_type
        job = store_response(
            ledger, provider, revision, response, output_type=output_type, actor=actor, steps=self._steps
        )
        if job.state is JobState.RUNNING:  # another response of the revision has ended first, and was taken
            now = self._steps.revision(revision.job_id, revision.number)
            job = store_ended(ledger, self._provider_for, job, now, output_type=output_type, actor=actor)
        if job.state is JobState.APPROVED and self._complete:
            ledger.effects.complete_without_effects(job.job_id, actor=actor)

    def _keep(self, revision: Revision) -> None:
        """Keep what the ledger says of a revision whose response runs, so that it need not be read again."""
        if len(self._running) < _KEPT and len(str(revision.request)) <= _KEPT_LENGTH:
            self._running[revision.job_id] = revision

    def _kept(self, job_id: int, number: int) -> Revision:
        """A revision, as it was when its response was last known to run; or else as the ledger has it now."""
        kept = self._running.pop(job_id, None)
        return kept if kept is not None and kept.number == number else self._steps.revision(job_id, number)
