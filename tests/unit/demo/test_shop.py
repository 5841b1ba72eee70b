"""The shop's server: it keeps the login, and passes on what its page asks for."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest
from fastapi.testclient import TestClient

from demo.shop.proxy import MOST_BYTES, PAGE, Airflow, create_app

KEY = {"Idempotency-Key": '"k"'}
WANTED = {"type": "product-note", "input": {"slug": "kettle"}, "requested_for": "someone else"}

Handler = Callable[[httpx.Request], httpx.Response]


def shop(handler: Handler, tokens: list[str] | None = None) -> TestClient:
    left = tokens or ["secret"]
    airflow = Airflow("http://airflow.test", lambda: left.pop(0), httpx.MockTransport(handler))
    return TestClient(create_app(airflow, "http://cms.test"), follow_redirects=False)


def test_the_page_is_small_and_knows_no_login() -> None:
    page = PAGE.read_text("utf-8")
    assert len(page.splitlines()) <= 60
    assert not [word for word in ("token", "Bearer", "password", "Authorization") if word.lower() in page.lower()]
    assert shop(lambda _: httpx.Response(500)).get("/").text == page


def test_a_visitor_asks_in_the_name_that_the_shop_knows_them_by() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json={"request_id": "7"}, headers={"Set-Cookie": "a=b"})

    said = shop(answer).post("/jobs", json=WANTED, headers={**KEY, "Cookie": "of=visitor"})
    assert (said.status_code, said.json(), said.headers.get("set-cookie")) == (202, {"request_id": "7"}, None)
    (request,) = seen
    assert str(request.url) == "http://airflow.test/aihandoff/api/v1/jobs"
    assert json.loads(request.content) == {**WANTED, "requested_for": "visitor"}
    assert (request.headers["authorization"], request.headers["idempotency-key"]) == ("Bearer secret", '"k"')
    assert "cookie" not in request.headers


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [(b"{}", {}, 400), (b"[", KEY, 400), (b"7", KEY, 400), (b" " * (MOST_BYTES + 1), KEY, 413)],
)
def test_what_no_page_of_the_shop_sends_is_not_passed_on(body: bytes, headers: dict[str, str], status: int) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError

    assert shop(answer).post("/jobs", content=body, headers=headers).status_code == status


def test_a_token_that_has_expired_is_asked_for_again() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200 if request.headers["authorization"] == "Bearer new" else 401, text="data: {}")

    said = shop(answer, ["old", "new"]).get("/requests/7/stream", headers={"Last-Event-ID": "a"})
    assert (said.status_code, said.text) == (200, "data: {}")


def test_an_airflow_that_is_gone_is_a_502_by_which_the_page_asks_again() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    assert shop(answer).post("/jobs", json=WANTED, headers=KEY).status_code == 502


def test_what_is_published_is_read_where_it_is() -> None:
    found = shop(lambda _: httpx.Response(500)).get("/cms/posts/kettle")
    assert found.headers["location"] == "http://cms.test/cms/posts/kettle"
