"""The page for those who begin is walked as it stands, on a whole Airflow; `make start` does it from a wheel."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from airflow_provider_aihandoff.airflow_compat import RELEASE
from docs import walk_start

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1900)]


def test_a_stranger_comes_from_an_empty_folder_to_a_note_that_was_approved_and_written(tmp_path: Path) -> None:
    steps = walk_start.walk(tmp_path, Path(sys.executable), RELEASE, "true  # the package is installed")
    assert [step.title for step in steps] == [step.title for step in walk_start.steps()]
    written = (tmp_path / "first-job" / "first_note.md").read_text("utf-8")
    assert written.startswith("# ")
    output = (tmp_path / "output.log").read_text("utf-8")
    assert "job 1 (first note rain barrels, revision 1): approved." in output
    assert "history: unbroken" in output
