"""OpenAI's Batch API behind the seam, on real HTTP: what its answers mean."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from openai import OpenAI

from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.generation.batch_provider import BatchStatus, ModelBatch, batches_of
from airflow_provider_aihandoff.core.generation.openai import batches_api
from airflow_provider_aihandoff.core.generation.openai.batches_api import BatchesApi
from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
from airflow_provider_aihandoff.core.generation.provider import (
    ModelResponse,
    ProviderError,
    ResponseNotFound,
    Sent,
    SubmitFailure,
)
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.fake_provider import FakeProvider

REQUEST = {"model": "gpt-5.2", "input": "Write.", "metadata": {"ours": "7"}}


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client(clock: Clock) -> Iterator[OpenAI]:
    with (
        OpenAIStandIn(batch_seconds=100, clock=clock).serve() as running,
        OpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
    ):
        yield client


@pytest.fixture
def api(client: OpenAI) -> Any:
    return batches_of(OpenAIProvider(client))


def made(api: BatchesApi, *words: str, **metadata: str) -> ModelBatch:
    lines = [api.line(f"{number}.1.1", _with(each), {"job": "1"}) for number, each in enumerate(words)]
    file_id = api.upload("lines.jsonl", io.BytesIO(b"".join(lines)), timeout=5)
    assert isinstance(file_id, str)
    batch = api.create(file_id, metadata, timeout=5)
    assert isinstance(batch, ModelBatch)
    return batch


def _with(words: str) -> dict[str, Any]:
    return {**REQUEST, "metadata": {"standin": words}} if words else REQUEST


def test_a_line_is_the_request_stored_and_with_its_metadata() -> None:
    api = BatchesApi(OpenAI(api_key="any"), ToolPrices())
    line = json.loads(api.line("1.2.3", {**REQUEST, "extra_body": {"user": "bob"}}, {"job": "1"}))
    assert line == {
        "custom_id": "1.2.3",
        "method": "POST",
        "url": "/v1/responses",
        "body": {
            "model": "gpt-5.2",
            "input": "Write.",
            "user": "bob",
            "store": True,
            "metadata": {"ours": "7", "job": "1"},
        },
    }


@pytest.mark.parametrize("name", ["background_options", "extra_headers", "extra_query", "service_tier"])
def test_what_is_about_a_single_request_is_refused(name: str) -> None:
    api = BatchesApi(OpenAI(api_key="any"), ToolPrices())
    with pytest.raises(RequestError, match=f"{name} cannot be in a request of a batch"):
        api.line("1.2.3", {**REQUEST, name: "x"}, {})


def test_a_text_that_is_no_unicode_cannot_be_a_line() -> None:
    api = BatchesApi(OpenAI(api_key="any"), ToolPrices())
    with pytest.raises(RequestError, match="cannot be a line of a batch"):
        api.line("1.2.3", {"input": "\ud800"}, {})


def test_results_say_what_became_of_each_line(api: BatchesApi, clock: Clock) -> None:
    batch = made(api, "", "create=400", "create=500", "status=failed", "batch_end=expired", "", "", "", "", "")
    assert batch.status is BatchStatus.RUNNING
    clock.now += 101
    ended = api.retrieve(batch.id)
    assert (ended.status, ended.completed, ended.failed, len(ended.files)) == (BatchStatus.EXPIRED, 3, 2, 2)
    found = {each.custom_id: each for file_id in ended.files for each in api.results(file_id)}
    assert len(found) == 10
    answered = found["0.1.1"].response
    assert answered is not None
    assert (answered.status, answered.metadata["job"]) == (ResponseStatus.COMPLETED, "1")
    failed = found["3.1.1"].response
    assert failed is not None
    assert failed.status is ResponseStatus.FAILED
    assert (found["1.1.1"].is_final, found["1.1.1"].reason) == (
        True,
        "OpenAI answered 400: Injected by the stand-in: invalid prompt",
    )
    assert (found["2.1.1"].is_final, found["2.1.1"].was_run) == (False, True)
    assert (found["9.1.1"].was_run, found["9.1.1"].code) == (False, "batch_expired")


def test_one_is_found_by_its_metadata_among_many(
    api: BatchesApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = datetime.fromtimestamp(clock.now, UTC)
    monkeypatch.setattr(batches_api, "_PAGE", 2)
    wanted = made(api, "", ours="1", more="x")
    for number in range(2, 6):
        made(api, "", ours=str(number))
    found = api.find({"ours": "1"}, since=since)
    assert found is not None
    assert found.id == wanted.id
    assert api.find({"ours": "1", "more": "y"}, since=since) is None


def test_where_too_many_are_newer_it_is_not_taken_for_lost(
    api: BatchesApi, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = datetime.fromtimestamp(clock.now, UTC)
    monkeypatch.setattr(batches_api, "SEARCHED", 3)
    for number in range(4):
        made(api, "", ours=str(number))
    with pytest.raises(ProviderError, match="3 batches that are newer"):
        api.find({"ours": "0"}, since=since)
    assert api.find({"ours": "0"}, since=since + timedelta(hours=2)) is None, "all of them are older than that"


def test_stopping_one_that_has_ended_says_how_it_has_ended(api: BatchesApi, clock: Clock) -> None:
    batch = made(api, "")
    assert getattr(api.cancel(batch.id), "status", None) is BatchStatus.CANCELLING
    clock.now += 50
    assert getattr(api.cancel(batch.id), "status", None) is BatchStatus.CANCELLED
    assert api.cancel("batch_unknown") is None


def test_one_that_is_not_there_is_not_found(api: BatchesApi) -> None:
    with pytest.raises(ResponseNotFound):
        api.retrieve("batch_unknown")
    api.delete_file("file-unknown")  # it is gone, which is what was wanted


@pytest.mark.parametrize(
    ("fault", "sent"),
    [
        ("500", Sent.NO),
        ("400", Sent.NEVER),
        ("429_quota", Sent.SPENT),
        ("html", Sent.UNKNOWN),
        ("drop_after_accept", Sent.UNKNOWN),
    ],
)
def test_what_is_known_of_a_creation_that_failed(api: BatchesApi, fault: str, sent: Sent) -> None:
    line = api.line("1.1.1", _with(f"batch={fault}"), {})
    file_id = api.upload("lines.jsonl", io.BytesIO(line), timeout=5)
    assert isinstance(file_id, str)
    failed = api.create(file_id, {}, timeout=5)
    assert isinstance(failed, SubmitFailure)
    assert failed.sent is sent


@pytest.mark.parametrize("fault", ["html", "drop", "503", "404"])
def test_a_file_that_cannot_be_read_now_is_read_again(api: BatchesApi, clock: Clock, fault: str) -> None:
    batch = made(api, f"results={fault}")
    clock.now += 101
    (file_id,) = api.retrieve(batch.id).files
    with pytest.raises(ProviderError):
        list(api.results(file_id))
    assert [each.custom_id for each in api.results(file_id)] == ["0.1.1"]


@pytest.mark.parametrize("line", [b'{"custom_id": "1.2.3", "response": NaN}', b'{"custom_id": "1.2.3", "response": [}'])
def test_a_line_that_cannot_be_read_is_for_a_person_and_may_be_paid(line: bytes) -> None:
    found = batches_api._result(line, ToolPrices())
    assert (found.custom_id, found.response, found.is_final, found.is_paid) == ("1.2.3", None, True, True)


def test_a_batch_costs_half() -> None:
    facts = OpenAIFacts()
    usage = {"input_tokens": 1000, "output_tokens": 1000, "total_tokens": 2000}
    response = ModelResponse("resp_1", ResponseStatus.COMPLETED, model="gpt-5.2", usage=usage)
    whole, half = facts.price(response, REQUEST), facts.price(response, facts.in_batch(REQUEST))
    assert whole is not None
    assert half == whole / 2
    worst, half_worst = (
        facts.worst_case({**each, "max_output_tokens": 100}).cost_usd for each in (REQUEST, facts.in_batch(REQUEST))
    )
    assert worst is not None
    assert half_worst is not None
    assert Decimal("0.49") * worst < half_worst < Decimal("0.6") * worst, "its own words count too"


def test_a_provider_without_batches_says_so() -> None:
    with pytest.raises(RequestError, match="has no batches"):
        batches_of(FakeProvider())
