"""`airflow aihandoff pause`, `resume`, `pauses` and `spending-limits`: what the words mean, and what is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli import pauses
from airflow_provider_aihandoff.core.admission.pause_store import Held, Scope
from airflow_provider_aihandoff.core.errors import CannotCancel
from airflow_provider_aihandoff.core.models import Actor
from tests.unit.cli.conftest import Airflow
from tests.unit.cli.test_sets import AT, PAUSE

WHY = ("--reason", "a wrong prompt")
CAROL = Actor.terminal("carol")
OF_TYPE = replace(PAUSE, job_type="ticket", set_id=None, writes=False)


class TestPause:
    @pytest.fixture(autouse=True)
    def _ledger(self, ledger: Any) -> None:
        ledger.pauses.begin.return_value = OF_TYPE
        ledger.pauses.running.return_value = []

    def test_it_is_about_what_is_named(self, airflow: Airflow, ledger: Any) -> None:
        printed = airflow("pause", "--type", "ticket", *WHY)
        assert printed.splitlines() == [
            "Pause 4 holds requests to the model (type ticket).",
            f"To end it: {PROGRAM} resume 4 --reason REASON",
        ]
        ledger.pauses.begin.assert_called_once_with(
            Scope(job_type="ticket"), writes=False, reason="a wrong prompt", actor=CAROL
        )

    def test_everything_has_to_be_said(self, airflow: Airflow, ledger: Any) -> None:
        for words in ((), ("--everything", "--type", "ticket")):
            with pytest.raises(SystemExit, match="or --everything, and not both"):
                airflow("pause", *words, *WHY)
        ledger.pauses.begin.assert_not_called()
        airflow("pause", "--everything", "--writes", *WHY)
        assert ledger.pauses.begin.call_args.args == (Scope(),)
        assert ledger.pauses.begin.call_args.kwargs["writes"] is True

    @pytest.mark.parametrize(("running", "said"), [(2, "of the jobs 0, 1."), (21, "18, 19, ...")])
    def test_what_runs_on_is_named(self, airflow: Airflow, ledger: Any, running: int, said: str) -> None:
        ledger.pauses.running.return_value = list(range(running))
        printed = airflow("pause", "--type", "ticket", *WHY)
        assert f"{running} responses run on" in printed
        assert said in printed

    def test_what_runs_is_cancelled_where_it_can_be(
        self, airflow: Airflow, ledger: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        reasons: list[str] = []

        @contextmanager
        def no_providers() -> Iterator[None]:
            yield None

        def cancel(_: Any, __: Any, job_id: int, *, actor: Actor, reason: str) -> None:
            reasons.append(reason)
            if job_id == 8:
                raise CannotCancel("it is completed.")

        monkeypatch.setattr(pauses, "providers", no_providers)
        monkeypatch.setattr(pauses, "cancel_job", cancel)
        ledger.pauses.running.return_value = [7, 8, 9]
        printed = airflow("pause", "--type", "ticket", "--cancel-running", *WHY)
        assert "2 of 3 jobs whose responses ran were cancelled." in printed
        assert "it is completed." in printed
        assert reasons == ["pause: a wrong prompt"] * 3


class TestResume:
    @pytest.fixture(autouse=True)
    def _ledger(self, ledger: Any) -> None:
        ledger.pauses.find.return_value = [OF_TYPE, replace(OF_TYPE, pause_id=5)]
        ledger.pauses.held.return_value = Held(requests=3, writes=1, running=0)
        ledger.pauses.end.return_value = OF_TYPE

    def test_one_is_ended(self, airflow: Airflow, ledger: Any) -> None:
        assert airflow("resume", 4, *WHY) == "Pause 4 (type ticket) has ended. It held 3 requests, 1 writes.\n"
        ledger.pauses.end.assert_called_once_with(4, reason="a wrong prompt", actor=CAROL)

    def test_all_are_ended(self, airflow: Airflow, ledger: Any) -> None:
        airflow("resume", "--all", *WHY)
        assert [call.args for call in ledger.pauses.end.call_args_list] == [(4,), (5,)]

    def test_none_is_in_force(self, airflow: Airflow, ledger: Any) -> None:
        ledger.pauses.find.return_value = []
        assert airflow("resume", "--all", *WHY) == "No pause is in force.\n"

    @pytest.mark.parametrize("words", [(), (4, "--all")])
    def test_which_one_has_to_be_said(self, airflow: Airflow, ledger: Any, words: tuple[Any, ...]) -> None:
        with pytest.raises(SystemExit, match="name the pause to end, or --all, and not both"):
            airflow("resume", *words, *WHY)
        ledger.pauses.end.assert_not_called()


def test_pauses_are_listed_with_what_they_hold(airflow: Airflow, ledger: Any) -> None:
    ledger.pauses.find.return_value = [replace(OF_TYPE, ended_at=AT, ended_reason="fixed")]
    ledger.pauses.held.return_value = Held(requests=3, writes=1, running=2)
    (row,) = json.loads(airflow("pauses", "-o", "json"))
    assert (row["what"], row["by"], row["held requests"], row["responses running"]) == (
        "type ticket",
        "cli:carol",
        3,
        2,
    )
    assert "ended" not in row
    (row,) = json.loads(airflow("pauses", "--ended", "-o", "json"))
    assert row["ended because"] == "fixed"
    ledger.pauses.find.assert_called_with(ended=True)


def test_a_limit_of_money_is_listed_and_tried(airflow: Airflow, ledger: Any) -> None:
    limit = SimpleNamespace(conn_id="openai_default", since=AT, tries=3, try_at=AT, said="quota", try_job_id=7)
    ledger.spending_limits.find.return_value = [limit]
    (row,) = json.loads(airflow("spending-limits", "list", "-o", "json"))
    assert (row["connection"], row["tries"], row["said"]) == ("openai_default", 3, "quota")
    ledger.spending_limits.try_now.return_value = limit
    assert "Job 7 sends its request within seconds." in airflow("spending-limits", "try", "openai_default")
    ledger.spending_limits.try_now.return_value = None
    with pytest.raises(SystemExit, match="no limit of the connection 'openai_default' is known to be reached"):
        airflow("spending-limits", "try", "openai_default")
