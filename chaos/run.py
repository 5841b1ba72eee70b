"""Runs of work under load, in which everything dies at random: attempts, PostgreSQL and the target.

The seed decides what happens to which attempt of which run, and what the outside systems do. How the processes then
meet depends on the machine.
"""

from __future__ import annotations

import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import psycopg
import requests
from openai import OpenAI

from airflow_provider_aihandoff.core.crashpoints import POINTS
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.errors import LedgerUnavailable
from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES
from airflow_provider_aihandoff.core.webhooks.correlate import find_owner
from chaos import plain
from chaos.attempts import POLL_SECONDS, Attempt, Outcome, receive_together, webhook
from chaos.count import Count, Row, Witness, compare, duplicates
from chaos.drive import Step, Stuck, drive
from chaos.effects import TABLE
from chaos.forks import AFTER_FENCE, Child, Died, Fault, Forks
from chaos.target import faults_of, read_log
from chaos.work import ALL_EFFECTS, EFFECTS, SET_EFFECTS, SET_PIPELINE, Variant, Work
from chaos.world import World
from demo.ports import free_port
from demo.postgres import PostgresServer
from demo.processes import ProcessSpec, Supervisor, python
from demo.waiting import wait_until

#: What the target does by chance to a write.
TARGET_FAULTS = {
    "busy": 0.02,
    "outage": 0.02,
    "drop": 0.03,
    "error": 0.03,
    "gateway": 0.03,
    "limited": 0.02,
    "later": 0.02,
    "slow": 0.02,
    "late": 0.01,
    "again": 0.03,
    "hidden": 0.05,
}

VARIANTS: tuple[Variant, ...] = ("idempotent", "probed", "conditional", "put", "neither")

#: How often a job has the effects that not every job has.
_FURTHER = 0.4

#: How OpenAI behaves, in the stand-in's words.
MODELS: tuple[str, ...] = ("delay=0.05",) * 8 + ("delay=0.4", "delay=0.05 create=429", "delay=0.05 create=503")
MODELS += ("delay=0.05 create=drop_after_accept",)

#: What is there to find the response of a lost request: nothing, webhooks, or a conversation for each revision.
Lost = Literal["neither", "webhooks", "handle"]

#: A model that thinks for longer than a lease and the wait for an orphan last, and whose answers get lost.
THINKING: tuple[str, ...] = ("delay=4", "delay=5", "delay=6", "delay=5 create=drop_after_accept")

#: Where a model thinks: how long a revision may take, and how often its response is polled.
_THINKING_DEADLINE, _THINKING_POLL = 60.0, 1.0

#: What each step commits and calls, mostly.
_SUBMIT = ("submit.open", "submit.intend", "submit.create", "submit.store", "wait.retrieve", "output.store")
_SEND = ("apply.claim", "apply.send", "apply.confirm")
_USUAL = {
    "draft": _SUBMIT,
    "plan": ("review.ask",),
    "decide": ("review.decide",),
    "cancel": ("cancel.request", "cancel.record", "wait.cancel"),
    "receive": ("receive.insert", "receive.correlate"),
    "receive together": ("receive.batch", "receive.correlate"),
    "rollback": ("undo.start", *_SEND),
}
#: The same of a set.
_USUAL |= {
    "draft set": ("set.open", "set.open jobs", "set.opened", "set.ended", *_SUBMIT[1:]),
    "ask set": ("review.ask", "set.notify"),
    "decide set": ("review.decide",),
    "approve set": ("review.ask",),
    "bulk roll back": ("bulk.begin", "bulk.record", "undo.start", *_SEND),
}
#: What it does where something went wrong before.
_UNUSUAL = {
    "draft": ("submit.refused", "submit.lost", "submit.open handle", "submit.handle"),
    "plan": ("review.ask",),
    "decide": ("review.decide",),
    "draft set": ("submit.refused", "submit.lost"),
    "ask set": ("review.ask",),
    "decide set": ("review.decide",),
    "approve set": ("review.ask",),
    "cancel": ("cancel.request",),
    **dict.fromkeys(("receive", "receive together"), ("receive.retrieve", "receive.adopt", "receive.polled")),
}
_AFTER_A_LOSS = ("apply.release", "apply.refuse", "apply.lose", "apply.resolve", "probe.send")

#: Attempts of one step to which something is done; after them it is left in peace, so that it ends.
_MOLESTED = 12

#: A person who is to resolve a write takes so many seconds.
_THINK = 1.5


@dataclass
class Faults:
    """What was done, by kind."""

    done: Counter[str] = field(default_factory=Counter)
    recovered: list[float] = field(default_factory=list)
    """Seconds from a crash to the moment at which what it broke off was done."""
    held: int = 0
    stuck: list[str] = field(default_factory=list)

    @property
    def crashes(self) -> int:
        """Processes that were killed."""
        return sum(number for kind, number in self.done.items() if kind.endswith("killed"))


@dataclass(frozen=True)
class Result:
    """What came of a run.

    :param works: how many pieces of work were begun.
    :param seconds: how long it took.
    """

    way: str
    works: int
    seconds: float
    faults: Faults
    count: Count


class Chaos:
    """One run, on a PostgreSQL, a target and an OpenAI of its own.

    :param way: ``handoff``: through the ledger; ``set``: the same, many jobs as one; or one of :data:`plain.PIPELINES`.
    :param crashes: how many processes are killed.
    :param works_at_once: how many pieces of work are under way at the same time.
    :param items: how many jobs each set has.
    :param lost: with what the response of a lost request is found, while the model thinks for longer than the ledger
        waits without it; None where it answers soon, and nothing is there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        way: str,
        crashes: int,
        seed: int,
        works_at_once: int = 16,
        items: int = 20,
        lost: Lost | None = None,
    ) -> None:
        self.folder, self.way, self.crashes, self.seed, self.lost = folder, way, crashes, seed, lost
        self.works_at_once, self.items = works_at_once, items
        self.faults = Faults()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._log = folder / "target.jsonl"
        self._numbers = iter(range(1_000_000))

    def run(self, say: Callable[[str], None] = print) -> Result:
        """Run until so many processes were killed, let everything come to its end, and count."""
        began = time.monotonic()
        with self._world() as world:
            with (
                Forks(world, home=str(self.folder), log=str(self.folder / "attempts.log")) as self._forks,
                Ledger(world.ledger, max_size=8) as self._ledger,
                ThreadPoolExecutor(self.works_at_once) as workers,
            ):
                killer = threading.Thread(target=self._kill_the_outside, name="chaos-outside")
                teller = threading.Thread(target=self._report_progress, args=[say], name="chaos-teller")
                receiver = threading.Thread(target=self._deliver_webhooks, args=[world], name="chaos-receiver")
                if self.lost == "webhooks":  # they are known to arrive
                    self._ledger.inbox.receive(webhook({"id": "resp_before", "status": "completed"}))
                outside = [killer, teller, *([receiver] if self.lost == "webhooks" else [])]
                for thread in outside:
                    thread.start()
                futures = [workers.submit(self._work_on) for _ in range(self.works_at_once)]
                try:
                    works = sum(future.result() for future in futures)
                finally:
                    self._over.set()
                    for thread in outside:
                        thread.join()
                records = [self._ledger.record(job.job_id) for job in self._ledger.jobs(limit=1_000_000)]
            witness = self._witness(world)
            if self.way in ("handoff", "set"):
                count = compare(records, witness)
            else:
                extra = sum(made - 1 for made in witness.responses.values())
                writes = len(witness.changes) + len(witness.rows)
                count = Count(jobs=works, writes=writes, duplicates=list(duplicates(witness)), extra_responses=extra)
        struck = faults_of(self._log)
        self.faults.done.update(f"target: {fault}" for fault in (struck.read_text().split() if struck.exists() else []))
        return Result(self.lost or self.way, works, time.monotonic() - began, self.faults, count)

    # The outside.

    @contextmanager
    def _world(self) -> Iterator[World]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack, Supervisor() as services:
            postgres = PostgresServer(self.folder / "postgres", {"max_connections": "200"})
            postgres.start()
            stack.callback(postgres.destroy)
            postgres.create_database("chaos")
            conninfo = postgres.connection_kwargs("chaos")
            schema.upgrade(conninfo)
            with psycopg.connect(**conninfo) as connection:
                connection.execute(TABLE)
            self._postgres = postgres
            self._services = services
            openai, target = free_port(), free_port()
            stand_in = python("-m", "airflow_provider_aihandoff.testing", f"--port={openai}")
            self._serve("openai", stand_in, f"http://127.0.0.1:{openai}/standin/responses")
            self._target_port = target
            self._serve_target()
            yield World(
                ledger={name: str(value) for name, value in conninfo.items()},
                openai_url=f"http://127.0.0.1:{openai}/v1",
                target_url=f"http://127.0.0.1:{target}",
                call_timeout=1.0,
                claim_margin=2.0,
                database_seconds=1.0,
                orphan_wait=1.0 if self.lost else 0.0,
                poll=_THINKING_POLL if self.lost else POLL_SECONDS,
                grace=4.0,  # longer than the target, late and stopped for a moment, takes to write
            )

    def _serve(self, name: str, command: tuple[str, ...], url: str) -> None:
        self._services.add(ProcessSpec(name, command, self.folder / f"{name}.log"))
        self._services.start(name)
        wait_until(lambda: _answers(url), name, 120)

    def _serve_target(self) -> None:
        self._target = subprocess.Popen(  # noqa: S603 - this interpreter
            [
                *(sys.executable, "-m", "chaos.target", f"--port={self._target_port}", f"--log={self._log}"),
                *(f"--seed={self.seed}", "--patience=1", f"--faults={json.dumps(TARGET_FAULTS)}"),
            ]
        )
        wait_until(lambda: _answers(f"http://127.0.0.1:{self._target_port}/x/writes?key=none"), "the target", 120)

    def _kill_the_outside(self) -> None:
        """Kill and stop PostgreSQL and the target, again and again, and start them again."""
        chance = random.Random(f"{self.seed} outside")  # noqa: S311 - chance, not a secret
        while not self._over.wait(chance.uniform(2, 10)) and not self._enough():
            match chance.choice(["target"] * 4 + ["pause target"] * 3 + ["postgres"] * 2 + ["restart postgres"]):
                case "target":
                    self._target.kill()
                    self._target.wait()
                    time.sleep(chance.uniform(0, 1))
                    self._serve_target()
                    self._count("target killed")
                case "pause target":
                    self._target.send_signal(signal.SIGSTOP)
                    time.sleep(chance.uniform(0.1, 0.7))
                    self._target.send_signal(signal.SIGCONT)
                    self._count("target stopped for a moment")
                case "postgres":
                    self._postgres.kill()
                    self._postgres.start()
                    self._count("PostgreSQL killed")
                case "restart postgres":
                    self._postgres.restart()
                    self._count("PostgreSQL restarted")
        self._over.wait()
        self._target.terminate()
        self._target.wait()

    def _deliver_webhooks(self, world: World) -> None:
        """Tell the ledger of each response that has ended, until it knows: as OpenAI and the receiver do."""
        delivered: set[str] = set()
        with OpenAI(base_url=world.openai_url, api_key="sk-of-the-chaos-run") as client:
            while not self._over.wait(0.5):
                new = [response for response in _ended(world) if response["id"] not in delivered]
                with suppress(LedgerUnavailable, psycopg.Error):
                    receipts = receive_together(self._ledger, [webhook(response) for response in new])
                    for response, receipt in zip(new, receipts, strict=True):
                        find_owner(self._ledger, receipt.entry.webhook_id, OpenAIProvider(client))
                        delivered.add(response["id"])

    # The work.

    def _work_on(self) -> int:
        """Do one piece of work after the other, until enough were killed."""
        number = 0
        while not self._enough():
            with self._lock:
                index = next(self._numbers)
            try:
                _Run(self, index).run()
            except (Stuck, Died) as error:
                with self._lock:
                    self.faults.stuck.append(str(error))
            number += 1
        return number

    def _enough(self) -> bool:
        return self.faults.crashes >= self.crashes

    def _count(self, kind: str) -> None:
        with self._lock:
            self.faults.done[kind] += 1

    def _report_progress(self, say: Callable[[str], None]) -> None:
        began = time.monotonic()
        while not self._over.wait(30):
            seconds = time.monotonic() - began
            say(f"{seconds:5.0f} s: {self.faults.crashes} of {self.crashes} killed")

    def _search(self, effect: Effect) -> str | None:
        """A person searches the target."""
        if effect.kind == "postgres":
            with psycopg.connect(**self._postgres.connection_kwargs("chaos")) as connection:
                statement = "SELECT external_id FROM aihandoff_marker WHERE effect_key = %s"
                row = connection.execute(statement, [effect.effect_key]).fetchone()
            return None if row is None else str(row[0])
        return next((change.record for change in read_log(self._log) if change.key == effect.effect_key), None)

    def _witness(self, world: World) -> Witness:
        with psycopg.connect(**self._postgres.connection_kwargs("chaos")) as connection:
            rows = [Row(*row) for row in connection.execute("SELECT row_id, name, undoes FROM chaos_rows")]
            jobs = connection.execute("SELECT job_id::text, job_key FROM aihandoff.jobs").fetchall()
        key_of = dict(jobs)
        report = requests.get(f"{world.openai_url.removesuffix('/v1')}/standin/responses", timeout=60).json()
        made: Counter[str] = Counter()
        cancelled: Counter[str] = Counter()
        for entry in report["responses"]:
            metadata = entry["response"]["metadata"]
            key = metadata.get("work") or key_of.get(metadata.get("aihandoff_job", ""), "?")
            made[key] += 1
            cancelled[key] += entry["response"]["status"] == "cancelled"
        return Witness(list(read_log(self._log)), rows, made, cancelled)


class _Run:
    """One piece of work, and what is done to its attempts."""

    def __init__(self, chaos: Chaos, index: int) -> None:
        self.chaos = chaos
        self.chance = random.Random(f"{chaos.seed} {index}")  # noqa: S311 - chance, not a secret
        self.work = Work(
            f"work-{index}",
            self.chance.choice(VARIANTS),
            effects=tuple(name for name in ALL_EFFECTS if name in EFFECTS or self.chance.random() < _FURTHER),
            model=self.chance.choice(THINKING if chaos.lost else MODELS),
            handle=chaos.lost == "handle",
            deadline_seconds=_THINKING_DEADLINE if chaos.lost else Work.deadline_seconds,
            on_lost=None if chaos.lost else "resend",
        )
        self.ending = self.chance.choices(["complete", "roll back", "cancel"], [70, 20, 10])[0]
        if chaos.way == "set":
            self.work = replace(self.work, effects=SET_EFFECTS, items=chaos.items)

    def run(self) -> None:
        """Do it to its end. A person fixes what has failed for good, and clears it once."""
        if self.chaos.way == "set":
            for step in (*SET_PIPELINE, *(["bulk roll back"] if self.ending == "roll back" else [])):
                self.step(step)
            return
        if self.chaos.way != "handoff":
            for step in plain.PIPELINES[self.chaos.way]:
                self.step(step)
            return
        cancelled_in = self.chance.choice(self.work.pipeline[1:]) if self.ending == "cancel" else None
        if (self.pipeline(cancelled_in) or self.pipeline()) and self.ending == "roll back":
            self.step("rollback")
        if self.chance.random() < 0.02:
            self.step(self.chance.choice(["receive", "receive together"]))

    def pipeline(self, cancelled_in: str | None = None) -> bool:
        """Run its tasks, one of them while a person cancels the job; False where one has failed for good."""
        for step in self.work.pipeline:
            canceller = None
            if step == cancelled_in:
                canceller = threading.Thread(target=self.step, args=["cancel"])
                canceller.start()
            done = self.step(step)
            if canceller is not None:
                canceller.join()
            if done.outcome.state == "failed":
                return False
        return True

    def step(self, step: str) -> Step:
        """Drive one step, and let those that were left paused go on at its end."""
        # Of a cancelled job nothing is sent again, so that nothing makes the target refuse the late request.
        chaos, attempts = self.chaos, _Attempts(self.chaos, may_be_late=self.ending != "cancel")
        try:
            done = drive(chaos._ledger, self.work, step, attempt=attempts.make, search=chaos._search, think=_THINK)
        finally:
            for child in attempts.left_paused:
                child.resume()
                child.wait()
        with chaos._lock:
            chaos.faults.held += done.held
            chaos.faults.recovered += [time.monotonic() - moment for moment in attempts.broke_off]
        return done


class _Attempts:
    """What is done to the attempts of one step. Each has a chance of its own, which the seed decides.

    :param may_be_late: one may be paused after its last check, where the target can recognise a late request.
    """

    def __init__(self, chaos: Chaos, *, may_be_late: bool) -> None:
        self.chaos, self.forks, self.may_be_late = chaos, chaos._forks, may_be_late
        self.broke_off: list[float] = []
        self.left_paused: list[Child] = []

    def make(self, attempt: Attempt) -> Outcome | None:
        """Make one attempt, to which something may be done."""
        chance = random.Random(f"{self.chaos.seed} {attempt.work.key} {attempt.step} {attempt.number}")  # noqa: S311
        peaceful = attempt.number > _MOLESTED or self.chaos._enough() or chance.random() < 0.1
        points = _points(attempt, unusual=chance.random() < 0.15)
        if peaceful:
            return self.forks.start(attempt).wait()
        if not points or chance.random() < 0.3:
            return self._strike(self.forks.start(attempt), chance)
        if chance.random() < 0.75:
            child = self.forks.start(attempt, Fault(chance.choice(points), nth=chance.choice([1, 1, 1, 2])))
            outcome = child.wait()
            if child.struck:
                self._died("attempt at a named point killed")
            return outcome
        beyond = _beyond_the_fence(attempt) if self.may_be_late else []
        return self._leave_paused(attempt, chance.choice([*points, *beyond]), chance)

    def _strike(self, child: Child, chance: random.Random) -> Outcome | None:
        """Kill it at any moment, or pause it for less than a claim's margin."""
        with child._changed:
            child._changed.wait_for(lambda: child.ended, chance.uniform(0, 0.3))
        if chance.random() < 0.75:
            child.kill()
            outcome = child.wait()
            if outcome is None:
                self._died("attempt at any moment killed")
            return outcome
        child.stop()
        if child.wait_until_stopped():
            time.sleep(chance.uniform(0.1, 0.6))
            child.resume()
            self.chaos._count("attempt stopped for a moment")
        return child.wait()

    def _leave_paused(self, attempt: Attempt, point: str, chance: random.Random) -> Outcome | None:
        """Pause it at a point while its retry runs; it goes on before the step ends, or at its end."""
        child = self.forks.start(attempt, Fault(point, "stop"))
        if not child.wait_until_stopped():
            return child.outcome
        self.left_paused.append(child)
        beyond = " after the last check" if point == AFTER_FENCE else ""
        self.chaos._count(f"attempt stopped{beyond}, its retry runs beside it")
        if chance.random() < 0.5:
            timer = threading.Timer(chance.uniform(0.2, 6), child.resume)
            timer.daemon = True
            timer.start()
        return None

    def _died(self, kind: str) -> None:
        self.chaos._count(kind)
        self.broke_off.append(time.monotonic())


def _points(attempt: Attempt, *, unusual: bool) -> list[str]:
    """Where an attempt may die or be stopped; an unusual point is one that it seldom comes by."""
    if attempt.step in plain.STEPS:
        return []
    steps = _UNUSUAL.get(attempt.step, _AFTER_A_LOSS) if unusual else _USUAL.get(attempt.step, _SEND)
    return [point for point in POINTS if point.partition(":")[0] in steps]


def _beyond_the_fence(attempt: Attempt) -> list[str]:
    """The point after the last check, for targets that recognise a late request: the sender cannot close the gap."""
    step, variant = attempt.step, attempt.work.variant
    closes = step in ("store", "retire") or variant in ("idempotent", "put", "conditional")
    return [AFTER_FENCE] * 6 if closes and step in (*ALL_EFFECTS, "write set") else []


def _ended(world: World) -> list[dict[str, Any]]:
    """The responses that have ended, as the stand-in has them."""
    with suppress(requests.RequestException):
        report = requests.get(f"{world.openai_url.removesuffix('/v1')}/standin/responses", timeout=60).json()
        made = [entry["response"] for entry in report["responses"]]
        return [response for response in made if response["status"] in ENDED_RESPONSE_STATUSES]
    return []


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=2).ok
    except requests.RequestException:
        return False


def quantile(seconds: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return statistics.quantiles(seconds, n=100)[round(share * 100) - 1] if len(seconds) > 1 else float("nan")
