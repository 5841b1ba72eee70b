"""A batch of a set as the ledger has it: one file of requests, and what has become of it. Pure.

**The protocol.** A batch is paid once, whatever dies, since each row of the ledger stands for at most one batch at the
provider, and each request is in at most one row that is not over.

1. *Fill*: the row, then its requests, some hundreds in one transaction (``batch.intend``): each is admitted, reserves
   what it can cost, and names the row. So the intent is committed before anything leaves.
2. *Upload* the file, and commit its id (``batch.uploaded``): from here on the batch may exist. A file without a batch
   costs nothing, so that a kill before this commit leaves nothing to find out.
3. *Create* the batch once, with metadata that name the row, and commit its id (``batch.created``). Where the answer is
   lost, the batches of the project are listed. Where none of them has the metadata, the file is deleted, so that no
   request that is still under way can make one, and they are listed again. Only then the requests are free.
4. *Wait*: the batch is asked about at growing intervals, and a webhook says that it has ended.
5. *Read* the results as a stream, some at a time in one transaction (``batch.take``): each is known by the
   ``custom_id`` of its line, and is taken once. What was run is kept, however the batch has ended.
6. What the batch has not run is queued again (``batch.rest``), and may be sent another time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from airflow_provider_aihandoff.core.generation.batch_provider import BatchStatus

#: The metadata that goes with a batch and is listed with it: the row, its set, and the ledger.
BATCH_METADATA = ("aihandoff_batch", "aihandoff_set", "aihandoff_ledger")

#: For how long the results of a batch are waited for after the deadline of its requests: it is stopped then, and what
#: was run until then is paid.
RESULTS_WITHIN = timedelta(hours=2)

_CUSTOM_ID = re.compile(r"([0-9]{1,18})\.([0-9]{1,9})\.([0-9]{1,18})", re.ASCII)


class BatchState(StrEnum):
    """How far a batch has come."""

    FILLING = "filling"  # its requests are being written down; nothing of it can exist at the provider
    CREATING = "creating"  # its file is there, and the batch may exist
    RUNNING = "running"  # the provider has taken it
    ENDED = "ended"  # the provider is done with it, and its results are to be read
    READ = "read"  # each request has its result, or is free again
    ABANDONED = "abandoned"  # it was never created, and its requests are free again


@dataclass(frozen=True)
class Batch:
    """A batch, as the ledger has it at one moment.

    :param lines: how many requests it was made of.
    :param provider_status: what the provider, or its webhook, has said last.
    :param result_files: the provider's ids of the files with its results.
    :param completed: how many requests the provider counts as completed, and as ``failed``; None: it has not said.
    :param why: why it was abandoned, stopped or given up, as a sentence.
    :param deadline: of its requests.
    """

    batch_id: int
    set_id: int
    conn_id: str
    state: BatchState
    token: UUID | None
    lease_until: datetime | None
    lines: int
    file_id: str | None
    provider_id: str | None
    provider_status: BatchStatus | None
    result_files: tuple[str, ...]
    completed: int | None
    failed: int | None
    why: str | None
    deadline: datetime
    created_at: datetime
    sent_at: datetime | None
    cancelled_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime

    def __post_init__(self) -> None:
        object.__setattr__(self, "state", BatchState(self.state))
        object.__setattr__(self, "result_files", tuple(self.result_files))
        if self.provider_status is not None:
            object.__setattr__(self, "provider_status", BatchStatus(self.provider_status))

    @property
    def label(self) -> str:
        """How messages name it."""
        at_provider = f" ({self.provider_id})" if self.provider_id else ""
        return f"batch {self.batch_id}{at_provider} of set {self.set_id}"

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done about it."""
        return self.state in (BatchState.READ, BatchState.ABANDONED)

    def is_left(self, at: datetime) -> bool:
        """Whether the attempt that was filling or creating it has stopped without an outcome."""
        sending = self.state in (BatchState.FILLING, BatchState.CREATING)
        return sending and (self.token is None or self.lease_until is None or self.lease_until <= at)

    def metadata(self, ledger_id: str) -> dict[str, str]:
        """By which it is found again at the provider."""
        return dict(zip(BATCH_METADATA, (str(self.batch_id), str(self.set_id), ledger_id), strict=True))

    def in_words(self) -> str:
        """Its state as people read it."""
        asked = self.cancelled_at is not None and self.state is BatchState.RUNNING
        said = "being stopped" if asked else _WORDS[self.state]
        if self.state is BatchState.READ and self.provider_status is not None:
            said = f"{self.provider_status.value}, and read"
        return said


_WORDS = {
    BatchState.FILLING: "being filled",
    BatchState.CREATING: "being created",
    BatchState.RUNNING: "running",
    BatchState.ENDED: "ended, and being read",
    BatchState.READ: "read",
    BatchState.ABANDONED: "never created",
}


def custom_id(job_id: int, number: int, batch_id: int) -> str:
    """What tells the line of a request: its job, its revision, and the batch that it was intended for."""
    return f"{job_id}.{number}.{batch_id}"


def read_custom_id(text: str) -> tuple[int, int, int] | None:
    """What :func:`custom_id` has made: job, revision and batch; None where it was made by others."""
    match = _CUSTOM_ID.fullmatch(text)
    return None if match is None else (int(match[1]), int(match[2]), int(match[3]))
