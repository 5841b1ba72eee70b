"""The review queue in groups of like jobs says the same as the rules say of each job."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_aihandoff.core.database.history import as_json
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.review.rules import (
    Approvers,
    Person,
    Reassignment,
    Reviewers,
    ReviewRules,
    has_voted,
    why_not,
)
from airflow_provider_aihandoff.web.auth import Viewer
from airflow_provider_aihandoff.web.pages.review_queue import queued, review_queue
from tests.conftest import EMPTY_LEDGER
from tests.factories import draft

NAMES = st.sampled_from(["alice", "bob", "carol", "7"])
APPROVERS = st.builds(
    Approvers,
    users=st.lists(st.sampled_from(["alice", "bob", "7", "cli:bob"]), max_size=2).map(tuple),
    roles=st.lists(st.sampled_from(["editor"]), max_size=1).map(tuple),
    groups=st.lists(st.sampled_from(["press"]), max_size=1).map(tuple),
)
RULES = st.builds(
    ReviewRules,
    approvers=APPROVERS,
    approvals=st.integers(1, 2),
    requester_may_approve=st.booleans(),
    escalate_to=APPROVERS,
    because=st.sampled_from(
        [{}, {"policy": "p@1", "reason": "it is 1"}, {"policy": "p@1", "reason": "it is 2 \ud800"}]
    ),
)
REASSIGNED = st.builds(
    Reassignment,
    reviewers=st.builds(Reviewers, APPROVERS, APPROVERS),
    by=st.lists(st.builds(Actor.user, NAMES), min_size=1, max_size=1).map(tuple),
    number=st.just(1),
)
JOBS = st.fixed_dictionaries(
    {
        "dag_id": st.sampled_from(["one", "two", "hidden"]),
        "run_id": st.sampled_from(["r1", "r2"]),
        "requested_by": NAMES,
        "triggered_by": st.none() | NAMES,
        "review": st.none() | RULES.map(ReviewRules.to_json),
        "reassigned": st.none() | REASSIGNED.map(Reassignment.to_json),
        "escalated": st.booleans(),
        "planned": st.booleans(),
        "voters": st.lists(NAMES, max_size=2),
    }
)
PEOPLE = st.builds(
    Person,
    login=NAMES,
    user_id=st.none() | st.just("7"),
    roles=st.sampled_from([frozenset(), frozenset({"editor"})]),
    groups=st.sampled_from([frozenset(), frozenset({"press"})]),
)

_INSERT = """
    INSERT INTO aihandoff.jobs (job_type, job_key, state, input, input_digest, requested_by, permissions, approval,
        max_revisions, revision, review_digest, dag_id, run_id, task_id, map_index, ti_id, try_number, event_seq,
        event_hash, created_at, updated_at, triggered_by, review, reassigned, escalated_at)
    VALUES ('ticket', %(key)s, 'review', '{}', '', %(requested_by)s, '{}', 'required', 1, 1, %(digest)s, %(dag_id)s,
        %(run_id)s, 'draft', -1, '', 1, 1, '', %(at)s, %(at)s, %(triggered_by)s, %(review)s, %(reassigned)s,
        %(escalated_at)s)
    RETURNING job_id"""
_VOTE = """
    INSERT INTO aihandoff.decisions (job_id, revision, verdict, digest, decided_by, decided_by_kind, created_at)
    VALUES (%s, 1, 'approve', %s, %s, 'user', now())"""


class Anyone(Viewer):
    """A user of whom the auth manager says that they see two Dags, and may decide for one."""

    def visible(self, dag_ids: Iterable[str]) -> list[str]:
        return [dag_id for dag_id in dag_ids if dag_id != "hidden"]

    def answerable(self, dag_ids: Iterable[str]) -> list[str]:
        return [dag_id for dag_id in dag_ids if dag_id == "one"]

    @property
    def person(self) -> Person:
        person: Person = self.user
        return person

    @property
    def actor(self) -> Actor:
        return self.person.actor


def fill(conninfo: dict[str, Any], jobs: list[dict[str, Any]]) -> None:
    with psycopg.connect(**conninfo) as connection:
        connection.execute(EMPTY_LEDGER)
        for number, job in enumerate(jobs):
            at = datetime(2026, 2, 2, 9, (number * 7) % 5, tzinfo=UTC)  # in another order than the ids, some equal
            digest = f"digest {number}" if job["planned"] else None
            values = {
                **job,
                **{name: None if job[name] is None else as_json(job[name]) for name in ("review", "reassigned")},
                "key": str(number),
                "digest": digest,
                "at": at,
                "escalated_at": at if job["escalated"] else None,
            }
            row = connection.execute(_INSERT, values).fetchone()
            assert row is not None
            for voter in job["voters"] if job["planned"] else ():
                connection.execute(_VOTE, [row[0], digest, voter])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(jobs=st.lists(JOBS, max_size=12), person=PEOPLE)
def test_the_queue_in_groups_is_that_of_each_job_asked_alone(
    ledger: Ledger, conninfo: dict[str, Any], jobs: list[dict[str, Any]], person: Person
) -> None:
    compare(ledger, conninfo, jobs, person)


#: A job on which only bob may decide, and once it is escalated carol too.
ALIKE: dict[str, Any] = {
    "dag_id": "one",
    "run_id": "r1",
    "requested_by": "alice",
    "triggered_by": None,
    "review": ReviewRules(Approvers(users=("bob",)), escalate_to=Approvers(users=("carol",))).to_json(),
    "reassigned": None,
    "escalated": False,
    "planned": True,
    "voters": [],
}


@pytest.mark.parametrize(
    ("person", "change"),
    [
        ("carol", {"escalated": True}),
        ("carol", {"review": ReviewRules(Approvers(users=("carol",))).to_json()}),
        ("carol", {"reassigned": Reassignment(Reviewers(Approvers(users=("carol",))), number=1).to_json()}),
        ("bob", {"requested_by": "bob"}),
        ("bob", {"triggered_by": "bob"}),
        ("bob", {"dag_id": "two"}),
        ("bob", {"planned": False}),
        ("bob", {"voters": ["bob"]}),
    ],
)
def test_a_job_that_differs_in_one_thing_has_an_answer_of_its_own(
    ledger: Ledger, conninfo: dict[str, Any], person: str, change: dict[str, Any]
) -> None:
    alone = compare(ledger, conninfo, [ALIKE, {**ALIKE, **change}, ALIKE], Person(person))
    first, changed, last = (alone[job_id] for job_id in sorted(alone))
    assert first == last
    assert changed != first


def compare(ledger: Ledger, conninfo: dict[str, Any], jobs: list[dict[str, Any]], person: Person) -> dict[int, bool]:
    """Compare the queue with what the rules say of each job, and return which of them wait for the person."""
    fill(conninfo, jobs)
    viewer = Anyone(person)
    pending = ledger.reviews.pending(dag_ids=["one", "two"])
    alone = {
        review.job_id: review.review_digest is not None
        and review.dag_id == "one"
        and why_not(review, person) is None
        and not has_voted(person.actor, review.voters)
        for review in pending
    }
    queue = review_queue(ledger, viewer, digests=True)
    assert queue.ids == sorted(alone, key=lambda job_id: not alone[job_id])  # stable: the oldest first
    assert {job_id: job_id in queue.mine_ids for job_id in queue.ids} == alone
    assert queue.mine == sum(alone.values())
    assert queue.digests == {review.job_id: review.review_digest for review in pending}
    shown = queued(ledger, viewer, queue.ids)
    assert [item.review.job_id for item in shown] == queue.ids
    assert {item.review.job_id: item.mine for item in shown} == alone
    for item in shown:
        if item.review.dag_id == "one":
            assert item.why_not == why_not(item.review, person)
        else:
            assert "You need permission" in str(item.why_not)
    return alone


def test_the_queue_of_a_run_has_what_it_has_made(ledger: Ledger) -> None:
    job = draft(ledger)
    (group,) = ledger.review_queue.groups(run_id="manual__1")
    assert (group.job_ids, group.places, group.planned, group.digests) == ([job.job_id], [1], False, [])
    assert ledger.review_queue.groups(run_id="another") == []
    assert ledger.review_queue.groups(dag_ids=[]) == []


def test_what_people_and_models_have_written_is_read_as_it_is(ledger: Ledger) -> None:
    """PostgreSQL keeps it as JSON, and could not unescape it."""
    output = {"category": "\x00 \ud800", "reply": "😀"}
    job = draft(ledger, output=output)
    (read,) = ledger.review_queue.outputs([job.job_id])
    assert (read.output, read.large, read.review_digest) == (output, False, None)


def test_a_large_output_is_not_read(ledger: Ledger) -> None:
    job = draft(ledger, output={"text": secrets.token_hex(5_000)})
    (read,) = ledger.review_queue.outputs([job.job_id])
    assert (read.large, read.output) == (True, None)
