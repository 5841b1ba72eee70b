"""What a trigger waits for, as the hub keeps it: a handful of ids, and a future."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar

from airflow_provider_aihandoff.core.generation.batch_provider import ModelBatch, async_batches_of

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.generation.provider import AsyncModelProvider, ModelResponse


class Wait:
    """One trigger's wait. It ends once.

    :param job_id: the job whose notifications are about it.
    """

    __slots__ = ("_ended", "deadline", "job_id")

    #: Whether a trigger with many waits is over as soon as this one is.
    is_urgent: ClassVar[bool] = False

    def __init__(self, job_id: int) -> None:
        self.job_id = job_id
        self.deadline: datetime | None = None
        """By the ledger's clock."""
        self._ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    @property
    def over(self) -> bool:
        """Whether it has ended, or no one waits any longer."""
        return self._ended.done()

    def end(self, status: str | None) -> None:
        """End the wait, if it has not ended; with None where its deadline has passed."""
        if not self._ended.done():
            self._ended.set_result(status)

    def result(self) -> asyncio.Future[str | None]:
        """What it ends with."""
        return self._ended


class TimeWait(Wait):
    """A wait until a time has come.

    :param at: by the ledger's clock.
    """

    __slots__ = ()

    is_urgent = True

    def __init__(self, at: datetime) -> None:
        super().__init__(job_id=0)
        self.deadline = at


class PolledWait(Wait):
    """A wait for something that the model provider can be asked about.

    :param polled: what it is asked about: the id of a response, or of a handle; None where nothing can be asked.
    :param poll_interval: seconds between the first polls of OpenAI while no webhooks arrive.
    """

    __slots__ = ("conn_id", "errors", "interval", "missing_since", "poll_at", "poll_interval", "polled", "revision")

    def __init__(self, job_id: int, revision: int, polled: str | None, conn_id: str, poll_interval: float) -> None:
        super().__init__(job_id)
        self.revision = revision
        self.polled = polled
        self.conn_id = conn_id
        self.poll_interval = self.interval = poll_interval
        self.errors = 0
        self.missing_since: float | None = None
        self.poll_at = 0.0
        """By the event loop's clock."""

    async def poll(self, provider: AsyncModelProvider) -> ModelResponse | ModelBatch | None:
        """Ask once; the response or the batch, if the provider knows one.

        :raises ProviderError: there is no valid answer.
        """
        raise NotImplementedError


class ResponseWait(PolledWait):
    """A wait for the end of a response."""

    __slots__ = ()

    async def poll(self, provider: AsyncModelProvider) -> ModelResponse | None:
        """Ask about the response."""
        return await provider.retrieve(str(self.polled))


class SetResponses:
    """The responses of one set that a trigger waits for. The ledger says of all of them at once that none has ended.

    :param waits: those that no one asked a change of; one for each job.
    """

    def __init__(self, set_id: int, waits: Iterable[ResponseWait]) -> None:
        self.set_id = set_id
        self._waits = {wait.job_id: wait for wait in waits}
        self._digest: bytes | None = None

    @property
    def waits(self) -> Iterable[ResponseWait]:
        """Those that have not ended."""
        return self._waits.values()

    @property
    def digest(self) -> bytes:
        """SHA-256 of ``job id.revision`` of each that has not ended, by job and with commas between them."""
        if self._digest is None:
            running = ",".join(f"{job_id}.{wait.revision}" for job_id, wait in sorted(self._waits.items()))
            self._digest = hashlib.sha256(running.encode()).digest()
        return self._digest

    def ended(self, job_id: int) -> None:
        """The response of this job has ended, if it is one of these."""
        if self._waits.pop(job_id, None) is not None:
            self._digest = None


class SubmissionWait(PolledWait):
    """A wait until a request may be sent, or its response is known. What is polled is the handle of its revision.

    :param lease_until: until when none may be sent, as the ledger had it.
    """

    __slots__ = ("lease_until",)

    is_urgent = True

    def __init__(
        self, job_id: int, revision: int, polled: str | None, conn_id: str, poll_interval: float, lease_until: str
    ) -> None:
        super().__init__(job_id, revision, polled, conn_id, poll_interval)
        self.lease_until = lease_until

    @property
    def key(self) -> tuple[int, int, str]:
        """What the ledger is asked about."""
        return self.job_id, self.revision, self.lease_until

    async def poll(self, provider: AsyncModelProvider) -> ModelResponse | None:
        """Ask about what has ended in the handle."""
        return await provider.read_handle(str(self.polled))


class BatchWait(PolledWait):
    """A wait for the end of a batch; or, where nothing is polled, until its attempt may be taken for dead."""

    __slots__ = ("batch_id",)

    is_urgent = True

    def __init__(self, batch_id: int, polled: str | None, conn_id: str, poll_interval: float) -> None:
        super().__init__(job_id=0, revision=0, polled=polled, conn_id=conn_id, poll_interval=poll_interval)
        self.batch_id = batch_id

    @property
    def key(self) -> int:
        """What the ledger is asked about."""
        return self.batch_id

    async def poll(self, provider: AsyncModelProvider) -> ModelBatch:
        """Ask about the batch."""
        return await async_batches_of(provider).retrieve_batch(str(self.polled))


class ReviewWait(Wait):
    """A wait for a decision on one digest, by those whom the review was given to last.

    :param reassigned: how often it had been reassigned.
    """

    __slots__ = ("digest", "reassigned")

    def __init__(self, job_id: int, digest: str, reassigned: int) -> None:
        super().__init__(job_id)
        self.digest = digest
        self.reassigned = reassigned

    @property
    def key(self) -> tuple[int, str, int]:
        """What the ledger is asked about."""
        return self.job_id, self.digest, self.reassigned


class EffectWait(Wait):
    """A wait for a change of one effect.

    :param held: a pause or a limit holds it; the end of that is a change.
    """

    __slots__ = ("attempt", "effect_id", "held", "state")

    is_urgent = True

    def __init__(self, job_id: int, effect_id: int, state: str, attempt: int, *, held: bool = False) -> None:
        super().__init__(job_id)
        self.effect_id = effect_id
        self.state = state
        self.attempt = attempt
        self.held = held

    @property
    def key(self) -> tuple[int, str, int, bool]:
        """What the ledger is asked about."""
        return self.effect_id, self.state, self.attempt, self.held


class SetDecisionWait(Wait):
    """A wait of a task that writes for a set until a job was approved that it can write, or all are that people are
    asked about.

    :param task_id: the task's.
    :param since: only jobs that were approved later, by the ledger's clock.
    """

    __slots__ = ("set_id", "since", "task_id")

    is_urgent = True

    def __init__(self, set_id: int, task_id: str, since: str) -> None:
        super().__init__(job_id=0)
        self.set_id = set_id
        self.task_id = task_id
        self.since = since

    @property
    def key(self) -> tuple[int, str, str]:
        """What the ledger is asked about."""
        return self.set_id, self.task_id, self.since


class SetReviewWait(Wait):
    """A wait until every job of a set is decided, or one of them needs its task: it was edited, for example.

    :param since: when the task read the jobs last, by the ledger's clock.
    """

    __slots__ = ("set_id", "since")

    is_urgent = True

    def __init__(self, set_id: int, since: str) -> None:
        super().__init__(job_id=0)
        self.set_id = set_id
        self.since = since

    @property
    def key(self) -> tuple[int, str]:
        """What the ledger is asked about."""
        return self.set_id, self.since
