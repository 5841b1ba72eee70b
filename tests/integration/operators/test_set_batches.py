"""A set whose requests go in batches: paid once, kept whatever becomes of the batch, and moved where it is late."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.sets import batch_send
from airflow_provider_aihandoff.core.sets.batch_record import BatchState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.integration.operators.conftest import Model, RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.test_sets import ITEMS, draft_set, requests_of, states


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost is searched for after a moment."""
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__INLINE_WAIT", "0")
    monkeypatch.setattr(batch_send, "CREATE_TIMEOUT", 1.0)
    monkeypatch.setattr(batch_send, "CREATE_LEASE", timedelta(seconds=2))
    monkeypatch.setattr(batch_send, "_CREATE_WITHIN", 1.0)
    monkeypatch.setattr(batch_send, "FILL_LEASE", timedelta(seconds=1))


def batch_set(words: str = "", **arguments: Any) -> Any:
    return draft_set(transport="batch", metadata={"standin": f"batch_delay=0.5 {words}"}, **arguments)


def called(stand_in: OpenAIStandIn, method: str, path: str) -> int:
    return sum((each.method, each.path) == (method, path) for each in stand_in.requests())


def test_all_requests_go_in_one_file_and_each_answer_finds_its_job(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    done = run(lambda: batch_set())
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["said"] == "7 completed"
    assert (called(stand_in, "POST", "/v1/files"), called(stand_in, "POST", "/v1/batches")) == (1, 1)
    assert (called(stand_in, "POST", "/v1/responses"), requests_of(stand_in)) == (0, 7)
    (batch,) = ledger.batches.of_set(done.xcoms["draft"]["set_id"])
    assert (batch.state, batch.lines, batch.completed, batch.failed) == (BatchState.READ, 7, 7, 0)
    for job in ledger.jobs(limit=100):
        record = ledger.record(job.job_id)
        response = next(
            each.response
            for each in stand_in.responses().responses
            if each.response["metadata"]["aihandoff_job"] == str(job.job_id)
        )
        assert (record.revision.response_id, record.revision.batch_id) == (response["id"], batch.batch_id)
        assert record.revision.cost_usd is not None
        events = [event.event for event in record.events]
        assert events[:4] == ["created", "submit intended", "submitted", "output accepted"]


def test_a_batch_costs_half(run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn) -> None:
    whole = run(lambda: draft_set([{"id": "a", "text": "A long text. " * 50}]))
    half = run(lambda: batch_set(items=[{"id": "b", "text": "A long text. " * 50}]))
    one, other = (float(done.xcoms["draft"]["cost_usd"]) for done in (whole, half))
    assert other == pytest.approx(one / 2)


def test_files_are_split_by_their_limits(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_aihandoff.core.generation.openai.batches_api import BatchesApi

    monkeypatch.setattr(BatchesApi, "max_lines", 3)
    done = run(lambda: batch_set())
    assert done.xcoms["draft"]["said"] == "7 completed"
    batches = ledger.batches.of_set(done.xcoms["draft"]["set_id"])
    assert sorted(batch.lines for batch in batches) == [1, 3, 3]
    monkeypatch.setattr(BatchesApi, "max_bytes", 1500)
    monkeypatch.setattr(BatchesApi, "max_lines", 100)
    items = [{"id": f"u{number}", "text": "x" * (5000 if number == 2 else 100)} for number in range(5)]
    done = run(lambda: batch_set(items=items, output_type=None))
    assert done.xcoms["draft"]["said"] == "4 completed, 1 failed"
    assert done.xcoms["draft"]["failures"] == {"refused request": 1}


@pytest.mark.parametrize("fault", ["drop_after_accept", "timeout_after_accept"])
def test_one_whose_answer_was_lost_is_found_and_not_made_twice(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _try_again_soon(monkeypatch)
    done = run(lambda: batch_set(f"batch={fault}"))
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["said"] == "7 completed"
    assert (called(stand_in, "POST", "/v1/batches"), requests_of(stand_in)) == (1, 7)
    (batch,) = ledger.batches.of_set(done.xcoms["draft"]["set_id"])
    assert batch.why == "The answer to its creation was lost; it was found by its metadata."


def _try_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow_provider_aihandoff.operators import response_set

    monkeypatch.setattr(response_set, "_TRY_AGAIN", timedelta(seconds=1))


@pytest.mark.parametrize("words", ["batch=500", "batch=429", "upload=503", "upload=drop_after_accept"])
def test_one_that_was_not_made_is_made_later(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _try_again_soon(monkeypatch)
    done = run(lambda: batch_set(words))
    assert done.state == "success", done.errors
    assert (done.xcoms["draft"]["said"], requests_of(stand_in)) == ("7 completed", 7)
    found = ledger.batches.of_set(done.xcoms["draft"]["set_id"])
    assert [batch.state for batch in found] == [BatchState.ABANDONED, BatchState.READ]


def test_one_that_is_refused_for_good_fails_the_task_and_nothing_is_paid(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    done = run(lambda: batch_set("batch=400"))
    assert done.states["draft"] == "failed"
    assert "no batch could be made: OpenAI answered 400 invalid_prompt" in done.error("draft")
    assert (states(ledger), requests_of(stand_in)) == ({"queued": 7}, 0)


def test_what_an_expired_batch_has_run_is_kept_and_the_rest_is_sent_again(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, model: Model
) -> None:
    def metadata(number: int) -> dict[str, str]:
        return {"standin": "batch_delay=0.5" + (" batch_end=expired" if number == 0 else "")}

    items = [{**item, "words": metadata(number)["standin"]} for number, item in enumerate(ITEMS)]
    done = run(lambda: draft_set(items, transport="batch", metadata={"standin": "{{ item.words }}"}))
    assert done.state == "success", done.errors
    assert (done.xcoms["draft"]["said"], requests_of(stand_in)) == ("7 completed", 7), "each is paid once"
    found = ledger.batches.of_set(done.xcoms["draft"]["set_id"])
    assert [(batch.lines, str(batch.provider_status)) for batch in found] == [(7, "expired"), (4, "completed")]


def test_lines_that_fail_hold_up_no_other(run: RunDag, ledger: Ledger, model: Model) -> None:
    items = [{**item, "words": f"batch_delay=0.5 {words}"} for item, words in zip(ITEMS, _WORDS, strict=False)]
    done = run(lambda: draft_set(items, transport="batch", max_revisions=1, metadata={"standin": "{{ item.words }}"}))
    assert done.xcoms["draft"]["said"] == "2 completed, 5 failed"
    assert done.xcoms["draft"]["failures"] == {
        "failed": 2,
        "incomplete": 1,
        "refusal": 1,
        "refused request": 1,
    }


_WORDS = ("create=400", "create=500", "status=failed", "status=incomplete", "refusal", "", "")


def test_results_that_cannot_be_read_now_are_read_again(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    _try_again_soon(monkeypatch)
    done = run(lambda: batch_set("results=drop times=2"))
    assert done.state == "success", done.errors
    assert (done.xcoms["draft"]["said"], requests_of(stand_in)) == ("7 completed", 7)


def test_a_clear_pays_only_for_what_is_missing(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, model: Model
) -> None:
    model.output = lambda request: "no JSON" if "Ticket 3" in request.input_text else {"title": "a", "body": "b"}
    dag = dags.make(lambda: batch_set(max_revisions=1))
    done = dags.run(dag)
    assert done.xcoms["draft"]["said"] == "6 completed, 1 failed"
    model.output = {"title": "a", "body": "b"}
    again = dags.clear(dags.make(lambda: batch_set(max_revisions=2), dag_id=dag.dag_id), done)
    assert again.xcoms["draft"]["said"] == "7 completed"
    assert requests_of(stand_in) == 8


def test_what_is_late_in_a_batch_is_moved_and_not_paid_twice(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_aihandoff.core.sets import transport

    monkeypatch.setitem(transport.WINDOWS, transport.Transport.BATCH, timedelta(seconds=1))
    monkeypatch.setattr(transport, "SPARE", timedelta(seconds=2))
    done = run(lambda: draft_set(complete_by=timedelta(seconds=5), metadata={"standin": "batch_delay=14"}))
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["said"] == "7 completed"
    made = [each.response for each in stand_in.responses().responses]
    in_background = [each for each in made if each["background"]]
    assert len(made) == 7, "nothing is paid twice"
    assert 0 < len(in_background) < 7
    found = ledger.sets.read(done.xcoms["draft"]["set_id"])
    assert found.transport == "background"
    assert "too soon for anything cheaper" in str(found.transport_why)
    (batch,) = ledger.batches.of_set(found.set_id)
    assert (str(batch.provider_status), batch.completed) == ("cancelled", 7 - len(in_background))


def test_what_is_late_in_a_completion_window_is_moved(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow_provider_aihandoff.core.sets import transport

    monkeypatch.setitem(transport.WINDOWS, transport.Transport.TWO_HOURS, timedelta(seconds=1))
    monkeypatch.setattr(transport, "SPARE", timedelta(seconds=2))
    items = [{**item, "words": "delay=0" if number < 3 else "delay=20"} for number, item in enumerate(ITEMS)]
    words = {"standin": "{{ item.words }}"}
    done = run(lambda: draft_set(items, complete_by=timedelta(seconds=6), max_revisions=2, metadata=words))
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["said"] == "7 completed"
    found = ledger.sets.read(done.xcoms["draft"]["set_id"])
    assert (found.transport, ledger.batches.of_set(found.set_id)) == ("background", [])
    windows = [
        [(each.request.get("background_options") or {}).get("completion_window") for each in record.revisions]
        for record in (ledger.record(job.job_id) for job in ledger.jobs(limit=100))
    ]
    assert sorted(windows, key=len) == [["2h"]] * 3 + [["2h", None]] * 4
    statuses = sorted(each.response["status"] for each in stand_in.responses().responses)
    assert statuses == ["cancelled"] * 4 + ["completed"] * 7, "nothing that was answered is asked for again"
