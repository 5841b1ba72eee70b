"""What the model writes arrives at those who watch: once each, from one reader, and at no one else."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from airflow.sdk import DAG
from openai import OpenAI

from airflow_provider_aihandoff.core.generation.openai.provider import OpenAIProvider
from airflow_provider_aihandoff.core.generation.provider import ModelResponse
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Revision
from airflow_provider_aihandoff.job_types import JobType
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.testing.openai_server import ResponseReport
from tests.factories import OWNER, TEST, job_spec, submit
from tests.integration.front_door.conftest import NoteRequest, Serve, draft_note
from tests.integration.operators.conftest import API_KEY, Model
from tests.integration.operators.dag_runs import Dags
from tests.integration.web.conftest import Grant, Login
from tests.waiting import until

pytestmark = pytest.mark.timeout(60)

API = "/aihandoff/api/v1"
KETTLE = {"type": "note", "key": "kettle", "input": {"slug": "kettle"}}
TEXT = " ".join(f"Sentence {number} of what is written about the kettle." for number in range(40))

#: The events of what the model writes, which have no id.
LIVE = {"thinking", "text", "progress", "usage", "reset"}

Event = tuple[str | None, str, dict[str, Any]]
#: Has a response made for the job of the request, and returns its revision.
Begin = Callable[..., Revision]


@pytest.fixture
def address(serve: Serve, notes: DAG) -> str:
    return serve()


@pytest.fixture
def begin(ledger: Ledger, _served: tuple[OpenAIStandIn, Model, str], model: Model) -> Begin:
    """Let the stand-in write the text, within some seconds and with some faults, for a job of the ledger."""
    model.output = TEXT

    def begin(faults: str = "delay=3", *, stream: bool = True, job_key: str = "kettle") -> Revision:
        request: dict[str, Any] = {"model": "gpt-5.2", "input": f"Write about the kettle. [[standin: {faults}]]"}
        request |= {"stream": True} if stream else {}
        with OpenAI(base_url=_served[2], api_key=API_KEY, max_retries=0) as opened:
            response = OpenAIProvider(opened).create(request, {}, timeout=10)
        assert isinstance(response, ModelResponse)
        return submit(ledger, job_spec(job_type="note", job_key=job_key, request=request), response.id)

    return begin


@contextmanager
def client(login: Login, address: str, name: str = "admin") -> Iterator[httpx.Client]:
    headers = {"Authorization": login(name, bearer=True).headers["Authorization"]}
    with httpx.Client(base_url=address, headers=headers, timeout=20) as opened:
        yield opened


def events_of(answer: httpx.Response) -> Iterator[Event]:
    """The events of a stream: id, if it has one, name and data."""
    parts: dict[str, str] = {}
    for line in answer.iter_lines():
        if line:
            name, _, text = line.partition(": ")
            parts[name] = text
        elif "data" in parts:
            yield parts.get("id"), parts["event"], json.loads(parts["data"])
            parts = {}


@contextmanager
def following(opened: httpx.Client, path: str, **headers: str) -> Iterator[Iterator[Event]]:
    with opened.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200
        yield events_of(answer)


def of_job(revision: Revision) -> str:
    return f"{API}/jobs/{revision.job_id}/stream"


def watched(events: Iterator[Event], name: str = "usage") -> list[Event]:
    """Everything up to the first event of a name."""
    seen: list[Event] = []
    until_then = time.monotonic() + 40
    for event in events:
        assert time.monotonic() < until_then, f"no {name} came: {seen}"
        seen.append(event)
        if event[1] == name:
            return seen
    raise AssertionError(f"it ended before {name}: {seen}")


def text_of(seen: list[Event], name: str = "text") -> str:
    return "".join(data["delta"] for _, event, data in seen if event == name)


def report(stand_in: OpenAIStandIn) -> ResponseReport:
    return stand_in.responses().responses[-1]


def end(ledger: Ledger, revision: Revision) -> None:
    error = {"kind": "test", "message": ""}
    ledger.outputs.fail(revision.job_id, revision.number, actor=TEST, reason="it is a test", error=error)


def test_what_the_model_writes_arrives_piece_by_piece_from_one_reader_for_all_who_watch(
    login: Login, address: str, begin: Begin, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    with client(login, address) as admin, client(login, address) as other, ExitStack() as opened:
        revision = begin("delay=6")  # they watch before much of it is written
        events, also = (opened.enter_context(following(each, of_job(revision))) for each in (admin, other))
        seen = watched(events)
        assert text_of(seen) == text_of(watched(also)) == TEXT
        assert "I check what is asked" in text_of(seen, "thinking")
        assert len([name for _, name, _ in seen if name == "text"]) > 2
        assert [name for _, name, _ in seen if name == "reset"] == ["reset"]
        numbers = [data["sequence_number"] for _, name, data in seen if name == "text"]
        assert numbers == sorted(set(numbers))
        usage = seen[-1][2]
        assert usage["output_tokens"] > 0
        assert all(identity is None for identity, name, _ in seen if name in LIVE)
        assert (report(stand_in).streams, report(stand_in).readers) == (1, 0)
        end(ledger, revision)
        assert watched(events, "failed")[-1][0] is not None
        watched(also, "failed")
    assert ledger.revision(revision.job_id, 1).output is None, "nothing of it is stored"


def test_nothing_is_read_while_no_one_watches_and_the_job_goes_on(
    login: Login, address: str, begin: Begin, stand_in: OpenAIStandIn
) -> None:
    revision = begin("delay=60")
    assert report(stand_in).streams == 0
    with client(login, address) as admin, client(login, address) as other:
        with following(admin, of_job(revision)) as events:
            watched(events, "thinking")
            with following(other, of_job(revision)) as also:
                watched(also, "thinking")
            assert report(stand_in).readers == 1
        until(lambda: report(stand_in).readers == 0)
    assert report(stand_in).streams == 1
    assert report(stand_in).response["status"] == "in_progress"


def test_a_stream_that_is_cut_off_is_taken_up_without_a_gap_or_a_repetition(
    login: Login, address: str, begin: Begin, stand_in: OpenAIStandIn
) -> None:
    with client(login, address) as admin:
        revision = begin("delay=6 stream=drop times=3")
        with following(admin, of_job(revision)) as events:
            seen = watched(events)
    assert text_of(seen) == TEXT
    assert [name for _, name, _ in seen if name == "reset"] == ["reset"]
    after = [each.after for each in stand_in.requests() if each.after is not None]
    assert len(after) == 4
    assert after == sorted(set(after))


def test_those_who_come_late_get_what_there_is(login: Login, address: str, begin: Begin) -> None:
    revision = begin()
    with client(login, address) as admin, following(admin, of_job(revision)) as events:
        watched(events)
        with client(login, address) as late, following(late, of_job(revision)) as also:
            assert text_of(watched(also)) == TEXT


def test_a_process_that_is_lost_is_replaced_by_another_one_and_the_lines_of_the_history_come_once(
    login: Login, address: str, serve: Serve, begin: Begin, ledger: Ledger
) -> None:
    revision = begin()
    lines = [str(event.seq) for event in ledger.record(revision.job_id).events]
    with client(login, address) as admin, following(admin, of_job(revision)) as events:
        seen = watched(events, "text")
    assert [identity for identity, _, _ in seen if identity] == lines
    with client(login, serve()) as admin, following(admin, of_job(revision), **{"Last-Event-ID": lines[-1]}) as events:
        again = watched(events)
    assert [identity for identity, _, _ in again if identity] == []
    assert (again[0][1], text_of(again)) == ("reset", TEXT)


def test_someone_who_reads_nothing_slows_no_one(
    login: Login, address: str, begin: Begin, stand_in: OpenAIStandIn
) -> None:
    revision = begin()
    with (
        client(login, address) as slow,
        client(login, address) as admin,
        following(slow, of_job(revision)),
        following(admin, of_job(revision)) as events,
    ):
        assert text_of(watched(events)) == TEXT
    assert report(stand_in).response["status"] == "completed"


def test_a_job_without_a_stream_brings_the_lines_of_its_history_alone(
    login: Login, address: str, begin: Begin, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    revision = begin(stream=False)
    with client(login, address) as admin, following(admin, of_job(revision)) as events:
        watched(events, ledger.record(revision.job_id).events[-1].event)
        end(ledger, revision)
        seen = watched(events, "failed")
    assert not LIVE & {name for _, name, _ in seen}
    assert report(stand_in).streams == 0


@pytest.mark.parametrize("fault", ["404", "500", "html"])
def test_a_stream_that_cannot_be_read_leaves_the_states(
    login: Login, address: str, begin: Begin, ledger: Ledger, stand_in: OpenAIStandIn, fault: str
) -> None:
    revision = begin(f"delay=60 stream={fault} times=1000")
    with client(login, address) as admin, following(admin, of_job(revision)) as events:
        watched(events, ledger.record(revision.job_id).events[-1].event)
        until(lambda: report(stand_in).streams > 1)
        end(ledger, revision)
        seen = watched(events, "failed")
    assert {name for _, name, _ in seen} & LIVE <= {"reset"}


def test_another_revision_begins_with_a_reset(
    login: Login, address: str, begin: Begin, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    first = begin("delay=60")
    with client(login, address) as admin, following(admin, of_job(first)) as events:
        watched(events, "text")
        end(ledger, first)
        second = begin("delay=2")
        assert (second.job_id, second.number) == (first.job_id, 2)
        watched(events, "reset")
        seen = watched(events)
    assert text_of(seen) == TEXT
    assert {data["revision"] for _, name, data in seen if name in LIVE} == {2}
    until(lambda: [each.readers for each in stand_in.responses().responses] == [0, 0])


class TestThoseWhoAsk:
    @pytest.fixture
    def address(self, serve: Serve, dags: Dags, grant: Grant, request: pytest.FixtureRequest) -> str:
        grant("admin", "GET", OWNER.dag_id)  # of those who ask, none may see the job
        shown = JobType("note", NoteRequest, users=("bob",), **request.param)
        dags.make(draft_note, dag_id="notes", params=shown.params, tags=shown.tags)
        return serve()

    @pytest.mark.parametrize("address", [{"shows_draft": True}], indirect=True)
    def test_they_see_what_the_model_writes_where_its_author_says_so(
        self, login: Login, address: str, begin: Begin
    ) -> None:
        with client(login, address, "bob") as bob:
            said = bob.post(f"{API}/jobs", json=KETTLE).json()
            with following(bob, said["stream"]) as events:
                watched(events, "request")
                begin()
                seen = watched(events)
            assert text_of(seen) == TEXT
            assert "data-live=" in bob.get(said["page"], headers={"Accept": "text/html"}).text

    @pytest.mark.parametrize("address", [{}], indirect=True)
    def test_they_see_no_word_of_it_otherwise_but_those_who_may_see_the_job_do(
        self, login: Login, address: str, begin: Begin, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        with client(login, address, "bob") as bob, client(login, address, "admin") as admin:
            said = bob.post(f"{API}/jobs", json=KETTLE).json()
            revision = begin("delay=60")
            with following(bob, said["stream"]) as events, following(admin, said["stream"]) as of_admin:
                watched(of_admin, "text")
                end(ledger, revision)
                seen = list(events)
            assert {name for _, name, _ in seen} == {"request"}
            assert "Sentence" not in json.dumps(seen)
            page = bob.get(said["page"], headers={"Accept": "text/html"}).text
            assert "data-live=" not in page


def test_a_page_shows_where_to_listen_and_how_long_the_model_has_worked(
    login: Login, address: str, begin: Begin
) -> None:
    streamed, plain = begin("delay=60"), begin("delay=60", stream=False, job_key="pot")
    admin = login("admin")
    page = admin.get(f"/aihandoff/jobs/{streamed.job_id}").text
    assert f'data-live="{API}/jobs/{streamed.job_id}/stream"' in page
    assert re.search(r"Working for \d+ s, last sign \d+ s ago\.", page)
    page = admin.get(f"/aihandoff/jobs/{plain.job_id}").text
    assert "data-live=" not in page
    assert "Working for " in page
