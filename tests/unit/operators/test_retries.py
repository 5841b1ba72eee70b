"""How the error of a task ends: with what there is to say of its job, and never without the error itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_aihandoff.core.errors import EffectNotNow, JobFailed, LedgerUnavailable
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.hooks import ledger as ledger_hook
from airflow_provider_aihandoff.operators.retries import final_errors
from tests.unit.core.jobs.records import record


class Ledgers:
    """In the place of the ledger's hook: opens a ledger with one job, or fails."""

    opened = 0
    error: Exception | None = None

    def __init__(self, ledger_conn_id: str | None) -> None:
        assert ledger_conn_id == "own_ledger"

    @contextmanager
    def get_conn(self) -> Iterator[Any]:
        Ledgers.opened += 1
        if Ledgers.error is not None:
            raise Ledgers.error
        yield self

    def record(self, job_id: int) -> JobRecord:
        assert job_id == 7
        return record(JobState.CANCELLED, state_reason="not\x1b needed")

    def job_id_of(self, job_type: str, job_key: str) -> int | None:
        return 7 if (job_type, job_key) == ("publishing", "post:kettle") else None


@pytest.fixture(autouse=True)
def ledgers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_hook, "LedgerHook", Ledgers)
    monkeypatch.setattr(Ledgers, "opened", 0)
    monkeypatch.setattr(Ledgers, "error", None)


def ended(error: Exception, job_id: int | None = 7, key: tuple[str, str] | None = None) -> Exception:
    """What leaves the operator."""
    with pytest.raises(Exception) as caught, final_errors("own_ledger", job_id) as subject:  # noqa: PT011, PT012
        subject.key = key
        raise error
    return caught.value


def test_an_error_that_is_retried_keeps_its_type_and_ends_with_the_explanation() -> None:
    error = ended(EffectNotNow("503: later.", retry_after=5.0))
    assert isinstance(error, EffectNotNow)
    assert error.retry_after == 5.0
    assert str(error).startswith("503: later. This step made no external write.\nThe job was cancelled at")


def test_an_error_that_a_retry_cannot_fix_ends_with_it_too() -> None:
    error = ended(JobFailed("the model refused."))
    assert isinstance(error, AirflowFailException)
    assert str(error).startswith("the model refused. This step made no external write.\nThe job was cancelled")


def test_an_error_of_another_kind_ends_with_it_too() -> None:
    assert "\nThe job was cancelled" in str(ended(RuntimeError("the task fails")))
    assert ended(KeyError("a", "b")).__notes__[0].startswith("The job was cancelled")


def test_a_draft_finds_its_job_by_its_key() -> None:
    assert "The job was cancelled" in str(ended(JobFailed("so."), None, ("publishing", "post:kettle")))
    assert str(ended(JobFailed("so."), None, ("publishing", "post:teapot"))) == "so. This step made no external write."


def test_a_job_that_is_not_known_is_not_asked_for() -> None:
    assert str(ended(JobFailed("so."), None)) == "so. This step made no external write."
    assert Ledgers.opened == 0


@pytest.mark.parametrize("why", [LedgerUnavailable("no route"), ValueError("no such connection")])
def test_a_ledger_that_cannot_be_read_leaves_the_error_as_it_is(why: Exception) -> None:
    Ledgers.error = why
    assert str(ended(JobFailed("so."))) == "so. This step made no external write."


def test_a_ledger_that_was_unavailable_is_not_asked_again() -> None:
    assert str(ended(LedgerUnavailable("no route."))) == "no route. This step made no external write."
    assert Ledgers.opened == 0


def test_an_explanation_is_added_once() -> None:
    with pytest.raises(AirflowFailException) as caught, final_errors("own_ledger", 7), final_errors("own_ledger", 7):
        raise JobFailed("so.")
    assert str(caught.value).count("The job was cancelled") == 1


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert "\x1b" not in str(ended(JobFailed("so.")))


def test_a_task_that_is_skipped_has_not_failed() -> None:
    assert str(ended(AirflowSkipException("rejected"))) == "rejected"
    assert Ledgers.opened == 0
