"""What becomes of an answer in Airflow's Required Actions, and where an approval waits."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_aihandoff import airflow_compat
from airflow_provider_aihandoff.core.errors import StaleDecision
from airflow_provider_aihandoff.core.review.required_action import Answer
from airflow_provider_aihandoff.core.review.rules import Person, Reassignment, ReviewRules
from airflow_provider_aihandoff.operators.required_actions import (
    check_wait_in,
    is_parked_by_airflow,
    may_be_answered_there,
    record_answer,
)
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor

ANSWER = Answer("approve", "bob", "7", "Fine.")


class Ledger:
    """Keeps what is decided, or refuses it."""

    def __init__(self, refuses: str = "", dag_id: str = "publishing", reassigned: Any = None) -> None:
        self.decided: list[dict[str, Any]] = []
        self.refuses, self._dag_id, self._reassigned = refuses, dag_id, reassigned
        self.reviews = self

    def job(self, job_id: int) -> Any:
        return SimpleNamespace(job_id=job_id, dag_id=self._dag_id, reassigned=self._reassigned)

    def votes(self, job: Any) -> list[Any]:
        return []

    def decide(self, job_id: int, verdict: str, **how: Any) -> None:
        if self.refuses:
            raise StaleDecision(self.refuses)
        self.decided.append({"job_id": job_id, "verdict": verdict, **how})


PARKED: Any = SimpleNamespace(job_id=3, digest="a" * 64, dag_id="publishing", reassigned=0)


@pytest.fixture(autouse=True)
def logins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow names people by their logins, whichever one is installed."""
    monkeypatch.setattr(airflow_compat, "answers_name_logins", lambda: True)


def test_an_answer_is_the_decision_of_its_user_on_what_was_asked() -> None:
    ledger: Any = Ledger()
    assert record_answer(ledger, PARKED, ANSWER) is None
    decided = {"job_id": 3, "verdict": "approve", "digest": "a" * 64, "person": Person("bob", "7"), "comment": "Fine."}
    assert ledger.decided == [decided]
    assert record_answer(ledger, PARKED, replace(ANSWER, comment="")) is None
    assert ledger.decided[-1]["comment"] is None


@pytest.mark.parametrize(
    ("answer", "ledger", "why"),
    [
        (replace(ANSWER, verdict=None), Ledger(), "bob: it was about an older version of the job."),
        (replace(ANSWER, login=None), Ledger(), "someone: Airflow does not say who has answered."),
        (ANSWER, Ledger(dag_id="other"), "bob: the job belongs to the Dag other by now, and this is publishing."),
        (ANSWER, Ledger("it has changed."), "bob: it has changed."),
        (ANSWER, Ledger(reassigned=Reassignment(number=1).to_json()), "bob: the review was reassigned since."),
    ],
)
def test_an_answer_that_decides_nothing(
    answer: Answer, ledger: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert record_answer(ledger, PARKED, answer) == why
    assert ledger.decided == []
    assert "was not recorded" in caplog.text
    assert "No external write was made." in caplog.text


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (Answer("approve", "bob", "bob", ""), True),  # the simple auth manager's id is the login
        (Answer("approve", "bob", "7", ""), False),
        (Answer("approve", "7", "7", ""), False),  # a user who calls themselves like the id of another one
    ],
)
def test_a_name_that_users_can_change_is_no_login(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, counts: bool
) -> None:
    monkeypatch.setattr(airflow_compat, "answers_name_logins", lambda: False)
    ledger: Any = Ledger()
    refused = record_answer(ledger, PARKED, answer)
    assert (refused is None, len(ledger.decided) == 1) == (counts, counts)


@pytest.mark.parametrize(
    ("rules", "dag_id", "there"),
    [
        (ReviewRules(), "publishing", True),
        (ReviewRules(approvals=2, blind=True), "publishing", False),
        (ReviewRules(), "another", False),
    ],
)
def test_airflows_list_does_not_ask_blind_readers_nor_for_another_dag(
    rules: ReviewRules, dag_id: str, there: bool
) -> None:
    ti = SimpleNamespace(dag_id="publishing", run_id="run", task_id="approve", map_index=-1, id="ti", try_number=1)
    context: Any = {"ti": ti}
    job: Any = SimpleNamespace(dag_id=dag_id, review=rules.to_json(), reassigned=None)
    assert may_be_answered_there(context, job) is there


@pytest.mark.parametrize(
    ("configured", "wait_in", "ledger_conn_id", "can", "parked"),
    [
        (None, None, "aihandoff_ledger", True, True),
        (None, None, "aihandoff_ledger", False, False),
        (None, None, "another_ledger", True, False),
        (None, "triggerer", "aihandoff_ledger", True, False),
        ("triggerer", None, "aihandoff_ledger", True, False),
        ("triggerer", "awaiting_input", "aihandoff_ledger", True, True),
    ],
)
def test_where_an_approval_waits(
    monkeypatch: pytest.MonkeyPatch, configured: str | None, wait_in: Any, ledger_conn_id: str, can: bool, parked: bool
) -> None:
    if configured is not None:
        monkeypatch.setenv("AIRFLOW__AIHANDOFF__APPROVALS_WAIT_IN", configured)
    monkeypatch.setattr(airflow_compat, "can_await_input", lambda: can)
    assert is_parked_by_airflow(wait_in, ledger_conn_id) is parked


def test_a_place_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("hub", ""):
        with pytest.raises(ValueError, match="'awaiting_input' or 'triggerer'"):
            check_wait_in(wrong)
    somewhere: Any = "somewhere"
    with pytest.raises(ValueError, match="wait_in"):
        ApprovalSensor(task_id="approve", job=1, wait_in=somewhere)
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__APPROVALS_WAIT_IN", "somewhere")
    with pytest.raises(ValueError, match="somewhere"):
        is_parked_by_airflow(None, "aihandoff_ledger")


@pytest.mark.parametrize("supervisor", [None, SimpleNamespace(), "in process"])
def test_a_task_is_parked_where_a_supervisor_of_a_real_airflow_runs_it(
    monkeypatch: pytest.MonkeyPatch, supervisor: Any
) -> None:
    from airflow.sdk.execution_time import task_runner

    class InProcessSupervisorComms:
        """What `dag.test()` has."""

    comms = InProcessSupervisorComms() if supervisor == "in process" else supervisor
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    real = isinstance(comms, SimpleNamespace)
    assert airflow_compat.can_await_input() is (real and airflow_compat.RELEASE >= (3, 3))
    monkeypatch.setattr(airflow_compat, "RELEASE", (3, 2))
    assert not airflow_compat.can_await_input()
