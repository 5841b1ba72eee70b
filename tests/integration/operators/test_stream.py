"""A job whose response can be watched is the same job: asked once, and read as ever."""

from __future__ import annotations

from datetime import timedelta

import psycopg
import pytest

from airflow_provider_aihandoff.core.generation.live_response import live_response
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.operators import responding
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import NOTE, ask, ask_unapproved, fault

SOON = timedelta(seconds=4)


def test_its_output_is_that_of_a_job_without_a_stream_and_no_event_is_read(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    for job_key, stream in (("plain", False), ("watched", True)):
        assert run(lambda key=job_key, on=stream: ask_unapproved(job_key=key, stream=on)).state == "success"
    watched, plain = (ledger.record(job.job_id) for job in ledger.jobs())
    assert watched.job.job_key == "watched"
    assert watched.job.state is plain.job.state is JobState.COMPLETED
    assert watched.revision.output == plain.revision.output == NOTE
    assert watched.revision.output_digest == plain.revision.output_digest
    assert watched.revision.usage == plain.revision.usage
    assert watched.revision.cost_usd == plain.revision.cost_usd
    assert [event.event for event in watched.events] == [event.event for event in plain.events]
    assert (watched.revision.request["stream"], "stream" in plain.revision.request) == (True, False)
    reports = stand_in.responses()
    assert (reports.creates, [each.streams for each in reports.responses]) == (2, [0, 0])


def test_it_is_the_same_work_with_and_without(dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn) -> None:
    for stream in (False, True):
        dags.run(dags.make(lambda on=stream: ask(stream=on)))  # type: ignore[misc]
    (job,) = ledger.jobs()
    assert (job.revision, stand_in.responses().creates) == (1, 1)


def test_a_request_whose_answer_is_lost_is_that_of_any_other_job(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    lost = fault("create=drop_after_accept")
    assert run(lambda: ask_unapproved(stream=True, metadata=lost, on_lost_submission="resend")).state == "success"
    record = ledger.record(1)
    assert (record.revision.submissions, record.revision.unknown_submissions) == (2, 1)
    assert stand_in.responses().creates == 2
    assert live_response(ledger, record.job) is None


def test_a_worker_that_waits_by_itself_records_that_the_response_runs(
    run: RunDag, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responding, "NOTE_EVERY", 0.1)
    run(lambda: ask_unapproved(metadata=fault("stuck=in_progress"), inline_wait=timedelta(seconds=2), deadline=SOON))
    with psycopg.connect(**ledger._database.conninfo) as connection:
        (seen,) = connection.execute("SELECT revision FROM aihandoff.signs WHERE job_id = 1").fetchall()
    assert seen == (ledger.job(1).revision,)
