"""Batches of a model provider in memory. A batch runs until a test ends it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import IO, Any

from airflow_provider_aihandoff.core.generation.batch_provider import (
    BatchStatus,
    HasBatches,
    LineResult,
    ModelBatch,
    ModelBatches,
)
from airflow_provider_aihandoff.core.generation.provider import ModelResponse, ProviderError, SubmitFailure
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.fake_provider import FakeProvider


class FakeBatches(ModelBatches):
    """Keeps files and batches, and each call that it got.

    :ivar refusals: what the next uploads and creations answer.
    :ivar hidden: batches that are not listed the next time.
    """

    max_lines = 50_000
    max_bytes = 200_000_000
    window = timedelta(hours=24)

    def __init__(self) -> None:
        self.files: dict[str, list[dict[str, Any]]] = {}
        self.batches: dict[str, ModelBatch] = {}
        self.left: dict[str, list[LineResult]] = {}
        self.calls: list[str] = []
        self.upload_refusals: list[SubmitFailure] = []
        self.create_refusals: list[SubmitFailure] = []
        self.lost = False
        self.hidden = 0
        self.down = False

    def line(self, custom_id: str, request: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
        return json.dumps({"custom_id": custom_id, "body": {**request, "metadata": dict(metadata)}}).encode() + b"\n"

    def upload(self, name: str, content: IO[bytes], *, timeout: float) -> str | SubmitFailure:
        self.calls.append("upload")
        if self.upload_refusals:
            return self.upload_refusals.pop(0)
        file_id = f"file_{len(self.calls)}"
        self.files[file_id] = [json.loads(line) for line in content]
        return file_id

    def create(self, file_id: str, metadata: Mapping[str, str], *, timeout: float) -> ModelBatch | SubmitFailure:
        self.calls.append("create")
        if self.create_refusals and not self.lost:
            return self.create_refusals.pop(0)
        lines = len(self.files[file_id])
        made = ModelBatch(f"batch_{len(self.batches)}", BatchStatus.RUNNING, total=lines, metadata=dict(metadata))
        self.batches[made.id] = made
        return self.create_refusals.pop(0) if self.create_refusals else made

    def find(self, metadata: Mapping[str, str], *, since: datetime) -> ModelBatch | None:
        self.calls.append("find")
        self._check()
        if self.hidden:
            self.hidden -= 1
            return None
        return next((each for each in self.batches.values() if each.metadata == metadata), None)

    def retrieve(self, batch_id: str) -> ModelBatch:
        self.calls.append("retrieve")
        self._check()
        return self.batches[batch_id]

    def cancel(self, batch_id: str) -> ModelBatch | None:
        self.calls.append("cancel")
        if not self.batches[batch_id].ended:
            self.batches[batch_id] = replace(self.batches[batch_id], status=BatchStatus.CANCELLING)
        return self.batches[batch_id]

    def results(self, file_id: str) -> Iterator[LineResult]:
        self.calls.append("results")
        self._check()
        yield from self.left[file_id]

    def delete_file(self, file_id: str) -> None:
        self.calls.append("delete")
        self._check()
        self.files.pop(file_id, None)

    def _check(self) -> None:
        if self.down:
            raise ProviderError("OpenAI did not answer.")

    def end(self, batch_id: str, status: BatchStatus, *left: LineResult) -> None:
        """Let a batch end, with these results."""
        self.left[f"{batch_id}.out"] = list(left)
        self.batches[batch_id] = replace(self.batches[batch_id], status=status, files=(f"{batch_id}.out",))


class FakeBatchProvider(FakeProvider, HasBatches):
    """A provider in memory that has batches."""

    def __init__(self) -> None:
        super().__init__()
        self.api = FakeBatches()

    def batches(self) -> FakeBatches:
        return self.api


def answered(custom_id: str, text: str = "A kettle.", response_id: str | None = None) -> LineResult:
    """The result of a request that was run, and is billed."""
    response = ModelResponse(
        response_id or f"resp_{custom_id}", ResponseStatus.COMPLETED, text=text, usage={"tokens": 3}
    )
    return LineResult(custom_id, response)
