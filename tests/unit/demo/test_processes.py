"""Supervised processes: started, stopped and killed with everything that came from them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from demo import guardian
from demo.processes import GuardedProcess, ProcessFailedError, ProcessSpec, Supervisor, command_line, run_to_end
from demo.waiting import PROCESS_SECONDS, wait_until

FAMILY = "setsid sleep 600 & (setsid setsid sleep 600 &); exec sleep 600"
"""One process, one child in a session of its own, and one daemon that has left its parent.

Until all three are the `sleep` that they become, there are shells among them, which end by themselves.
"""
SLEEP = ["sleep", "600"]
NOTES_WHAT_IT_HAS_SEEN = """
_family = Guardian._family


def _noted(self):
    seen = _family(self)
    Path(__file__).with_name("seen").write_text(" ".join(map(str, seen)))
    return seen


Guardian._family = _noted

if __name__"""


def spec(tmp_path: Path, script: str, name: str = "family", **options: Any) -> ProcessSpec:
    return ProcessSpec(name, ("bash", "-c", script), tmp_path / "log", **options)


def sleeping(pids: set[int]) -> set[int]:
    return {pid for pid in pids if command_line(pid) == SLEEP}


def living(pids: set[int]) -> set[int]:
    """Those that still run; another program that was given one of the ids since does not count."""
    return sleeping(pids & guardian.process_table().keys())


def grown(members: set[int], sleeps: int, others: int = 0) -> set[int] | None:
    """The members of whole families, or nothing while one of them is not yet what it becomes."""
    return members if len(sleeping(members)) == sleeps == len(members) - others else None


@pytest.fixture
def family(tmp_path: Path) -> Iterator[GuardedProcess]:
    process = GuardedProcess(spec(tmp_path, FAMILY))
    wait_until(lambda: grown(process.descendants(), 3), "the family", PROCESS_SECONDS)
    yield process
    process.stop()


def test_a_stop_ends_the_process_and_the_daemons_that_it_left(family: GuardedProcess) -> None:
    members = family.descendants()
    family.stop()
    assert family.poll() == -signal.SIGTERM
    assert not living(members)


def test_a_kill_ends_the_whole_family(family: GuardedProcess) -> None:
    members = family.descendants()
    family.kill()
    assert family.poll() == -signal.SIGKILL
    assert not living(members)


def test_a_kill_of_the_process_alone_leaves_the_others_until_the_stop(family: GuardedProcess) -> None:
    others = family.descendants() - {family.pid}
    family.kill(descendants=False)
    assert living(others) == others
    family.stop()
    assert not living(others)


def test_ctrl_c_ends_a_process_also_where_this_program_was_started_in_the_background(tmp_path: Path) -> None:
    heeded = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = GuardedProcess(spec(tmp_path, "exec sleep 600"))
        wait_until(lambda: command_line(process.pid) == SLEEP, "the process", PROCESS_SECONDS)
    finally:
        signal.signal(signal.SIGINT, heeded)
    os.kill(process.pid, signal.SIGINT)
    assert wait_until(process.poll, "the process to end", PROCESS_SECONDS) == -signal.SIGINT
    process.stop()


def test_a_process_that_ignores_the_stop_signal_is_killed_after_its_grace(tmp_path: Path) -> None:
    script = "trap '' TERM; echo deaf; while :; do sleep 0.1; done"
    process = GuardedProcess(spec(tmp_path, script, grace_seconds=0.5))
    wait_until(process.spec.log.read_text, "the trap to be set", PROCESS_SECONDS)
    process.stop()
    assert process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_program_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    program = """
import sys
from pathlib import Path
from typing import Any
from demo.processes import GuardedProcess, ProcessSpec
children = [GuardedProcess(ProcessSpec("family", ("bash", "-c", sys.argv[1]), Path(sys.argv[2]))) for _ in range(2)]
print("started", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program, FAMILY, str(tmp_path / "log")]
    starter = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        members = wait_until(
            lambda: grown(guardian.descendants(starter.pid), 6, others=2),  # the others are the guardians
            "both families",
            PROCESS_SECONDS,
        )
        os.kill(starter.pid, number)
    wait_until(lambda: not members & guardian.process_table().keys(), "the end of both families", PROCESS_SECONDS)


def test_where_no_orphan_comes_back_to_the_guardian_those_that_it_saw_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(guardian.__file__).read_text()
    elsewhere, seen = tmp_path / "guardian.py", tmp_path / "seen"
    elsewhere.write_text(
        source.replace('ON_LINUX = sys.platform == "linux"', "ON_LINUX = False").replace(
            "\nif __name__", NOTES_WHAT_IT_HAS_SEEN
        )
    )
    assert "ON_LINUX = False" in elsewhere.read_text()
    monkeypatch.setattr(guardian, "__file__", str(elsewhere))
    process = GuardedProcess(spec(tmp_path, "setsid sleep 600 & exec sleep 600"))
    members = wait_until(lambda: grown(process.descendants(), 2), "both", PROCESS_SECONDS)
    wait_until(
        lambda: seen.exists() and members <= set(map(int, seen.read_text().split())),
        "the guardian to have seen both",
        PROCESS_SECONDS,
    )
    process.kill(descendants=False)
    process.stop()
    assert not living(members)


def test_the_guardian_itself_can_be_killed_without_leaving_the_process(family: GuardedProcess) -> None:
    daemons = family.descendants() - {family.pid}
    os.kill(guardian.process_table()[family.pid], signal.SIGKILL)
    wait_until(lambda: not living({family.pid}), "the end of the process", PROCESS_SECONDS)
    guardian.signal_all(daemons, signal.SIGKILL)


def test_a_command_that_does_not_exist_is_reported_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailedError, match="No such file or directory"):
        GuardedProcess(ProcessSpec("missing", ("/does/not/exist",), tmp_path / "log"))


def test_a_command_that_fails_is_reported_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(ProcessFailedError, match=r"(?s)exit code 3.*it was like this"):
        run_to_end(spec(tmp_path, "echo it was like this; exit 3"), timeout_seconds=PROCESS_SECONDS)
    run_to_end(spec(tmp_path, "exit 0"), timeout_seconds=PROCESS_SECONDS)


def test_a_supervisor_restarts_and_notices_what_ends_by_itself(tmp_path: Path) -> None:
    healthy = tmp_path / "healthy"
    with Supervisor() as supervisor:
        supervisor.add(spec(tmp_path, f"touch {healthy}; exec sleep 600", "long", healthy=healthy.exists))
        first = supervisor.start("long").pid
        supervisor.wait_healthy("long", timeout_seconds=PROCESS_SECONDS)
        assert supervisor.start("long").pid == first
        assert supervisor.restart("long").pid != first
        supervisor.kill("long")
        assert not supervisor.is_running("long")
        with pytest.raises(ProcessFailedError, match="long ended with exit code -9"):
            supervisor.check_alive()
        last = supervisor.start("long").pid
        supervisor.check_alive()
    assert not living({last})
