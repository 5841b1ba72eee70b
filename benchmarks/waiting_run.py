"""Measures one way to wait, with one number of jobs, in one new triggerer."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from benchmarks.waiting_process import CpuShare, cpu, free_memory, memory
from benchmarks.waiting_rows import CONN_ID, HUB, IDLE, SETS, response_id
from benchmarks.waiting_stack import START_SECONDS, WaitingStack
from demo.processes import ProcessFailedError
from demo.waiting import wait_until

LOAD_SECONDS = 240
"""How long all jobs may take until they wait; what waits by then is measured."""
LEAST_FREE_MEMORY = 0.15
SILENT_SECONDS, IDLE_SECONDS = 15, 40
"""How long is measured while webhooks are silent, and while they arrive."""
QUIET, QUIET_SECONDS = 0.1, 60
"""What the hub takes of a core at most once it has taken in what has changed, and how long that takes, in seconds."""
SAMPLE, PER_SECOND = 500, 40
"""How many jobs are ended for the latencies, and how fast."""
CLOSED_SECONDS = 180
"""How long connections stay open that are used no longer."""
EVENT_SECONDS = 45
"""How long the events of the last of them may take; the others count as not there."""


@dataclass
class Figures:
    """What was seen of one way to wait. Where there is None, it was not measured."""

    pattern: str
    jobs: int
    waiting: int = 0
    load_seconds: float = 0
    memory: float = 0
    """KiB a waiting job, of the process with the event loop."""
    supervisor_memory: float = 0
    """The same of its parent, which runs nothing but Airflow."""
    ledger_connections: int = 0
    openai_connections: int = 0
    cpu: float = 0
    """Seconds a second, of the process with the event loop."""
    silent_cpu: float = 0
    """The same while webhooks are silent, and OpenAI is polled."""
    supervisor_cpu: float = 0
    requests: float | None = None
    """A minute, while webhooks arrive."""
    silent_requests: float | None = None
    fired: list[float] = field(default_factory=list)
    """Seconds from the webhook to the trigger's event; infinite where it did not come."""
    resumed: list[float] = field(default_factory=list)
    """Seconds from the webhook until Airflow's database has the event."""
    blocked: list[float] = field(default_factory=list)
    """How long the event loop was blocked, each time after the load, in seconds."""
    load_blocked: list[float] = field(default_factory=list)
    heartbeat_silence: float = 0
    remark: str = ""


class Run:
    """One triggerer, while it waits.

    :param progress: is called with what happens now.
    """

    def __init__(self, stack: WaitingStack, pattern: str, jobs: int, progress: Callable[[str], None]) -> None:
        self._stack = stack
        self._figures = Figures(pattern, jobs)
        self._progress = progress

    def measure(self) -> Figures:
        """Measure everything; what ends too early is a result, too."""
        figures = self._figures
        with self._stack.triggerer(figures.pattern, figures.jobs):
            self._begin()
            try:
                self._load()
                self._wait()
                if figures.pattern not in (IDLE, SETS):
                    self._end_some()
            except ProcessFailedError as error:
                figures.remark = f"the triggerer ended: {str(error).splitlines()[0]}"
            figures.heartbeat_silence = self._stack.longest_silence()
        return figures

    def _begin(self) -> None:
        """Bring one job to wait: what the first one costs, all of them share."""
        stack, pattern = self._stack, self._figures.pattern
        self._runner = stack.runner_pid()
        self._supervisor = stack.airflow.process("triggerer").pid
        asked = pattern != IDLE
        wait_until(lambda: stack.openai_counts()["requests"] if asked else stack.started(), "the first", START_SECONDS)
        self._memory = (memory(self._runner), memory(self._supervisor))

    def _load(self) -> None:
        stack, figures = self._stack, self._figures
        self._progress(f"{figures.jobs:,} jobs, {figures.pattern}: load")
        begun = time.monotonic()
        stack.release()
        try:
            wait_until(self._is_loaded, "all to wait", LOAD_SECONDS, 0.25)
        except TimeoutError:
            figures.remark = f"after {LOAD_SECONDS} s"
        figures.load_seconds = time.monotonic() - begun
        figures.waiting = self._waiting()
        if figures.pattern in (HUB, SETS):
            loaded = datetime.now(UTC)
            wait_until(lambda: any(at > loaded for at in stack.ledger_queries()), "the hub to check all waits", 30)
            self._be_quiet()
        figures.load_blocked = stack.blocked()

    def _is_loaded(self) -> bool:
        self._stack.airflow.check_alive()
        if free_memory() < LEAST_FREE_MEMORY:
            self._figures.remark = "the machine's memory was used up"
            return True
        return self._waiting() >= self._figures.jobs

    def _waiting(self) -> int:
        """How many wait beside the first: their triggers run; where each asks for itself, each has asked once."""
        if self._figures.pattern in (HUB, IDLE, SETS):
            return self._stack.started() - 1
        return self._stack.openai_counts()["seen"] - 1

    def _wait(self) -> None:
        stack, figures = self._stack, self._figures
        self._progress(f"{figures.jobs:,} jobs, {figures.pattern}: wait")
        if figures.pattern in (HUB, SETS):
            figures.silent_requests = self._watch(SILENT_SECONDS)
            figures.silent_cpu = figures.cpu
            self._receive(_webhook(0))
            with suppress(TimeoutError):  # then the figure says so
                wait_until(lambda: len(stack.ledger_queries()) == 1, "the others to be closed", CLOSED_SECONDS, 1.0)
            # That may have taken longer than webhooks may be silent.
            self._receive(Delivery("webhook_of_others", CONN_ID, "response.completed", "resp_of_others", {}))
            figures.requests = self._watch(IDLE_SECONDS)
        elif figures.pattern == IDLE:
            self._watch(IDLE_SECONDS)
        else:  # it has no webhooks
            figures.requests = figures.silent_requests = self._watch(IDLE_SECONDS)
        jobs = max(figures.waiting, 1)
        figures.memory = (memory(self._runner) - self._memory[0]) / jobs
        figures.supervisor_memory = (memory(self._supervisor) - self._memory[1]) / jobs
        figures.ledger_connections = len(stack.ledger_queries())
        figures.openai_connections = stack.openai_counts()["connections"]

    def _receive(self, webhook: Delivery) -> None:
        """Have a webhook arrive, and the hub see that they do."""
        with self._stack.ledger() as ledger:
            ledger.inbox.receive(webhook)
        wait_until(self._stack.webhooks_arrive, "the hub to see that webhooks arrive", 30)
        self._be_quiet()

    def _be_quiet(self) -> None:
        """Wait until the hub has taken in all that waits, or has another time for the next poll of each."""

        def is_quiet() -> bool:
            before = cpu(self._runner)
            time.sleep(1)
            return cpu(self._runner).since(before) < QUIET

        with suppress(TimeoutError):  # then that is what it takes
            wait_until(is_quiet, "the hub to be quiet", QUIET_SECONDS)

    def _watch(self, seconds: float) -> float:
        """Watch for a while; return the requests a minute to OpenAI, and note the CPU that was used."""
        stack, figures = self._stack, self._figures
        pids = (self._runner, self._supervisor)
        requests, before, begun = stack.openai_counts()["requests"], [cpu(pid) for pid in pids], time.monotonic()
        time.sleep(seconds)
        stack.airflow.check_alive()
        after: list[CpuShare] = [cpu(pid) for pid in pids]
        figures.cpu, figures.supervisor_cpu = (b.since(a) for a, b in zip(before, after, strict=True))
        return (stack.openai_counts()["requests"] - requests) / (time.monotonic() - begun) * 60

    def _end_some(self) -> None:
        """End some of the responses, spread over time, and see when their triggers' events are there."""
        stack, figures = self._stack, self._figures
        self._progress(f"{figures.jobs:,} jobs, {figures.pattern}: webhooks")
        number = min(figures.jobs, SAMPLE)
        sample = [1 + index * figures.jobs // number for index in range(number)]
        ended: dict[int, float] = {}
        with stack.ledger() as ledger:
            begun = time.monotonic()
            for count, index in enumerate(sample):
                time.sleep(max(0, begun + count / PER_SECOND - time.monotonic()))
                ended[index] = time.time()
                if figures.pattern == HUB:
                    ledger.inbox.receive(_webhook(index))
                else:
                    stack.openai.get(f"/end/{response_id(index)}")
        try:
            wait_until(lambda: self._all_resumed(ended), "the events", EVENT_SECONDS, 0.25)
        except TimeoutError:
            figures.remark = figures.remark or f"not all events came within {EVENT_SECONDS} s"
        resumed, fired = stack.resumed_at(), stack.fired_at(sample)
        figures.resumed = [resumed.get(index, float("inf")) - at for index, at in ended.items()]
        figures.fired = [fired.get(index, float("inf")) - at for index, at in ended.items()]
        figures.blocked = stack.blocked()[len(figures.load_blocked) :]

    def _all_resumed(self, ended: dict[int, float]) -> bool:
        self._stack.airflow.check_alive()
        return ended.keys() <= self._stack.resumed_at().keys()


def _webhook(index: int) -> Delivery:
    return Delivery(f"webhook_{index}", CONN_ID, "response.completed", response_id(index), {})
