"""A stored batch and its life by the clock: validated, in progress, finalized, ended. Pure: the time is an argument."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from airflow_provider_aihandoff.testing.lifecycle import StoredResponse, as_json, status_at

BatchEnd = Literal["completed", "expired", "failed"]

ENDED_BATCH_STATUSES = frozenset({"completed", "failed", "expired", "cancelled"})

# The parts of its time at which a batch is validated, and at which its last line was run.
_VALIDATED, _RUN = 0.1, 0.9

# How long a cancelled batch is `cancelling`, as a part of the time of the whole.
_CANCELLING = 0.1

_WINDOW_SECONDS = 86_400


class StoredFile(BaseModel):
    """A file that was uploaded."""

    model_config = ConfigDict(frozen=True)

    id: str
    filename: str
    purpose: str
    content: str
    created_at: float
    """Unix time, in seconds."""
    deleted: bool = False


class StoredLine(BaseModel):
    """One request of a batch, and what it comes to if it is run: a response, or an error."""

    model_config = ConfigDict(frozen=True)

    custom_id: str
    response: StoredResponse | None = None
    status: int = 200
    """HTTP status of the answer to it."""
    error: dict[str, Any] | None = None
    """The body of an answer that is an error."""


class StoredBatch(BaseModel):
    """What the stand-in keeps of one batch; everything that a client sees follows from it and the time."""

    model_config = ConfigDict(frozen=True)

    id: str
    input_file_id: str
    metadata: dict[str, str]
    lines: list[StoredLine]
    created_at: float
    """Unix time, in seconds."""
    delay_seconds: float
    """From creation to the end."""
    end: BatchEnd = "completed"
    """How it ends by itself. One that expires has run the first half of its lines."""
    problem: str | None = None
    """Why it fails in its validation."""
    cancelled_at: float | None = None

    @property
    def output_file_id(self) -> str:
        """The file with what was run."""
        return "file-" + self.id.removeprefix("batch_") + "out"

    @property
    def error_file_id(self) -> str:
        """The file with what could not be answered."""
        return "file-" + self.id.removeprefix("batch_") + "err"


def batch_ends_at(batch: StoredBatch) -> float:
    """Unix time at which it takes its last status."""
    if batch.cancelled_at is not None:
        return batch.cancelled_at + batch.delay_seconds * _CANCELLING
    share = _VALIDATED if batch.end == "failed" else 1.0
    return batch.created_at + batch.delay_seconds * share


def batch_status_at(batch: StoredBatch, now: float) -> str:
    """The status that a retrieve at `now` (Unix time) shows."""
    ended = now >= batch_ends_at(batch)
    if batch.cancelled_at is not None:
        return "cancelled" if ended else "cancelling"
    if ended:
        return batch.end
    share = (now - batch.created_at) / batch.delay_seconds
    if share < _VALIDATED:
        return "validating"
    return "in_progress" if share < _RUN else "finalizing"


def run_lines(batch: StoredBatch, now: float) -> list[StoredLine]:
    """The lines that have been run by `now`, in their order; in the end all, unless it expires or is stopped."""
    if batch.end == "failed":
        return []
    until = now if batch.cancelled_at is None else min(now, batch.cancelled_at)
    number = len(batch.lines)
    first, last = batch.delay_seconds * _VALIDATED, batch.delay_seconds * _RUN
    whole = number // 2 if batch.end == "expired" else number
    step = (last - first) / number
    done = whole if until >= batch.created_at + last else max(0, int((until - batch.created_at - first) / step))
    return batch.lines[: min(done, whole)]


def batch_json(batch: StoredBatch, now: float) -> dict[str, Any]:
    """The Batch object of OpenAI's API at `now`."""
    status, run = batch_status_at(batch, now), run_lines(batch, now)
    failed = sum(line.error is not None for line in run)
    ended = status in ENDED_BATCH_STATUSES
    at = int(batch_ends_at(batch))
    errors = {"object": "list", "data": [{"code": "invalid_request", "message": batch.problem, "line": 1}]}
    moments = {f"{each}_at": at if status == each else None for each in ("completed", "failed", "expired", "cancelled")}
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": "/v1/responses",
        "errors": errors if status == "failed" else None,
        "input_file_id": batch.input_file_id,
        "completion_window": "24h",
        "status": status,
        "output_file_id": batch.output_file_id if ended and len(run) > failed else None,
        "error_file_id": batch.error_file_id if ended and _errors(batch, run) else None,
        "created_at": int(batch.created_at),
        "expires_at": int(batch.created_at) + _WINDOW_SECONDS,
        "request_counts": {"total": len(batch.lines), "completed": len(run) - failed, "failed": failed},
        "metadata": batch.metadata,
        **moments,
    }


def output_lines(batch: StoredBatch, now: float) -> str:
    """The content of the output file. Results come in another order than requests."""
    run = [line for line in run_lines(batch, now) if line.response is not None]
    return "".join(json.dumps(_result(line)) + "\n" for line in reversed(run))


def error_lines(batch: StoredBatch, now: float) -> str:
    """The content of the error file: the requests that were refused, and those that expired."""
    return "".join(json.dumps(each) + "\n" for each in _errors(batch, run_lines(batch, now)))


def _errors(batch: StoredBatch, run: list[StoredLine]) -> list[dict[str, Any]]:
    refused = [_result(line) for line in run if line.error is not None]
    left = batch.lines[len(run) :] if batch.end == "expired" and batch.cancelled_at is None else []
    message = "This request could not be executed before the completion window expired."
    expired = {"response": None, "error": {"code": "batch_expired", "message": message}}
    return [*refused, *({"id": "", "custom_id": line.custom_id, **expired} for line in left)]


def _result(line: StoredLine) -> dict[str, Any]:
    body = line.error
    if line.response is not None:
        body = as_json(line.response, status_at(line.response, line.response.accepted_at + 1))
    answer = {"status_code": line.status, "request_id": "req_standin", "body": body}
    return {"id": "batch_req_standin", "custom_id": line.custom_id, "response": answer, "error": None}
