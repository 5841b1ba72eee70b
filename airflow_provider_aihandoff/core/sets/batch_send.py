"""The outer half of a batch: its file is filled, uploaded once, and made a batch once.

The requests are written to a file on the worker's disk as they come, with the secrets that the ledger does not keep, so
that the memory does not grow with their number. A worker that dies leaves a batch that was never created, or one that
is found at the provider: see :func:`recover`.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.error_text import cleaned
from airflow_provider_aihandoff.core.errors import BatchRefused, RequestError
from airflow_provider_aihandoff.core.generation.batch_provider import ModelBatch, batches_of
from airflow_provider_aihandoff.core.generation.provider import ModelProvider, Sent, SubmitFailure, own_metadata
from airflow_provider_aihandoff.core.models import Actor, Job, Revision
from airflow_provider_aihandoff.core.sets.batch_record import Batch, BatchState, custom_id
from airflow_provider_aihandoff.core.sets.batch_store import PAGE, Line

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.generation.provider import WorstCase
    from airflow_provider_aihandoff.core.ledger import Ledger

log = logging.getLogger(__name__)

#: Seconds that the upload of a file, and the creation of a batch, may take.
UPLOAD_TIMEOUT, CREATE_TIMEOUT = 600.0, 60.0

#: For how long after each of its pages no other attempt gives up a batch that is being filled, or uploaded. To give one
#: up is safe at any time: its attempt gets no permission to create it then.
FILL_LEASE = timedelta(seconds=45)

#: How long the permission to create it is valid: longer than the request may take.
CREATE_LEASE = timedelta(seconds=CREATE_TIMEOUT + 30)

#: Seconds after the permission, within which the creation must be sent to finish before it expires.
_CREATE_WITHIN = CREATE_LEASE.total_seconds() - CREATE_TIMEOUT

#: Stands for the ``custom_id`` of a line, and is longer than one: so the size of a file is not underestimated.
_NO_ID = "0" * 48

_SUSPENDED = "This process was suspended between the permission to create the batch and the request."


@dataclass
class BatchSender:
    """Puts requests into batches of a set, as many as it takes. Used as a context manager, which sends the last one.

    An error that it raises leaves the batch at hand to :func:`recover`; the batches before are sent.

    :param price: the most that a request can need.
    :param done: called with what became of each request: ``sent``, ``held``, ``failed``, ``moved on`` or ``not taken``.
    """

    ledger: Ledger
    provider: ModelProvider
    set_id: int
    conn_id: str
    actor: Actor
    price: Callable[[Mapping[str, Any]], WorstCase]
    done: Callable[[str], None]
    _page: list[tuple[Line, bytes]] = field(default_factory=list)
    _batch: Batch | None = None
    _file: IO[bytes] | None = None
    _bytes: int = 0
    _lines: int = 0

    def __post_init__(self) -> None:
        self._api = batches_of(self.provider)
        self._ledger_id = self.ledger.ledger_id()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
                self.send()
        finally:
            self._forget()

    def add(self, job: Job, revision: Revision, request: Mapping[str, Any]) -> None:
        """Put the request of a queued revision into a batch. One that cannot be in a batch fails its job.

        :param request: with its secrets.
        :raises HandoffError: as :meth:`flush` and :meth:`send`.
        """
        try:
            whole = self._line(job, revision, request)
        except RequestError as error:
            reason = {"kind": "refused request", "message": error.what, "final": True}
            self.ledger.outputs.fail(job.job_id, revision.number, actor=self.actor, reason=error.what, error=reason)
            log.warning("%s: %s", job.label, error.what)
            self.done("failed")
            return
        line = Line(job.job_id, revision.number, self.price(self.provider.in_batch(request)))
        waiting = sum(len(text) for _, text in self._page)
        if self._lines + len(self._page) >= self._api.max_lines or (
            self._bytes + waiting + len(whole) > self._api.max_bytes
        ):
            self.flush()
            self.send()
        self._page.append((line, whole))
        if len(self._page) >= PAGE:
            self.flush()

    def _line(self, job: Job, revision: Revision, request: Mapping[str, Any]) -> bytes:
        """A request as it stands in the file, but for the id of its batch, which may not be there yet.

        :raises RequestError: such a request cannot be in a batch.
        """
        whole = self._api.line(_NO_ID, request, own_metadata(job.job_id, revision.number, self._ledger_id))
        if len(whole) > self._api.max_bytes:
            raise RequestError(f"the request has {len(whole):,} bytes, more than a whole batch may have.")
        return whole

    def flush(self) -> None:
        """Commit the intents of the requests at hand, and write their lines.

        :raises BatchMovedOn: another attempt has given up the batch.
        """
        if not self._page:
            return
        if self._batch is None:
            self._batch = self.ledger.batches.open(self.set_id, self.conn_id, lease=FILL_LEASE)
            self._file = tempfile.TemporaryFile(prefix="aihandoff-batch-")  # noqa: SIM115 - closed by `_forget`
        assert self._file is not None
        page, self._page = self._page, []
        lines = [line for line, _ in page]
        taken, left = self.ledger.batches.intend(self._batch, lines, actor=self.actor, lease=FILL_LEASE)
        for line, text in page:
            if line.job_id in taken:
                named = custom_id(line.job_id, line.number, self._batch.batch_id).encode()
                text = text.replace(_NO_ID.encode(), named, 1)
                self._file.write(text)
                self._bytes, self._lines = self._bytes + len(text), self._lines + 1
            else:
                self.done(left.get(line.job_id, "moved on"))

    def send(self) -> None:
        """Upload the file, and create the batch.

        :raises BatchMovedOn: another attempt has given up the batch.
        :raises BatchRefused: the provider takes no batch of it, whatever is tried.
        """
        if self._batch is None or self._file is None:
            return
        batch, lines = self._batch, self._lines
        try:
            outcome = self._send(batch, self._file) if lines else "empty"
        finally:
            self._forget()
        if outcome == "empty":
            self.ledger.batches.abandon(batch, actor=self.actor, why="None of its requests may be sent now.")
            return
        for _ in range(lines):
            self.done(outcome)

    def _send(self, batch: Batch, file: IO[bytes]) -> str:
        file.flush()
        file.seek(0)
        reached("batch.upload", "before call")
        uploaded = self._api.upload(f"aihandoff-{self._ledger_id}-{batch.batch_id}.jsonl", file, timeout=UPLOAD_TIMEOUT)
        if isinstance(uploaded, SubmitFailure):  # whatever there is at the provider, no batch is made of it
            return self._not_sent(batch, uploaded, "upload its file")
        reached("batch.upload", "after call")
        asked = time.monotonic()
        batch = self.ledger.batches.uploaded(batch, uploaded, lease=CREATE_LEASE)
        reached("batch.create", "before call")
        if time.monotonic() - asked >= _CREATE_WITHIN:
            return self._not_sent(batch, SubmitFailure(Sent.NO, _SUSPENDED.rstrip(".")), "create it")
        created = self._api.create(uploaded, batch.metadata(self._ledger_id), timeout=CREATE_TIMEOUT)
        if isinstance(created, SubmitFailure):
            if created.sent in (Sent.UNKNOWN, Sent.RUNS):
                log.warning("The answer to the creation of %s was lost: %s.", batch.label, cleaned(created.reason))
                return "not taken"
            return self._not_sent(batch, created, "create it")
        reached("batch.create", "after call")
        self._record(batch, created)
        return "sent"

    def _record(self, batch: Batch, created: ModelBatch) -> None:
        def say() -> None:
            log.error(
                "The ledger cannot record that %s is %s now. It is found by its metadata.", batch.label, created.id
            )

        recorded = self.ledger.batches.created(batch, created, actor=self.actor, keep=say)
        log.info("%s has %s requests.", recorded.label, recorded.lines)

    def _not_sent(self, batch: Batch, failure: SubmitFailure, doing: str) -> str:
        """Free the requests of a batch that was not created.

        :raises BatchRefused: it would be refused again.
        """
        reason = cleaned(failure.reason)
        log.warning("%s: the provider did not %s: %s.", batch.label, doing, reason)
        spent = failure.sent is Sent.SPENT
        self.ledger.batches.abandon(batch, actor=self.actor, why=f"{reason}.", spent=spent, heard=failure.heard)
        if failure.sent is Sent.NEVER:
            raise BatchRefused(
                f"no batch could be made: {reason}.",
                written="Nothing of it was paid, and no external write was made.",
                remedy='Fix the connection or the account, or use transport="background"; then clear this task.',
            )
        return "held" if spent else "not taken"

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
        self._batch, self._file, self._bytes, self._lines = None, None, 0, 0


def recover(ledger: Ledger, provider: ModelProvider, batch: Batch, *, actor: Actor) -> Batch:
    """Find out what became of a batch whose attempt has left it: it is found at the provider, or its requests are free.

    Does nothing while its attempt may still be sending it.

    :return: the batch as it is now.
    :raises ProviderError: the provider could not be asked; nothing was changed.
    """
    now = ledger.now()
    if not batch.is_left(now):
        return batch
    if batch.state is BatchState.FILLING:
        why = "Its attempt ended before the batch was created."
        return ledger.batches.abandon(batch, actor=actor, why=why, is_left=True)
    api, metadata = batches_of(provider), batch.metadata(ledger.ledger_id())
    reached("batch.list", "before call")
    found = api.find(metadata, since=batch.created_at)
    if found is None:
        # What is still under way to the provider can make no batch of a file that is gone.
        assert batch.file_id is not None
        api.delete_file(batch.file_id)
        found = api.find(metadata, since=batch.created_at)
    reached("batch.list", "after call")
    if found is not None:
        return ledger.batches.created(batch, found, actor=actor, found=True)
    why = "The answer to its creation was lost; the provider has no such batch, and its file is deleted."
    return ledger.batches.abandon(batch, actor=actor, why=why, is_left=True)
