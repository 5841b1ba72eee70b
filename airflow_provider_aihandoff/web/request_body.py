"""Bodies of requests: read to a bound in bytes and time, and parsed in a thread.

The event loop that reads them also takes the heartbeats of all tasks: what takes long in it stops the whole Airflow.
"""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import parse_qsl

import anyio
from fastapi import Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

#: Bytes of a user who is logged in. Enough for the largest form that a page has: an output of some megabytes, or a
#: decision on ten thousand jobs.
MAX_BODY = 16 * 2**20
MAX_FIELDS = 5_000

#: Bytes of a request for a job: an input is bounded as the JSON that it is kept as, and may be sent in more bytes.
MAX_ASKED = 8 * 2**20

#: Seconds within which a body has to be there.
READ_TIMEOUT = 60.0

_FORM = "application/x-www-form-urlencoded"


class BodyRefused(HTTPException):
    """A body was not read to its end: it is too large (413) or too slow (408), or its sender disconnected (400)."""


async def read_body(request: Request, limit: int, seconds: float = READ_TIMEOUT) -> bytes:
    """The body, of which no more is read than the limit; nothing where its length says that it is larger.

    :raises BodyRefused: it was not read.
    """
    check_length(request, limit)
    body = bytearray()
    try:
        with anyio.fail_after(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise BodyRefused(408, "It took too long to arrive.") from None
    except ClientDisconnect:
        raise BodyRefused(400, "The sender disconnected.") from None
    return bytes(body)


def check_length(request: Request, limit: int) -> None:
    """Return when a request does not say that its body is larger than the limit.

    :raises BodyRefused: it says so.
    """
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)


def _too_large(limit: int) -> BodyRefused:
    return BodyRefused(413, f"It may be at most {limit:,} bytes.")


async def read_form(request: Request, limit: int, seconds: float = READ_TIMEOUT) -> FormData:
    """The form in the body, as browsers send one without files.

    :raises HTTPException: the body was not read, or is no such form.
    """
    if media_type(request) not in (_FORM, ""):
        raise HTTPException(415, f"Send the form as {_FORM}.")
    return await run_in_threadpool(_parsed, await read_body(request, limit, seconds))


def _parsed(body: bytes) -> FormData:
    try:
        fields = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(413, f"A form may have at most {MAX_FIELDS:,} fields.") from None
    return FormData([(name, text) for name, text in fields])


def media_type(request: Request) -> str:
    """What the request says its body is, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class BoundedRequest(Request):
    """A request as FastAPI reads it for a route, within the bounds.

    :param limit: how many bytes its body may have.
    """

    def __init__(self, scope: Scope, receive: Receive, limit: int = MAX_BODY) -> None:
        super().__init__(scope, receive)
        self._limit = limit

    async def body(self) -> bytes:
        """The body as it was sent."""
        if not hasattr(self, "_body"):
            self._body = await read_body(self, self._limit)
        return self._body

    async def json(self) -> Any:
        """The body as JSON."""
        return await run_in_threadpool(json.loads, await self.body())

    async def form(self, **limits: Any) -> FormData:  # type: ignore[override]  # always awaited
        """The body as a form; for the answer to an error, it stays with the request."""
        if not hasattr(self.state, "form"):
            self.state.form = await read_form(self, self._limit)
        form: FormData = self.state.form
        return form


async def form_of(request: Request) -> FormData:
    """The form of a request, where its fields are not known beforehand."""
    return await request.form()


FormDep = Annotated[FormData, Depends(form_of)]


def _typed(form: FormDep) -> dict[str, str]:
    return {name: text for name, text in form.items() if isinstance(text, str)}


#: What was typed, by the names of the fields.
TypedDep = Annotated[dict[str, str], Depends(_typed)]
