"""Supervises child processes: each behind a guardian, in a session of its own, with its output in a log file.

Neither Ctrl-C nor a SIGKILL of this process leaves anything of them behind: see `demo.guardian`.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from demo import guardian
from demo.waiting import AIRFLOW_SECONDS, PROCESS_SECONDS, wait_until

LOG_TAIL_LINES = 25


class ProcessFailedError(RuntimeError):
    """A supervised process ended by itself, or could not be started."""

    def __init__(self, spec: "ProcessSpec", what: str) -> None:
        super().__init__(f"{spec.name} {what}. The end of {spec.log}:\n{log_tail(spec.log)}")


@dataclass(frozen=True)
class ProcessSpec:
    """What to run, and how to end it."""

    name: str
    command: tuple[str, ...]
    log: Path
    env: Mapping[str, str] | None = None
    """The whole environment; this process's own if there is none."""
    cwd: Path | None = None
    user: tuple[int, int] | None = None
    """uid and gid to run as; only root can choose."""
    stop_signal: signal.Signals = signal.SIGTERM
    grace_seconds: float = 10.0
    """How long a stop may take, before what is left of the process and its descendants is killed."""
    healthy: Callable[[], bool] | None = None
    """Whether it is ready to work; without one it is as soon as it runs."""


class GuardedProcess:
    """One running process and the guardian that outlives us just long enough to clean up after it."""

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        control, self._control = os.pipe()
        self._status, status = os.pipe()
        try:
            self._guardian = self._start_guardian(control, status)
        finally:
            os.close(control)
            os.close(status)
        self._unread = b""
        self._exit_code: int | None = None
        started = self._read_report(PROCESS_SECONDS)
        if started is None:
            self.stop()
            raise ProcessFailedError(spec, f"could not be started: {spec.command[0]}")
        self.pid = int(started.split()[1])

    def poll(self) -> int | None:
        """Return the exit code, or `None` as long as the process runs (negative: ended by that signal)."""
        if self._exit_code is None:
            report = self._read_report(timeout_seconds=0)
            if report is not None:
                self._exit_code = int(report.split()[1])
            elif self._guardian.poll() is not None:
                self._exit_code = -signal.SIGKILL
        return self._exit_code

    def stop(self) -> None:
        """Stop it and its descendants: the stop signal, the grace period, then SIGKILL; return when all are gone."""
        if self._control >= 0:
            with contextlib.suppress(BrokenPipeError):
                os.write(self._control, guardian.STOP)
            os.close(self._control)
            self._control = -1
        self._guardian.wait()
        self.poll()
        if self._status >= 0:
            os.close(self._status)
            self._status = -1

    def kill(self, *, descendants: bool = True) -> None:
        """SIGKILL the process, as a crash would; with its descendants, as a crash of the machine would.

        Without them, what it forked runs on, and is ended with this program or by `stop` at the latest.
        """
        guardian.signal_all({self.pid}, signal.SIGKILL)
        while descendants and (left := guardian.descendants(self._guardian.pid)):
            guardian.signal_all(left, signal.SIGKILL)
        wait_until(lambda: self.poll() is not None, f"the end of {self.spec.name}", PROCESS_SECONDS, 0.01)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process alone."""
        guardian.signal_all({self.pid}, number)

    def wait_gone(self, timeout_seconds: float = AIRFLOW_SECONDS) -> None:
        """Wait until the process and all its descendants have ended by themselves.

        :raises TimeoutError: when some of them still run; the message names them.
        """
        try:
            self._guardian.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            left = ", ".join(f"{pid} ({' '.join(command_line(pid))[:80]})" for pid in sorted(self.descendants()))
            raise TimeoutError(f"{self.spec.name}: after {timeout_seconds:g} s these still run: {left}") from None

    def descendants(self) -> set[int]:
        """Return the ids of the process and of everything that came from it and still lives."""
        return guardian.descendants(self._guardian.pid)

    def _start_guardian(self, control: int, status: int) -> subprocess.Popen[bytes]:
        spec = self.spec
        options = [
            f"--control-fd={control}",
            f"--status-fd={status}",
            f"--stop-signal={int(spec.stop_signal)}",
            f"--grace-seconds={spec.grace_seconds}",
        ]
        if spec.user is not None:
            options.append("--user={}:{}".format(*spec.user))
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__, *options, "--", *spec.command],
                pass_fds=(control, status),
                start_new_session=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=spec.env,
                cwd=spec.cwd,
            )

    def _read_report(self, timeout_seconds: float) -> str | None:
        while b"\n" not in self._unread:
            if self._status < 0 or not select.select([self._status], [], [], timeout_seconds)[0]:
                return None
            received = os.read(self._status, 4096)
            if not received:
                return None
            self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line.decode()


class Supervisor:
    """A set of named processes; ends all of them when it is closed."""

    def __init__(self) -> None:
        self._specs: dict[str, ProcessSpec] = {}
        self._running: dict[str, GuardedProcess] = {}
        self._leftovers: list[GuardedProcess] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_all()

    def add(self, spec: ProcessSpec) -> None:
        """Make a process known; a second one of the same name takes its place at the next start."""
        self._specs[spec.name] = spec

    def start(self, name: str) -> GuardedProcess:
        """Start a process that does not run; when it runs already, return that one."""
        running = self._running.get(name)
        if running is not None and running.poll() is None:
            return running
        if running is not None:
            self._leftovers.append(running)
        self._running[name] = GuardedProcess(self._specs[name])
        return self._running[name]

    def stop(self, name: str) -> None:
        """Stop a process and its descendants, and what an earlier `kill` left of it."""
        for process in [p for p in self._leftovers if p.spec.name == name]:
            process.stop()
            self._leftovers.remove(process)
        if running := self._running.pop(name, None):
            running.stop()

    def kill(self, name: str, *, descendants: bool = True) -> None:
        """SIGKILL a process; see `GuardedProcess.kill`."""
        self._running[name].kill(descendants=descendants)

    def restart(self, name: str) -> GuardedProcess:
        """Stop and start a process."""
        self.stop(name)
        return self.start(name)

    def process(self, name: str) -> GuardedProcess:
        """Return the process that was started under this name.

        :raises KeyError: when it was never started, or was stopped.
        """
        return self._running[name]

    def is_running(self, name: str) -> bool:
        """Whether the process itself (not only something that it forked) runs."""
        running = self._running.get(name)
        return running is not None and running.poll() is None

    def check_alive(self) -> None:
        """Raise for a process that ended by itself.

        :raises ProcessFailedError: with the end of its log.
        """
        for process in list(self._running.values()):
            if (code := process.poll()) is not None:
                raise ProcessFailedError(process.spec, f"ended with exit code {code}")

    def wait_healthy(self, *names: str, timeout_seconds: float = AIRFLOW_SECONDS) -> None:
        """Wait until some of the processes, or all that run, say that they are healthy.

        :raises ProcessFailedError: as soon as one of them ends.
        :raises TimeoutError: when one of them is not healthy in time.
        """
        for name in names or list(self._running):
            wait_until(partial(self._is_healthy, name), f"{name} to be healthy", timeout_seconds)

    def _is_healthy(self, name: str) -> bool:
        process = self._running[name]
        if (code := process.poll()) is not None:
            raise ProcessFailedError(process.spec, f"ended with exit code {code}")
        return process.spec.healthy is None or process.spec.healthy()

    def stop_all(self) -> None:
        """Stop all processes at the same time."""
        names = {*self._running, *(process.spec.name for process in self._leftovers)}
        if names:
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(self.stop, names))


def log_tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """Return the last lines of a log file, or say that there are none."""
    if not log.exists():
        return "(no log)"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) or "(empty)"


def command_line(pid: int) -> list[str]:
    """Return the command and the arguments of any process; nothing when there is none (or a kernel's)."""
    if guardian.ON_LINUX:
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")[:-1]
        return []
    listing = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listing.stdout.split()


def python(*arguments: str) -> tuple[str, ...]:
    """Return the command that runs this program's own Python with some arguments."""
    return (sys.executable, *arguments)


def environment(extra: Mapping[str, str], drop_prefix: str | None = None) -> dict[str, str]:
    """Return this process's environment with some variables added.

    The venv's commands come first on the PATH, and no proxy stands between programs of this machine.

    :param drop_prefix: leaves out what this process has under names that begin so.
    """
    kept = {key: value for key, value in os.environ.items() if not drop_prefix or not key.startswith(drop_prefix)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    no_proxy = ",".join(filter(None, [kept.get("NO_PROXY") or kept.get("no_proxy"), "127.0.0.1,localhost"]))
    return {**kept, "PATH": path, "NO_PROXY": no_proxy, "no_proxy": no_proxy, **extra}


def run_to_end(spec: ProcessSpec, timeout_seconds: float) -> None:
    """Run a process until it ends.

    :raises ProcessFailedError: when its exit code is not 0; with the end of its log.
    :raises TimeoutError: when it takes too long; it is stopped then.
    """
    process = GuardedProcess(spec)
    try:
        code = wait_until(
            lambda: None if (c := process.poll()) is None else str(c),
            f"the end of {spec.name}",
            timeout_seconds,
        )
    finally:
        process.stop()
    if code != "0":
        raise ProcessFailedError(spec, f"ended with exit code {code}")
