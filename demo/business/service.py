"""Receives writes: each idempotency key at most once, each request into the witness log before it is answered."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from demo.business.store import Answer, RefusedError, Store, Write
from demo.business.witness import Entry, Outcome, WitnessLog


@dataclass(frozen=True)
class Request:
    """A request as it came in."""

    method: str
    path: str
    idempotency_key: str | None = None
    body: bytes = b""

    @property
    def digest(self) -> str:
        """SHA-256 of the body."""
        return hashlib.sha256(self.body).hexdigest()


class Business:
    """The company: its data, its log, and the keys that it has seen.

    The data lives in memory. At start it is rebuilt from the seeds and the writes that the log says were applied.
    """

    def __init__(self, log_file: Path, more_tickets: int = 0, more_products: int = 0) -> None:
        self.store = Store(more_tickets, more_products)
        self.log = WitnessLog(log_file)
        self._lock = Lock()
        self._answered: dict[str, tuple[Request, Answer]] = {}
        for entry in self.log.entries:
            if entry.outcome is Outcome.APPLIED:
                request = Request(entry.method, entry.path, entry.idempotency_key, entry.body.encode())
                self._remember(request, self.store.apply(_write(request, entry.time)))

    def write(self, request: Request) -> tuple[Answer, Outcome]:
        """Apply a write, or answer it as before when its idempotency key is known.

        :raises RefusedError: when it is not valid, or its key was used for another request.
        """
        with self._lock:
            now = datetime.now(UTC).isoformat()
            try:
                known = self._known_answer(request)
                answer = known or self.store.apply(_write(request, now))
            except RefusedError as error:
                self._record(request, now, error.status, Outcome.REFUSED)
                raise
            outcome = Outcome.REPLAYED if known else Outcome.APPLIED
            self._record(request, now, answer.status, outcome, answer.record_id)
            self._remember(request, answer)
            return answer, outcome

    def read(self, request: Request, status: int) -> None:
        """Record that something was asked for."""
        with self._lock:
            self._record(request, datetime.now(UTC).isoformat(), status, Outcome.READ)

    def _known_answer(self, request: Request) -> Answer | None:
        if request.idempotency_key not in self._answered:
            return None
        first, answer = self._answered[request.idempotency_key]
        if request != first:
            raise RefusedError(422, f"Idempotency-Key {first.idempotency_key} was used for another request.")
        return answer

    def _remember(self, request: Request, answer: Answer) -> None:
        if request.idempotency_key is not None:
            self._answered.setdefault(request.idempotency_key, (request, answer))

    def _record(self, request: Request, time: str, status: int, outcome: Outcome, record_id: str | None = None) -> None:
        entry = Entry(
            sequence=len(self.log.entries) + 1,
            time=time,
            method=request.method,
            path=request.path,
            idempotency_key=request.idempotency_key,
            body_sha256=request.digest,
            body=request.body.decode(errors="replace"),
            status=status,
            outcome=outcome,
            record_id=record_id,
        )
        self.log.append(entry)


def _write(request: Request, time: str) -> Write:
    return Write(request.method, request.path, request.body, time)
