"""Servers that speak the Responses API and lack something that OpenAI has: what a job comes to on each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.generation import settle
from airflow_provider_aihandoff.core.generation import submit as submit_module
from airflow_provider_aihandoff.core.generation.stop import cancel_job
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import JobState, RevisionState
from airflow_provider_aihandoff.hooks import model_provider
from airflow_provider_aihandoff.testing import OpenAIStandIn, ServerKind
from airflow_provider_aihandoff.triggers import polling
from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger
from tests.integration.operators.conftest import API_KEY, Model, RunDag
from tests.integration.operators.tasks import NOTE, ask, fault
from tests.integration.operators.test_response import breaks
from tests.integration.operators.test_reviewing import decide, people, pipeline
from tests.target import Target

Record = Callable[[], JobRecord]
Serve = Callable[..., Any]

NO_BACKGROUND = ServerKind(background=False)
NO_STORAGE = ServerKind(stores=False)
NEITHER = ServerKind(background=False, stores=False, cancels=False)
NO_CANCEL = ServerKind(cancels=False)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Put a server of a kind behind the connection."""
    monkeypatch.setattr(polling, "GONE_AFTER", 0.2)

    @contextmanager
    def serve(kind: ServerKind, delay_seconds: float = 0.1) -> Iterator[OpenAIStandIn]:
        model = Model()
        stand_in = OpenAIStandIn(delay_seconds=delay_seconds, responders=[model], kind=kind)
        with stand_in.serve() as running:
            openai = {"conn_type": "openai", "password": API_KEY, "host": running.base_url}
            monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(openai))
            monkeypatch.setattr(model_provider, "_shared", type(model_provider._shared)())
            yield stand_in

    return serve


@pytest.mark.parametrize("kind", [NO_BACKGROUND, NEITHER], ids=["stores", "stores nothing"])
@pytest.mark.parametrize("words", ["", "status=incomplete", "status=failed", "refusal"])
def test_what_a_create_brings_is_taken_and_not_asked_for_again(
    run: RunDag, record: Record, serve: Serve, kind: ServerKind, words: str
) -> None:
    with serve(kind) as stand_in:
        done = run(lambda: ask(max_revisions=1, metadata=fault(words)))

    revision = record().revision
    assert (stand_in.responses().creates, stand_in.responses().retrieves) == (1, 0)
    assert revision.response_id == stand_in.responses().responses[0].response["id"]
    if words:
        assert (done.states, record().job.state) == ({"draft": "failed"}, JobState.FAILED)
        assert (revision.error or {})["kind"] in ("incomplete", "failed", "refusal")
    else:
        assert done.states == {"draft": "success"}
        assert (record().job.state, revision.state, revision.output) == (
            JobState.REVIEW,
            RevisionState.COMPLETED,
            NOTE,
        )
    assert (revision.usage is not None) is (words != "status=failed")


def test_a_change_that_a_reviewer_asks_for_is_taken_from_the_create_as_well(
    run: RunDag, ledger: Ledger, record: Record, serve: Serve, target: Target
) -> None:
    with serve(NEITHER) as stand_in, people(ledger, decide("request changes", "Shorter."), decide("approve")):
        done = run(pipeline)

    assert done.states == {"draft": "success", "approve": "success", "publish": "success"}
    assert [revision.state for revision in record().revisions] == [RevisionState.COMPLETED] * 2
    assert stand_in.responses().creates == 2
    # The server does not have the first answer: the whole conversation is sent, and not its id.
    assert "previous_response_id" not in stand_in._state.responses()[1].request


def test_a_response_that_is_not_found_for_long_fails_with_the_likely_reasons(
    run: RunDag, record: Record, serve: Serve
) -> None:
    with serve(NO_STORAGE):
        done = run(lambda: ask(max_revisions=1, inline_wait=timedelta(0)))

    assert record().revision.error == {"kind": "gone"}
    for reason in ("404", "store=false", "zero data retention", "another project's key", "keeps no responses"):
        assert reason in done.error("draft")


def test_one_that_has_ended_by_webhook_and_is_not_found_says_the_same(
    ledger: Ledger, serve: Serve, connections: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "READ_TRIES", 2)
    with (
        serve(NO_STORAGE),
        model_provider.providers() as provider_for,
        pytest.raises(settle.ResponseUnreadable, match="zero data retention"),
    ):
        settle.read_ended(provider_for("openai_default"), "resp_1", sleep=lambda _: None)


def test_a_server_without_background_mode_that_is_slow_is_named_in_the_history(
    run: RunDag, record: Record, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit_module, "SUBMIT_TIMEOUT", 0.3)
    monkeypatch.setattr(submit_module, "backoff", lambda *_, **__: 0.0)
    with serve(NO_BACKGROUND, delay_seconds=30) as stand_in:
        done = run(lambda: ask(max_revisions=1))

    assert "the server may have no background mode" in done.error("draft")
    lost = [str(event.reason) for event in record().events if event.event == "submit unknown"]
    assert len(lost) == len(stand_in.responses().responses) == 2
    assert all("as from a server without background mode" in reason for reason in lost)


@pytest.mark.parametrize("kind", [NO_CANCEL, NO_STORAGE], ids=["cannot cancel", "stores nothing"])
def test_a_job_is_cancelled_although_its_response_cannot_be(
    run: RunDag, ledger: Ledger, record: Record, serve: Serve, kind: ServerKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenAIBackgroundResponseTrigger, "run", breaks([]))
    with serve(kind, delay_seconds=60) as stand_in, model_provider.providers() as provider_for:
        run(lambda: ask(inline_wait=timedelta(0), retries=0))
        job = record().job
        assert job.state is JobState.RUNNING
        done = cancel_job(ledger, provider_for, job.job_id, actor=Actor.user("bob"), reason="not wanted")

    assert done.state is JobState.CANCELLED
    assert stand_in.responses().cancels == 1
