"""What the model writes, for those who follow its job with server-sent events while it works.

Each process of the API server reads a response that is watched there once, however many watch, and no other one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self
from weakref import WeakKeyDictionary

from airflow_provider_aihandoff.core.generation.live_response import LiveResponse
from airflow_provider_aihandoff.core.generation.stream_readers import StreamReaders, Watcher
from airflow_provider_aihandoff.hooks.model_provider import open_stream
from airflow_provider_aihandoff.web import event_stream
from airflow_provider_aihandoff.web.front_door.follow import Watch
from airflow_provider_aihandoff.web.problems import AsciiJSONResponse

#: Seconds for which what arrives is gathered before it is sent.
_GATHER = 0.1


_readers: WeakKeyDictionary[asyncio.AbstractEventLoop, StreamReaders] = WeakKeyDictionary()


def stream_readers() -> StreamReaders:
    """Those of this process."""
    return _readers.setdefault(asyncio.get_running_loop(), StreamReaders(open_stream))


class LiveText:
    """What one connection that follows a job gets of the response that runs for it now. A context manager.

    :param watch: is woken when something arrives.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._watched: LiveResponse | None = None
        self._watcher: Watcher | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def follow(self, running: LiveResponse | None) -> None:
        """Watch this response from now on, and no other.

        :param running: None where nothing can be watched.
        """
        if running == self._watched:
            return
        self._leave()
        self._watched = running
        if running is not None:
            self._watcher = stream_readers().join(running.conn_id, running.response_id, self._watch.wake)

    def events(self) -> list[str]:
        """What has arrived since the last time, as server-sent events.

        They have no id of their own: a client that connects again has not missed what it did not get of them, since
        it begins again.
        """
        if self._watcher is None or self._watched is None:
            return []
        return [
            event_stream.event(
                told.event.value,
                None,
                bytes(AsciiJSONResponse({**told.data, "revision": self._watched.revision}).body).decode(),
            )
            for told in self._watcher.take()
        ]

    async def until_changed(self, seen: str, *, until: float) -> AsyncIterator[str]:
        """What to send until what is followed has changed: what arrives, and a comment now and then.

        :param seen: the version that was read last.
        :param until: when to end in any case, by the monotonic clock.
        """
        heartbeat_at = time.monotonic() + event_stream.HEARTBEAT
        has_changed = False
        while not has_changed and time.monotonic() < until:
            has_changed = await self._watch.wait(seen, min(heartbeat_at, until) - time.monotonic())
            if events := self.events():
                yield "".join(events)
                heartbeat_at = time.monotonic() + event_stream.HEARTBEAT
                if not has_changed:
                    await asyncio.sleep(_GATHER)
            elif time.monotonic() >= heartbeat_at:
                yield event_stream.COMMENT
                heartbeat_at = time.monotonic() + event_stream.HEARTBEAT

    def _leave(self) -> None:
        if self._watcher is not None:
            stream_readers().leave(self._watcher)
        self._watcher = None
