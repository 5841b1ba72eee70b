"""A client that is not logged in costs the API server next to nothing, whatever it sends."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn
from airflow.api_fastapi import app as airflow_app
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web import problems, request_body
from airflow_provider_aihandoff.web.app import build_app
from airflow_provider_aihandoff.web.guard import GuardedRoute
from tests.integration.web.conftest import BASE_URL, Login, Page

FORM = "application/x-www-form-urlencoded"
#: What a server may hand over at once beyond what was asked for.
ONE_CHUNK = 2**18
LARGE = 15 * 2**20

RECEIVER = "/webhooks/openai/{conn_id}"
ROUTES = [route for route in build_app().routes if isinstance(route, Route)]
VALUES = {
    "job_id": 1,
    "effect_id": 1,
    "bulk_id": 1,
    "pause_id": 1,
    "budget_id": 1,
    "limit_id": 1,
    "set_id": 1,
    "request_id": "7b1e6b1c-9f50-4c63-8c7c-7a2f1f1f0a11",
    "form": "csv",
    "token": "a-token",
    "number": 1,
    "name": "x",
    "conn_id": "openai_default",
}
PATHS = sorted({f"/aihandoff{route.path.format(**VALUES)}" for route in ROUTES})


def test_every_route_with_a_body_asks_for_the_login_first() -> None:
    for route in ROUTES:
        if (route.methods or set()) - {"GET", "HEAD"}:
            assert isinstance(route, GuardedRoute) or route.path == RECEIVER, route.path


async def _send(app: ASGIApp, method: str, path: str, headers: dict[str, str], size: int) -> tuple[int, int, bytes]:
    """A request with a body of so many bytes: the status of the answer, how many bytes were read, and the answer."""
    read, status, body = 0, 0, b""

    async def receive() -> Message:
        nonlocal read
        chunk = b"value/a=a&" * 6_553
        read += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": read < size}

    async def send(message: Message) -> None:
        nonlocal status, body
        status = message.get("status", status)
        body += message.get("body", b"")

    said = {"Host": "airflow.test", **headers}
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), text.encode()) for name, text in said.items()],
        "client": ("127.0.0.1", 1),
        "server": ("airflow.test", 80),
    }
    await app(scope, receive, send)
    return status, read, body


@pytest.mark.parametrize("method", ["POST", "GET", "OPTIONS"])
@pytest.mark.parametrize("kind", [FORM, "application/json", "multipart/form-data; boundary=x"])
@pytest.mark.parametrize("declared", [True, False])
async def test_little_of_what_a_stranger_sends_is_read(
    airflow: FastAPI, stranger: TestClient, ledger: Ledger, method: str, kind: str, declared: bool
) -> None:
    origins: tuple[dict[str, str], ...] = ({"Origin": BASE_URL}, {"Origin": "http://evil.test"}, {})
    length = {"Content-Length": str(LARGE)} if declared else {"Transfer-Encoding": "chunked"}
    for path in (*PATHS, "/aihandoff/nothing"):
        for origin in origins:
            headers = {"Content-Type": kind, **length, **origin}
            status, read, answer = await _send(airflow, method, path, headers, LARGE)
            assert 300 <= status < 500 or path.endswith("static/x"), (path, status)
            assert len(answer) < 20_000
            may_read = method == "POST" and kind == FORM and origin == origins[0] and not declared
            assert read <= (problems.MAX_KEPT + ONE_CHUNK if may_read else 0) or "webhooks" in path, (path, read)
            assert read <= problems.MAX_KEPT + ONE_CHUNK


async def test_what_says_that_it_is_too_large_is_refused_before_the_login_is_asked_for(
    airflow: FastAPI, stranger: TestClient, ledger: Ledger
) -> None:
    bounded = {each.path: each.max_body for each in ROUTES if isinstance(each, GuardedRoute) and "POST" in each.methods}
    assert bounded["/api/v1/jobs"] < 10_000_000 < bounded["/api/v1/jobs/{job_id}/revisions"]
    for route, largest in bounded.items():
        path = f"/aihandoff{route.format(**VALUES)}"
        said = {"Content-Type": "application/json", "Origin": BASE_URL, "Authorization": "Bearer x"}
        for size, wanted in ((largest + 1, 413), (largest, 401)):
            status, read, _ = await _send(airflow, "POST", path, {**said, "Content-Length": str(size)}, size)
            assert (status, read) == (wanted, 0), path


def test_no_page_of_another_origin_may_read_an_answer_unless_airflow_says_so(
    stranger: TestClient, login: Login
) -> None:
    other = {"Origin": "https://shop.test", "Access-Control-Request-Method": "POST"}
    for path in ("/aihandoff/api/v1/jobs", "/aihandoff/api/v1/job-types"):
        for answer in (stranger.options(path, headers=other), login("bob", bearer=True).get(path, headers=other)):
            allowed = {name for name in answer.headers if name.startswith("access-control-")}
            # Airflow 3.1 says what else would be allowed: without the origin, a browser keeps the answer from the page.
            assert not allowed if RELEASE >= (3, 2) else "access-control-allow-origin" not in allowed
        assert stranger.options(path, headers=other).status_code == (405 if RELEASE >= (3, 2) else 400)


def test_the_origins_that_airflow_allows_may_read_answers(
    airflow: FastAPI, login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__API__ACCESS_CONTROL_ALLOW_ORIGINS", "https://shop.test")
    monkeypatch.setenv("AIRFLOW__API__ACCESS_CONTROL_ALLOW_METHODS", "GET POST")
    monkeypatch.setenv("AIRFLOW__API__ACCESS_CONTROL_ALLOW_HEADERS", "authorization content-type idempotency-key")
    bob = login("bob", bearer=True)
    client = TestClient(airflow_app.create_app(apps="core"), base_url=BASE_URL, headers=dict(bob.headers))
    for origin, allowed in (("https://shop.test", "https://shop.test"), ("https://evil.test", None)):
        asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        answers = [
            client.get("/aihandoff/api/v1/jobs", headers={"Origin": origin}),
            client.options("/aihandoff/api/v1/jobs", headers=asked),
        ]
        assert answers[0].status_code == 200
        assert {answer.headers.get("access-control-allow-origin") for answer in answers} == {allowed}


def test_a_form_of_another_site_is_not_shown_back(stranger: TestClient, login: Login, ledger: Ledger) -> None:
    form = {"verdict": "approve", "digest": "0" * 64, "comment": "Please log in at evil.test"}
    for client in (stranger, login("bob")):
        for headers in ({"Origin": "http://evil.test"}, {"Sec-Fetch-Site": "same-site"}):
            answer = client.post("/aihandoff/jobs/1/decision", data=form, headers=headers)
            assert answer.status_code == 403
            assert "evil.test" not in answer.text


def test_a_form_that_is_too_large_to_keep_says_how_to_send_it_again(stranger: TestClient, ledger: Ledger) -> None:
    answer = stranger.post("/aihandoff/jobs/1/edit", data={"value": "a" * problems.MAX_KEPT})
    page = Page(answer.text)
    assert answer.status_code == 401
    assert "What you sent was not kept. At most 256 KB are kept while you are not logged in." in page.text
    assert page.all("form") == []


def test_few_forms_of_strangers_are_kept_at_the_same_time(
    stranger: TestClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(problems, "_KEEPING", threading.BoundedSemaphore(1))
    form = {"value": "my text"}
    with problems._KEEPING:
        assert "was not kept" in Page(stranger.post("/aihandoff/jobs/1/edit", data=form).text).text
    for _ in range(2):  # it is given back
        assert "my text" in Page(stranger.post("/aihandoff/jobs/1/edit", data=form).text).text


@pytest.mark.parametrize("path", ["/aihandoff/jobs/1/edit", "/aihandoff/bulk-review/decision"])
def test_nothing_that_a_user_typed_is_lost_where_the_ledger_is_not_named(
    login: Login, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    bob = login("bob")
    monkeypatch.delenv("AIRFLOW_CONN_AIHANDOFF_LEDGER")
    answer = bob.post(path, data={"comment": "my text"})
    assert answer.status_code == 503
    assert "my text" in Page(answer.text).text


def test_no_page_is_rendered_and_no_body_parsed_in_the_event_loop(
    login: Login, stranger: TestClient, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_loop: list[str] = []

    def watched(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                asyncio.get_running_loop()
            except RuntimeError:
                return function(*args, **kwargs)
            in_loop.append(name)
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(problems, "page", watched("page", problems.page))
    monkeypatch.setattr(request_body, "_parsed", watched("form", request_body._parsed))
    monkeypatch.setattr(request_body, "json", SimpleNamespace(loads=watched("json", json.loads)))
    decision = {"verdict": "approve", "digest": "0" * 64, "comment": "Fine."}
    for client, status in ((stranger, 401), (login("bob"), 404)):
        assert client.post("/aihandoff/jobs/1/decision", data=decision).status_code == status
        assert client.post("/aihandoff/api/v1/jobs/1/decisions", json=decision).status_code == status
        assert client.post("/aihandoff/nothing", data=decision).status_code == 404

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError

    monkeypatch.setattr(Ledger, "job", fail)
    assert login("bob").get("/aihandoff/jobs/1").status_code == 500
    assert in_loop == []


@pytest.mark.parametrize(
    ("kind", "content", "status"),
    [
        (FORM, b"comment=" + b"a" * request_body.MAX_BODY, 413),
        (FORM, b"a=&" * (request_body.MAX_FIELDS + 1), 413),
        ("multipart/form-data; boundary=x", b"--x--\r\n", 415),
        (FORM, b"%ff%00=%zz&&=&\xff", 422),
    ],
)
def test_what_a_user_sends_has_bounds_too(login: Login, ledger: Ledger, kind: str, content: bytes, status: int) -> None:
    answer = login("bob").post("/aihandoff/jobs/1/decision", content=content, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert len(answer.content) < 20_000


def test_a_program_s_body_has_bounds_too(login: Login, ledger: Ledger) -> None:
    bob = login("bob", bearer=True)
    path = "/aihandoff/api/v1/jobs/1/decisions"
    headers = {"Content-Type": "application/json"}
    large = b'{"comment": "' + b"a" * request_body.MAX_BODY + b'"}'
    answer = bob.post(path, content=large, headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (413, "refused")
    assert bob.post(path, content=b"[" * 100_000, headers=headers).status_code == 400


def test_a_refusal_does_not_repeat_what_was_sent(login: Login, ledger: Ledger) -> None:
    unknown = {f"{number}-{'x' * 1000}": 1 for number in range(1000)}
    answer = login("bob", bearer=True).post("/aihandoff/api/v1/jobs/1/decisions", json=unknown)
    assert answer.status_code == 422
    assert len(answer.content) < 100_000
    assert len(answer.json()["errors"]) == 100
    assert answer.json()["detail"].endswith("; and 902 more")


class _Counting:
    """An app, and how many bytes of each request it has read."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.read: dict[int, int] = defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        number = len(self.read)

        async def counted() -> Message:
            message = await receive()
            self.read[number] += len(message.get("body", b""))
            return message

        self.read[number] += 0
        await self._app(scope, counted, send)


@contextmanager
def _served(app: ASGIApp) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


async def test_a_server_goes_on_answering_while_strangers_send_large_forms(
    airflow: FastAPI, stranger: TestClient, ledger: Ledger
) -> None:
    app = _Counting(airflow)
    form = b"value/a=%3Cb%3E&" * (LARGE // 16)
    with _served(app) as address:
        async with httpx.AsyncClient(base_url=address, timeout=60) as client:
            headers = {"Content-Type": FORM, "Origin": address}
            sending = [
                asyncio.create_task(client.post(f"/aihandoff/jobs/{number}/edit", content=form, headers=headers))
                for number in range(3)
            ]
            answered = 0
            while not all(task.done() for task in sending):
                assert (await client.get("/aihandoff/static/icon.svg")).status_code == 200
                answered += 1
            assert [task.result().status_code for task in sending] == [401] * 3
    assert sum(app.read.values()) <= 3 * (problems.MAX_KEPT + ONE_CHUNK)
    assert answered >= 1
