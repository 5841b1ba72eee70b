"""A connection is read for each write; where many are made, once a second."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from airflow_provider_aihandoff.targets import connections


@pytest.fixture
def reads() -> Callable[[], int]:
    """What is read: how many times it was read before."""
    done = iter(range(100))
    return lambda: next(done)


def test_each_write_alone_reads_again(reads: Callable[[], int]) -> None:
    assert [connections.once("cms", reads) for _ in range(2)] == [0, 1]


def test_many_writes_read_what_each_of_them_needs_once_a_second(
    reads: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with connections.kept():
        assert [connections.once("cms", reads) for _ in range(3)] == [0, 0, 0]
        assert connections.once("shop", reads) == 1
        now += 0.9
        assert connections.once("cms", reads) == 0
        now += 0.1
        assert connections.once("cms", reads) == 2


def test_what_was_kept_is_forgotten_when_the_last_of_the_tasks_has_ended(reads: Callable[[], int]) -> None:
    with connections.kept():
        with connections.kept():
            assert connections.once("cms", reads) == 0
        assert connections.once("cms", reads) == 0
    assert connections.once("cms", reads) == 1
    with connections.kept():
        assert connections.once("cms", reads) == 2


def test_that_a_connection_is_missing_is_not_kept() -> None:
    def missing() -> str:
        raise LookupError

    with connections.kept():
        with pytest.raises(LookupError):
            connections.once("cms", missing)
        assert connections.once("cms", lambda: "there") == "there"
