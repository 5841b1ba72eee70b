"""`airflow aihandoff limits`: set, listed and ended, with who and why."""

from __future__ import annotations

import json

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from tests.factories import LEASE, TEST, job_spec
from tests.integration.cli.conftest import Airflow

SET = ("limits", "set", "--connection", "openai_default", "--reason", "the plan that we pay for")


def test_limits_are_set_listed_and_ended(airflow: Airflow, on_ledger: Ledger) -> None:
    said = airflow(*SET, "--requests", 0, "--tokens", 90_000, "--in-flight", 40, "--weight", "type:nightly=0.2")
    assert "The limit is 90000 tokens a minute (tokens of the connection openai_default)" in said
    job = on_ledger.submission.open(job_spec()).job
    on_ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE)
    rows = {row["limit"]: row for row in json.loads(airflow("limits", "list", "-o", "json"))}
    assert set(rows) == {"0 requests a minute", "90000 tokens a minute", "40 at once"}
    assert rows["0 requests a minute"]["waiting"] == 1
    assert rows["40 at once"]["used"] == 0

    airflow("limits", "end", "--connection", "openai_default", "--measure", "tokens", "--reason", "not needed")
    assert "no limit on the in flight" in airflow(
        "limits", "end", "--connection", "openai_default", "--reason", "not needed"
    )
    history = json.loads(airflow("limits", "history", "-o", "json"))
    assert [row["amount"] for row in history] == [None, None, None, 40, 90_000, 0]
    assert {row["by"] for row in history} == {"cli:carol"}
    assert on_ledger.submission.intend(job.job_id, 1, actor=TEST, lease=LEASE).token is not None


def test_a_connection_that_airflow_does_not_know_is_warned_of(
    airflow: Airflow, on_ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    airflow("limits", "set", "--target", "cmss", "--requests", 5, "--reason", "slow CMS")
    assert [each.limit.name for each in on_ledger.rate_limits.find()] == ["cmss"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((*SET,), "give --requests, --tokens or --in-flight"),
        ((*SET, "--requests", -1), "must not be negative"),
        ((*SET, "--key", "slow", "--requests", 1), "name one of"),
        ((*SET, "--requests", 1, "--weight", "nightly"), "type:NAME=NUMBER"),
        ((*SET, "--requests", 1, "--weight", "nightly=2"), "type:NAME or requester:NAME"),
        (("limits", "end", "--key", "none", "--measure", "requests", "--reason", "x"), "there is no limit on"),
        (("limits", "set", "--key", "slow", "--requests", 1, "--reason", " "), "--reason must not be empty"),
        (("limits", "set", "--key", "slow", "--requests", 1, "--tokens", -1, "--reason", "x"), "must not be negative"),
        (("limits", "end", "--key", "none", "--reason", "x"), "there is no limit on 'none'"),
    ],
)
def test_what_makes_no_sense_ends_with_one_line(
    airflow: Airflow, on_ledger: Ledger, words: tuple[object, ...], said: str
) -> None:
    with pytest.raises(SystemExit, match=said):
        airflow(*words)
    assert on_ledger.rate_limits.find() == []
