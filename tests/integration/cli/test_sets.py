"""`airflow aihandoff sets`: how far many jobs of one task have come."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli.sets import bar
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.sets.set_record import JobSet, LeftOut, LeftOutItem, LeftOutReason
from airflow_provider_aihandoff.core.sets.set_store import SetSpec
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import OWNER, TEST, draft, in_batch, job_spec, submit
from tests.integration.cli.conftest import Airflow

CANCELLED = "No request will be sent from now on, and no external write will be made."


def made(ledger: Ledger) -> JobSet:
    left_out = LeftOut()
    left_out.add(LeftOutItem(3, LeftOutReason.NOT_RENDERED, "'text' is not defined"))
    found = ledger.sets.open(SetSpec("publishing", "nightly", "alice", OWNER, timedelta(hours=1)), left_out)
    ledger.submission.open_many([job_spec(job_key=key, set_id=found.set_id) for key in ("a", "b")])
    return ledger.sets.opened(found.set_id, 3, left_out)


def test_sets_are_listed_and_shown_with_their_counts(airflow: Airflow, on_ledger: Ledger) -> None:
    found = made(on_ledger)
    (row,) = json.loads(airflow("sets", "list", "-o", "json"))
    assert (row["set_id"], row["phase"], row["said"]) == (found.set_id, "drafting", "2 queued, 1 left out")
    shown = airflow("sets", "show", found.set_id)
    assert "left out: item 3: 'text' is not defined" in shown
    listed = json.loads(airflow("jobs", "list", "--set", found.set_id, "-o", "json"))
    assert sorted(each["job_key"] for each in listed) == ["a", "b"]


def test_a_watched_set_is_shown_until_it_has_ended(airflow: Airflow, on_ledger: Ledger) -> None:
    found = made(on_ledger)
    for job in on_ledger.jobs():
        on_ledger.cancels.cancel(job.job_id, actor=TEST, reason="a test")
    assert "2 cancelled" in airflow("sets", "show", found.set_id, "--watch")


def test_the_bar_shows_what_has_ended_and_what_has_an_output(on_ledger: Ledger) -> None:
    found = made(on_ledger)
    draft(on_ledger, job_spec(job_key="c", set_id=found.set_id))
    total = on_ledger.sets.total(found.set_id)
    assert bar(replace(found, items=3), total) == f"[{'=' * 10}{'.' * 20}] 2 queued, 1 in review, 1 left out"


def test_the_batches_of_a_set_are_shown_with_it(airflow: Airflow, on_ledger: Ledger) -> None:
    found = made(on_ledger)
    in_batch(on_ledger, found, *(job.job_id for job in on_ledger.jobs()))
    line = f"batch 1 (batch_1) of set {found.set_id}: running, 2 requests"
    assert line in airflow("sets", "show", found.set_id)
    (row,) = json.loads(airflow("sets", "show", found.set_id, "-o", "json"))
    assert [(each["batch_id"], each["state"], each["lines"]) for each in row["batches"]] == [(1, "running", 2)]


@pytest.mark.parametrize("set_id", [99, "a"])
def test_a_set_that_is_not_there_is_said(airflow: Airflow, on_ledger: Ledger, set_id: object) -> None:
    with pytest.raises(SystemExit):
        airflow("sets", "show", set_id)


def test_a_set_is_paused_and_resumed(airflow: Airflow, on_ledger: Ledger) -> None:
    found = made(on_ledger)
    said = airflow("sets", "pause", found.set_id, "--reason", "wrong prompt")
    assert "is paused: pause 1 holds requests to the model and external writes." in said
    assert f"{PROGRAM} sets resume {found.set_id} --reason REASON" in said
    assert json.loads(airflow("sets", "show", found.set_id, "-o", "json"))[0]["paused"] is True
    assert f"set {found.set_id}" in airflow("pauses")
    assert "is not paused any longer" in airflow("sets", "resume", found.set_id, "--reason", "it is right")
    assert on_ledger.pauses.find() == []
    with pytest.raises(SystemExit, match="is not paused by itself"):
        airflow("sets", "resume", found.set_id, "--reason", "it is right")


def test_what_was_not_sent_of_a_set_is_cancelled(airflow: Airflow, on_ledger: Ledger) -> None:
    found = made(on_ledger)
    submit(on_ledger, job_spec(job_key="a", set_id=found.set_id))
    on_ledger.submission.open(job_spec(job_key="elsewhere"))
    command = ("sets", "cancel", found.set_id, "--reason", "wrong prompt")
    (row,) = json.loads(airflow(*command, "--dry-run", "-o", "json"))
    assert (row["job_key"], row["refused"], row["what"]) == ("b", False, CANCELLED)
    assert on_ledger.sets.total(found.set_id).states == {JobState.QUEUED: 1, JobState.RUNNING: 1}
    airflow(*command, "--count", 1)
    assert on_ledger.sets.total(found.set_id).states == {JobState.CANCELLED: 1, JobState.RUNNING: 1}
    assert [job.job_key for job in on_ledger.jobs(states=[JobState.QUEUED])] == ["elsewhere"]


def test_the_reviews_of_one_set_are_listed(airflow: Airflow, on_ledger: Ledger) -> None:
    found = made(on_ledger)
    draft(on_ledger, job_spec(job_key="a", set_id=found.set_id))
    draft(on_ledger, job_spec(job_key="elsewhere"), response_id="resp_2")
    listed = json.loads(airflow("review", "list", "--set", found.set_id, "-o", "json"))
    assert [each["job_key"] for each in listed] == ["a"]
