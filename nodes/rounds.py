"""One round for each fault: jobs flow, the fault happens in the middle of them, and everything comes to its end."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from demo.waiting import wait_until
from nodes.components import Stack
from nodes.faults import Fault, busiest
from nodes.table import Result
from nodes.topology import Node
from nodes.traffic import Batch, Traffic, names
from nodes.verdict import judge, longest_pause

STEP_SECONDS = 0.5
ROUND_SECONDS = 900.0
"""How long a round may take."""
SETTLE_SECONDS = 10.0
"""How long a node that works again is watched after that."""
_FLOWING = """
    SELECT count(*) FROM aihandoff.jobs WHERE job_id > %s AND state NOT IN ('queued')"""


@dataclass
class _Struck:
    """A fault that has begun."""

    fault: Fault
    node: Node
    began: float
    at: float
    ended: float | None = None
    went_on: float | None = None


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
        struck = _Struck(fault, node, began=time.monotonic(), at=time.time())
        self._say(f"{fault.name}: {node.name}, which has {len(held)} tasks in hand")
        fault.begin(self._stack, node)
        until = struck.began + ROUND_SECONDS
        unfinished = self._traffic.unfinished(batch)
        while (unfinished or struck.ended is None) and time.monotonic() < until:
            time.sleep(STEP_SECONDS)
            self._traffic.go_on(batch)
            if struck.ended is None and time.monotonic() - struck.began >= fault.seconds:
                fault.end(self._stack, node)
                struck.ended = time.monotonic()
            if held and struck.went_on is None and not self._stack.left_in_hand(node, held):
                struck.went_on = time.monotonic() - struck.began
            unfinished = self._traffic.unfinished(batch)
        seconds = time.monotonic() - struck.began
        self._settle(batch)
        return Result(
            fault.name,
            judge(self._stack, after=batch.first_job),
            went_on=struck.went_on,
            pause=longest_pause(self._stack, after=batch.first_job, since=struck.at),
            seconds=seconds,
            held=len(batch.held),
            cleared=sum(batch.cleared.values()),
            unfinished=[names([run]) for run in unfinished],
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
