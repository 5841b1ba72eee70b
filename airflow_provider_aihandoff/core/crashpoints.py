"""The named points at which a process may die: before and after every commit and every external call.

Nothing happens at them unless a test has armed them. It kills or stops its process there, and then shows that the
protocols recover. Pure.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

#: The transactions of the protocols, by the step that they commit.
STEPS = (
    "submit.open",
    "submit.intend",
    "submit.store",
    "submit.refused",
    "submit.lost",
    "submit.resolve",
    "surplus.settle",
    "wait.ended",
    "receive.insert",
    "receive.batch",
    "receive.correlate",
    "receive.adopt",
    "receive.polled",
    "output.store",
    "review.ask",
    "review.decide",
    "review.edit",
    "review.refuse edit",
    "review.notify",
    "review.expire",
    "review.reassign",
    "apply.claim",
    "apply.confirm",
    "apply.release",
    "apply.refuse",
    "apply.lose",
    "apply.resolve",
    "apply.skip",
    "apply.complete",
    "cancel.request",
    "cancel.record",
    "acknowledge.record",
    "notice.find",
    "notice.claim",
    "notice.sent",
    "undo.start",
    "bulk.begin",
    "bulk.record",
    "budget.change",
    "budget.expire",
    "budget.notify",
    "limit.change",
    "set.open",
    "set.open jobs",
    "set.opened",
    "set.ended",
    "set.intend",
    "set.submitted",
    "set.store",
    "set.ask",
    "set.notify",
    "set.claim",
    "set.confirm",
    "batch.open",
    "batch.intend",
    "batch.uploaded",
    "batch.created",
    "batch.run",
    "batch.abandon",
    "batch.free",
    "batch.cancel",
    "batch.ended",
    "batch.take",
    "batch.rest",
    "batch.read",
    "request.record",
    "request.claim",
    "request.started",
    "request.ended",
    "event.subscribe",
    "event.take",
    "event.record",
    "event.end",
    "event.replay",
    "event.remove",
)

#: What is called outside the ledger.
CALLS = (
    "submit.open handle",
    "submit.handle",
    "submit.create",
    "batch.upload",
    "batch.create",
    "batch.list",
    "batch.stop",
    "batch.results",
    "wait.retrieve",
    "wait.cancel",
    "receive.retrieve",
    "apply.send",
    "probe.send",
    "request.make run",
    "event.send",
)

POINTS = (
    *(f"{step}: {moment}" for step, moment in product(STEPS, ("before commit", "after commit"))),
    *(f"{call}: {moment}" for call, moment in product(CALLS, ("before call", "after call"))),
)

_on_reached: Callable[[str], None] | None = None


def arm(on_reached: Callable[[str], None] | None) -> None:
    """Call a function at every point from now on, with the point's name; None to call nothing. For tests."""
    global _on_reached
    _on_reached = on_reached


def reached(where: str | None, moment: str) -> None:
    """Say that this point is reached. A step without a name is none.

    :raises ValueError: it is armed, and there is no such point.
    """
    if _on_reached is None or where is None:
        return
    point = f"{where}: {moment}"
    if point not in POINTS:
        raise ValueError(f"no crash point {point!r}")
    _on_reached(point)
