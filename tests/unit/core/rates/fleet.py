"""A fleet on a discrete clock: its workers ask one limit, by the rules of the core, and a provider counts what it gets.

Everything takes its time as in Airflow: what waits in the triggerer needs seconds to get a worker again.
"""

from __future__ import annotations

import heapq
import random
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from airflow_provider_aihandoff.core.rates.bucket import Bucket
from airflow_provider_aihandoff.core.rates.fair_order import (
    HERE,
    LATE,
    LATE_HERE,
    WAKE_AHEAD,
    Queue,
    row_after,
    to_wake,
    virtual_after,
    wait_for_room,
)
from airflow_provider_aihandoff.core.rates.rate_limit import Priority
from airflow_provider_aihandoff.core.rates.slowdown import Heard, amount_now, base_after, is_news

#: Any moment: it is not the beginning of a slice.
BEGIN = 1_700_000_000.123


def tag_of(virtual: float, newest: float | None, size: int, weight: float) -> float:
    """The tag of one that comes, as the ledger computes it in the query of `rate_store.py`.

    :param virtual: the virtual time.
    :param newest: the highest tag in the same flow, if it has any that waits.
    """
    return max(virtual, virtual if newest is None else newest) + size / weight


@dataclass
class Row:
    """One that waits, as the ledger has it."""

    number: int
    priority: Priority
    flow: str
    weight: float
    tag: float
    asks_at: float
    here: bool

    def expected(self, at: float) -> bool:
        return self.asks_at > at - (LATE_HERE if self.here else LATE)


@dataclass
class Task:
    """A job that wants to send one request."""

    number: int
    priority: Priority
    flow: str
    comes_at: float
    weight: float = 1.0
    sent_at: float | None = None
    admitted_at: float | None = None


@dataclass
class Provider:
    """Counts; with a limit of its own, it refuses what is over it, and asks to wait."""

    period: float
    takes: Callable[[float], int] = lambda at: 10**9
    wait: float | None = 2.0
    arrivals: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)

    def arrive(self, at: float) -> bool:
        first = bisect_right(self.arrivals, at - self.period)
        if len(self.arrivals) - first >= self.takes(at):
            self.refused.append(at)
            return False
        self.arrivals.append(at)
        return True

    def most_in_a_period(self) -> int:
        return max(
            (i - bisect_right(self.arrivals, at - self.period) + 1 for i, at in enumerate(self.arrivals)), default=0
        )


class Fleet:
    """Workers, the limit that they share, and the provider.

    :param late: seconds from the triggerer to a worker, from and to.
    :param network: seconds from a permission to the provider, from and to.
    :param dies: what part of those that are woken never comes.
    """

    def __init__(
        self,
        amount: int | None,
        period: float,
        *,
        provider: Provider | None = None,
        late: tuple[float, float] = (2.0, 8.0),
        network: tuple[float, float] = (0.0, 0.5),
        dies: float = 0.0,
        seed: int = 1,
    ) -> None:
        self.amount, self.period = amount, period
        self.provider = provider or Provider(period)
        self.late, self.network, self.dies = late, network, dies
        self.random = random.Random(seed)  # noqa: S311 - not for secrets
        self.bucket = Bucket()
        self.rows: dict[int, Row] = {}
        self.virtual = {Priority.INTERACTIVE: 0.0, Priority.BATCH: 0.0}
        self.in_a_row = 0
        self.base: int | None = None
        self.slowed_at: float | None = None
        self.closed_until = 0.0
        self.tasks: dict[int, Task] = {}
        self.asks = 0
        self._events: list[tuple[float, int, str, int]] = []
        self._order = 0

    def add(self, task: Task) -> None:
        self.tasks[task.number] = task
        self._at(task.comes_at, "ask", task.number)

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            at, _, what, number = heapq.heappop(self._events)
            if what == "arrive":
                self._arrive(self.tasks[number], at)
            elif self.tasks[number].admitted_at is None:
                self._ask(self.tasks[number], at)

    def _at(self, at: float, what: str, number: int) -> None:
        self._order += 1
        heapq.heappush(self._events, (at, self._order, what, number))

    def _later(self, at: float) -> float:
        return at + self.random.uniform(*self.late)

    def _arrive(self, task: Task, at: float) -> None:
        assert task.admitted_at is not None
        if self.provider.arrive(at):
            task.sent_at = at
            return
        task.admitted_at = None
        slowed_for = 0.0 if self.slowed_at is None else at - self.slowed_at
        if is_news(at, self.slowed_at, self.period):
            now = amount_now(None, self.base, self.slowed_at, at)
            sent = len(self.provider.arrivals) - bisect_right(self.provider.arrivals, at - self.period)
            self.base, self.slowed_at, slowed_for = base_after(now, sent, self.period, None), at, 0.0
        heard = Heard(too_much=True, wait=self.provider.wait)
        self.closed_until = max(self.closed_until, at + heard.pause(slowed_for))
        self._ask(task, at)

    def _ask(self, task: Task, at: float) -> None:
        self.asks += 1
        amount = amount_now(self.amount, self.base, self.slowed_at, at)
        own = self.rows.get(task.number)
        if own is not None and not own.here and self.dies and self.random.random() < self.dies:
            return
        if amount is None and at >= self.closed_until:
            self.rows.pop(task.number, None)
            self._admit(task, at)
            return
        queue, tag = self._queue(task, own, at)
        room = wait_for_room(
            self.bucket,
            10**9 if amount is None else amount,
            self.period,
            1,
            at,
            task.priority,
            queue,
            self.closed_until,
        )
        if room is None:
            assert amount is not None
            self.rows.pop(task.number, None)
            self.bucket = self.bucket.take(amount, self.period, 1, at)
            weights = queue.weights + task.weight
            self.virtual[task.priority] = virtual_after(self.virtual[task.priority], 1, weights)
            self.in_a_row = row_after(task.priority, self.in_a_row, queue.batches > 0)
            self._admit(task, at)
            self._wake(to_wake(amount / self.period, queue), at)
            return
        self.rows[task.number] = Row(task.number, task.priority, task.flow, task.weight, tag, room.until, room.here)
        self._at(room.until if room.here else self._later(room.until), "ask", task.number)

    def _admit(self, task: Task, at: float) -> None:
        task.admitted_at = at
        self._at(at + self.random.uniform(*self.network), "arrive", task.number)

    def _wake(self, number: int, at: float) -> None:
        far = [row for row in self.rows.values() if not row.here and row.asks_at > at]
        far.sort(key=lambda row: (row.priority is Priority.BATCH, row.tag, row.number))
        for row in far[:number]:
            row.asks_at = at
            self._at(self._later(at), "ask", row.number)

    def _queue(self, task: Task, own: Row | None, at: float) -> tuple[Queue, float]:
        others = [row for row in self.rows.values() if row is not own and row.expected(at)]
        if own is None:
            newest = max(
                (row.tag for row in others if row.flow == task.flow and row.priority is task.priority), default=None
            )
            tag = tag_of(self.virtual[task.priority], newest, 1, task.weight)
        else:
            tag = own.tag
        same = [row for row in others if row.priority is task.priority and (row.tag, row.number) < (tag, task.number)]
        other = [row for row in others if row.priority is not task.priority]
        return Queue(
            ahead=len(same),
            ahead_here=sum(row.here for row in same),
            others=len(other),
            others_here=sum(row.here for row in other),
            here=sum(row.here for row in others),
            on_the_way=sum(not row.here and at - WAKE_AHEAD < row.asks_at <= at + HERE for row in others),
            missing=sum(not row.here and at - 2 * WAKE_AHEAD < row.asks_at <= at - WAKE_AHEAD for row in others),
            waiting=len(others),
            batches=sum(row.priority is Priority.BATCH for row in others),
            weights=sum(
                {
                    row.flow: row.weight for row in others if row.priority is task.priority and row.flow != task.flow
                }.values()
            ),
            in_a_row=self.in_a_row,
        ), tag
