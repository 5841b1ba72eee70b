"""What ends by itself is started again; what is down on purpose stays down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodes.components import Stack
from nodes.databases import Databases
from nodes.network import Network
from nodes.topology import Topology


class Supervisor:
    def __init__(self, running: set[str]) -> None:
        self.running = running

    def is_running(self, name: str) -> bool:
        return name in self.running

    def restart(self, name: str) -> None:
        self.running.add(name)


@pytest.mark.parametrize(
    ("running", "down", "revived"),
    [
        ({"worker-1", "worker-2", "pooler"}, set(), []),
        ({"worker-1"}, {"worker-2"}, ["pooler"]),
        ({"pooler"}, {"worker-1"}, ["worker-2"]),
    ],
)
def test_nodes_and_services_that_have_ended_by_themselves_are_started_again(
    tmp_path: Path, running: set[str], down: set[str], revived: list[str]
) -> None:
    topology = Topology({"worker": 2})
    stack = Stack(tmp_path, topology, Network(topology.nodes), Databases(tmp_path / "databases"), jobs=1)
    supervisor: Any = Supervisor(running)
    stack.supervisor, stack.services, stack.down = supervisor, ["pooler"], down
    assert stack.revive() == revived
    assert running | down == {"worker-1", "worker-2", "pooler"}
