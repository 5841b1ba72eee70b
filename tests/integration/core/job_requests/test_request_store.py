"""Requests for jobs in the ledger: recorded once each, and handed to one process at a time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from airflow_provider_aihandoff.core.errors import (
    CannotCancel,
    JobRequestConflict,
    JobRequestInProgress,
    JobRequestNotFound,
    JobRequestRefused,
    TooManyRequests,
)
from airflow_provider_aihandoff.core.job_requests.enqueue import REQUEST_CHANNEL, enqueue
from airflow_provider_aihandoff.core.job_requests.job_request import JobRequest, RequestState, Wanted
from airflow_provider_aihandoff.core.job_requests.request_store import MAX_TRIES
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.limits import API_SERVER
from airflow_provider_aihandoff.core.models import Actor
from tests.factories import job_spec

ROOT = Path(__file__).parents[4]
WANTED = Wanted("note", {"slug": "kettle"}, "alice", job_key="kettle")


def record(ledger: Ledger, wanted: Wanted = WANTED, *, by: str = "alice", per_minute: int = 30) -> JobRequest:
    return ledger.job_requests.record(wanted, recorded_by=by, per_minute=per_minute)


def be_due(conninfo: dict[str, Any]) -> None:
    with psycopg.connect(**conninfo) as connection:
        connection.execute("UPDATE aihandoff.job_requests SET try_at = now()")


def test_the_same_request_is_recorded_once_by_its_key_and_by_its_idempotency_key(ledger: Ledger) -> None:
    first = record(ledger)
    assert (first.state, first.recorded_by, first.conf["key"]) == (RequestState.RECORDED, "alice", "kettle")
    assert record(ledger).request_id == first.request_id
    own = Wanted("note", {"slug": "kettle"}, "alice", idempotency_key="click-1")
    other = record(ledger, own)
    assert other.request_id != first.request_id
    assert other.job_key == str(other.request_id)
    assert record(ledger, own).request_id == other.request_id
    assert record(ledger, replace(own, requested_by="bob"), by="bob").request_id not in (
        first.request_id,
        other.request_id,
    )


@pytest.mark.parametrize(
    "changes",
    [{"input": {"slug": "pot"}}, {"permissions": {"cms": "write"}}, {"requested_by": "carol"}],
)
def test_a_key_with_another_content_is_refused_and_changes_nothing(ledger: Ledger, changes: dict[str, Any]) -> None:
    first = record(ledger, replace(WANTED, idempotency_key="click-1"))
    with pytest.raises(JobRequestConflict, match="the key was used before"):
        record(ledger, replace(WANTED, **changes))
    with pytest.raises(JobRequestConflict, match="the Idempotency-Key was used before"):
        record(ledger, replace(WANTED, idempotency_key="click-1", **changes))
    assert ledger.job_requests.read(first.request_id).request == first


def test_a_key_and_an_idempotency_key_of_different_requests_are_refused_together(ledger: Ledger) -> None:
    record(ledger)
    record(ledger, replace(WANTED, job_key="pot", idempotency_key="click-1"))
    with pytest.raises(JobRequestConflict):
        record(ledger, replace(WANTED, idempotency_key="click-1"))


def test_ten_at_the_same_time_make_one_request(ledger: Ledger) -> None:
    together = threading.Barrier(10)

    def ask() -> UUID:
        together.wait()
        return record(ledger, per_minute=1).request_id

    with ThreadPoolExecutor(10) as workers:
        made = [future.result() for future in [workers.submit(ask) for _ in range(10)]]
    assert len(set(made)) == 1


def test_one_that_is_being_recorded_elsewhere_is_said_to_be_in_progress(
    conninfo: dict[str, Any], ledger: Ledger
) -> None:
    with Ledger(conninfo, limits=API_SERVER) as impatient, psycopg.connect(**conninfo) as other:
        enqueue(other, "note", "kettle", {"slug": "kettle"}, requested_by="alice")
        with pytest.raises(JobRequestInProgress):
            record(impatient)
        other.rollback()
        assert record(impatient).recorded_by_kind == "user"


def test_a_login_can_make_so_many_in_a_minute_and_repeats_do_not_count(ledger: Ledger) -> None:
    for number in range(3):
        record(ledger, replace(WANTED, job_key=f"n{number}"), per_minute=3)
    record(ledger, replace(WANTED, job_key="n1"), per_minute=3)
    with pytest.raises(TooManyRequests, match="3 are allowed"):
        record(ledger, per_minute=3)
    record(ledger, replace(WANTED, requested_by="bob"), by="bob", per_minute=3)
    with pytest.raises(JobRequestNotFound):
        ledger.job_requests.read(uuid4())


def test_a_requester_can_make_so_many_in_a_minute_of_all_types_by_any_login(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    def ask(key: str, *, of: str = "note", requester: str = "alice", by: str = "alice", at_most: int = 2) -> JobRequest:
        wanted = replace(WANTED, job_type=of, job_key=key, requested_by=requester)
        return ledger.job_requests.record(wanted, recorded_by=by, per_minute=30, requests_per_minute=at_most)

    first = ask("a")
    ask("b", of="report", by="shop")
    assert ask("a") == first  # a repeat does not count
    with pytest.raises(TooManyRequests, match="alice has made 2 requests in the last minute; 2 are allowed"):
        ask("c", of="summary", by="shop")
    ask("c", requester="bob", by="shop")
    ask("d", at_most=3)
    with psycopg.connect(**conninfo) as connection:
        enqueue(connection, "note", "of-a-program", {}, requested_by="bob")  # trusted, and not counted
    ask("e", requester="bob")


def test_the_limit_of_a_requester_holds_for_requests_at_the_same_time(ledger: Ledger) -> None:
    together = threading.Barrier(8)

    def ask(number: int) -> bool:
        together.wait()
        wanted = replace(WANTED, job_type=f"type-{number}", job_key="own")
        try:
            ledger.job_requests.record(wanted, recorded_by=f"by-{number}", per_minute=30, requests_per_minute=3)
        except TooManyRequests:
            return False
        return True

    with ThreadPoolExecutor(8) as workers:
        assert sorted(workers.map(ask, range(8))) == [False] * 5 + [True] * 3


def test_the_limit_holds_for_requests_at_the_same_time(ledger: Ledger) -> None:
    together = threading.Barrier(8)

    def ask(number: int) -> bool:
        together.wait()
        try:
            record(ledger, replace(WANTED, job_key=f"n{number}"), per_minute=2)
        except TooManyRequests:
            return False
        return True

    with ThreadPoolExecutor(8) as workers:
        made = [future.result() for future in [workers.submit(ask, number) for number in range(8)]]
    assert sum(made) == 2


def test_what_is_due_is_handed_to_one_process(conninfo: dict[str, Any], ledger: Ledger) -> None:
    first = record(ledger)
    assert ledger.job_requests.claim(10) == []  # who has recorded it makes the run
    be_due(conninfo)
    with ThreadPoolExecutor(4) as workers:
        claimed = [future.result() for future in [workers.submit(ledger.job_requests.claim, 10) for _ in range(4)]]
    assert [each.request_id for some in claimed for each in some] == [first.request_id]
    started = ledger.job_requests.started(first, dag_id="notes")
    assert (started.state, started.run_id) == (RequestState.STARTED, f"request__{first.request_id}")
    assert ledger.job_requests.started(first, dag_id="other").dag_id == "notes"
    be_due(conninfo)
    assert ledger.job_requests.claim(10) == []


def test_making_a_run_is_tried_later_and_not_for_ever(conninfo: dict[str, Any], ledger: Ledger) -> None:
    request = record(ledger)
    later = ledger.job_requests.postpone(request, "no Dag does it")
    assert (later.state, later.state_reason) == (RequestState.RECORDED, "no Dag does it")
    assert later.try_at > later.updated_at
    ended = ledger.job_requests.postpone(replace(request, tries=MAX_TRIES), "no Dag does it")
    assert (ended.state, ended.state_reason) == (RequestState.FAILED, "no Dag does it")
    assert ledger.job_requests.started(request, dag_id="notes").state is RequestState.FAILED


def test_a_request_that_is_a_job_by_now_is_not_among_those_without_one(
    conninfo: dict[str, Any], ledger: Ledger
) -> None:
    request = ledger.job_requests.started(record(ledger), dag_id="notes")
    be_due(conninfo)
    assert [each.request_id for each in ledger.job_requests.claim_jobless(10)] == [request.request_id]
    assert ledger.job_requests.claim_jobless(10) == []  # not again for half a minute
    job = ledger.submission.open(job_spec(job_type="note", job_key="kettle")).job
    be_due(conninfo)
    assert ledger.job_requests.claim_jobless(10) == []
    followed = ledger.job_requests.read(request.request_id)
    assert (followed.request.state, followed.job) == (RequestState.JOB, job)


def test_it_is_cancelled_before_there_is_a_job_and_left_to_the_job_afterwards(ledger: Ledger) -> None:
    alice = Actor.user("alice")
    request = record(ledger)
    cancelled = ledger.job_requests.cancel(request.request_id, actor=alice).request
    assert (cancelled.state, cancelled.state_reason) == (RequestState.CANCELLED, "alice has cancelled it")
    assert ledger.job_requests.cancel(request.request_id, actor=alice).request == cancelled
    assert ledger.job_requests.started(request, dag_id="notes").state is RequestState.CANCELLED
    other = record(ledger, replace(WANTED, job_key="pot"))
    ledger.submission.open(job_spec(job_type="note", job_key="pot"))
    followed = ledger.job_requests.cancel(other.request_id, actor=alice)
    assert (followed.request.state, followed.job is None) == (RequestState.RECORDED, False)
    refused = record(ledger, replace(WANTED, job_key="pan"))
    ledger.job_requests.refuse(refused, "it has no slug")
    with pytest.raises(CannotCancel):
        ledger.job_requests.cancel(refused.request_id, actor=alice)


def test_a_run_leads_to_its_request_and_no_other_run_does(ledger: Ledger) -> None:
    request = record(ledger)
    find: Callable[[str, str], JobRequest | None] = ledger.job_requests.of_run
    assert find(request.own_run_id, "note") == request
    assert find(request.own_run_id, "other") is None
    assert find(str(request.request_id), "note") is None
    assert find("manual__1", "note") is None


class TestEnqueue:
    def test_it_is_asked_for_exactly_if_the_transaction_commits(self, conninfo: dict[str, Any], ledger: Ledger) -> None:
        with psycopg.connect(**conninfo) as connection:
            gone = enqueue(connection, "note", "pot", {"slug": "pot"}, requested_by="alice")
            connection.rollback()
            kept = enqueue(connection, "note", "kettle", {"slug": "kettle"}, requested_by="alice")
            assert ledger.job_requests.claim(10) == []
        with pytest.raises(JobRequestNotFound):
            ledger.job_requests.read(gone)
        (claimed,) = ledger.job_requests.claim(10)
        assert (claimed.request_id, claimed.recorded_by_kind) == (kept, "database")
        assert (claimed.recorded_by, claimed.requested_by) == (conninfo["user"], "alice")
        assert claimed.sender == conninfo["user"]

    def test_the_commit_is_heard_of(self, conninfo: dict[str, Any], ledger: Ledger) -> None:
        with psycopg.connect(**conninfo, autocommit=True) as listener, psycopg.connect(**conninfo) as connection:
            listener.execute(f"LISTEN {REQUEST_CHANNEL}")
            enqueue(connection, "note", "kettle", {}, requested_by="alice")
            assert not list(listener.notifies(timeout=0.1))
            connection.commit()
            assert [each.channel for each in listener.notifies(timeout=5, stop_after=1)] == [REQUEST_CHANNEL]

    def test_it_is_safe_to_repeat_and_another_content_is_refused_without_ending_the_transaction(
        self, conninfo: dict[str, Any], ledger: Ledger
    ) -> None:
        with psycopg.connect(**conninfo) as connection:
            first = enqueue(connection, "note", "kettle", {"a": [1, 2.5]}, requested_by="alice")
            assert enqueue(connection, "note", "kettle", {"a": [1, 2.5]}, requested_by="alice") == first
            with pytest.raises(JobRequestConflict):
                enqueue(connection, "note", "kettle", {"a": []}, requested_by="alice")
            with pytest.raises(JobRequestRefused):
                enqueue(connection, "note", "kettle", "text", requested_by="alice")  # type: ignore[arg-type]
            assert connection.execute("SELECT 1").fetchone() == (1,)
        assert len(ledger.job_requests.claim(10)) == 1

    def test_a_row_of_ones_own_is_enough(self, conninfo: dict[str, Any], ledger: Ledger) -> None:
        with psycopg.connect(**conninfo) as connection:
            connection.execute(
                "INSERT INTO aihandoff.job_requests (job_type, job_key, input, requested_by)"
                " VALUES ('note', 'kettle', '{\"slug\": \"kettle\"}', 'alice')"
            )
        (claimed,) = ledger.job_requests.claim(10)
        assert (claimed.state, claimed.permissions, claimed.tries) == (RequestState.RECORDED, {}, 1)


def test_the_documented_rights_are_enough_and_the_role_cannot_ask_as_a_login(
    ledger: Ledger, conninfo: dict[str, Any]
) -> None:
    page = (ROOT / "docs" / "front-door.md").read_text("utf-8")
    (grants,) = re.findall(r"```sql\n(GRANT USAGE .*?)```", page, re.DOTALL)
    role = f"shop_{uuid4().hex}"
    with psycopg.connect(**conninfo, autocommit=True) as owner:
        owner.execute(f"CREATE ROLE {role}")
        try:
            owner.execute(grants.replace("TO shop;", f"TO {role};"))
            owner.execute(f"SET ROLE {role}")
            asked = enqueue(owner, "note", "kettle", {"slug": "kettle"}, requested_by="alice")
            assert enqueue(owner, "note", "kettle", {"slug": "kettle"}, requested_by="alice") == asked
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                owner.execute(
                    "INSERT INTO aihandoff.job_requests (job_type, job_key, input, requested_by, recorded_by)"
                    " VALUES ('note', 'pot', '{}', 'alice', 'bob')"
                )
        finally:
            owner.execute("RESET ROLE")
            owner.execute(f"DROP OWNED BY {role}")
            owner.execute(f"DROP ROLE {role}")
    assert ledger.job_requests.read(asked).request.recorded_by_kind == "database"
