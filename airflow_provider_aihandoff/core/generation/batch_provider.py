"""The seam to a provider's batches: many requests in one file, answered within a day, at a lower price.

A batch is made of a file, has a state of its own, and leaves its results in files. Its requests are distinguished by
the ``custom_id`` that each line has. A provider that has batches is also a :class:`HasBatches`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any, ClassVar

from airflow_provider_aihandoff.core.errors import RequestError

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.generation.provider import ModelResponse, SubmitFailure


class BatchStatus(StrEnum):
    """The state of a batch at the provider. One that says something new is ``running``: it is waited for."""

    RUNNING = "running"
    CANCELLING = "cancelling"
    COMPLETED = "completed"
    FAILED = "failed"  # it was not valid: nothing of it was run
    EXPIRED = "expired"  # the day was over before all of it was run
    CANCELLED = "cancelled"


#: The statuses of a batch that has ended. Whatever was run is paid, and its results are there.
ENDED_BATCH_STATUSES = frozenset(
    {BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
)


@dataclass(frozen=True)
class ModelBatch:
    """What a provider says about one batch.

    :param files: with its results: what was answered, and what could not be.
    :param total: how many requests it has, how many were ``completed``, and how many ``failed``, as far as it is known.
    :param problem: why it failed, as text without a full stop.
    """

    id: str
    status: BatchStatus
    files: tuple[str, ...] = ()
    total: int | None = None
    completed: int | None = None
    failed: int | None = None
    problem: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    created_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more of it will be run."""
        return self.status in ENDED_BATCH_STATUSES


@dataclass(frozen=True)
class LineResult:
    """What a batch has left of one of its requests.

    :param response: that it came to; None where it was not answered.
    :param was_run: it was refused, or failed; otherwise the batch ended before it was run.
    :param is_final: the same request would be refused again, or only a person can say what became of it.
    :param is_paid: it may be billed, though there is no response that can be read.
    :param reason: why there is no response, as text without a full stop.
    :param code: the same, as a program reads it.
    """

    custom_id: str
    response: ModelResponse | None = None
    was_run: bool = True
    is_final: bool = False
    is_paid: bool = False
    reason: str = ""
    code: str | None = None


class ModelBatches(ABC):
    """The batches of a provider over one connection. No call is repeated automatically."""

    max_lines: ClassVar[int]
    """How many requests one file may have."""
    max_bytes: ClassVar[int]
    """How large one file may be."""
    window: ClassVar[timedelta]
    """Within which a batch ends, unless it is cancelled."""

    @abstractmethod
    def line(self, custom_id: str, request: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
        """The line of a file that is one request, with its end of line.

        :param metadata: goes with the request, in addition to its own.
        :raises RequestError: such a request cannot be in a batch.
        """

    @abstractmethod
    def upload(self, name: str, content: IO[bytes], *, timeout: float) -> str | SubmitFailure:
        """Upload a file, and return its id, or why there is none. Raises nothing; a file that no batch uses is free."""

    @abstractmethod
    def create(self, file_id: str, metadata: Mapping[str, str], *, timeout: float) -> ModelBatch | SubmitFailure:
        """Make a batch of a file, once. Raises nothing.

        :param metadata: by which it is found again if the answer is lost.
        """

    @abstractmethod
    def find(self, metadata: Mapping[str, str], *, since: datetime) -> ModelBatch | None:
        """The batch that was created with this metadata since a moment; None where there is none.

        :raises ProviderError: there is no valid answer, or more batches have come since than are searched.
        """

    @abstractmethod
    def retrieve(self, batch_id: str) -> ModelBatch:
        """Ask about a batch.

        :raises ProviderError: there is no valid answer.
        """

    @abstractmethod
    def cancel(self, batch_id: str) -> ModelBatch | None:
        """Ask to stop a batch, and return what the provider says about it then; None where it says nothing.

        What was run by then is paid, and its results come. Raises nothing.
        """

    @abstractmethod
    def results(self, file_id: str) -> Iterator[LineResult]:
        """The results in one file, as a stream: it may be large.

        :raises ProviderError: it cannot be read now, or a line of it cannot be understood. Reading again is safe.
        """

    @abstractmethod
    def delete_file(self, file_id: str) -> None:
        """Delete a file: no batch can be made of it any longer. One that is gone stays so.

        :raises ProviderError: there is no valid answer.
        """


class HasBatches(ABC):
    """A provider that has batches, beside what every provider has."""

    @abstractmethod
    def batches(self) -> ModelBatches:
        """Its batches."""


class HasBatchesAsync(ABC):
    """The part of :class:`ModelBatches` that triggerers need, without blocking their event loop."""

    @abstractmethod
    async def retrieve_batch(self, batch_id: str) -> ModelBatch:
        """As :meth:`ModelBatches.retrieve`."""

    @abstractmethod
    async def cancel_batch(self, batch_id: str) -> ModelBatch | None:
        """As :meth:`ModelBatches.cancel`."""


_NONE = "the provider of this connection has no batches."
_REMEDY = 'Use transport="background".'


def batches_of(provider: object) -> ModelBatches:
    """The batches of a provider.

    :raises RequestError: it has none.
    """
    if not isinstance(provider, HasBatches):
        raise RequestError(_NONE, remedy=_REMEDY)
    return provider.batches()


def async_batches_of(provider: object) -> HasBatchesAsync:
    """The same for an event loop.

    :raises RequestError: it has none.
    """
    if not isinstance(provider, HasBatchesAsync):
        raise RequestError(_NONE, remedy=_REMEDY)
    return provider
