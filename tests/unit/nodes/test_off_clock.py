"""Where the clock of a worker is off, only its clock is off."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from nodes import components
from nodes.components import Stack
from nodes.databases import Databases
from nodes.faults import CLOCK
from nodes.network import Network
from nodes.topology import Node, Topology

_PROGRAM = """
import subprocess, sys, time
before = time.time(), time.monotonic()
time.sleep(0.01)
try:
    subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.01)
except subprocess.TimeoutExpired:
    print(time.time())"""


def test_a_worker_whose_clock_is_off_can_sleep_and_wait_for_a_process(tmp_path: Path) -> None:
    if components._faketime() is None:
        pytest.skip("libfaketime is not installed: apt-get install --yes libfaketime")
    topology = Topology({"worker": 1})
    stack = Stack(tmp_path, topology, Network(topology.nodes), Databases(tmp_path / "databases"), jobs=1)
    env = stack._spec(Node("worker", 1), clock=CLOCK).env
    ran = subprocess.run([sys.executable, "-c", _PROGRAM], env=env, capture_output=True, text=True, check=False)
    assert not ran.stderr
    assert 4000 < float(ran.stdout) - time.time() < 4400
