"""The client repeats what may pass, and nothing else; and it says what became of a call."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from airflow_provider_aihandoff.client import ApiError, Client, Unavailable, WaitTimeout, api_client, log_in

ID = "0b6f0f5e-6f39-4b0e-9a3c-54e3c43f9b5e"
QUEUED: dict[str, Any] = {
    "request_id": ID,
    "type": "note",
    "key": "kettle",
    "state": "queued",
    "said": "It is recorded.",
    "ended": False,
    "requested_by": "alice",
    "sent_by": None,
    "created_at": "2026-02-02T09:17:47.589110Z",
    "changed_at": "2026-02-02T09:17:47.629444Z",
    "job_id": None,
    "may_cancel": True,
    "result": None,
    "records": [],
    "href": f"/aihandoff/api/v1/requests/{ID}",
    "stream": f"/aihandoff/api/v1/requests/{ID}/stream",
    "page": f"/aihandoff/requests/{ID}",
    "something_new": 1,
}
RECORD = {"name": "publish", "external_id": "17", "link": None, "something_new": 1}
DONE = {**QUEUED, "state": "done", "said": "It is done.", "ended": True, "job_id": 7, "records": [RECORD]}
KETTLE = {"slug": "kettle"}

Answer = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


class Api:
    """An API that gives these answers, one after the other, and keeps what it was sent."""

    def __init__(self, *answers: Answer) -> None:
        self._answers, self.requests = [*answers], list[httpx.Request]()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) else answer

    def client(self, **options: Any) -> Client:
        options = {"token": "t", "patience": 30, **options}
        return Client("https://airflow.test/team/", transport=httpx.MockTransport(self), **options)


@pytest.fixture(autouse=True)
def paused(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Pauses take no time; so long they were. The clock goes on as if they had."""
    pauses: list[float] = []

    class Clock:
        sleep = staticmethod(pauses.append)
        monotonic = staticmethod(lambda: sum(pauses))

    monkeypatch.setattr(api_client, "time", Clock)
    return pauses


def said(content: dict[str, Any], status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=content, headers={"ETag": '"1"', **headers})


def problem(status: int, type: str, **headers: str) -> httpx.Response:
    content = {"type": type, "title": "T", "status": status, "detail": "D", "errors": [{"field": "f", "message": "m"}]}
    return httpx.Response(
        status, content=json.dumps(content), headers={"Content-Type": "application/problem+json", **headers}
    )


def stream(*events: tuple[str, str, Any]) -> httpx.Response:
    text = "".join(f"id: {one}\nevent: {name}\ndata: {json.dumps(data)}\n\n" for name, one, data in events)
    return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


def test_a_request_is_sent_with_its_key_and_read_whatever_a_newer_server_adds() -> None:
    api = Api(said(QUEUED, 202))
    with api.client() as client:
        request = client.submit("note", KETTLE, key="kettle", idempotency_key="c-1", requested_for="eve")
    (sent,) = api.requests
    assert str(sent.url) == "https://airflow.test/team/aihandoff/api/v1/jobs"
    assert json.loads(sent.content) == {"type": "note", "input": KETTLE, "key": "kettle", "requested_for": "eve"}
    assert (sent.headers["idempotency-key"], sent.headers["authorization"]) == ('"c-1"', "Bearer t")
    assert (str(request.request_id), request.state, request.created_at.year) == (ID, "queued", 2026)


def test_a_request_without_a_key_is_not_sent() -> None:
    api = Api()
    with pytest.raises(ValueError, match="two jobs"):
        api.client().submit("note", KETTLE)
    assert api.requests == []


@pytest.mark.parametrize(
    ("failure", "at_least"),
    [
        (httpx.ConnectError("refused"), 0.25),
        (httpx.ReadTimeout("slow"), 0.25),
        (httpx.RemoteProtocolError("gone"), 0.25),
        (problem(503, "ledger-unavailable", **{"Retry-After": "10"}), 10),
        (problem(429, "too-many-requests", **{"Retry-After": "7"}), 7),
        (problem(409, "request-in-progress"), 0.25),
        (httpx.Response(502, text="<html>"), 0.25),
        (httpx.Response(503, headers={"Retry-After": "soon"}), 0.25),
    ],
)
def test_what_may_pass_is_sent_again_with_the_same_key(failure: Answer, at_least: float, paused: list[float]) -> None:
    api = Api(failure, said(QUEUED, 202))
    assert api.client().submit("note", KETTLE, key="kettle").key == "kettle"
    first, second = api.requests
    assert first.content == second.content
    assert len(paused) == 1
    assert at_least <= paused[0] <= max(at_least, 0.5)


@pytest.mark.parametrize("refusal", [problem(422, "key-used"), problem(500, "internal-error"), problem(409, "refused")])
def test_what_is_refused_is_not_sent_again(refusal: httpx.Response, paused: list[float]) -> None:
    with pytest.raises(ApiError) as caught:
        Api(refusal).client().submit("note", KETTLE, key="kettle")
    assert (caught.value.status, caught.value.detail) == (refusal.status_code, "D")
    assert caught.value.errors == ({"field": "f", "message": "m"},)
    assert paused == []


def test_patience_has_an_end_which_says_that_it_may_be_recorded(paused: list[float]) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(Unavailable, match=r"No answer within 30 s; the last failure: refused\. .* the same request"):
        Api(*[refuse] * 100).client().submit("note", KETTLE, key="kettle")
    assert 10 < sum(paused) <= 30
    with pytest.raises(ApiError, match="429 too-many-requests"):
        Api(problem(429, "too-many-requests", **{"Retry-After": "60"})).client().submit("note", KETTLE, key="kettle")


def test_a_token_that_has_expired_is_renewed_once_a_call() -> None:
    tokens = iter(["old", "new", "newer"])
    api = Api(problem(401, "not-logged-in"), said(QUEUED), said(QUEUED), problem(401, "x"), problem(401, "y"))
    client = api.client(token=lambda: next(tokens))
    assert [client.get(ID).state for _ in range(2)] == ["queued"] * 2
    with pytest.raises(ApiError, match="401 y"):
        client.get(ID)
    sent = [request.headers["authorization"].removeprefix("Bearer ") for request in api.requests]
    assert sent == ["old", "new", "new", "new", "newer"]
    with pytest.raises(ApiError, match="401"):
        Api(problem(401, "not-logged-in")).client().get(ID)


def test_waiting_asks_for_news_with_the_tag_until_the_end() -> None:
    later = {**QUEUED, "state": "in review"}
    api = Api(said(QUEUED), httpx.Response(304), said(later, ETag='"2"'), httpx.ConnectError("x"), said(DONE))
    request = api.client().wait(ID, 3600)
    assert (request.state, request.records[0].external_id) == ("done", "17")
    known = [(each.url.params.get("wait"), each.headers.get("if-none-match")) for each in api.requests]
    assert known == [(None, None), ("30", '"1"'), ("30", '"1"'), ("30", '"2"'), ("30", '"2"')]


def test_waiting_ends_in_time_and_says_how_it_stands(paused: list[float]) -> None:
    def hold(request: httpx.Request) -> httpx.Response:
        paused.append(float(request.url.params["wait"]))
        return httpx.Response(304)

    with pytest.raises(WaitTimeout, match=r"It is recorded\. It goes on") as caught:
        Api(said(QUEUED), *[hold] * 10).client().wait(ID, 70)
    assert (caught.value.request.state, paused) == ("queued", [30, 30, 10])


def test_following_goes_on_after_a_break_from_what_it_has_and_passes_on_other_events() -> None:
    def cut(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("cut")

    api = Api(
        stream(("request", "a", QUEUED), ("text", "a", {"delta": "A ket"})),
        cut,
        problem(503, "too-many-follow"),
        stream(("request", "b", DONE)),
    )
    events = list(api.client().follow(ID))
    assert [(event.name, event.request and event.request.state) for event in events] == [
        ("request", "queued"),
        ("text", None),
        ("request", "done"),
    ]
    assert events[1].data == {"delta": "A ket"}
    assert [each.headers.get("last-event-id") for each in api.requests] == [None, "a", "a", "a"]


def test_following_what_has_ended_for_good_ends() -> None:
    assert list(Api(httpx.Response(204)).client().follow(ID)) == []
    with pytest.raises(ApiError, match="404"):
        list(Api(problem(404, "request-not-found")).client().follow(ID))
    with pytest.raises(Unavailable, match="the stream has ended"):
        list(Api(*[stream()] * 100).client().follow(ID))


def test_types_and_cancelling_are_calls_too() -> None:
    declared = {"type": "note", "description": "", "dag_id": "d", "is_paused": False, "input_schema": {}}
    declared |= {"max_bytes": 1, "per_minute": 2, "shows_result": True, "shows_draft": False, "something_new": 1}
    api = Api(said({"job_types": [declared]}), said({**DONE, "state": "stopped"}))
    client = api.client()
    assert [each.per_minute for each in client.job_types()] == [2]
    assert client.cancel(ID).state == "stopped"
    assert [each.url.path.removeprefix("/team/aihandoff/api/v1") for each in api.requests] == [
        "/job-types",
        f"/requests/{ID}/cancel",
    ]


def test_a_login_is_asked_for_a_token() -> None:
    def post(url: str, **options: Any) -> httpx.Response:
        assert (url, options) == ("https://a.test/auth/token", {"json": {"username": "u", "password": "p"}})
        return httpx.Response(201, json={"access_token": "t"})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httpx, "post", post)
        assert log_in("https://a.test/", "u", "p")() == "t"


def test_the_client_needs_httpx_and_nothing_of_airflow_or_the_ledger() -> None:
    program = """
import sys
import airflow_provider_aihandoff.client
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"airflow", "psycopg", "pydantic", "sqlalchemy", "fastapi", "openai"}, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("token", ["", "secret\nline"])
def test_a_token_that_no_header_can_have_is_refused_and_not_quoted(token: str) -> None:
    with pytest.raises(ValueError, match="The token is empty, or has") as refused:
        Api().client(token=token).job_types()
    assert "secret" not in str(refused.value)


def test_the_line_break_at_the_end_of_a_token_file_is_no_part_of_the_token() -> None:
    api = Api(httpx.Response(200, json={"job_types": []}))
    api.client(token="secret\n").job_types()
    assert api.requests[0].headers["authorization"] == "Bearer secret"
