"""Airflow on many nodes: who is where, what each one knows, and what is done to whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes import table
from nodes.databases import Databases, privileges
from nodes.faults import faults, short_faults
from nodes.settings import Keys, Settings
from nodes.table import Result
from nodes.topology import SHORT, WHOLE, Node, Topology
from nodes.verdict import Verdict


def test_each_node_has_a_name_and_an_address_of_its_own() -> None:
    nodes = Topology(WHOLE).nodes
    assert len({node.address for node in nodes}) == len({node.name for node in nodes}) == len(nodes) == 11
    assert set(Topology(SHORT).nodes) < set(nodes)


def test_what_is_done_is_done_to_each_kind_of_node_that_there_are_two_of() -> None:
    every = faults()
    assert len({fault.name for fault in every}) == len(every)
    assert {fault.kind for fault in every} == {None, *(kind for kind, count in WHOLE.items() if count == 2)}
    assert {fault.kind for fault in short_faults()} == {kind for kind, count in SHORT.items() if count == 2}


def environment(tmp_path: Path, node: Node) -> dict[str, str]:
    return Settings(tmp_path / "nodes", tmp_path, Databases(tmp_path / "databases"), Keys()).environment(node)


def test_a_worker_has_no_key_to_the_database_of_airflow_and_signs_no_tokens(tmp_path: Path) -> None:
    server = environment(tmp_path, Node("scheduler", 1))
    worker = environment(tmp_path, Node("worker", 1))
    secrets = ["DATABASE__SQL_ALCHEMY_CONN", "CORE__FERNET_KEY", "API_AUTH__JWT_SECRET"]
    assert all(server[f"AIRFLOW__{name}"] for name in secrets)
    assert not [name for name in secrets if f"AIRFLOW__{name}" in worker]


def test_each_node_has_a_home_of_its_own_with_the_dags_in_it(tmp_path: Path) -> None:
    homes = [Path(environment(tmp_path, Node("worker", number))["AIRFLOW_HOME"]) for number in (1, 2)]
    assert homes[0] != homes[1]
    assert all((home / "dags" / "publishing.py").exists() for home in homes)


def test_no_proxy_of_this_machine_stands_between_the_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy")
    assert "https_proxy" not in environment(tmp_path, Node("worker", 1))


def test_the_rights_of_the_daily_work_are_those_that_the_page_names() -> None:
    assert privileges().startswith("GRANT USAGE ON SCHEMA aihandoff TO ledger_user;")
    assert "GRANT DELETE" in privileges()


def test_a_row_stands_below_its_heading_and_what_is_no_0_is_said() -> None:
    verdict = Verdict(jobs=200, writes=201, differences=["HTTP writes applied: a was applied 2 times"])
    result = Result(
        "worker: SIGTERM", verdict, None, 3.4, 61.2, held=0, cleared=0, unfinished=["publishing one has not ended"]
    )
    assert len(table.line(result)) == len(table.head())
    assert table.line(result).endswith("3 s     61 s")
    assert result.problems == [
        "worker: SIGTERM: HTTP writes applied: a was applied 2 times",
        "worker: SIGTERM: publishing one has not ended",
    ]
