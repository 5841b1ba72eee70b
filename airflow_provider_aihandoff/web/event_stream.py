"""Server-sent events, as the HTML standard has them (9.2). Pure."""

from __future__ import annotations

from collections.abc import Mapping

MEDIA_TYPE = "text/event-stream"

#: For proxies that would gather what is sent.
HEADERS: Mapping[str, str] = {"X-Accel-Buffering": "no"}

#: Seconds after which a connection without news gets a comment, so that nothing on the way closes it; and after which
#: it ends, so that rights are asked for again: the client connects again, and says what it has.
HEARTBEAT, LIFETIME = 15.0, 300.0

#: A line that is no event.
COMMENT = ": still here\n\n"


def event(name: str, identity: str | None, data: str) -> str:
    """One event.

    :param identity: what the client sends as ``Last-Event-ID`` when it connects again; None: that of the event before.
    :param data: one line.
    """
    marked = "" if identity is None else f"id: {identity}\n"
    return f"{marked}event: {name}\ndata: {data}\n\n"
