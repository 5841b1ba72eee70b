"""OpenAI's Batch API behind the seam, by its SDK: ``/v1/batches`` with lines for ``/v1/responses``."""

from __future__ import annotations

import json
import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import IO, Any, Final

from openai import OpenAI

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.generation.batch_provider import (
    BatchStatus,
    LineResult,
    ModelBatch,
    ModelBatches,
)
from airflow_provider_aihandoff.core.generation.openai.answers import read_response, response_id_of
from airflow_provider_aihandoff.core.generation.openai.failures import asking_failed, classify
from airflow_provider_aihandoff.core.generation.openai.request import batch_body
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
from airflow_provider_aihandoff.core.generation.provider import (
    ProviderError,
    ResponseNotFound,
    Sent,
    SubmitFailure,
)

log = logging.getLogger(__name__)

ENDPOINT: Final = "/v1/responses"

_STATUSES = {
    "validating": BatchStatus.RUNNING,
    "in_progress": BatchStatus.RUNNING,
    "finalizing": BatchStatus.RUNNING,
    "cancelling": BatchStatus.CANCELLING,
    "completed": BatchStatus.COMPLETED,
    "failed": BatchStatus.FAILED,
    "expired": BatchStatus.EXPIRED,
    "cancelled": BatchStatus.CANCELLED,
}

#: Codes of lines that were not run when their batch ended.
_NOT_RUN = frozenset({"batch_expired", "batch_cancelled"})

#: Statuses of a line's answer after which the same request may be taken.
_PASSING = frozenset({408, 409, 429})

#: How many of the newest batches of the project are searched for one whose id was lost, and in pages of how many.
SEARCHED, _PAGE = 2_000, 100

#: By how much the clock of the provider and that of the ledger may differ.
_CLOCKS = timedelta(hours=1)

#: Where a line of a result names its request, by an id of ours.
_CUSTOM_ID = re.compile(rb'"custom_id"\s*:\s*"([A-Za-z0-9._-]{1,128})"')

#: Characters of a reason that a line gives.
_REASON = 500


class BatchesApi(ModelBatches):
    """The batches of the project that the key of a client belongs to.

    :param client: with its time-outs, and its retries off.
    """

    max_lines = 50_000
    max_bytes = 200_000_000
    window = timedelta(hours=24)

    def __init__(self, client: OpenAI, tool_prices: ToolPrices) -> None:
        self._batches, self._files, self._tool_prices = client.batches, client.files, tool_prices

    def line(self, custom_id: str, request: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
        """As :meth:`ModelBatches.line`."""
        body = batch_body(request, metadata)
        line = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
        try:
            return json.dumps(line, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        except (TypeError, ValueError) as error:  # a value that JSON does not have, or a lone surrogate
            raise RequestError(f"the request cannot be a line of a batch: {error}.") from None

    def upload(self, name: str, content: IO[bytes], *, timeout: float) -> str | SubmitFailure:
        """As :meth:`ModelBatches.upload`."""
        try:
            file = self._files.create(file=(name, content), purpose="batch", timeout=timeout)
        except Exception as error:  # noqa: BLE001 - every error must be classified and recorded
            return classify(error)
        file_id = response_id_of(file)
        return file_id or SubmitFailure(Sent.NO, "the answer was not a file object")

    def create(self, file_id: str, metadata: Mapping[str, str], *, timeout: float) -> ModelBatch | SubmitFailure:
        """As :meth:`ModelBatches.create`."""
        try:
            batch = self._batches.create(
                input_file_id=file_id,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata=dict(metadata),
                timeout=timeout,
            )
            return _read(batch)
        except ProviderError as error:
            return SubmitFailure(Sent.UNKNOWN, error.what.rstrip("."))
        except Exception as error:  # noqa: BLE001
            return classify(error)

    def find(self, metadata: Mapping[str, str], *, since: datetime) -> ModelBatch | None:
        """As :meth:`ModelBatches.find`. OpenAI lists the newest first."""
        wanted = dict(metadata).items()
        try:
            for number, batch in enumerate(self._batches.list(limit=_PAGE), start=1):
                found = batch.metadata if isinstance(batch.metadata, Mapping) else {}
                if wanted <= found.items():
                    return _read(batch)
                created_at = _moment(batch.created_at)
                if created_at is not None and created_at < since - _CLOCKS:
                    return None
                if number >= SEARCHED:
                    break
            else:
                return None
        except Exception as error:  # noqa: BLE001 - not chained: its text quotes headers
            raise asking_failed(error, "its batches") from None
        # Whether it is among the older ones is not known: to take it for lost could pay for it twice.
        raise ProviderError(f"OpenAI has {SEARCHED:,} batches that are newer than the lost one.", remedy="Ask again.")

    def retrieve(self, batch_id: str) -> ModelBatch:
        """As :meth:`ModelBatches.retrieve`."""
        try:
            return _read(self._batches.retrieve(batch_id), batch_id)
        except Exception as error:  # noqa: BLE001
            raise asking_failed(error, batch_id) from None

    def cancel(self, batch_id: str) -> ModelBatch | None:
        """As :meth:`ModelBatches.cancel`. One that has ended is refused: what it is then counts."""
        try:
            return _read(self._batches.cancel(batch_id), batch_id)
        except Exception as error:  # noqa: BLE001 - it is asked about instead
            log.info("Cancelling batch %s: %s; asking about it.", batch_id, type(error).__name__)
        try:
            return self.retrieve(batch_id)
        except ProviderError as error:
            log.warning("After cancelling batch %s: %s", batch_id, error.what)
            return None

    def results(self, file_id: str) -> Iterator[LineResult]:
        """As :meth:`ModelBatches.results`."""
        try:
            # First to the disk: what is done with the results takes longer than a server waits for its reader.
            with tempfile.TemporaryFile(prefix="aihandoff-results-") as kept:
                with self._files.with_streaming_response.content(file_id) as answer:
                    for part in answer.iter_bytes():
                        kept.write(part)
                kept.seek(0)
                for line in kept:
                    if line.strip():
                        yield _result(line, self._tool_prices)
        except Exception as error:  # noqa: BLE001
            raise asking_failed(error, file_id) from None

    def delete_file(self, file_id: str) -> None:
        """As :meth:`ModelBatches.delete_file`."""
        try:
            self._files.delete(file_id)
        except Exception as error:  # noqa: BLE001
            failed = asking_failed(error, file_id)
            if not isinstance(failed, ResponseNotFound):
                raise failed from None


def read_batch(answer: Any, batch_id: str) -> ModelBatch:
    """What an answer of OpenAI says about a batch.

    :param batch_id: the id that was asked for.
    :raises ProviderError: the answer is no batch, or another one.
    """
    return _read(answer, batch_id)


def _read(answer: Any, batch_id: str | None = None) -> ModelBatch:
    found = response_id_of(answer)
    named = getattr(answer, "status", None)
    if found is None or batch_id not in (None, found) or not isinstance(named, str):
        raise ProviderError(f"asked OpenAI for {batch_id or 'a batch'}, got something else.", remedy="Ask again.")
    if named not in _STATUSES:
        log.warning("The batch %s has a status that is not known here: %r; waiting on.", found, named)
    files = (getattr(answer, "output_file_id", None), getattr(answer, "error_file_id", None))
    counts = getattr(answer, "request_counts", None)
    metadata = getattr(answer, "metadata", None)
    return ModelBatch(
        id=found,
        status=_STATUSES.get(named, BatchStatus.RUNNING),
        files=tuple(each for each in files if isinstance(each, str) and each),
        total=_count(counts, "total"),
        completed=_count(counts, "completed"),
        failed=_count(counts, "failed"),
        problem=_problem_of(answer),
        metadata=dict(metadata) if isinstance(metadata, Mapping) else {},
        created_at=_moment(getattr(answer, "created_at", None)),
    )


def _count(counts: Any, name: str) -> int | None:
    number = getattr(counts, name, None)
    return number if isinstance(number, int) else None


def _moment(at: Any) -> datetime | None:
    try:
        return datetime.fromtimestamp(at, UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def _problem_of(answer: Any) -> str | None:
    """What is wrong with a batch that failed: the first of its errors."""
    errors = getattr(getattr(answer, "errors", None), "data", None)
    for each in errors if isinstance(errors, list) else ():
        message = getattr(each, "message", None) or getattr(each, "code", None)
        if message:
            return str(message)[:_REASON].rstrip(".")
    return None


def _result(line: bytes, tool_prices: ToolPrices) -> LineResult:
    """What one line of a result says.

    :raises ProviderError: it is no line of a result.
    """
    named = _CUSTOM_ID.search(line)
    if named is None:  # such as an HTML page
        raise ProviderError("a line of the results names no request.", remedy="Reading again is safe.")
    custom_id = named[1].decode("ascii")
    try:
        said = strict_json.loads(line)
        answer, error = said.get("response"), said.get("error")
    except (strict_json.NotJson, AttributeError):
        return LineResult(custom_id, is_final=True, is_paid=True, reason="its result cannot be read", code="unreadable")
    if not isinstance(answer, dict):
        code, message = _error(error)
        return LineResult(custom_id, was_run=code not in _NOT_RUN, reason=message, code=code)
    status, body = answer.get("status_code"), answer.get("body")
    if status == 200 and isinstance(body, dict):
        response_id = response_id_of(body)
        if response_id is not None:
            return LineResult(custom_id, read_response(body, response_id, tool_prices))
    code, message = _error(body.get("error") if isinstance(body, dict) else None)
    is_final = isinstance(status, int) and 400 <= status < 500 and status not in _PASSING
    return LineResult(custom_id, is_final=is_final, reason=f"OpenAI answered {status}: {message}", code=code)


def _error(error: Any) -> tuple[str | None, str]:
    """The code and the message of an error, cut to what is said of it."""
    if not isinstance(error, dict):
        return None, "no reason given"
    code = error.get("code")
    message = str(error.get("message") or code or "no reason given")[:_REASON].rstrip(".")
    return code if isinstance(code, str) else None, message
