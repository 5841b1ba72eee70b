"""The benchmarks that make jobs with the operators of the template Dags still run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from demo.local import CHECKOUT


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["jobs_per_second", "--jobs", "2", "--workers", "1", "--turns", "1"], "transactions a job"),
        (["ledger_growth", "--jobs", "60", "--each", "2"], "beside freshly written ones"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_it_makes_jobs_and_prints_what_they_took(arguments: list[str], printed: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{arguments[0]}", *arguments[1:]]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert printed in done.stdout
