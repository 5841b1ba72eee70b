"""Who goes next: those for whom a person waits before batches, and within both by weighted fair queueing. Pure.

Weighted fair queueing (Demers, Keshav and Shenker, 1989): each one that comes gets a tag, that of the newest one of the
same flow, or the virtual time, plus its size by its weight; the lowest tag goes first. The virtual time grows with what
has gone, the slower the more flows share it. So each flow (a job type of a requester) gets its weight beside the others
that wait, whatever number it brings, and no flow waits for ever. A batch goes at least after each :data:`IN_A_ROW` that
are interactive.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_aihandoff.core.rates.bucket import Bucket
from airflow_provider_aihandoff.core.rates.rate_limit import Priority

#: How many interactive ones go in a row at most while a batch waits.
IN_A_ROW = 9

#: The longest that a task waits in its worker, in seconds; for longer, it waits in the triggerer.
HERE = 5.0

#: How long after its time one that waits in a worker is expected, in seconds; it may have died.
LATE_HERE = 2.0

#: The same of one that waits in the triggerer: it has to get a worker first, and there may be many.
LATE = 120.0

#: How many seconds it may take from the triggerer to a worker. So much sooner a task is woken, and for so long one that
#: was woken counts as on its way; for as long again, it counts as missing.
WAKE_AHEAD = 10.0

#: When one asks again that waits for something else to end, in seconds: it is woken sooner, as a rule.
ASK_AGAIN = 60.0

#: When one asks again whose limit is 0, in seconds. It is woken when that changes.
ASK_AGAIN_STOPPED = 900.0


@dataclass(frozen=True)
class Queue:
    """Who waits for a limit, as one that asks sees it.

    :param ahead: how many of the same priority have a lower tag; ``ahead_here``: of these, wait in a worker.
    :param others: how many of the other priority wait; ``others_here``: of these, in a worker.
    :param here: how many of all are in a worker; ``on_the_way``: on their way to one; ``missing``: lately did
        not come in time.
    :param waiting: how many wait in all, without the one that asks; ``batches``: of these, batches.
    :param weights: of the other flows of the same priority that wait, added up.
    :param in_a_row: how many interactive ones went in a row while a batch waited.
    """

    ahead: int = 0
    ahead_here: int = 0
    others: int = 0
    others_here: int = 0
    here: int = 0
    on_the_way: int = 0
    missing: int = 0
    waiting: int = 0
    batches: int = 0
    weights: float = 0.0
    in_a_row: int = 0


@dataclass(frozen=True)
class Wait:
    """It may not go now.

    :param until: when it asks again, in seconds since 1970.
    :param here: it waits in its worker.
    :param before: how many go before it.
    :param earliest: when it can go at the earliest, in seconds since 1970; None where no one knows.
    """

    until: float
    here: bool
    before: int
    earliest: float | None


def virtual_after(virtual: float, size: int, weights: float) -> float:
    """The virtual time after one has gone.

    :param weights: of all flows that waited, its own included, added up.
    """
    return virtual + size / weights


def place(priority: Priority, ahead: int, others: int, in_a_row: int) -> int:
    """How many go before one that has so many of the same priority before it, and so many others that wait."""
    if priority is Priority.INTERACTIVE:
        return ahead + min(others, (in_a_row + ahead) // IN_A_ROW)
    return ahead + min(others, IN_A_ROW - min(in_a_row, IN_A_ROW) + IN_A_ROW * ahead)


def row_after(priority: Priority, in_a_row: int, batch_waits: bool) -> int:
    """How many interactive ones have gone in a row, after one has."""
    return min(in_a_row + 1, IN_A_ROW) if priority is Priority.INTERACTIVE and batch_waits else 0


def wait_for_room(
    bucket: Bucket,
    amount: int,
    period: float,
    size: int,
    at: float,
    priority: Priority,
    queue: Queue,
    closed_until: float = 0.0,
) -> Wait | None:
    """None where it may go now, and its room is taken then; otherwise for how long it waits.

    What is free now is for those who are there: one that waits elsewhere gets its turn when it comes.

    :param amount: how much goes through in a period now.
    :param closed_until: nothing goes before; in seconds since 1970.
    """
    here = place(priority, queue.ahead_here, queue.others_here, queue.in_a_row)
    room = max(bucket.room_at(amount, period, size, at, behind=here * size), closed_until)
    if room <= at:
        return None
    before = place(priority, queue.ahead, queue.others, queue.in_a_row)
    if room == float("inf"):
        return Wait(at + ASK_AGAIN_STOPPED, False, before, None)
    first = max(bucket.room_at(amount, period, size, at), closed_until)
    earliest = first + before * size * period / amount
    if room <= at + HERE:
        return Wait(room, True, before, max(room, earliest))
    return Wait(max(earliest - WAKE_AHEAD, at + HERE), False, before, earliest)


def wait_for_slot(amount: int, in_use: int, at: float, priority: Priority, queue: Queue) -> Wait | None:
    """The same of a limit on what is in flight at once.

    :param in_use: how much is in flight now.
    """
    if place(priority, queue.ahead_here, queue.others_here, queue.in_a_row) < amount - in_use:
        return None
    before = place(priority, queue.ahead, queue.others, queue.in_a_row)
    again = ASK_AGAIN if amount else ASK_AGAIN_STOPPED
    return Wait(at + again * (1 + min(before / max(amount, 1), 9)), False, before, None)


def to_wake(per_second: float, queue: Queue) -> int:
    """How many of those in the triggerer are woken now, so that what becomes free is used.

    As many as can go while they come, and so many that some always are in a worker. For each one that did not come
    lately, one more: as many of those on the way will not come either, since their tasks have died.

    :param per_second: how many a second can go.
    """
    coming = queue.here + queue.on_the_way
    wanted = max(1, int(per_second * (WAKE_AHEAD + HERE)) - queue.here + queue.missing)
    return max(0, min(wanted - coming, queue.waiting - coming))
