"""`airflow aihandoff limits`: what the words mean, and what is printed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.connection import Connection
from airflow.providers.common.compat.sdk import AirflowNotFoundException

from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure, RateLimit
from airflow_provider_aihandoff.core.rates.rate_limit_store import LimitState
from tests.unit.cli.conftest import Airflow

AT = datetime(2026, 2, 2, 9, 17, tzinfo=UTC)
LIMIT = RateLimit(
    1,
    LimitKind.OPENAI,
    "openai_default",
    Measure.REQUESTS,
    500,
    60,
    {},
    None,
    None,
    None,
    AT + timedelta(minutes=1),
    None,
)
STATE = LimitState(LIMIT, 250, 12, 3, AT, AT, paused=False, at=AT)
WHY = ("--reason", "the plan that we pay for")
CAROL = Actor.terminal("carol")


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The connections that Airflow has."""
    names = ["openai_default"]

    def find(conn_id: str) -> None:
        if conn_id not in names:
            raise AirflowNotFoundException(conn_id)

    monkeypatch.setattr(Connection, "get_connection_from_secrets", find)
    return names


def test_a_limit_is_listed_with_what_waits_for_it(airflow: Airflow, ledger: Any) -> None:
    ledger.rate_limits.find.return_value = [STATE, replace(STATE, paused=True)]
    first, second = json.loads(airflow("limits", "list", "-o", "json"))
    assert first == {
        "what": "openai",
        "name": "openai_default",
        "limit": "500 requests a minute",
        "now": 250,
        "used": 12,
        "waiting": 3,
        "waiting since": "2026-02-02T09:17:00Z",
        "paused until": None,
        "changed": "2026-02-02T09:17:00Z",
    }
    assert second["paused until"] == "2026-02-02T09:18:00Z"


def test_each_measure_that_is_named_is_set(airflow: Airflow, ledger: Any, known: list[str]) -> None:
    ledger.rate_limits.set.side_effect = lambda kind, name, measure, amount, **more: replace(
        LIMIT, measure=measure, amount=amount, period=more["period"]
    )
    words = ("--requests", 500, "--in-flight", 40, "--per", "hour", "--weight", "type:a=b=0.2")
    printed = airflow("limits", "set", "--connection", "openai_default", *words, *WHY)
    assert printed.splitlines() == [
        "The limit is 500 requests an hour (requests of the connection openai_default), from the next request on.",
        "The limit is 40 at once (in flight of the connection openai_default), from the next request on.",
    ]
    first, second = ledger.rate_limits.set.call_args_list
    assert first.args == (LimitKind.OPENAI, "openai_default", Measure.REQUESTS, 500)
    assert first.kwargs["period"] == 3600
    assert first.kwargs["weights"] == {"type:a=b": 0.2}
    assert (first.kwargs["actor"], first.kwargs["reason"]) == (CAROL, "the plan that we pay for")
    assert (second.args[2:], second.kwargs["period"]) == ((Measure.IN_FLIGHT, 40), None)


@pytest.mark.parametrize(("kind", "warns"), [("--target", True), ("--key", False)])
def test_a_connection_that_airflow_does_not_know_is_warned_of(
    airflow: Airflow, ledger: Any, known: list[str], kind: str, warns: bool
) -> None:
    ledger.rate_limits.set.return_value = LIMIT
    printed = airflow("limits", "set", kind, "cmss", "--requests", 5, *WHY)
    assert ("Airflow has no connection 'cmss' here" in printed) is warns


class TestEnd:
    @pytest.fixture(autouse=True)
    def _limits(self, ledger: Any) -> None:
        tokens = replace(LIMIT, measure=Measure.TOKENS)
        others = [replace(LIMIT, kind=LimitKind.KEY), replace(LIMIT, amount=None, measure=Measure.IN_FLIGHT)]
        ledger.rate_limits.find.return_value = [replace(STATE, limit=each) for each in (LIMIT, tokens, *others)]
        ledger.rate_limits.end.side_effect = lambda kind, name, measure, **more: replace(LIMIT, measure=measure)

    def test_all_limits_of_a_name_and_no_others(self, airflow: Airflow, ledger: Any) -> None:
        printed = airflow("limits", "end", "--connection", "openai_default", *WHY)
        assert [call.args[2] for call in ledger.rate_limits.end.call_args_list] == [Measure.REQUESTS, Measure.TOKENS]
        assert printed.splitlines()[1] == "There is no limit on the tokens of the connection openai_default any more."

    def test_one_measure(self, airflow: Airflow, ledger: Any) -> None:
        airflow("limits", "end", "--connection", "openai_default", "--measure", "in flight", *WHY)
        assert [call.args[2] for call in ledger.rate_limits.end.call_args_list] == [Measure.IN_FLIGHT]

    def test_a_name_without_a_limit(self, airflow: Airflow, ledger: Any) -> None:
        with pytest.raises(SystemExit, match="there is no limit on 'other'"):
            airflow("limits", "end", "--connection", "other", *WHY)
        ledger.rate_limits.end.assert_not_called()


def test_the_newest_change_is_listed_first(airflow: Airflow, ledger: Any) -> None:
    ledger.rate_limits.find.return_value = [STATE]
    ledger.rate_limits.changes.return_value = [
        SimpleNamespace(at=AT, amount=500, by=CAROL, reason="a start"),
        SimpleNamespace(at=AT + timedelta(days=1), amount=None, by=CAROL, reason="not needed"),
    ]
    rows = json.loads(airflow("limits", "history", "-o", "json"))
    assert [(row["amount"], row["by"], row["reason"]) for row in rows] == [
        (None, "cli:carol", "not needed"),
        (500, "cli:carol", "a start"),
    ]
    ledger.rate_limits.find.assert_called_once_with(ended=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--connection", "a"), "give --requests, --tokens or --in-flight"),
        (("--connection", "a", "--key", "b", "--requests", 1), "name one of --connection, --target and --key"),
        (("--requests", 1), "name one of --connection, --target and --key"),
        (("--key", "a", "--requests", -1), "must not be negative"),
        (("--key", "a", "--requests", 1, "--weight", "type:b=much"), "--weight is type:NAME=NUMBER"),
        (("--key", "a", "--requests", 1, "--tokens", -1), "must not be negative"),
    ],
)
def test_what_makes_no_sense_sets_nothing(airflow: Airflow, ledger: Any, words: tuple[Any, ...], said: str) -> None:
    with pytest.raises(SystemExit, match=said):
        airflow("limits", "set", *words, *WHY)
    assert ledger.mock_calls == []
