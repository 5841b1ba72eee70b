"""A row of the table that is not played to its end is a problem, and the other rows are played all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import nodes.__main__ as command
from nodes.faults import Fault
from nodes.table import Result
from nodes.topology import SHORT, Topology
from nodes.verdict import Verdict


def test_a_row_that_times_out_is_a_problem_and_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Rounds:
        def __init__(self, *_: Any) -> None: ...

        def play(self, fault: Fault) -> Result:
            if fault.what == "network cut":
                raise TimeoutError("Waited 900 s for a fifth of the jobs to flow, in vain.")
            return Result(fault.name, Verdict(jobs=20, writes=21), went_on=None, pause=3, seconds=60, held=0, cleared=0)

    @contextmanager
    def running(*_: Any, **__: Any) -> Iterator[None]:
        yield None

    for name, stand_in in {"Rounds": Rounds, "running": running, "Traffic": lambda _: None}.items():
        monkeypatch.setattr(command, name, stand_in)
    monkeypatch.setattr(command, "judge", lambda _, *, after: Verdict(jobs=20, writes=21))

    def nothing(*_: Any) -> None: ...

    chosen = [Fault(what, "worker", nothing, nothing, 0) for what in ("network cut", "SIGTERM")]
    problems = command.play(tmp_path, chosen, Topology(SHORT), 20)

    assert problems == ["worker: network cut: Waited 900 s for a fifth of the jobs to flow, in vain."]
    table = capsys.readouterr().out.partition("\n\n")[2]
    assert "worker: network cut                                   not played to its end: Waited 900 s" in table
    assert "worker: SIGTERM                                        20" in table
