"""`airflow aihandoff effects`, and `jobs resolve-submission`: what a person says, and what is printed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_aihandoff.cli import effects
from airflow_provider_aihandoff.core.models import Actor, Effect
from airflow_provider_aihandoff.core.states import EffectState, JobState
from tests.unit.cli.conftest import Airflow
from tests.unit.core.jobs.records import effect, lost, record

CAROL = Actor.terminal("carol")
UNKNOWN = effect(EffectState.UNKNOWN, number=3, kind="http", external_id="17", external_url="https://cms.example/17")


@pytest.fixture
def answers(ledger: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What was said of an effect."""
    given: list[dict[str, Any]] = []

    def answer(_: Any, effect_id: int, **said: Any) -> Effect:
        given.append({"effect_id": effect_id, **said})
        return replace(UNKNOWN, state=EffectState.APPLIED if said["applied"] else EffectState.PLANNED)

    monkeypatch.setattr(effects, "answer", answer)
    ledger.effects.read.return_value = replace(UNKNOWN, attempt=2)
    return given


def test_they_are_listed_by_state(airflow: Airflow, ledger: Any) -> None:
    ledger.list_effects.return_value = [UNKNOWN]
    (row,) = json.loads(airflow("effects", "list", "--state", "unknown", "--limit", 5, "-o", "json"))
    assert (row["effect_id"], row["state"], row["external_id"]) == (3, "unknown", "17")
    ledger.list_effects.assert_called_once_with(states=["unknown"], limit=5)


def test_one_is_shown_in_full(airflow: Airflow, ledger: Any) -> None:
    ledger.effects.read.return_value = UNKNOWN
    printed = airflow("effects", "show", 3)
    assert "effect_key: aih-7-r1-publish" in printed
    assert "state: unknown" in printed


@pytest.mark.parametrize(
    ("words", "applied", "external_id", "said"),
    [
        (("--applied", "17"), True, "17", "Effect 3 (publish) is applied. A waiting task continues by itself."),
        (("--not-applied",), False, None, "Effect 3 (publish) is planned. A waiting task continues by itself."),
    ],
)
def test_one_is_resolved(
    airflow: Airflow,
    answers: list[dict[str, Any]],
    words: tuple[str, ...],
    applied: bool,
    external_id: str | None,
    said: str,
) -> None:
    assert said in airflow("effects", "resolve", 3, *words, "--reason", "seen in the CMS")
    (given,) = answers
    assert (given["applied"], given["external_id"], given["attempt"]) == (applied, external_id, 2)
    assert (given["why"], given["actor"]) == ("seen in the CMS", CAROL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reason", "x"), "give --applied EXTERNAL_ID or --not-applied, and not both"),
        (("--applied", "17", "--not-applied", "--reason", "x"), "and not both"),
        (("--not-applied", "--reason", " "), "--reason must say how you know"),
    ],
)
def test_what_makes_no_sense_resolves_nothing(
    airflow: Airflow, answers: list[dict[str, Any]], words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit, match=said):
        airflow("effects", "resolve", 3, *words)
    assert answers == []


class TestLostRequest:
    @pytest.fixture(autouse=True)
    def _job(self, ledger: Any) -> None:
        ledger.record.return_value = record(JobState.QUEUED, of=lost(unknown_submissions=2))
        ledger.submission.resolve.return_value = record(JobState.QUEUED, state_reason="send again").job

    @pytest.mark.parametrize(
        ("word", "again", "said"),
        [("--send-again", True, "A waiting task sends the request."), ("--fail", False, "A failed task continues")],
    )
    def test_a_person_says_what_to_do(self, airflow: Airflow, ledger: Any, word: str, again: bool, said: str) -> None:
        assert said in airflow("jobs", "resolve-submission", 7, word, "--reason", "not in the logs")
        ledger.submission.resolve.assert_called_once_with(
            7, send_again=again, seen=2, actor=CAROL, why="not in the logs"
        )

    @pytest.mark.parametrize("both", [(), ("--send-again", "--fail")])
    def test_it_is_one_of_two(self, airflow: Airflow, ledger: Any, both: tuple[str, ...]) -> None:
        with pytest.raises(SystemExit, match="give --send-again or --fail, and not both"):
            airflow("jobs", "resolve-submission", 7, *both, "--reason", "x")
        ledger.submission.resolve.assert_not_called()
