"""A batch of the stand-in: its lines are run by the clock, and its results come as OpenAI's do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI

from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.unit.testing.conftest import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stand_in(clock: Clock) -> OpenAIStandIn:
    return OpenAIStandIn(batch_seconds=100, clock=clock)


@pytest.fixture
def client(stand_in: OpenAIStandIn) -> Iterator[OpenAI]:
    with (
        stand_in.serve() as running,
        OpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
    ):
        yield client


def line(number: int, words: str = "", **more: Any) -> dict[str, Any]:
    body = {"model": "gpt-5.2", "input": f"Write {number}.", "metadata": {"standin": words}}
    return {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/responses", "body": body, **more}


def retrieve(client: OpenAI, batch: Any) -> Any:
    return client.batches.retrieve(batch.id)


def upload(client: OpenAI, *lines: dict[str, Any]) -> str:
    content = "".join(json.dumps(each) + "\n" for each in lines).encode()
    return client.files.create(file=("lines.jsonl", content), purpose="batch").id


def create(client: OpenAI, *lines: dict[str, Any], **metadata: str) -> Any:
    return client.batches.create(
        input_file_id=upload(client, *lines),
        endpoint="/v1/responses",
        completion_window="24h",
        metadata=metadata,
    )


def results(client: OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    return {each["custom_id"]: each for each in map(json.loads, client.files.content(file_id).text.splitlines())}


def test_it_goes_through_its_states_and_leaves_a_result_for_each_line(
    client: OpenAI, clock: Clock, stand_in: OpenAIStandIn
) -> None:
    batch = create(client, *map(line, range(4)), ours="7")
    seen = [batch.status]
    for _ in range(4):
        clock.advance(30)
        seen.append(client.batches.retrieve(batch.id).status)
    assert seen == ["validating", "in_progress", "in_progress", "finalizing", "completed"]
    batch = retrieve(client, batch)
    assert (batch.metadata, batch.error_file_id, batch.request_counts.completed) == ({"ours": "7"}, None, 4)
    found = results(client, batch.output_file_id)
    assert [*found] == ["line-3", "line-2", "line-1", "line-0"], "not in the order of the requests"
    assert found["line-0"]["response"]["body"]["status"] == "completed"
    assert len(stand_in.responses().responses) == 4, "what was run is a response, and is paid"


def test_a_line_that_is_refused_is_in_the_error_file(client: OpenAI, clock: Clock) -> None:
    batch = create(client, line(0), line(1, "create=400"), line(2, body={"model": "gpt-5.2"}))
    clock.advance(101)
    batch = retrieve(client, batch)
    assert [*results(client, batch.output_file_id)] == ["line-0"]
    errors = results(client, batch.error_file_id)
    assert {name: each["response"]["status_code"] for name, each in errors.items()} == {"line-1": 400, "line-2": 400}


def test_one_that_expires_keeps_what_was_run(client: OpenAI, clock: Clock) -> None:
    batch = create(client, *(line(number, "batch_end=expired") for number in range(4)))
    clock.advance(101)
    batch = retrieve(client, batch)
    assert batch.status == "expired"
    assert {*results(client, batch.output_file_id)} == {"line-0", "line-1"}
    left = results(client, batch.error_file_id)
    assert {name: each["error"]["code"] for name, each in left.items()} == {
        "line-2": "batch_expired",
        "line-3": "batch_expired",
    }


def test_one_that_is_cancelled_keeps_what_was_run(client: OpenAI, clock: Clock, stand_in: OpenAIStandIn) -> None:
    batch = create(client, *map(line, range(4)))
    clock.advance(60)
    assert client.batches.cancel(batch.id).status == "cancelling"
    clock.advance(11)
    batch = retrieve(client, batch)
    assert (batch.status, batch.error_file_id) == ("cancelled", None)
    assert {*results(client, batch.output_file_id)} == {"line-0", "line-1"}
    assert len(stand_in.responses().responses) == 2
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_they_are_listed_the_newest_first_in_pages(client: OpenAI) -> None:
    made = [create(client, line(0), ours=str(number)).id for number in range(3)]
    assert [each.id for each in client.batches.list(limit=2)] == made[::-1]
    page = client.batches.list(after=made[1], limit=2)
    assert [each.metadata for each in page.data] == [{"ours": "0"}]


def test_a_file_that_no_batch_can_be_made_of_fails_it(client: OpenAI, clock: Clock) -> None:
    batch = create(client, line(0), line(0))
    clock.advance(11)
    batch = retrieve(client, batch)
    assert (batch.status, batch.errors.data[0].message) == ("failed", "The custom_id of a line occurs twice.")


@pytest.mark.parametrize("fault", ["500", "429"])
def test_the_creation_can_fail_once(client: OpenAI, fault: str) -> None:
    with pytest.raises(openai.APIStatusError):
        create(client, line(0, f"batch={fault} id=one"))
    assert create(client, line(0, f"batch={fault} id=one")).status == "validating"


def test_the_answer_to_a_creation_can_be_lost(client: OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        create(client, line(0, "batch=drop_after_accept"), ours="7")
    assert [each.metadata for each in client.batches.list()] == [{"ours": "7"}]


def test_a_file_can_be_lost_deleted_and_read(client: OpenAI) -> None:
    with pytest.raises(openai.APIConnectionError):
        upload(client, line(0, "upload=drop_after_accept"))
    file_id = upload(client, line(0))
    assert json.loads(client.files.content(file_id).text)["custom_id"] == "line-0"
    client.files.delete(file_id)
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id=file_id, endpoint="/v1/responses", completion_window="24h")


def test_results_can_fail_to_come(client: OpenAI, clock: Clock) -> None:
    batch = create(client, line(0, "results=503"))
    clock.advance(101)
    file_id = client.batches.retrieve(batch.id).output_file_id
    with pytest.raises(openai.InternalServerError):
        client.files.content(str(file_id))
    assert [*results(client, file_id)] == ["line-0"]


def test_a_restart_forgets_no_batch(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "state.jsonl"
    for count in (1, 2):
        with (
            OpenAIStandIn(batch_seconds=100, clock=clock, state_file=path).serve() as running,
            OpenAI(base_url=running.base_url, api_key="any", max_retries=0) as client,
        ):
            create(client, line(0))
            assert len(client.batches.list().data) == count
