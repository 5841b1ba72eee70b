"""Reads server-sent events, as the HTML standard has them (9.2). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class ServerEvent:
    """One event.

    :param name: ``message`` where it has none.
    :param data: its lines.
    :param last_id: the newest id so far: what to connect again with.
    """

    name: str
    data: str
    last_id: str


def read_events(lines: Iterable[str], last_id: str = "") -> Iterator[ServerEvent]:
    """The events of a stream. One that is not whole when the stream ends is left out.

    :param last_id: the newest id before the stream.
    """
    name, data = "", list[str]()
    for line in lines:
        if not line:
            if data:
                yield ServerEvent(name or "message", "\n".join(data), last_id)
            name, data = "", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)
        elif field == "id" and "\0" not in value:
            last_id = value
