"""Reads the streams of responses for those who watch them: one reader for each response, and none for one that no one
watches. It belongs to one process and one event loop, and nothing that arrives is stored.

A reader never waits for those who watch. What has arrived is kept in memory, up to a bound, and each of them takes from
there as fast as they can: someone who is too slow misses the oldest part, and gets to know it.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.generation.provider import CredentialsRefused, ProviderError, Tokens
from airflow_provider_aihandoff.core.generation.response_stream import (
    NotStreamed,
    PartKind,
    ResponseStream,
    StreamPart,
)

log = logging.getLogger(__name__)

#: How many responses are read in one process at the same time. Who watches a further one sees the states of its job.
MAX_READERS = 100

#: Characters that a reader keeps of what has arrived, and about how many it keeps, and gives, in one piece.
MAX_KEPT, _PIECE = 200_000, 4_000

#: Seconds between two tries to read on, and how many may fail in a row. Afterwards those who watch see states alone.
_RECONNECT_BASE, _RECONNECT_CAP, _TRIES = 0.25, 30.0, 12

#: Opens the stream of a response on a connection, from its beginning. Raises what Airflow raises where there is no such
#: connection.
OpenStream = Callable[[str, str], Awaitable[ResponseStream]]


class LiveEvent(StrEnum):
    """What someone who watches gets, by the name that it has in a stream of server-sent events."""

    RESET = "reset"
    """What they got before is no more: the text begins again."""
    THINKING = "thinking"
    TEXT = "text"
    PROGRESS = "progress"
    USAGE = "usage"


@dataclass(frozen=True)
class Told:
    """One thing that someone who watches gets.

    :param data: without secrets, as JSON takes it; with ``sequence_number``, and the ``delta`` of a text.
    """

    event: LiveEvent
    data: dict[str, Any]


@dataclass
class _Piece:
    """What has arrived in one go, of one kind.

    :param start: how many characters came before it.
    :param number: the sequence number of its end.
    """

    start: int
    kind: PartKind
    text: str
    number: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(eq=False)
class Reader:
    """Reads one response, and keeps the end of what has arrived.

    :param number: the newest sequence number; None before the first.
    :param deltas: how many pieces of text the provider has sent, which are about as many tokens.
    """

    conn_id: str
    response_id: str
    open_stream: OpenStream
    watchers: set[Watcher] = field(default_factory=set)
    number: int | None = None
    deltas: int = 0
    characters: int = 0
    tokens: Tokens | None = None
    has_ended: bool = False
    task: asyncio.Task[None] | None = None
    _pieces: deque[_Piece] = field(default_factory=deque)

    @property
    def first(self) -> int:
        """How many characters are no longer kept."""
        return self._pieces[0].start if self._pieces else self.characters

    def pieces_from(self, place: int) -> list[tuple[PartKind, str, int]]:
        """What is kept after so many characters: kind, text and sequence number."""
        return [
            (piece.kind, piece.text[max(0, place - piece.start) :], piece.number)
            for piece in self._pieces
            if piece.end > place
        ]

    def take(self, part: StreamPart) -> None:
        """Keep what has arrived, and wake those who watch."""
        self.number = part.sequence_number
        if part.delta:
            self.deltas += 1
            self._keep(part)
        if part.kind is PartKind.ENDED:
            self.has_ended, self.tokens = True, part.tokens
        for watcher in self.watchers:
            watcher.wake()

    def _keep(self, part: StreamPart) -> None:
        last = self._pieces[-1] if self._pieces else None
        if last is not None and last.kind is part.kind and len(last.text) < _PIECE:
            last.text += part.delta
            last.number = part.sequence_number
        else:
            self._pieces.append(_Piece(self.characters, part.kind, part.delta, part.sequence_number))
        self.characters += len(part.delta)
        while len(self._pieces) > 1 and self.characters - self._pieces[0].end >= MAX_KEPT:
            self._pieces.popleft()

    @property
    def has_given_up(self) -> bool:
        """Whether it reads no longer, and the response may go on."""
        return not self.has_ended and self.task is not None and self.task.done()

    async def run(self) -> None:
        """Read until the response has ended, or cannot be read. Raises nothing: the job does not depend on it."""
        stream: ResponseStream | None = None
        failures = 0
        while failures <= _TRIES:
            before = self.number
            try:
                if stream is None:
                    stream = await self.open_stream(self.conn_id, self.response_id)
                    stream.after = self.number
                async with aclosing(stream.parts()) as parts:
                    async for part in parts:
                        self.take(part)
                        if self.has_ended:
                            return
            except NotStreamed as error:
                log.info("%s Those who watch see the states of the job.", error.what)
                return
            except Exception as error:  # noqa: BLE001 - whatever is broken, it is broken for those who watch alone
                what = error.what if isinstance(error, ProviderError) else type(error).__name__
                log.info("The stream of %s was dropped: %s", self.response_id, what)
                if isinstance(error, CredentialsRefused) and stream is not None and stream.on_refused is not None:
                    stream.on_refused()
                if isinstance(error, CredentialsRefused) or not isinstance(error, ProviderError):
                    stream = None
            failures = 1 if self.number != before else failures + 1
            await asyncio.sleep(backoff(failures, base=_RECONNECT_BASE, cap=_RECONNECT_CAP))
        log.warning("The stream of %s cannot be read; those who watch see the states of the job.", self.response_id)


@dataclass(eq=False)
class Watcher:
    """Someone who watches a response. They take what has arrived; nothing waits for them.

    :param wake: called when there is something to take.
    """

    reader: Reader
    wake: Callable[[], None]
    _place: int | None = None
    _number: int | None = None
    _knows_usage: bool = False

    def take(self) -> list[Told]:
        """What is new since the last time. It begins with a ``reset`` where it does not follow on what was taken."""
        reader, told = self.reader, list[Told]()
        if self._place is None or self._place < reader.first:
            missed = reader.first - (self._place or 0)
            told.append(Told(LiveEvent.RESET, {"sequence_number": reader.number, "missed_characters": missed}))
            self._place = reader.first
        for kind, text, number in reader.pieces_from(self._place):
            event = LiveEvent.TEXT if kind is PartKind.TEXT else LiveEvent.THINKING
            told.append(Told(event, {"sequence_number": number, "delta": text}))
        self._place = reader.characters
        if reader.number != self._number:
            self._number = reader.number
            counted = {"sequence_number": reader.number, "tokens": reader.deltas, "characters": reader.characters}
            told.append(Told(LiveEvent.PROGRESS, counted))
        if reader.has_ended and not self._knows_usage:
            self._knows_usage = True
            if reader.tokens is not None:
                read, written = reader.tokens.input, reader.tokens.output
                billed = {"sequence_number": reader.number, "input_tokens": read, "output_tokens": written}
                told.append(Told(LiveEvent.USAGE, billed))
        return told


class StreamReaders:
    """The readers of one process: a reader begins with the first who watches, and ends with the last.

    :param open_stream: opens the stream of a response.
    """

    def __init__(self, open_stream: OpenStream) -> None:
        self._open_stream = open_stream
        self._readers: dict[tuple[str, str], Reader] = {}

    def join(self, conn_id: str, response_id: str, wake: Callable[[], None]) -> Watcher | None:
        """Watch a response; None where as many as may be are read already.

        :param wake: called when there is something to take; it must not raise, and returns at once.
        """
        key = (conn_id, response_id)
        reader = self._readers.get(key)
        if reader is None or reader.has_given_up:
            if reader is None and len(self._readers) >= MAX_READERS:
                log.warning("%d responses are read here: %s is not.", MAX_READERS, response_id)
                return None
            reader = self._readers[key] = Reader(conn_id, response_id, self._open_stream)
            # In a context of its own: it outlives the request that has begun it.
            loop = asyncio.get_running_loop()
            reader.task = loop.create_task(reader.run(), context=contextvars.Context())
        watcher = Watcher(reader, wake)
        reader.watchers.add(watcher)
        wake()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        """Watch no longer. Safe to repeat."""
        reader = watcher.reader
        reader.watchers.discard(watcher)
        key = (reader.conn_id, reader.response_id)
        if not reader.watchers and self._readers.get(key) is reader:
            del self._readers[key]
            if reader.task is not None:
                reader.task.cancel()

    @property
    def number(self) -> int:
        """How many responses are read now."""
        return len(self._readers)
