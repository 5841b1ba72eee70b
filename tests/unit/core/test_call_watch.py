"""The watch over one call: when a write may begin, and what ends its connection."""

from __future__ import annotations

import socket

import pytest

from airflow_provider_aihandoff.core.call_watch import CallWatch


def test_what_got_ready_too_late_does_not_begin_and_what_has_begun_goes_on() -> None:
    late, begun = CallWatch(0, 60), CallWatch(60, 60)
    try:
        with pytest.raises(TimeoutError, match="it took too long to connect"):
            late.begin()
        assert not late.left
        begun.begin()
        begun._begin_until = 0
        begun.begin()
        assert begun.left
    finally:
        late.close()
        begun.close()


@pytest.mark.parametrize("when", ["before its time has ended", "after it"])
def test_a_connection_is_cut_when_its_time_has_ended_also_one_that_is_made_later(when: str) -> None:
    ours, theirs = socket.socketpair()
    watch = CallWatch(60, 60)
    try:
        if when == "after it":
            watch._cut()
        watch.connected(ours)
        if when != "after it":
            watch._cut()
        theirs.settimeout(5)
        assert theirs.recv(1) == b""
        assert watch.over
    finally:
        watch.close()
        ours.close()
        theirs.close()
