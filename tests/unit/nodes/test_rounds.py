"""A fault begins, lasts, and is undone, while everything else goes on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from nodes.faults import Fault
from nodes.rounds import _Course
from nodes.topology import Node
from tests.waiting import until


def test_a_fault_is_undone_once_when_its_time_has_come_and_is_over_then() -> None:
    done: list[str] = []
    stopped = threading.Event()

    def begin(stack: Any, node: Node) -> None:
        stopped.wait(30)
        done.append(f"{node.name} is stopped")

    def end(stack: Any, node: Node) -> None:
        done.append(f"{node.name} goes on")

    stack: Any = None
    with ThreadPoolExecutor(1) as acting:
        course = _Course(Fault("is stopped", "worker", begin, end, 0.0), stack, Node("worker", 1), acting)
        course.go_on()
        assert not course.is_over
        stopped.set()

        def over() -> bool:
            course.go_on()
            return course.is_over

        until(over)
    assert done == ["worker-1 is stopped", "worker-1 goes on"]


def test_a_fault_that_fails_ends_the_round() -> None:
    def begin(stack: Any, node: Node) -> None:
        raise RuntimeError("there is no such node")

    stack: Any = None
    with ThreadPoolExecutor(1) as acting:
        course = _Course(Fault("is stopped", "worker", begin, begin, 0.0), stack, Node("worker", 1), acting)

        def over() -> bool:
            course.go_on()
            return course.is_over

        with pytest.raises(RuntimeError, match="no such node"):
            until(over)
