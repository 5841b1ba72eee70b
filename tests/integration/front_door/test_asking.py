"""Asking for a job over REST: one request, one Dag run, one job, one bill."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import psycopg
import pytest
from airflow.sdk import DAG
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from airflow_provider_aihandoff.core.job_requests.begin import begin, begin_due
from airflow_provider_aihandoff.core.job_requests.enqueue import enqueue
from airflow_provider_aihandoff.core.job_requests.job_request import RequestState
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.job_types import JobType
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.web.front_door import airflow_runs
from airflow_provider_aihandoff.web.front_door.airflow_runs import AirflowRuns, follow_up
from tests.integration.front_door.conftest import NOTE_TYPE, NoteRequest, of_session, published_note, runs
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import ask_unapproved
from tests.integration.web.conftest import Grant, Login

#: The first run of a Dag in a process imports half of Airflow.
pytestmark = pytest.mark.timeout(900)

API = "/aihandoff/api/v1"
KETTLE = {"type": "note", "key": "kettle", "input": {"slug": "kettle"}}


@pytest.fixture
def bob(login: Login, notes: DAG) -> TestClient:
    return login("bob", bearer=True)


def be_due(conninfo: dict[str, Any]) -> None:
    with psycopg.connect(**conninfo) as connection:
        connection.execute("UPDATE aihandoff.job_requests SET try_at = now()")


def test_a_request_becomes_one_run_one_job_and_one_bill(
    login: Login, dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    dag = dags.make(published_note, dag_id="notes", params=NOTE_TYPE.params, tags=NOTE_TYPE.tags)
    bob = login("bob", bearer=True)
    made = bob.post(f"{API}/jobs", json={**KETTLE, "permissions": {"cms": "write"}})
    assert made.status_code == 202, made.text
    said = made.json()
    assert (said["state"], said["key"], said["job_id"], said["result"]) == ("queued", "kettle", None, None)
    assert made.headers["location"] == said["href"] == f"{API}/requests/{said['request_id']}"
    assert runs() == [("notes", f"request__{said['request_id']}", "bob")]

    seen: dict[str, Any] = {}

    def decide() -> None:
        job = insist(lambda: asked_about(ledger))
        seen.update(bob.get(said["href"]).json())
        ledger.reviews.decide(
            job.job_id, "approve", digest=job.review_digest, person=Person("carol"), comment="So dull"
        )

    deciding = threading.Thread(target=decide)
    deciding.start()
    dags.go_on(dag, runs()[0][1])
    deciding.join()
    (job,) = ledger.jobs()
    assert (seen["state"], seen["job_id"], seen["result"]) == ("in review", job.job_id, None)
    assert (job.job_type, job.job_key, job.requested_by) == ("note", "kettle", "bob")
    assert job.permissions == {"cms": "write"}
    assert "kettle" in str(job.input)
    done = bob.get(said["href"])
    assert (done.json()["state"], done.json()["ended"]) == ("done", True)
    assert done.json()["result"]["title"] == "Kettle"
    assert [each["name"] for each in done.json()["records"]] == ["publish"]
    assert "So dull" not in done.text
    again = bob.post(f"{API}/jobs", json={**KETTLE, "permissions": {"cms": "write"}})
    assert (again.status_code, again.json()["state"]) == (202, "done")
    assert len(runs()) == 1
    assert len(stand_in.responses().responses) == 1


def asked_about(ledger: Ledger) -> Any:
    """The job that waits for a decision."""
    (job,) = ledger.jobs()
    assert job.review_digest is not None
    return job


def insist(call: Any) -> Any:
    """What a function returns once it can."""
    until = time.monotonic() + 150
    while True:
        try:
            return call()
        except (AssertionError, ValueError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def test_ten_clicks_at_once_are_one_run(bob: TestClient) -> None:
    together = threading.Barrier(10)

    def click(_: int) -> tuple[int, str]:
        together.wait()
        answer = bob.post(
            f"{API}/jobs", json={"type": "note", "input": {"slug": "pot"}}, headers={"Idempotency-Key": '"c"'}
        )
        return answer.status_code, answer.json().get("request_id", answer.text)

    with ThreadPoolExecutor(10) as workers:
        answers = set(workers.map(click, range(10)))
    assert len(answers) == 1
    assert next(iter(answers))[0] == 202
    assert len(runs()) == 1


def test_the_key_of_the_header_is_a_string_with_or_without_its_quotes(bob: TestClient) -> None:
    body = {"type": "note", "input": {"slug": "pot"}}
    first = bob.post(f"{API}/jobs", json=body, headers={"Idempotency-Key": '"click-1"'}).json()
    assert bob.post(f"{API}/jobs", json=body, headers={"Idempotency-Key": "click-1"}).json() == first
    other = bob.post(f"{API}/jobs", json={**body, "input": {"slug": "pan"}}, headers={"Idempotency-Key": "click-1"})
    assert (other.status_code, other.json()["type"]) == (422, "key-used")
    none = bob.post(f"{API}/jobs", json=body)
    assert (none.status_code, none.json()["type"]) == (400, "key-missing")
    assert len(runs()) == 1


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"input": {"slug": "ab"}}, 422, "input.slug"),
        ({"input": {}}, 422, "input"),
        ({"input": {"slug": "kettle", "lines": [{"text": 7}]}}, 422, "input.lines.0.text"),
        ({"input": {"slug": "ket\x00tle"}}, 422, "input"),
        ({"input": {"slug": "kettle", "note": "x" * 70_000}}, 422, "input"),
        ({"input": "kettle"}, 422, "input"),
        ({"permissions": {"a": "\ud800"}}, 422, "permissions"),
        ({"key": "a\nb"}, 422, "key"),
        ({"requester": "carol"}, 422, "requester"),
    ],
)
def test_bad_input_is_refused_with_its_field_and_nothing_is_recorded(
    bob: TestClient, ledger: Ledger, changes: dict[str, Any], status: int, field: str
) -> None:
    content = json.dumps({**KETTLE, **changes})
    refused = bob.post(f"{API}/jobs", content=content, headers={"Content-Type": "application/json"})
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert [each["field"] for each in refused.json()["errors"]] == [field]
    assert runs() == []
    assert bob.post(f"{API}/jobs", json=KETTLE).status_code == 202


def test_job_types_are_those_that_a_user_may_ask_for(login: Login, notes: DAG, dags: Dags, grant: Grant) -> None:
    open_type = JobType("open", {"type": "object"}, max_bytes=10)
    dags.make(lambda: ask_unapproved(job_type=open_type), dag_id="open", params=open_type.params, tags=open_type.tags)
    listed = login("bob", bearer=True).get(f"{API}/job-types").json()["job_types"]
    assert [each["type"] for each in listed] == ["note"]  # the other one is for those who may trigger its Dag
    assert listed[0]["input_schema"] == NoteRequest.model_json_schema()
    assert (listed[0]["description"], listed[0]["dag_id"]) == ("A product note.", "notes")
    vic = login("vic", bearer=True)
    assert vic.get(f"{API}/job-types").json() == {"job_types": []}
    hidden, absent = (vic.post(f"{API}/jobs", json={**KETTLE, "type": name}) for name in ("note", "nothing"))
    assert hidden.status_code == absent.status_code == 404
    assert hidden.json()["detail"].replace("note", "nothing") == absent.json()["detail"]
    assert runs() == []


def test_a_type_without_names_is_for_those_who_may_trigger_the_dag(login: Login, dags: Dags) -> None:
    declared = JobType("open", {"type": "object"})
    dags.make(lambda: ask_unapproved(job_type=declared), dag_id="open", params=declared.params, tags=declared.tags)
    assert [each["type"] for each in login("bob", bearer=True).get(f"{API}/job-types").json()["job_types"]] == ["open"]
    assert login("vic", bearer=True).get(f"{API}/job-types").json()["job_types"] == []


def test_two_dags_that_declare_a_type_are_not_chosen_between(bob: TestClient, dags: Dags) -> None:
    dags.make(lambda: ask_unapproved(job_type=NOTE_TYPE), dag_id="copy", params=NOTE_TYPE.params, tags=NOTE_TYPE.tags)
    refused = bob.post(f"{API}/jobs", json=KETTLE)
    assert (refused.status_code, refused.json()["type"]) == (409, "job-type-ambiguous")
    assert "copy, notes" in refused.json()["detail"]


def test_a_new_version_of_the_dag_says_at_once_what_it_takes(bob: TestClient, dags: Dags) -> None:
    wider = JobType("note", {"type": "object"}, users=("bob",))
    assert bob.post(f"{API}/jobs", json={**KETTLE, "input": {"slug": "a"}}).status_code == 422
    dags.make(lambda: ask_unapproved(job_type=wider), dag_id="notes", params=wider.params, tags=wider.tags)
    assert bob.post(f"{API}/jobs", json={**KETTLE, "input": {"slug": "a"}}).status_code == 202


def test_a_login_can_ask_so_often_in_a_minute(login: Login, dags: Dags) -> None:
    rare = JobType("rare", {"type": "object"}, users=("bob",), per_minute=2)
    dags.make(lambda: ask_unapproved(job_type=rare), dag_id="rare", params=rare.params, tags=rare.tags)
    bob = login("bob", bearer=True)
    answers = [bob.post(f"{API}/jobs", json={"type": "rare", "key": key, "input": {}}) for key in ("a", "b", "c", "a")]
    assert [each.status_code for each in answers] == [202, 202, 429, 202]
    assert (answers[2].json()["type"], answers[2].headers["retry-after"]) == ("too-many-requests", "60")


def test_a_service_account_asks_for_a_user_and_both_are_on_the_record(
    login: Login, bob: TestClient, dags: Dags, notes: DAG, ledger: Ledger
) -> None:
    shop = login("shop", bearer=True)
    made = shop.post(f"{API}/jobs", json={**KETTLE, "requested_for": "carol"})
    assert made.status_code == 202, made.text
    said = made.json()
    assert (said["requested_by"], said["sent_by"]) == ("carol", "shop")
    assert runs()[0][2] == "shop"
    dags.go_on(notes, runs()[0][1])
    (job,) = ledger.jobs()
    assert (job.requested_by, job.triggered_by) == ("carol", "shop")
    refused = bob.post(f"{API}/jobs", json={**KETTLE, "requested_for": "carol"})
    assert (refused.status_code, refused.json()["type"]) == (403, "may-not-ask-for-others")


def test_only_those_who_asked_and_those_who_may_see_the_jobs_of_the_dag_see_a_request(
    login: Login, notes: DAG, grant: Grant
) -> None:
    address = login("bob", bearer=True).post(f"{API}/jobs", json=KETTLE).json()["href"]
    grant("vic", "GET", "notes")
    assert [login(name, bearer=True).get(address).status_code for name in ("bob", "vic", "carol")] == [200, 200, 404]
    unknown = address[:-4] + "ffff"
    hidden, absent = (login("carol", bearer=True).get(each).json() for each in (address, unknown))
    assert hidden["type"] == absent["type"] == "request-not-found"
    assert login("bob", bearer=True).get(f"{API}/jobs/1").status_code == 404  # the jobs themselves are for reviewers


class TestOneRun:
    def test_what_was_recorded_and_not_begun_is_begun_by_the_next_round(
        self, bob: TestClient, ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(airflow_runs, "_trigger", _unavailable)
            made = bob.post(f"{API}/jobs", json=KETTLE)
            assert (made.status_code, made.json()["state"]) == (202, "queued")
            assert runs() == []
        assert begin_due(ledger, AirflowRuns()) == 0  # not at once again
        be_due(conninfo)
        assert begin_due(ledger, AirflowRuns()) == 1
        assert [each[1] for each in runs()] == [f"request__{made.json()['request_id']}"]
        assert ledger.job_requests.read(UUID(made.json()["request_id"])).request.state is RequestState.STARTED

    def test_one_whose_run_was_made_and_not_recorded_gets_no_other_one(
        self, bob: TestClient, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        request_id = UUID(bob.post(f"{API}/jobs", json=KETTLE).json()["request_id"])
        with psycopg.connect(**conninfo) as connection:
            connection.execute(
                "UPDATE aihandoff.job_requests SET state = 'recorded', run_id = NULL, dag_id = NULL, try_at = now()"
            )
        assert begin_due(ledger, AirflowRuns()) == 1
        assert len(runs()) == 1
        assert ledger.job_requests.read(request_id).request.dag_id == "notes"

    def test_eight_who_begin_at_the_same_time_make_one(
        self, bob: TestClient, ledger: Ledger, conninfo: dict[str, Any], notes: DAG
    ) -> None:
        with psycopg.connect(**conninfo) as connection:
            enqueue(connection, "note", "kettle", {"slug": "kettle"}, requested_by="alice")
        (request,) = ledger.job_requests.claim(1)
        together = threading.Barrier(8)

        def make(_: int) -> RequestState:
            together.wait()
            return begin(ledger, request, AirflowRuns()).state

        with ThreadPoolExecutor(8) as workers:
            assert set(workers.map(make, range(8))) == {RequestState.STARTED}
        assert runs() == [("notes", request.own_run_id, "alice")]

    def test_what_was_enqueued_and_is_not_what_the_type_takes_is_refused(
        self, login: Login, notes: DAG, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        with psycopg.connect(**conninfo) as connection:
            asked = enqueue(connection, "note", "kettle", {"slug": "k"}, requested_by="bob")
        assert begin_due(ledger, AirflowRuns()) == 1
        assert runs() == []
        said = login("bob", bearer=True).get(f"{API}/requests/{asked}").json()
        assert (said["state"], said["ended"], said["may_cancel"]) == ("failed", True, False)
        assert "input.slug: It must have at least 3 characters." in said["said"]

    def test_one_of_a_type_that_no_dag_declares_yet_waits_for_the_dag(
        self, login: Login, dags: Dags, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        with psycopg.connect(**conninfo) as connection:
            asked = enqueue(connection, "late", "kettle", {}, requested_by="bob")
        begin_due(ledger, AirflowRuns())
        late = JobType("late", {"type": "object"}, events_show_result=True)
        dags.make(lambda: ask_unapproved(job_type=late), dag_id="late", params=late.params, tags=late.tags)
        assert ledger.job_requests.read(asked).request.state_reason == "no Dag does jobs of the type 'late'."
        be_due(conninfo)
        begin_due(ledger, AirflowRuns())
        assert runs() == [("late", f"request__{asked}", "bob")]
        assert ledger.job_requests.read(asked).request.events_show_result  # as its author says

    def test_one_whose_run_ends_without_a_job_has_failed(
        self, bob: TestClient, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        href = bob.post(f"{API}/jobs", json=KETTLE).json()["href"]
        be_due(conninfo)
        follow_up(ledger)
        assert bob.get(href).json()["state"] == "queued"
        with of_session() as session:
            session.execute("UPDATE dag_run SET state = 'failed'")
        be_due(conninfo)
        follow_up(ledger)
        said = bob.get(href).json()
        assert (said["state"], said["said"]) == (
            "failed",
            "It could not be begun. Those who run it can see why.",
        )


class TestCancel:
    def test_before_there_is_a_job_the_model_is_not_asked(
        self, bob: TestClient, dags: Dags, notes: DAG, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        href = bob.post(f"{API}/jobs", json=KETTLE).json()["href"]
        cancelled = bob.post(f"{href}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "stopped")
        assert bob.post(f"{href}/cancel").json() == cancelled.json()
        run = dags.go_on(notes, runs()[0][1])
        assert run.state == "failed"
        assert "bob has cancelled it" in run.error("draft")
        assert [job.state for job in ledger.jobs()] == [JobState.CANCELLED]
        assert stand_in.responses().responses == []

    def test_in_review_nothing_is_written_and_afterwards_it_is_refused(
        self, bob: TestClient, login: Login, dags: Dags, notes: DAG, ledger: Ledger, grant: Grant
    ) -> None:
        grant("admin", "GET", "notes")
        href = bob.post(f"{API}/jobs", json=KETTLE).json()["href"]
        dags.go_on(notes, runs()[0][1])
        assert bob.get(href).json()["may_cancel"]
        assert login("carol", bearer=True).post(f"{href}/cancel").status_code == 404
        admin = login("admin", bearer=True).post(f"{href}/cancel")
        assert (admin.status_code, admin.json()["type"]) == (409, "cannot-cancel")
        assert bob.post(f"{href}/cancel").json()["state"] == "stopped"
        assert ledger.jobs()[0].state is JobState.CANCELLED

    def test_what_is_done_cannot_be_stopped(self, login: Login, dags: Dags, ledger: Ledger) -> None:
        quick = JobType("quick", {"type": "object"}, users=("bob",))
        dag = dags.make(
            lambda: ask_unapproved(job_type=quick, job_key=None), dag_id="quick", params=quick.params, tags=quick.tags
        )
        bob = login("bob", bearer=True)
        href = bob.post(f"{API}/jobs", json={"type": "quick", "key": "a", "input": {}}).json()["href"]
        assert dags.go_on(dag, runs()[0][1]).state == "success"
        refused = bob.post(f"{href}/cancel")
        assert (refused.status_code, refused.json()["type"]) == (409, "cannot-cancel")
        assert bob.get(href).json()["result"] is not None


def test_a_run_by_hand_with_the_id_of_a_request_and_another_content_asks_no_model(
    bob: TestClient, dags: Dags, notes: DAG, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob.post(f"{API}/jobs", json=KETTLE)
    with of_session() as session:
        session.execute("UPDATE dag_run SET conf = jsonb_set(conf, '{job_request,input,slug}', '\"forged\"')")
    run = dags.go_on(notes, runs()[0][1])
    assert run.state == "failed"
    assert "is not what was requested" in run.error("draft")
    assert ledger.jobs() == []
    assert stand_in.responses().responses == []


def _unavailable(*args: Any) -> None:
    raise OperationalError("INSERT", {}, Exception("it is unavailable"))
