"""Attempts in processes of their own, each forked from a server that has imported everything: it costs milliseconds.

The server (``python -m chaos.forks``) has one thread and no connection to anything, so that a child inherits none: it
opens its ledger, its clients and its sessions itself. The user of the server (:class:`Forks`) may kill, stop and
continue a child at any time, and give it a :class:`Fault`: then the child kills or stops itself, at the n-th time that
it reaches a crash point.

The two talk in lines of JSON: commands on the server's standard input, events on a pipe that server and children share.
Each line is written at once and is shorter than what a pipe takes in one piece. When the user goes, the server ends its
children and itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import itertools
import json
import os
import select
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from chaos.attempts import Attempt, Outcome
from chaos.work import ALL_EFFECTS, Work
from chaos.world import World

#: A point that the core cannot name: the claim was found to be valid, and the call has not begun. Nothing in the
#: sending process can close this gap; the target has to.
AFTER_FENCE = "apply.send: between the last check and the call"

#: Characters of an outcome's words: a line must not be longer than what a pipe takes in one piece (4096 on Linux).
_MAX_TEXT = 500

_PR_SET_PDEATHSIG = 1

#: Seconds after which an attempt counts as one that hangs. Long, since a machine can be busy with other things.
_TIMEOUT = 300.0

#: A response with everything in it that an attempt reads.
_RESPONSE: dict[str, Any] = {
    "id": "resp_warm_up",
    "object": "response",
    "status": "completed",
    "model": "gpt-5.2",
    "tools": [],
    "output": [
        {
            "id": "msg_warm_up",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "{}", "annotations": []}],
        }
    ],
    "usage": {
        "input_tokens": 1,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 1,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 2,
    },
}


@dataclass(frozen=True)
class Fault:
    """What a child does to itself.

    :param point: one of ``crashpoints.POINTS``, or :data:`AFTER_FENCE`.
    :param do: ``kill``: SIGKILL; ``stop``: SIGSTOP, until it is continued.
    :param nth: at which time that it reaches the point.
    """

    point: str
    do: Literal["kill", "stop"] = "kill"
    nth: int = 1


class Died(RuntimeError):
    """The server has ended, or a child does not do what it is waited for."""


@dataclass(eq=False)
class Child:
    """One attempt in a process of its own. Safe to use from any thread."""

    number: int
    attempt: Attempt
    send: Callable[..., None] = field(repr=False)
    reached: list[str] = field(default_factory=list)
    """The crash points that it has reached, in order, where it was asked to report them."""
    outcome: Outcome | None = None
    """How the attempt ended; None while it runs, and where it was killed."""
    struck: bool = False
    """Its fault has happened."""
    stopped: bool = False
    """It is paused now."""
    ended: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def wait(self, timeout: float = _TIMEOUT) -> Outcome | None:
        """Wait until the process has ended; the outcome is None where it was killed.

        :raises Died: it has not ended in time; its log says where it is.
        """
        self._wait_for(lambda: self.ended, timeout, "ended")
        return self.outcome

    def wait_until_stopped(self, timeout: float = _TIMEOUT) -> bool:
        """Wait until it is paused. False where it has ended instead.

        :raises Died: neither came in time.
        """
        self._wait_for(lambda: self.stopped or self.ended, timeout, "stopped")
        return not self.ended

    def kill(self) -> None:
        """SIGKILL, also where it is paused. Does nothing to one that has ended."""
        self._signal(signal.SIGKILL)

    def stop(self) -> None:
        """SIGSTOP. Does nothing to one that has ended."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT. Does nothing to one that has ended."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if not self.ended:
            self.send(do="signal", number=self.number, signal=int(number))

    def _wait_for(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(condition, timeout):
                self._signal(signal.SIGUSR1)
                raise Died(f"{self.attempt} has not {what} within {timeout:g} s; it has reached {self.reached[-3:]}")

    def take_in(self, event: dict[str, Any]) -> None:
        """Take in what the server, or the child itself, reports."""
        with self._changed:
            match event["event"]:
                case "reached":
                    self.reached.append(event["point"])
                case "struck":
                    self.struck = True
                case "outcome":
                    self.outcome = Outcome(**event["outcome"])
                case "stopped" | "continued":
                    self.stopped = event["event"] == "stopped"
                case "ended":
                    self.ended, self.stopped = True, False
            self._changed.notify_all()


class Forks:
    """A server that forks attempts in one world. Safe to use from any thread; use it as a context manager.

    :param home: a folder for Airflow's settings; nothing of another Airflow is read.
    :param log: where children write their log; by default nowhere.
    """

    def __init__(self, world: World, *, home: str, log: str = os.devnull) -> None:
        self.world = world
        self._numbers = itertools.count(1)
        self._children: dict[int, Child] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        events, write = os.pipe()
        environment = {
            **os.environ,
            **world.variables(),
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "SSL_CERT_FILE": str(_one_authority(Path(home))),
        }
        with open(log, "ab") as sink:  # noqa: PTH123 - it may be a device
            self._server = subprocess.Popen(  # noqa: S603 - this interpreter
                [sys.executable, "-m", "chaos.forks", str(write)],
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=sink,
                pass_fds=[write],
                env=environment,
            )
        os.close(write)
        self._reader = threading.Thread(target=self._read, args=[events], name="chaos-forks", daemon=True)
        self._reader.start()
        self._send(**asdict(world))
        if not self._ready.wait(_TIMEOUT):
            self.close()
            raise Died(f"the server did not start; see {log}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server and every child that is left."""
        assert self._server.stdin is not None
        with contextlib.suppress(OSError):
            self._server.stdin.close()
        try:
            self._server.wait(10)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._reader.join(10)

    def start(self, attempt: Attempt, fault: Fault | None = None, *, trace: bool = False) -> Child:
        """Begin an attempt.

        :param trace: let it report each crash point that it reaches.
        :raises Died: the server has ended.
        """
        number = next(self._numbers)
        child = Child(number, attempt, self._send)
        self._children[number] = child
        self._send(
            do="start",
            number=number,
            attempt=asdict(attempt),
            fault=None if fault is None else asdict(fault),
            trace=trace,
        )
        return child

    def _send(self, **command: Any) -> None:
        assert self._server.stdin is not None
        with self._lock:
            try:
                self._server.stdin.write(json.dumps(command).encode() + b"\n")
                self._server.stdin.flush()
            except (OSError, ValueError) as error:
                raise Died("the server has ended") from error

    def _read(self, events: int) -> None:
        with open(events, "rb") as lines:
            for line in lines:
                event = json.loads(line)
                if event["event"] == "ready":
                    self._ready.set()
                    continue
                child = self._children[event["number"]]
                if event["event"] == "ended":
                    del self._children[event["number"]]
                child.take_in(event)
        for child in list(self._children.values()):
            child.take_in({"event": "ended"})


def _one_authority(folder: Path) -> Path:
    """A file with one certificate authority: nothing here speaks TLS, and each client reads all it is given."""
    first, end, _ = Path(DEFAULT_CA_BUNDLE_PATH).read_text("utf-8").partition("-----END CERTIFICATE-----")
    file = folder / "authority.pem"
    file.write_text(first + end + "\n", "utf-8")
    return file


# The server's side.


class _Server:
    """Forks, and reports what happens to its children."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._pids: dict[int, int] = {}
        """The pid of each child that was not reaped, by its number: no signal goes to a pid that is another's."""
        self._rest = b""
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Live in the world that the first line names, and obey the others until there are no more."""
        (first,) = self._read_lines(wait_for_one=True)
        world = World(**json.loads(first))
        world.use()
        _warm_up(world)
        _check_nothing_is_inherited()
        _report(self._events, event="ready")
        while True:
            readable, _, _ = select.select([0, self._woken], [], [])
            if self._woken in readable:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._woken, 4096)
                self._reap()
            if 0 in readable:
                lines = self._read_lines()
                if lines is None:
                    break
                for line in lines:
                    self._obey(json.loads(line), world)
        for pid in self._pids.values():
            os.kill(pid, signal.SIGKILL)

    def _read_lines(self, *, wait_for_one: bool = False) -> Any:
        """The complete lines that have come; None at the end."""
        while True:
            chunk = os.read(0, 65536)
            if not chunk:
                return None
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            if lines or not wait_for_one:
                return lines

    def _obey(self, command: dict[str, Any], world: World) -> None:
        if command["do"] == "start":
            self._fork(command, world)
        elif pid := self._pids.get(command["number"]):
            os.kill(pid, command["signal"])

    def _fork(self, command: dict[str, Any], world: World) -> None:
        pid = os.fork()
        if pid:
            self._pids[command["number"]] = pid
            return
        try:
            _become_child()
            _attempt(command, world, self._events)
        finally:
            os._exit(0)

    def _reap(self) -> None:
        numbers = {pid: number for number, pid in self._pids.items()}
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not pid:
                return
            number = numbers[pid]
            if os.WIFSTOPPED(status):
                _report(self._events, event="stopped", number=number)
            elif os.WIFCONTINUED(status):
                _report(self._events, event="continued", number=number)
            else:
                del self._pids[number]
                _report(self._events, event="ended", number=number)


def _report(events: int, **event: Any) -> None:
    os.write(events, json.dumps(event).encode() + b"\n")


def _warm_up(world: World) -> None:
    """Import and build what an attempt needs, without opening a connection."""
    from openai.types.responses import Response

    from airflow_provider_aihandoff.core.generation.openai.answers import read_response
    from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
    from airflow_provider_aihandoff.hooks.model_provider import providers
    from airflow_provider_aihandoff.targets.http_probe import check_path
    from chaos import plain
    from chaos.effects import plans
    from chaos.world import OPENAI

    plain.warm_up()
    plans(world, Work("warm-up", effects=ALL_EFFECTS))
    for path in ("$.id", "$.key", "$.writes"):
        check_path(path, "warm-up")
    with providers() as provider_for:
        provider_for(OPENAI)  # what the SDK imports on first use
    response = read_response(Response.construct(**_RESPONSE), _RESPONSE["id"])  # builds the SDK's models
    OpenAIFacts().price(response, {})
    OpenAIFacts().worst_case({"model": "gpt-5.2", "input": ""})
    gc.collect()
    gc.freeze()  # so that no child copies pages just to count what is on them


def _check_nothing_is_inherited() -> None:
    """Refuse to fork with a second thread or an open socket: a child would share them.

    :raises RuntimeError: there is one.
    """
    if threading.active_count() > 1:
        raise RuntimeError(f"the server has threads: {threading.enumerate()}")
    sockets = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - one of them is this listing itself
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                sockets.append(name)
    if sockets:
        raise RuntimeError(f"the server has sockets: {sockets}")


def _become_child() -> None:
    """Die with the server, and leave its signals and its standard input alone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.register(signal.SIGUSR1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)


def _attempt(command: dict[str, Any], world: World, events: int) -> None:
    from chaos import attempts, plain

    number = command["number"]
    fields = command["attempt"]
    work = Work(**{**fields["work"], "effects": tuple(fields["work"]["effects"])})
    _arm(number, None if command["fault"] is None else Fault(**command["fault"]), command["trace"], events)
    attempt = Attempt(**{**fields, "work": work})
    outcome = asdict((plain if attempt.step in plain.STEPS else attempts).run(world, attempt))
    outcome["why"] = outcome["why"][:_MAX_TEXT]
    _report(events, event="outcome", number=number, outcome=outcome)


def _arm(number: int, fault: Fault | None, trace: bool, events: int) -> None:
    """Let this process report the points that it reaches, and kill or stop itself at one."""
    from airflow_provider_aihandoff.core import crashpoints
    from airflow_provider_aihandoff.core.effects import apply

    times = itertools.count(1)

    def on_reached(point: str) -> None:
        if trace:
            _report(events, event="reached", number=number, point=point)
        if fault is not None and point == fault.point and next(times) == fault.nth:
            _report(events, event="struck", number=number)
            os.kill(os.getpid(), signal.SIGKILL if fault.do == "kill" else signal.SIGSTOP)

    if fault is not None or trace:
        crashpoints.arm(on_reached)
    if fault is not None and fault.point == AFTER_FENCE:
        check = apply._check_fence

        def check_and_strike(claim: Any, asked: float) -> None:
            check(claim, asked)
            on_reached(AFTER_FENCE)

        apply._check_fence = check_and_strike


def _main() -> None:
    # Not as __main__, so that what it forks and what imports it agree on its classes.
    from chaos.forks import _Server

    _Server(int(sys.argv[1])).serve()


if __name__ == "__main__":
    _main()
