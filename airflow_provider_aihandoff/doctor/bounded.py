"""Runs checks side by side, each within a time-out: for a page, whose reader waits.

A thread cannot be ended from outside. So a check runs at most once at a time in a process: while one hangs, no one
starts another, and everyone who asks waits for it, within the time-out.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from contextvars import copy_context
from threading import Lock, Thread

from airflow_provider_aihandoff.doctor.examine import Check, findings_of
from airflow_provider_aihandoff.doctor.finding import Finding, Level

#: Seconds that one check may take: more than the ledger's own time-outs, less than a proxy before the API server.
CHECK_SECONDS = 15.0

_running: dict[str, Future[list[Finding]]] = {}
_lock = Lock()


def run_bounded(checks: Sequence[Check], seconds: float = CHECK_SECONDS) -> list[Finding]:
    """Run all checks at the same time, and return their findings in their order.

    :param checks: each with a subject of its own.
    :param seconds: a check that has not ended by then is a finding itself.
    """
    until = time.monotonic() + seconds
    started = [(check, _start(check)) for check in checks]
    return [finding for check, future in started for finding in _result(check, future, until, seconds)]


def _start(check: Check) -> Future[list[Finding]]:
    """Run a check in a thread of its own, or join the one that runs."""
    with _lock:
        if check.subject in _running:
            return _running[check.subject]
        future = _running[check.subject] = Future()
    # A daemon: an API server that is stopped does not wait for a check that hangs.
    context = copy_context()
    Thread(target=context.run, args=(_run, check, future), name=f"doctor {check.subject}", daemon=True).start()
    return future


def _run(check: Check, future: Future[list[Finding]]) -> None:
    found = findings_of(check)
    with _lock:
        del _running[check.subject]
    future.set_result(found)


def _result(check: Check, future: Future[list[Finding]], until: float, seconds: float) -> list[Finding]:
    try:
        return future.result(max(0.0, until - time.monotonic()))
    except TooLate:
        what = f"The check did not end within {seconds:g} s."
        why = "What it examines hangs, or is far slower than the work of each day needs."
        fix = "Check the server behind it, and the network from the API server to it. Then run the checks again."
        return [Finding(Level.ERROR, check.subject, what, why, fix)]
