"""What the stand-in remembers: responses, requests, webhooks and faults already served; optionally in a file.

Every change is an event. With a file, each event is appended as one JSON line before it takes effect, so
that a stand-in that was killed starts again with its responses.
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from airflow_provider_aihandoff.testing.batch_lifecycle import StoredBatch, StoredFile
from airflow_provider_aihandoff.testing.lifecycle import StoredResponse
from airflow_provider_aihandoff.testing.webhook_events import Kind, WebhookAttempt


class LoggedRequest(BaseModel):
    """One request to `/v1`, in the order in which they were answered."""

    model_config = ConfigDict(frozen=True)

    at: float
    """Unix time, in seconds."""
    method: str
    path: str
    status: int | None
    """HTTP status; None when the client got no complete answer."""
    response_id: str | None = None
    """The response that was created, or asked for."""
    fault: str | None = None
    """The fault that was injected, such as `create=500`."""
    after: int | None = None
    """Of a stream of events: after which one it began; -1 for the first."""


class State:
    """Thread-safe. Changes are made by the methods that are named by verbs, and only by them.

    Args:
        path: the file to start from and to append to; it is made if it does not exist.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: the file is not a log of this class.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._path = path
        self._forget()
        if path is not None:
            path.touch()
            self._replay(path)

    def accept(self, response: StoredResponse) -> None:
        """Store a new response."""
        self._record({"event": "accepted", "response": response.model_dump(mode="json")})

    def open_conversation(self, conversation_id: str) -> None:
        """Store a new conversation."""
        self._record({"event": "conversation", "id": conversation_id})

    def has_conversation(self, conversation_id: str) -> bool:
        """Whether there is a conversation with this id."""
        with self._lock:
            return conversation_id in self._conversations

    def in_conversation(self, conversation_id: str) -> list[StoredResponse]:
        """The responses of a conversation, oldest first."""
        with self._lock:
            return [self._responses[response_id] for response_id in self._conversations[conversation_id]]

    def cancel(self, response_id: str, at: float) -> StoredResponse:
        """Note that a response was cancelled at `at` (Unix time); the response as it is now."""
        with self._lock:
            self._record({"event": "cancelled", "id": response_id, "at": at})
            return self._responses[response_id]

    def delete(self, response_id: str) -> None:
        """Note that a response was deleted."""
        self._record({"event": "deleted", "id": response_id})

    def keep_file(self, file: StoredFile) -> None:
        """Store a file that was uploaded."""
        self._record({"event": "file", "file": file.model_dump(mode="json")})

    def delete_file(self, file_id: str) -> None:
        """Note that a file was deleted."""
        self._record({"event": "file deleted", "id": file_id})

    def find_file(self, file_id: str) -> StoredFile | None:
        """The file with this id, deleted or not."""
        with self._lock:
            return self._files.get(file_id)

    def keep_batch(self, batch: StoredBatch) -> None:
        """Store a new batch."""
        self._record({"event": "batch", "batch": batch.model_dump(mode="json")})

    def cancel_batch(self, batch_id: str, at: float) -> StoredBatch:
        """Note that a batch was cancelled at `at` (Unix time); the batch as it is now."""
        with self._lock:
            self._record({"event": "batch cancelled", "id": batch_id, "at": at})
            return self._batches[batch_id]

    def find_batch(self, batch_id: str) -> StoredBatch | None:
        """The batch with this id."""
        with self._lock:
            return self._batches.get(batch_id)

    def batches(self) -> list[StoredBatch]:
        """All batches, oldest first."""
        with self._lock:
            return list(self._batches.values())

    def log(self, request: LoggedRequest) -> None:
        """Append to the list of requests."""
        self._record({"event": "request", "request": request.model_dump(mode="json")})

    def log_webhook(self, attempt: WebhookAttempt) -> None:
        """Append to the list of webhooks, unless the response was forgotten while the webhook was under way."""
        with self._lock:
            if attempt.kind == "direct" or self._knows(attempt.response_id):
                self._record({"event": "webhook", "attempt": attempt.model_dump(mode="json")})

    def take_fault(self, key: str, times: int) -> bool:
        """Whether the fault counted under `key` is to happen again; if so, that counts."""
        with self._lock:
            if self._faults_taken[key] >= times:
                return False
            self._record({"event": "fault", "key": key})
            return True

    def reset(self) -> None:
        """Forget everything."""
        self._record({"event": "reset"})

    def find(self, response_id: str) -> StoredResponse | None:
        """The response with this id, deleted or not."""
        with self._lock:
            return self._responses.get(response_id)

    def responses(self) -> list[StoredResponse]:
        """All responses, oldest first."""
        with self._lock:
            return list(self._responses.values())

    def requests(self) -> list[LoggedRequest]:
        """All requests, oldest first."""
        with self._lock:
            return list(self._requests)

    def webhooks(self) -> list[WebhookAttempt]:
        """All attempts to deliver a webhook, oldest first."""
        with self._lock:
            return list(self._webhooks)

    def webhook_attempts(self, webhook_id: str, kind: Kind) -> int:
        """How often this webhook was sent."""
        with self._lock:
            return self._webhook_attempts[webhook_id, kind]

    def is_sent(self, webhook_id: str, kind: Kind) -> bool:
        """Whether this webhook needs no other attempt."""
        with self._lock:
            return (webhook_id, kind) in self._webhooks_sent

    def _forget(self) -> None:
        self._responses: dict[str, StoredResponse] = {}
        self._conversations: dict[str, list[str]] = {}
        self._files: dict[str, StoredFile] = {}
        self._batches: dict[str, StoredBatch] = {}
        self._requests: list[LoggedRequest] = []
        self._faults_taken: Counter[str] = Counter()
        self._webhooks: list[WebhookAttempt] = []
        self._webhook_attempts: Counter[tuple[str, Kind]] = Counter()
        self._webhooks_sent: set[tuple[str, Kind]] = set()

    def _record(self, event: dict[str, Any]) -> None:
        with self._lock:
            if self._path is not None:
                with self._path.open("a", encoding="utf-8") as log:
                    log.write(json.dumps(event) + "\n")
            self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        match event:
            case {"event": "accepted", "response": response}:
                stored = StoredResponse.model_validate(response)
                self._responses[stored.id] = stored
                if stored.conversation_id is not None:
                    self._conversations[stored.conversation_id].append(stored.id)
            case {"event": "conversation", "id": conversation_id}:
                self._conversations[conversation_id] = []
            case {"event": "cancelled", "id": response_id, "at": at}:
                self._change(response_id, cancelled_at=at)
            case {"event": "deleted", "id": response_id}:
                self._change(response_id, deleted=True)
            case {"event": "request", "request": request}:
                self._requests.append(LoggedRequest.model_validate(request))
            case {"event": "fault", "key": key}:
                self._faults_taken[key] += 1
            case {"event": "webhook", "attempt": attempt}:
                self._apply_webhook(WebhookAttempt.model_validate(attempt))
            case {"event": "reset"}:
                self._forget()
            case _:
                self._apply_batch(event)

    def _apply_batch(self, event: dict[str, Any]) -> None:
        match event:
            case {"event": "file", "file": file}:
                self._files[file["id"]] = StoredFile.model_validate(file)
            case {"event": "file deleted", "id": file_id}:
                self._files[file_id] = self._files[file_id].model_copy(update={"deleted": True})
            case {"event": "batch", "batch": batch}:
                self._batches[batch["id"]] = StoredBatch.model_validate(batch)
            case {"event": "batch cancelled", "id": batch_id, "at": at}:
                self._batches[batch_id] = self._batches[batch_id].model_copy(update={"cancelled_at": at})
            case _:
                raise ValueError(f"Not an event of the stand-in: {event}")

    def _apply_webhook(self, attempt: WebhookAttempt) -> None:
        self._webhooks.append(attempt)
        name = attempt.webhook_id, attempt.kind
        self._webhook_attempts[name] += 1
        if attempt.last:
            self._webhooks_sent.add(name)

    def _knows(self, about: str | None) -> bool:
        return about in self._responses or about in self._batches

    def _change(self, response_id: str, **changes: Any) -> None:
        self._responses[response_id] = self._responses[response_id].model_copy(update=changes)

    def _replay(self, path: Path) -> None:
        """Apply the events in the file, and cut off a last line that a kill left unfinished."""
        finished, newline, unfinished = path.read_bytes().rpartition(b"\n")
        if unfinished:
            os.truncate(path, len(finished + newline))
        for line in finished.splitlines():
            self._apply(json.loads(line))
