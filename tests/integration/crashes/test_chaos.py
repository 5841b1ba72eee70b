"""A small chaos run: `python -m chaos` with fewer crashes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.__main__ import failures
from chaos.run import Chaos


@pytest.mark.timeout(240)
def test_random_crashes_write_nothing_twice_lose_nothing_and_every_job_ends(
    tmp_path: Path,
) -> None:
    result = Chaos(tmp_path / "chaos", way="handoff", crashes=150, seed=1).run()

    assert failures(result) == [], result.count.histories
    assert result.faults.crashes >= 150
    assert result.count.writes > result.count.jobs


@pytest.mark.timeout(400)
def test_sets_that_die_at_random_write_nothing_twice_lose_nothing_and_every_job_ends(tmp_path: Path) -> None:
    result = Chaos(tmp_path / "chaos", way="set", crashes=30, seed=1, works_at_once=4, items=6).run()

    assert failures(result) == [], result.count.histories
    assert result.faults.crashes >= 30
    assert result.count.jobs % 6 == 0
