"""The shop's own server: its page, and the few calls that the page needs. The login stays here, never in the page."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse

from airflow_provider_aihandoff.client import ApiError

PAGE = Path(__file__).with_name("button.html")
API = "/aihandoff/api/v1"
MOST_BYTES = 10_000
"""What a visitor may send."""

VISITOR = "visitor"
"""The user in whose name the shop asks. A real shop takes the one of its session."""

PASSED_ON = ("content-type", "retry-after")
UNAUTHORIZED = 401


def create_app(airflow: Airflow, cms_url: str) -> FastAPI:
    """Return the application.

    :param cms_url: where people read what is published.
    """
    app = FastAPI(title="Harbour & Pine", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    async def page() -> Response:
        return FileResponse(PAGE, headers={"Cache-Control": "no-store"})

    @app.post("/jobs")
    async def ask(request: Request) -> Response:
        key = request.headers.get("idempotency-key")
        if key is None:  # no page of another site can send it
            raise HTTPException(400, "The header Idempotency-Key is missing.")
        wanted = await _json(request)
        body = {"type": wanted.get("type"), "input": wanted.get("input"), "requested_for": VISITOR}
        return await airflow.call("POST", "/jobs", {"Idempotency-Key": key}, body)

    @app.get("/requests/{request_id}/stream")
    async def stream(request_id: str, request: Request) -> Response:
        last = request.headers.get("last-event-id")
        return await airflow.call("GET", f"/requests/{request_id}/stream", {"Last-Event-ID": last} if last else {})

    @app.get("/cms/{path:path}")
    async def read(path: str) -> Response:
        return RedirectResponse(f"{cms_url}/cms/{path}")

    return app


class Airflow:
    """Calls to Airflow as the shop.

    :param get_token: asks for a token of the shop's login.
    :param transport: of `httpx`, for tests.
    """

    def __init__(
        self, url: str, get_token: Callable[[], str], transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._get_token, self._token = get_token, ""
        timeout, as_many = httpx.Timeout(10, read=60), httpx.Limits(max_connections=None)
        self._client = httpx.AsyncClient(
            base_url=url + API, timeout=timeout, limits=as_many, trust_env=False, transport=transport
        )

    async def call(self, method: str, path: str, headers: dict[str, str], body: object = None) -> Response:
        """Pass a call on, and its answer back as it comes; 502 while Airflow is unavailable."""
        try:
            answer = await self._send(method, path, headers, body)
            if answer.status_code == UNAUTHORIZED:
                await answer.aclose()
                self._token = ""
                answer = await self._send(method, path, headers, body)
        except (ApiError, httpx.TransportError):
            return JSONResponse({"detail": "The shop cannot reach its assistant. Try again."}, 502)
        passed_on = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
        return StreamingResponse(_parts(answer), answer.status_code, passed_on)

    async def _send(self, method: str, path: str, headers: dict[str, str], body: object) -> httpx.Response:
        self._token = self._token or await run_in_threadpool(self._get_token)
        sent = {**headers, "Authorization": f"Bearer {self._token}"}
        request = self._client.build_request(method, path, headers=sent, json=body)
        return await self._client.send(request, stream=True)


async def _parts(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for part in answer.aiter_bytes():
            yield part
    except httpx.TransportError:
        return  # the page connects again
    finally:
        await answer.aclose()


async def _json(request: Request) -> dict[str, object]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MOST_BYTES:
            raise HTTPException(413, "That is too much.")
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError):
        raise HTTPException(400, "Not a JSON object.") from None
