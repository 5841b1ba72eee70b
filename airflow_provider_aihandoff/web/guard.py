"""Where the request comes from and who sends it is known before any of its body is read."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.routing import APIRoute

from airflow_provider_aihandoff.web.auth import check_origin, check_same_origin, verify_login
from airflow_provider_aihandoff.web.links import is_api
from airflow_provider_aihandoff.web.request_body import MAX_ASKED, MAX_BODY, BoundedRequest, check_length

#: Methods whose body no route reads.
_READING = frozenset({"GET", "HEAD"})


class GuardedRoute(APIRoute):
    """A route of the pages or of the jobs API.

    FastAPI reads and parses a body before it asks for the login: a stranger could fill the memory and hold the event
    loop with it. A body that says that it is too large is refused even before that.
    """

    #: Bytes that a body may have.
    max_body: ClassVar[int] = MAX_BODY

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, behind the checks."""
        handler = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            if request.method in _READING:
                return await handler(request)
            check = check_origin if is_api(request) else check_same_origin
            check(request)
            check_length(request, self.max_body)
            await verify_login(request)
            bounded = BoundedRequest(request.scope, request.receive, self.max_body)
            if not is_api(request):
                await bounded.form()  # also where a route then fails before it reads it: the answer has what was typed
            return await handler(bounded)

        return guarded


class AskingRoute(GuardedRoute):
    """A route of the front door: what is asked for is small."""

    max_body = MAX_ASKED
