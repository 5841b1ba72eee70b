"""Why a person is needed, in words, and when they are notified of it."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_aihandoff.core.reconcile.causes import Cause, Known, due, open_causes
from airflow_provider_aihandoff.core.reconcile.findings import Finding
from airflow_provider_aihandoff.core.reconcile.gauge_store import Waiting

NUMBERS = [field.name for field in fields(Waiting) if field.type == "int"]
CAUSE = Cause("unknown effects", 2, "2 external writes may have been made.")


def waiting(**changes: int) -> Waiting:
    values: dict[str, Any] = {**dict.fromkeys(NUMBERS, 0), **changes}
    return Waiting(at=datetime.now(UTC), jobs={}, since={}, webhook_age={}, **values)


def test_nothing_that_waits_is_no_cause() -> None:
    assert open_causes(waiting(), [Finding("old webhooks", "3", "remove them", done="removed 3")]) == []


@pytest.mark.parametrize("name", NUMBERS)
def test_each_number_of_what_waits_is_a_cause_with_its_next_step(name: str) -> None:
    (one,) = open_causes(waiting(**{name: 1}), [])
    (many,) = open_causes(waiting(**{name: 7}), [])
    assert (one.count, many.count) == (1, 7)
    assert "1 " in one.message
    assert "7 " in many.message
    assert "`" in one.message.split(". ", 1)[1]
    assert one.name == many.name


def test_steps_that_failed_are_a_cause() -> None:
    findings = [Finding("surplus response", "r", "cancel it", failed=True)] * 2
    (cause,) = open_causes(waiting(), findings)
    assert (cause.name, cause.count, cause.message.startswith("2 steps ")) == ("failed steps", 2, True)


@pytest.mark.parametrize(
    ("causes", "known", "new", "over", "after"),
    [
        ([CAUSE], {}, [], [], {"unknown effects": "found"}),
        ([CAUSE], {"unknown effects": "found"}, [CAUSE], [], {"unknown effects": "found"}),
        ([CAUSE], {"unknown effects": "notified"}, [], [], {"unknown effects": "notified"}),
        ([], {"unknown effects": "found"}, [], [], {}),
        ([], {"unknown effects": "notified"}, [], ["unknown effects"], {"unknown effects": "notified"}),
    ],
)
def test_a_cause_is_due_when_two_runs_have_found_it_once_and_again_when_it_is_over(
    causes: list[Cause], known: dict[str, Known], new: list[Cause], over: list[str], after: dict[str, Known]
) -> None:
    assert due(causes, known) == (new, over, after)
