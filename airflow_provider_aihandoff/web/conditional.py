"""What a client knows already: entity tags of JSON answers, and what a request says of them (RFC 9110, 13)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Protocol

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from airflow_provider_aihandoff.web.problems import AsciiJSONResponse


class Follows(Protocol):
    """Someone who follows what an answer is about."""

    def wait(self, seen: str, seconds: float) -> Awaitable[bool]:
        """Wait until it has another version than this; return whether it has."""


@dataclass(frozen=True)
class Answer:
    """What is answered to a ``GET``. Made in a thread: the event loop is for everyone.

    :param tag: another one exactly when the answer is another.
    :param version: of what it was made from, as :class:`Follows` compares it.
    :param ended: whether nothing changes any more by itself.
    """

    body: bytes
    tag: str
    version: str
    ended: bool = False

    @classmethod
    def of(
        cls, content: Mapping[str, Any], version: str, *, ended: bool = False, without: frozenset[str] = frozenset()
    ) -> Answer:
        """The answer with a content.

        :param without: fields that change with the time alone. A tag that leaves some out is a weak one.
        """
        body = bytes(AsciiJSONResponse(content).body)
        kept = {name: part for name, part in content.items() if name not in without}
        told = bytes(AsciiJSONResponse(kept).body) if without else body
        tag = f'"{sha256(told).hexdigest()[:32]}"'
        return cls(body, f"W/{tag}" if without else tag, version, ended)

    def is_known(self, request: Request) -> bool:
        """Whether the client says that it has this answer: weak and strong tags count as the same."""
        listed = [each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")]
        return "*" in listed or self.tag.removeprefix("W/") in listed

    def respond(self, request: Request) -> Response:
        """The answer, or 304 where the client has it."""
        if self.is_known(request):
            return Response(status_code=304, headers={"ETag": self.tag})
        return Response(self.body, media_type=AsciiJSONResponse.media_type, headers={"ETag": self.tag})


async def respond_later(
    request: Request,
    make: Callable[[], Answer],
    follow: Callable[[str], AbstractAsyncContextManager[Follows]],
    *,
    wait: float,
) -> Response:
    """Respond when there is news: another answer than the one that ``If-None-Match`` names; without that header, one
    that has ended.

    :param make: makes the answer, in a thread.
    :param follow: follows what it is about, from a version on.
    :param wait: seconds after which to respond in any case.
    """
    until, answer = time.monotonic() + wait, await run_in_threadpool(make)
    if wait and _is_old(request, answer):
        async with follow(answer.version) as watch:
            while time.monotonic() < until and _is_old(request, answer):
                await watch.wait(answer.version, until - time.monotonic())
                answer = await run_in_threadpool(make)
    return answer.respond(request)


def _is_old(request: Request, answer: Answer) -> bool:
    return answer.is_known(request) if "if-none-match" in request.headers else not answer.ended
