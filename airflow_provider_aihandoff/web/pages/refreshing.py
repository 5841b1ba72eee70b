"""When a page refreshes by itself: while something on it moves, unless its reader has paused it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

#: Seconds from one refresh to the next, of the page of a job, of lists, and of the overview, which reads the most.
JOB, LIST, OVERVIEW = 5, 10, 30

#: The parameter of an address whose page does not refresh.
PAUSED = "paused"


@dataclass(frozen=True)
class Refreshing:
    """A page that refreshes.

    :param pause: the address of the same page, which does not.
    """

    seconds: int
    pause: str


def refreshing(request: Request, seconds: int, *, moves: bool) -> Refreshing | None:
    """How a page refreshes; None where it does not.

    :param moves: something on it may change, without a person who uses it.
    """
    if not moves or PAUSED in request.query_params:
        return None
    url = request.url
    query = f"{url.query}&{PAUSED}" if url.query else PAUSED
    return Refreshing(seconds, f"{url.path}?{query}")
