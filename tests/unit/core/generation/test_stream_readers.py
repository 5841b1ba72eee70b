"""One reader for each response that is watched, which waits for no one and loses nothing at a drop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator

import pytest

from airflow_provider_aihandoff.core.generation import stream_readers
from airflow_provider_aihandoff.core.generation.provider import (
    CredentialsRefused,
    ProviderError,
    ProviderUnreachable,
    Tokens,
)
from airflow_provider_aihandoff.core.generation.response_stream import (
    NotStreamed,
    PartKind,
    ResponseStream,
    StreamPart,
)
from airflow_provider_aihandoff.core.generation.stream_readers import (
    MAX_READERS,
    LiveEvent,
    Reader,
    StreamReaders,
    Watcher,
)

WORDS = ["A", "kettle", "that", "is", "quiet", "when", "it", "boils", "and", "says", "so", "in", "the", "end"]


class Source:
    """The streams of all responses of a test: each has the words, one a step.

    :param drops: what the next connections end with, after how many parts.
    """

    def __init__(self, *drops: tuple[int, Exception | None]) -> None:
        self.drops = list(drops)
        self.step = asyncio.Event()
        self.step.set()
        self.opened: list[str] = []
        self.connections: list[tuple[str, int | None]] = []
        self.reading = 0

    async def open(self, conn_id: str, response_id: str) -> ResponseStream:
        self.opened.append(response_id)
        return Scripted(self, response_id)


class Scripted(ResponseStream):
    def __init__(self, source: Source, response_id: str) -> None:
        self.source, self.response_id = source, response_id

    async def parts(self) -> AsyncGenerator[StreamPart, None]:
        source, sent = self.source, 0
        source.connections.append((self.response_id, self.after))
        most, error = source.drops.pop(0) if source.drops else (1_000, None)
        source.reading += 1
        try:
            for number in range(0 if self.after is None else self.after + 1, len(WORDS) + 1):
                await source.step.wait()
                if sent == most:
                    if error is not None:
                        raise error
                    return
                sent, self.after = sent + 1, number
                if number == len(WORDS):
                    yield StreamPart(number, PartKind.ENDED, tokens=Tokens(5, 12))
                else:
                    yield StreamPart(number, PartKind.TEXT, f"{WORDS[number]} ")
        finally:
            source.reading -= 1


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_readers, "_RECONNECT_BASE", 0.001)
    monkeypatch.setattr(stream_readers, "_RECONNECT_CAP", 0.001)


class Person:
    """Someone who watches, and takes what there is whenever they are woken."""

    def __init__(self, readers: StreamReaders, response_id: str = "resp_1") -> None:
        self.readers = readers
        self.woken = asyncio.Event()
        self.text, self.resets, self.missed = "", 0, 0
        self.tokens: int | None = None
        self.numbers: list[int] = []
        joined = readers.join("openai_default", response_id, self.woken.set)
        assert joined is not None
        self.watcher: Watcher = joined

    def take(self) -> None:
        for told in self.watcher.take():
            if told.event is LiveEvent.RESET:
                self.text, self.resets = "", self.resets + 1
                self.missed += told.data["missed_characters"]
            elif told.event is LiveEvent.TEXT:
                self.text += told.data["delta"]
                self.numbers.append(told.data["sequence_number"])
            elif told.event is LiveEvent.USAGE:
                self.tokens = told.data["output_tokens"]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await self.woken.wait()
                self.woken.clear()
                self.take()

    def leave(self) -> None:
        self.readers.leave(self.watcher)


async def settled(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0)


WHOLE = "".join(f"{word} " for word in WORDS)


async def test_what_arrives_is_shown_up_to_the_end_with_what_is_billed() -> None:
    readers = StreamReaders(Source().open)
    person = Person(readers)
    await person.until(lambda: person.tokens)
    assert (person.text, person.tokens, person.resets, person.missed) == (WHOLE, 12, 1, 0)
    assert person.numbers == sorted(set(person.numbers))
    person.leave()


@pytest.mark.parametrize("error", [None, ProviderUnreachable("The connection broke."), ProviderError("It says 500.")])
async def test_a_stream_that_is_dropped_is_taken_up_without_a_gap_or_a_repetition(error: Exception | None) -> None:
    source = Source((3, error), (0, error), (4, error))
    person = Person(StreamReaders(source.open))
    await person.until(lambda: person.tokens)
    assert person.text == WHOLE
    assert [after for _, after in source.connections] == [None, 2, 2, 6]
    assert source.opened == ["resp_1"]
    person.leave()


async def test_a_connection_whose_credentials_are_refused_is_read_again_and_goes_on_where_it_was() -> None:
    source = Source((3, CredentialsRefused("The key is old.")))
    person = Person(StreamReaders(source.open))
    await person.until(lambda: person.tokens)
    assert (person.text, source.opened) == (WHOLE, ["resp_1", "resp_1"])
    assert [after for _, after in source.connections] == [None, 2]
    person.leave()


async def test_many_who_watch_a_response_share_one_reader_and_those_who_come_late_get_what_there_is() -> None:
    source = Source()
    readers = StreamReaders(source.open)
    first, second = Person(readers), Person(readers)
    await first.until(lambda: first.tokens)
    late = Person(readers)
    for person in (second, late):
        person.take()
        assert (person.text, person.tokens) == (WHOLE, 12)
    assert source.opened == ["resp_1"]
    assert readers.number == 1
    other = Person(readers, "resp_2")
    await other.until(lambda: other.tokens)
    assert source.opened == ["resp_1", "resp_2"]


async def test_nothing_is_read_when_no_one_watches() -> None:
    source = Source()
    source.step.clear()
    readers = StreamReaders(source.open)
    first, second = Person(readers), Person(readers)
    await settled(lambda: source.reading == 1)
    first.leave()
    assert (readers.number, source.reading) == (1, 1)
    second.leave()
    second.leave()  # safe to repeat
    await settled(lambda: source.reading == 0)
    assert readers.number == 0


async def test_someone_who_takes_nothing_holds_up_no_one_and_learns_how_much_they_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_readers, "MAX_KEPT", 12)
    monkeypatch.setattr(stream_readers, "_PIECE", 1)
    readers = StreamReaders(Source().open)
    slow, fast = Person(readers), Person(readers)
    slow.watcher.take()
    await fast.until(lambda: fast.tokens)
    kept = sum(len(text) for _, text, _ in fast.watcher.reader.pieces_from(0))
    assert kept <= 12 + len(max(WORDS, key=len)) + 1
    slow.take()
    assert WHOLE.endswith(slow.text)
    assert (slow.missed, slow.resets) == (len(WHOLE) - len(slow.text), 1)
    assert slow.missed > 0


@pytest.mark.parametrize(
    ("error", "connections"),
    [(NotStreamed("It was not asked to."), 1), (ProviderError("It says 404."), stream_readers._TRIES + 1)],
)
async def test_a_stream_that_cannot_be_read_is_given_up_and_the_reader_ends(error: Exception, connections: int) -> None:
    source = Source(*[(0, error)] * 50)
    person = Person(StreamReaders(source.open))
    assert person.watcher.reader.task is not None
    await asyncio.wait([person.watcher.reader.task], timeout=10)
    assert person.watcher.reader.task.done()
    assert len(source.connections) == connections
    person.take()
    assert person.text == ""
    person.leave()


async def test_a_connection_that_cannot_be_read_ends_the_reader_and_nothing_else() -> None:
    async def missing(conn_id: str, response_id: str) -> ResponseStream:
        raise LookupError(conn_id)

    person = Person(StreamReaders(missing))
    assert person.watcher.reader.task is not None
    await asyncio.wait([person.watcher.reader.task], timeout=10)
    assert person.watcher.reader.task.exception() is None
    person.leave()


async def test_a_process_reads_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source()
    source.step.clear()
    readers = StreamReaders(source.open)
    people = [Person(readers, f"resp_{number}") for number in range(MAX_READERS)]
    assert readers.join("openai_default", "resp_more", lambda: None) is None
    assert readers.join("openai_default", "resp_3", lambda: None) is not None
    people[0].leave()
    assert readers.join("openai_default", "resp_more", lambda: None) is not None


def test_what_is_kept_is_in_pieces_of_one_kind() -> None:
    def parts() -> Iterator[StreamPart]:
        yield StreamPart(3, PartKind.THINKING, "First I ")
        yield StreamPart(4, PartKind.THINKING, "think.")
        yield StreamPart(5, PartKind.SIGN)
        yield StreamPart(6, PartKind.TEXT, "Then I write.")

    reader = Reader("openai_default", "resp_1", Source.open)  # type: ignore[arg-type]
    for part in parts():
        reader.take(part)
    assert reader.pieces_from(0) == [(PartKind.THINKING, "First I think.", 4), (PartKind.TEXT, "Then I write.", 6)]
    assert reader.pieces_from(6) == [(PartKind.THINKING, "I think.", 4), (PartKind.TEXT, "Then I write.", 6)]
    assert (reader.number, reader.deltas, reader.characters) == (6, 3, 27)
