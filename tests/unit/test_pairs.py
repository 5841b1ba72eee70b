"""The pairs of an Airflow and a Python that are run are the same wherever they are named."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def pairs() -> set[str]:
    """What `make test-on` knows."""
    listed = re.search(r"^PAIRS := (.+)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert listed is not None
    return set(listed[1].split())


def test_each_pair_has_a_lock_and_there_is_no_other_lock() -> None:
    found = {path.stem.removeprefix("airflow-") for path in (ROOT / "requirements").glob("airflow-*.txt")}
    assert found == pairs()
    releases = {path.stem.removeprefix("airflow-") for path in (ROOT / "requirements").glob("airflow-*.in")}
    assert releases == {pair.partition("-py")[0] for pair in pairs()}


def test_each_lock_is_of_its_release() -> None:
    for pair in pairs():
        text = (ROOT / "requirements" / f"airflow-{pair}.txt").read_text("utf-8")
        assert re.search(rf"^apache-airflow-core=={re.escape(pair.partition('-py')[0])}\.", text, re.MULTILINE), pair


def test_the_workflow_runs_each_pair() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    named = workflow["jobs"]["other-airflow"]["strategy"]["matrix"]["include"]
    assert {f"{each['airflow']}-py{each['python']}" for each in named} == pairs()


def test_the_documentation_has_a_row_for_each_pair() -> None:
    page = (ROOT / "docs" / "stability.md").read_text("utf-8")
    rows = set(re.findall(r"^\| (3\.\d+)\.\S+ \| (3\.\d+) \|", page, re.MULTILINE))
    assert pairs() <= {f"{airflow}-py{python}" for airflow, python in rows}
