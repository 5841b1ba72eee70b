"""What the stand-in does for the operations of the Files and the Batches API that sets need, faults included."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue
from starlette.responses import JSONResponse, PlainTextResponse, Response

from airflow_provider_aihandoff.testing.api_errors import ApiError, injected
from airflow_provider_aihandoff.testing.batch_lifecycle import (
    ENDED_BATCH_STATUSES,
    StoredBatch,
    StoredFile,
    StoredLine,
    batch_json,
    batch_status_at,
    error_lines,
    output_lines,
    run_lines,
)
from airflow_provider_aihandoff.testing.create_request import parse_create_request
from airflow_provider_aihandoff.testing.exchange import CutOffAnswer, Exchange, NoAnswer, html_page
from airflow_provider_aihandoff.testing.faults import Faults
from airflow_provider_aihandoff.testing.responses_api import ResponsesApi
from airflow_provider_aihandoff.testing.state import State

#: What one file may hold.
MAX_LINES, MAX_BYTES = 50_000, 200 * 1024 * 1024

_ENDPOINT = "/v1/responses"
_LOST = {"timeout_after_accept": NoAnswer, "drop_after_accept": CutOffAnswer}
_NO_FAULTS = Faults()


@dataclass(frozen=True)
class BatchesApi:
    """The operations; each notes in `exchange` what the log of requests shows. Called on one event loop.

    The faults of a batch are those that the first of its lines names which names any of a batch.
    """

    state: State
    responses: ResponsesApi
    clock: Callable[[], float]
    """The time, in Unix seconds."""
    delay_seconds: float
    """From the creation of a batch to its end, where no line says otherwise."""
    schedule_webhooks: Callable[[StoredBatch], None]
    """Called with each new batch, and with each whose end has changed."""

    def upload(self, filename: str, purpose: str, content: bytes, exchange: Exchange) -> Response:
        """`POST /v1/files`.

        Raises:
            ApiError: the file is refused, or a fault says so.
        """
        if len(content) > MAX_BYTES:
            raise ApiError(400, "The file is larger than 200 MB.", param="file", code="file_too_large")
        text = content.decode("utf-8")
        file = StoredFile(
            id=f"file-{uuid.uuid4().hex}", filename=filename, purpose=purpose, content=text, created_at=self.clock()
        )
        faults, key = _faults_of(text)
        fault = faults.upload
        if fault is None or not self.state.take_fault(f"upload {key}", faults.times):
            self.state.keep_file(file)
            return JSONResponse(_file_json(file))
        exchange.fault = f"upload={fault}"
        if fault in _LOST:
            self.state.keep_file(file)
            return _LOST[fault]()
        raise injected(fault)

    def file(self, file_id: str) -> Response:
        """`GET /v1/files/{id}`.

        Raises:
            ApiError: 404.
        """
        return JSONResponse(_file_json(self._file(file_id)))

    def delete_file(self, file_id: str) -> Response:
        """`DELETE /v1/files/{id}`. No batch can be created of it any longer.

        Raises:
            ApiError: 404.
        """
        self._file(file_id)
        self.state.delete_file(file_id)
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})

    def content(self, file_id: str, exchange: Exchange) -> Response:
        """`GET /v1/files/{id}/content`.

        Raises:
            ApiError: 404, or what a fault says.
        """
        now = self.clock()
        for batch in self.state.batches():
            if file_id not in (batch.output_file_id, batch.error_file_id):
                continue
            if batch_status_at(batch, now) not in ENDED_BATCH_STATUSES:
                break
            text = output_lines(batch, now) if file_id == batch.output_file_id else error_lines(batch, now)
            return self._faulty_content(batch, text, exchange)
        return PlainTextResponse(self._file(file_id).content)

    def _faulty_content(self, batch: StoredBatch, text: str, exchange: Exchange) -> Response:
        faults, _ = self._faults(batch.input_file_id)
        fault = faults.results
        if fault is None or not self.state.take_fault(f"results {batch.id}", faults.times):
            return PlainTextResponse(text)
        exchange.fault = f"results={fault}"
        match fault:
            case "html":
                return html_page()
            case "drop":
                return CutOffAnswer()
        raise injected(fault)

    def create(self, body: dict[str, JsonValue], exchange: Exchange) -> Response:
        """`POST /v1/batches`.

        Raises:
            ApiError: the batch is refused, or a fault says so.
        """
        if body.get("endpoint") != _ENDPOINT or body.get("completion_window") != "24h":
            raise ApiError(400, "The stand-in takes batches for /v1/responses within 24h.", param="endpoint")
        file = self._file(str(body.get("input_file_id")))
        if file.purpose != "batch":
            raise ApiError(400, "The file was not uploaded for a batch.", param="input_file_id")
        faults, key = _faults_of(file.content)
        fault = faults.batch
        if fault is None or not self.state.take_fault(f"batch {key}", faults.times):
            return self._answer(self._accept(file, body, faults, key))
        exchange.fault = f"batch={fault}"
        if fault in _LOST:
            self._accept(file, body, faults, key)
            return _LOST[fault]()
        if fault == "html":
            return html_page()
        raise injected(fault)

    def retrieve(self, batch_id: str, exchange: Exchange) -> Response:
        """`GET /v1/batches/{id}`.

        Raises:
            ApiError: 404, or what a fault says.
        """
        batch = self._batch(batch_id)
        faults, _ = self._faults(batch.input_file_id)
        fault = faults.batch_retrieve
        if fault is None or not self.state.take_fault(f"batch retrieve {batch_id}", faults.times):
            return self._answer(batch)
        exchange.fault = f"batch_retrieve={fault}"
        if fault == "html":
            return html_page()
        raise injected(fault)

    def list_page(self, after: str | None, limit: int) -> Response:
        """`GET /v1/batches`: one page, the newest first.

        Raises:
            ApiError: there is no batch with the id `after`.
        """
        newest = [*reversed(self.state.batches())]
        if after is not None:
            self._batch(after)
            newest = newest[[batch.id for batch in newest].index(after) + 1 :]
        page = newest[:limit]
        data = [batch_json(batch, self.clock()) for batch in page]
        ends = {"first_id": page[0].id, "last_id": page[-1].id} if page else {}
        return JSONResponse({"object": "list", "data": data, "has_more": len(newest) > limit, **ends})

    def cancel(self, batch_id: str) -> Response:
        """`POST /v1/batches/{id}/cancel`.

        Raises:
            ApiError: 404; 409 where it has ended.
        """
        batch, now = self._batch(batch_id), self.clock()
        status = batch_status_at(batch, now)
        if status in ENDED_BATCH_STATUSES:
            raise ApiError(409, f"Cannot cancel a batch with status '{status}'.")
        if batch.cancelled_at is None:
            batch = self.state.cancel_batch(batch_id, now)
            self.schedule_webhooks(batch)
        return self._answer(batch)

    def run_due(self) -> None:
        """Run the lines whose time has come: each makes a response, which can be retrieved and is paid."""
        now = self.clock()
        for batch in self.state.batches():
            for line in run_lines(batch, now):
                if line.response is not None and self.state.find(line.response.id) is None:
                    self.state.accept(line.response)

    def _answer(self, batch: StoredBatch) -> Response:
        self.run_due()
        return JSONResponse(batch_json(batch, self.clock()))

    def _file(self, file_id: str) -> StoredFile:
        file = self.state.find_file(file_id)
        if file is None or file.deleted:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return file

    def _batch(self, batch_id: str) -> StoredBatch:
        batch = self.state.find_batch(batch_id)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.")
        return batch

    def _faults(self, file_id: str) -> tuple[Faults, str]:
        file = self.state.find_file(file_id)
        return (_NO_FAULTS, "") if file is None else _faults_of(file.content)

    def _accept(self, file: StoredFile, body: dict[str, JsonValue], faults: Faults, key: str) -> StoredBatch:
        ends = faults.batch_end is not None and self.state.take_fault(f"batch_end {key}", faults.times)
        metadata = body.get("metadata")
        lines, problem = self._lines(file.content)
        batch = StoredBatch(
            id=f"batch_{uuid.uuid4().hex}",
            input_file_id=file.id,
            metadata={name: str(value) for name, value in metadata.items()} if isinstance(metadata, dict) else {},
            lines=lines,
            created_at=self.clock(),
            delay_seconds=self.delay_seconds if faults.batch_delay is None else faults.batch_delay,
            end="failed" if problem else (faults.batch_end if ends and faults.batch_end else "completed"),
            problem=problem or "Injected by the stand-in.",
        )
        self.state.keep_batch(batch)
        self.schedule_webhooks(batch)
        return batch

    def _lines(self, content: str) -> tuple[list[StoredLine], str | None]:
        """The lines of a file; and why the batch fails in its validation, if it does."""
        texts = content.splitlines()
        if not 0 < len(texts) <= MAX_LINES:
            return [], f"The file has {len(texts)} lines; at most {MAX_LINES} are taken."
        lines = []
        for text in texts:
            line = json.loads(text)
            if line.get("url") != _ENDPOINT or line.get("method") != "POST" or not line.get("custom_id"):
                return [], "A line has no custom_id, or is for another endpoint."
            lines.append(self._line(str(line["custom_id"]), line.get("body")))
        if len({line.custom_id for line in lines}) < len(lines):
            return [], "The custom_id of a line occurs twice."
        return lines, None

    def _line(self, custom_id: str, body: Any) -> StoredLine:
        try:
            request = parse_create_request(json.dumps(body).encode())
            faults = request.faults
            if faults.create is not None:
                raise injected(faults.create)
            response = self.responses.prepared(request, faults, delay_seconds=0.0)
        except ApiError as error:
            return StoredLine(custom_id=custom_id, status=error.status, error=error.body)
        return StoredLine(custom_id=custom_id, response=response)


def _file_json(file: StoredFile) -> dict[str, Any]:
    return {
        "id": file.id,
        "object": "file",
        "bytes": len(file.content.encode()),
        "created_at": int(file.created_at),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    }


def _faults_of(content: str) -> tuple[Faults, str]:
    """The faults of a file, and of a batch of it; and under what they are counted: their own name, else the input."""
    for text in content.splitlines():
        if "standin" not in text:
            continue
        try:
            request = parse_create_request(json.dumps(json.loads(text).get("body")).encode())
            faults = request.faults
        except (ApiError, ValueError, AttributeError):
            continue
        if faults.is_of_batch:
            return faults, faults.id or request.input_text
    return _NO_FAULTS, ""
