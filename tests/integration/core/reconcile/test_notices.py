"""What people were notified of: once for each cause, whatever dies and however many runs there are."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core import crashpoints
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.reconcile.notice_store import Claim, DueNotice

TASK = ("aihandoff_reconcile", "reconcile")
NEW, OVER = DueNotice("unknown effects", over=False), DueNotice("unknown effects", over=True)


def find(ledger: Ledger, run_id: str, *causes: str) -> list[DueNotice]:
    return ledger.notices.find(*TASK, run_id, causes)


def claim(ledger: Ledger, notice: DueNotice = NEW, **more: Any) -> Claim:
    taken = ledger.notices.claim(*TASK, notice, **more)
    assert taken is not None
    return taken


def notified(ledger: Ledger) -> None:
    """People were notified of unknown effects."""
    for run_id in ("1", "2"):
        find(ledger, run_id, "unknown effects")
    ledger.notices.sent(claim(ledger), sent=True)


def test_a_cause_is_due_once_a_second_run_has_found_it_and_again_when_it_is_over(ledger: Ledger) -> None:
    assert find(ledger, "1", "unknown effects") == []
    assert find(ledger, "2", "unknown effects") == [NEW]
    ledger.notices.sent(claim(ledger), sent=True)
    assert find(ledger, "3", "unknown effects") == []
    assert find(ledger, "4") == [OVER]
    ledger.notices.sent(claim(ledger, OVER), sent=True)
    assert find(ledger, "5") == []
    assert find(ledger, "6", "unknown effects") == []


def test_a_retry_and_a_clear_of_a_run_are_no_second_run(ledger: Ledger) -> None:
    for _ in range(3):
        assert find(ledger, "1", "unknown effects") == []


def test_a_cause_that_ends_before_anyone_was_notified_is_forgotten(ledger: Ledger) -> None:
    find(ledger, "1", "unknown effects")
    assert find(ledger, "2") == []
    assert find(ledger, "3", "unknown effects") == []


def test_one_that_is_over_and_comes_back_before_it_was_said_stays_as_it_was(ledger: Ledger) -> None:
    notified(ledger)
    assert find(ledger, "3") == [OVER]
    assert find(ledger, "4", "unknown effects") == []


def test_what_no_notifier_could_send_is_due_again(ledger: Ledger) -> None:
    find(ledger, "1", "unknown effects")
    find(ledger, "2", "unknown effects")
    ledger.notices.sent(claim(ledger), sent=False)
    assert find(ledger, "3", "unknown effects") == [NEW]
    assert ledger.notices.claim(*TASK, NEW) is not None


def test_each_task_has_a_memory_of_its_own(ledger: Ledger) -> None:
    notified(ledger)
    assert ledger.notices.find("another", "reconcile", "1", ["unknown effects"]) == []
    assert ledger.notices.find("another", "reconcile", "2", ["unknown effects"]) == [NEW]


def test_of_many_runs_at_once_one_sends(ledger: Ledger, conninfo: dict[str, Any]) -> None:
    find(ledger, "1", "unknown effects")

    def one(number: int) -> bool:
        with Ledger(conninfo) as own:
            assert NEW in find(own, f"run-{number}", "unknown effects", "failed jobs")
            return own.notices.claim(*TASK, NEW) is not None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(8))) == 1


def test_a_run_that_dies_leaves_its_notice_to_another_one_and_records_nothing_after_it(ledger: Ledger) -> None:
    find(ledger, "1", "unknown effects")
    find(ledger, "2", "unknown effects")
    dead = claim(ledger, sending=timedelta(0))
    assert find(ledger, "3", "unknown effects") == [NEW]
    other = claim(ledger)
    ledger.notices.sent(dead, sent=True)
    assert find(ledger, "4", "unknown effects") == [NEW], "the one that lost it recorded nothing"
    ledger.notices.sent(other, sent=True)
    assert find(ledger, "5", "unknown effects") == []


def test_who_sends_what_is_over_cannot_do_so_twice(ledger: Ledger) -> None:
    notified(ledger)
    find(ledger, "3")
    ledger.notices.sent(claim(ledger, OVER), sent=True)
    assert ledger.notices.claim(*TASK, OVER) is None


@pytest.mark.parametrize("step", ["notice.find", "notice.claim", "notice.sent"])
def test_each_step_is_a_crash_point(ledger: Ledger, step: str) -> None:
    reached: list[str] = []
    crashpoints.arm(reached.append)
    try:
        notified(ledger)
    finally:
        crashpoints.arm(None)
    assert {f"{step}: before commit", f"{step}: after commit"} <= set(reached)
