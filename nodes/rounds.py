"""One round for each fault: jobs flow, the fault happens in the middle of them, and everything comes to its end."""

import math
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from demo.waiting import wait_until
from nodes.components import Stack
from nodes.faults import Fault, busiest
from nodes.table import Result
from nodes.topology import Node
from nodes.traffic import Batch, Traffic
from nodes.verdict import judge, longest_pause

STEP_SECONDS = 0.5
ROUND_SECONDS = 900.0
"""How long a round may take."""
SETTLE_SECONDS = 10.0
"""How long a node that works again is watched after that."""
_FLOWING = """
    SELECT count(*) FROM aihandoff.jobs WHERE job_id > %s AND state NOT IN ('queued')"""


class _Course:
    """One fault under way: it begins, lasts, and is undone, while jobs flow."""

    def __init__(self, fault: Fault, stack: Stack, node: Node, acting: ThreadPoolExecutor) -> None:
        self._fault, self._stack, self._node, self._acting = fault, stack, node, acting
        self.at = time.time()
        self.began = time.monotonic()
        self._act = acting.submit(fault.begin, stack, node)  # an orderly end takes its time
        self._undo_at: float | None = None
        self.is_over = False

    @property
    def seconds(self) -> float:
        """The time since the fault."""
        return time.monotonic() - self.began

    def go_on(self) -> None:
        """Undo it when it is time."""
        if self.is_over or not self._act.done():
            return
        self._act.result()
        if self._undo_at is None:
            self._undo_at = time.monotonic() + self._fault.seconds
        elif self._undo_at == math.inf:
            self.is_over = True
        elif time.monotonic() >= self._undo_at:
            self._act = self._acting.submit(self._fault.end, self._stack, self._node)
            self._undo_at = math.inf


class Rounds:
    """Plays one fault after the other on the same stack."""

    def __init__(self, stack: Stack, traffic: Traffic, jobs: int, say: Callable[[str], None]) -> None:
        self._stack, self._traffic, self._jobs, self._say = stack, traffic, jobs, say

    def play(self, fault: Fault) -> Result:
        """Let jobs flow, and do it in the middle of them.

        :raises TimeoutError: the jobs did not begin.
        """
        batch = self._traffic.start(self._jobs)
        node = self._wait_for_work(fault, batch)
        held = self._stack.in_hand(node)
        self._say(f"{fault.name}: {node.name}, which has {len(held)} tasks in hand")
        went_on: float | None = None
        with ThreadPoolExecutor(1) as acting:
            course = _Course(fault, self._stack, node, acting)
            unfinished = self._traffic.unfinished(batch)
            while (unfinished or not course.is_over) and course.seconds < ROUND_SECONDS:
                time.sleep(STEP_SECONDS)
                course.go_on()
                self._traffic.go_on(batch)
                if held and went_on is None and not self._stack.left_in_hand(node, held):
                    went_on = course.seconds
                unfinished = self._traffic.unfinished(batch)
            seconds = course.seconds
        self._settle(batch)
        return Result(
            fault.name,
            judge(self._stack, after=batch.first_job),
            went_on=went_on,
            pause=longest_pause(self._stack, after=batch.first_job, since=course.at),
            seconds=seconds,
            held=len(batch.held),
            cleared=sum(batch.cleared.values()),
            unfinished=[self._traffic.in_words(run) for run in unfinished],
            unreadable=self._traffic.unreadable_logs(batch),
            revived=batch.revived,
        )

    def _wait_for_work(self, fault: Fault, batch: Batch) -> Node:
        """Wait until a fifth of the jobs flow and the node has work in hand; return it."""
        kind = fault.kind or "scheduler"
        has_tasks = kind in ("worker", "triggerer")

        def ready() -> bool:
            self._traffic.go_on(batch)
            if self._flowing(batch) < self._jobs / 5:
                return False
            return not has_tasks or bool(self._stack.in_hand(busiest(self._stack, kind)))

        wait_until(ready, "a fifth of the jobs to flow", ROUND_SECONDS, STEP_SECONDS)
        return busiest(self._stack, kind)

    def _flowing(self, batch: Batch) -> int:
        with self._stack.databases.connect_ledger() as connection:
            row = connection.execute(_FLOWING, [batch.first_job]).fetchone()
        assert row is not None
        return int(row[0])

    def _settle(self, batch: Batch) -> None:
        """Give what works again the time to do harm, and start what has ended."""
        until = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < until:
            self._traffic.go_on(batch)
            time.sleep(STEP_SECONDS)
