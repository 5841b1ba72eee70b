"""The commands are there without Airflow's own command, which takes none from providers before 3.2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_the_package_run_as_a_module_has_the_commands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "airflow_provider_aihandoff", "db", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
    )
    assert "upgrade" in done.stdout
    assert "check" in done.stdout
