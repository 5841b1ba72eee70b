"""Runs one command and leaves nothing of it behind, however the process that asked for it ends.

The guardian waits on a pipe whose only write end the demo holds. When a stop is asked for there, or when that end
closes because the demo was killed, the guardian sends the command its stop signal, gives it a grace period (a short
one when no one is left to wait for it) and kills every descendant that remains. On Linux it is the "child
subreaper" of the command, so that even a daemon that left its process group and session stays a descendant.

Started by its path, with the standard library only: it must be up in milliseconds and depend on nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ON_LINUX = sys.platform == "linux"
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
WATCH_SECONDS = 0.5
ORPHAN_GRACE_SECONDS = 3.0
STOP = b"stop"


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process (Linux only; see prctl(2))."""
    if ON_LINUX:
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def process_table() -> dict[int, int]:
    """Return the parent of every process of the machine; zombies are left out, they are dead already."""
    return dict(_linux_processes() if ON_LINUX else _other_processes())


def descendants(*roots: int) -> set[int]:
    """Return the ids of the living children, grandchildren and so on of `roots`."""
    children: dict[int, list[int]] = {}
    for pid, parent in process_table().items():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    to_visit = list(roots)
    while to_visit:
        new = set(children.get(to_visit.pop(), ())) - found
        found |= new
        to_visit.extend(new)
    return found


def signal_all(pids: set[int], number: int) -> None:
    """Send a signal to each process that still exists."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _linux_processes() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            # The name of the command stands in parentheses and may hold anything, a parenthesis included.
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                yield int(folder.name), int(parent)


def _other_processes() -> Iterator[tuple[int, int]]:
    with subprocess.Popen(["ps", "-axo", "pid=,ppid=,stat="], stdout=subprocess.PIPE, text=True) as listing:
        for line in listing.communicate()[0].splitlines():
            pid, parent, state = line.split(maxsplit=2)
            if not state.startswith("Z") and int(pid) != listing.pid:
                yield int(pid), int(parent)


class Guardian:
    """One guarded command: started at once, ended by `run`."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._control: int = options.control_fd
        self._status: int = options.status_fd
        self._stop_signal: int = options.stop_signal
        self._grace: float = options.grace_seconds
        self._stopping = False
        self._seen: set[int] = set()
        self._wake, wake_write = os.pipe()
        os.set_blocking(wake_write, False)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._ask_to_stop)
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        self._process = self._start(options.command, options.user)
        self._main: int | None = self._process.pid
        self._report(f"started {self._main}")

    def run(self) -> None:
        """Wait until the command and all its descendants are gone, or until the demo is; then end them."""
        while not self._stopping and (self._main is not None or self._family()):
            self._wait_for_news(None if ON_LINUX else WATCH_SECONDS)
            self._reap()
            if not ON_LINUX:
                self._family()
        if self._main is not None:
            self._stop_command(self._main)
        while family := self._family():
            signal_all(family, signal.SIGKILL)
            self._wait_for_news(0.05)
            self._reap()

    def _stop_command(self, pid: int) -> None:
        signal_all({pid}, self._stop_signal)
        deadline = time.monotonic() + self._grace
        while self._main is not None and time.monotonic() < deadline:
            self._wait_for_news(WATCH_SECONDS)
            self._reap()

    def _family(self) -> set[int]:
        """Return the living descendants.

        Only Linux gives orphans to the guardian. Elsewhere they go to process 1, so that each descendant has
        to be remembered from when it was first seen.
        """
        if ON_LINUX:
            return descendants(os.getpid())
        seen = self._seen & process_table().keys()
        self._seen = seen | descendants(os.getpid(), *seen)
        return self._seen

    def _start(self, command: list[str], user: tuple[int, int] | None) -> subprocess.Popen[bytes]:
        # If the guardian itself is killed, the command still gets its stop signal.
        return subprocess.Popen(
            command,
            start_new_session=True,
            preexec_fn=_in_child(user, self._stop_signal),
            stdin=subprocess.DEVNULL,
        )

    def _ask_to_stop(self, *_: object) -> None:
        self._stopping = True

    def _report(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self._status, f"{line}\n".encode())

    def _wait_for_news(self, timeout: float | None) -> None:
        """Sleep until a child ended, a signal came, the demo closed its end, or the time has passed."""
        watched = [self._wake] if self._stopping else [self._wake, self._control]
        readable, _, _ = select.select(watched, [], [], timeout)
        if self._wake in readable:
            os.read(self._wake, 4096)
        if self._control in readable:
            self._stopping = True
            if os.read(self._control, len(STOP)) != STOP:
                self._grace = min(self._grace, ORPHAN_GRACE_SECONDS)

    def _reap(self) -> None:
        """Collect the children that ended: the command, and every orphan of it that became ours."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                pid, status = ended
                if pid == self._main:
                    self._main = None
                    self._report(f"exited {os.waitstatus_to_exitcode(status)}")


def _in_child(user: tuple[int, int] | None, stop_signal: int) -> Callable[[], None]:
    """Return what the child does before it becomes the command: drop its rights, and tie itself to its parent. It does
    not ignore Ctrl-C, as all do that a shell has started in the background."""

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if user is not None:
            os.setgroups([])
            os.setgid(user[1])
            os.setuid(user[0])
        prctl(PR_SET_PDEATHSIG, stop_signal)

    return prepare


def _user(text: str) -> tuple[int, int]:
    uid, gid = text.split(":")
    return int(uid), int(gid)


def main() -> None:
    """Parse the command line that `demo.processes` writes, and guard."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--control-fd", type=int, required=True)
    parser.add_argument("--status-fd", type=int, required=True)
    parser.add_argument("--stop-signal", type=int, default=signal.SIGTERM)
    parser.add_argument("--grace-seconds", type=float, default=10.0)
    parser.add_argument("--user", type=_user, help="uid:gid to run the command as; only root can")
    parser.add_argument("command", nargs="+")
    try:
        guardian = Guardian(parser.parse_args())
    except OSError as error:
        sys.exit(f"The command could not be started: {error}")
    guardian.run()


if __name__ == "__main__":
    main()
