"""Following what was asked for: answers that are held, server-sent events, and one connection for all of them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from airflow.sdk import DAG

from airflow_provider_aihandoff.core.job_requests.enqueue import enqueue
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.web.front_door import follow
from tests.factories import TEST, ask, draft, job_spec
from tests.integration.front_door.conftest import Serve, runs
from tests.integration.web.conftest import Login

pytestmark = pytest.mark.timeout(900)

API = "/aihandoff/api/v1"
KETTLE = {"type": "note", "key": "kettle", "input": {"slug": "kettle"}}

#: Seconds after which a change must have been heard of, on a machine that is busy.
SOON = 15.0


@pytest.fixture
def address(serve: Serve, notes: DAG) -> str:
    return serve()


@contextmanager
def client(login: Login, address: str, name: str = "bob") -> Iterator[httpx.Client]:
    headers = {"Authorization": login(name, bearer=True).headers["Authorization"]}
    with httpx.Client(base_url=address, headers=headers, timeout=90) as opened:
        yield opened


def make_job(ledger: Ledger) -> Job:
    return draft(ledger, job_spec(job_type="note", job_key="kettle"))


def later(seconds: float, call: Any) -> threading.Thread:
    thread = threading.Timer(seconds, call)
    thread.start()
    return thread


def events_of(answer: httpx.Response) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The events of a stream: id, name and data."""
    parts: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, text = line.partition(": ")
            parts[name] = text
        elif "data" in parts:
            yield parts["id"], parts["event"], json.loads(parts["data"])
            parts = {}


def test_an_answer_that_the_client_has_is_not_sent_again(login: Login, notes: DAG, ledger: Ledger) -> None:
    bob = login("bob", bearer=True)
    href = bob.post(f"{API}/jobs", json=KETTLE).json()["href"]
    first = bob.get(href)
    known = {"If-None-Match": first.headers["etag"]}
    assert [bob.get(href, headers=known).status_code for _ in range(2)] == [304, 304]
    assert bob.get(href, headers={"If-None-Match": f'"other", W/{first.headers["etag"]}'}).status_code == 304
    job = make_job(ledger)
    changed = bob.get(href, headers=known)
    assert (changed.status_code, changed.json()["state"]) == (200, "in review")
    assert changed.headers["etag"] != first.headers["etag"]

    admin = login("admin", bearer=True)
    record = admin.get(f"{API}/jobs/{job.job_id}")
    known = {"If-None-Match": record.headers["etag"]}
    assert record.headers["etag"].startswith("W/")
    assert admin.get(f"{API}/jobs/{job.job_id}", headers=known).status_code == 304
    ask(ledger, job)
    assert admin.get(f"{API}/jobs/{job.job_id}", headers=known).status_code == 200


def test_an_answer_is_held_until_there_is_another_one(login: Login, address: str, ledger: Ledger) -> None:
    with client(login, address) as bob, client(login, address, "admin") as admin:
        href = bob.post(f"{API}/jobs", json=KETTLE).json()["href"]
        known = {"If-None-Match": bob.get(href).headers["etag"]}
        began = time.monotonic()
        assert bob.get(href, params={"wait": 1}, headers=known).status_code == 304
        assert time.monotonic() - began >= 1
        thread = later(1, lambda: make_job(ledger))
        began = time.monotonic()
        changed = bob.get(href, params={"wait": 60}, headers=known)
        assert changed.status_code == 200
        assert time.monotonic() - began < SOON
        thread.join()
        job_id = ledger.jobs()[0].job_id
        record = admin.get(f"{API}/jobs/{job_id}")
        later(0.5, lambda: ask(ledger, ledger.job(job_id)))
        known = {"If-None-Match": record.headers["etag"]}
        assert admin.get(f"{API}/jobs/{job_id}", params={"wait": 60}, headers=known).status_code == 200
        later(0.5, lambda: ledger.cancels.cancel(job_id, actor=TEST, reason="it is a test"))
        began = time.monotonic()
        assert bob.get(href, params={"wait": 60}).json()["state"] == "stopped"  # without a tag: until it has ended
        assert time.monotonic() - began < SOON


def test_a_stream_has_each_change_and_ends_with_the_request(login: Login, address: str, ledger: Ledger) -> None:
    with client(login, address) as bob:
        said = bob.post(f"{API}/jobs", json=KETTLE).json()
        with bob.stream("GET", said["stream"]) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            events = events_of(answer)
            identity, name, data = next(events)
            assert (name, data["state"]) == ("request", "queued")
            job = make_job(ledger)
            assert [data["state"] for _, _, data in until(events, "in review")][-1] == "in review"
            ledger.cancels.cancel(job.job_id, actor=TEST, reason="a reviewer's words")
            last, _, data = until(events, "stopped")[-1]
            assert list(events) == []
        assert "reviewer" not in json.dumps(data)
        again = bob.get(said["stream"], headers={"Last-Event-ID": last})
        assert again.status_code == 204  # by which a browser knows that it need not connect again
        with bob.stream("GET", said["stream"], headers={"Last-Event-ID": identity}) as answer:
            assert [data["state"] for _, _, data in events_of(answer)] == ["stopped"]


def until(events: Iterator[tuple[str, str, dict[str, Any]]], state: str) -> list[tuple[str, str, dict[str, Any]]]:
    seen = []
    for event in events:
        seen.append(event)
        if event[2]["state"] == state:
            return seen
    raise AssertionError(f"it ended before {state}: {seen}")


def test_a_stream_of_a_job_has_each_line_of_its_history_once(login: Login, address: str, ledger: Ledger) -> None:
    job = make_job(ledger)
    lines = ledger.record(job.job_id).events
    with client(login, address, "admin") as admin, client(login, address, "bob") as bob:
        path = f"{API}/jobs/{job.job_id}/stream"
        with admin.stream("GET", path) as answer:
            events = events_of(answer)
            assert [next(events)[0] for _ in lines] == [str(line.seq) for line in lines]
            ask(ledger, job)
            _, name, data = next(events)
            assert (name, data["event"], data["seq"]) == ("planned", "planned", len(lines) + 1)
        with admin.stream("GET", path, headers={"Last-Event-ID": str(len(lines))}) as answer:
            assert next(events_of(answer))[2]["seq"] == len(lines) + 1
        assert bob.get(f"{API}/jobs/999/stream").status_code == 404


def test_many_who_follow_share_one_connection_to_the_ledger(
    login: Login, address: str, ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    with client(login, address) as bob:
        href = bob.post(f"{API}/jobs", json=KETTLE).json()["href"]
        known = {"If-None-Match": bob.get(href).headers["etag"]}
        answers: list[int] = []
        waiting = [
            threading.Thread(
                target=lambda: answers.append(bob.get(href, params={"wait": 60}, headers=known).status_code)
            )
            for _ in range(30)
        ]
        for each in waiting:
            each.start()
        time.sleep(2)
        with psycopg.connect(**conninfo) as connection:
            (connections,) = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone() or (0,)
        make_job(ledger)
        for each in waiting:
            each.join()
    assert answers == [200] * 30
    # The pool that all threads share, the one that listens, and the one of this test.
    assert connections <= 4 + 1 + 1


def test_what_is_enqueued_is_begun_within_a_moment_of_its_commit(
    login: Login, address: str, serve: Serve, conninfo: dict[str, Any]
) -> None:
    serve()  # two of them: one run all the same
    time.sleep(1.5)
    with psycopg.connect(**conninfo) as connection:
        asked = enqueue(connection, "note", "kettle", {"slug": "kettle"}, requested_by="bob")
        time.sleep(1.5)
        assert runs() == []
    began = time.monotonic()
    while not runs():
        assert time.monotonic() - began < SOON
        time.sleep(0.02)
    assert runs() == [("notes", f"request__{asked}", "bob")]
    with client(login, address) as bob:
        assert bob.get(f"{API}/requests/{asked}").json()["sent_by"] == conninfo["user"]


def test_those_who_follow_are_bounded(login: Login, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "MAX_WATCHES", 0)
    with client(login, address) as bob:
        href = bob.post(f"{API}/jobs", json=KETTLE).json()["href"]
        refused = bob.get(href, params={"wait": 5})
        assert (refused.status_code, refused.json()["type"]) == (503, "too-many-follow")
        assert bob.get(href).status_code == 200
