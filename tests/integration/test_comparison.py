"""The comparison of ledger and witness finds what it is there to find."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan
from airflow_provider_aihandoff.core.states import JobState
from demo import comparison
from demo.comparison import Row
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec

BODY = '{"title":"Kettle"}'
PLAN = effect_plan(body=BODY)


def applied(ledger: Ledger, plan: EffectPlan = PLAN) -> JobRecord:
    job = approve(ledger, ask(ledger, draft(ledger), plan))
    claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="post-1", result=None, actor=TEST)
    return ledger.record(job.job_id)


def request(record: JobRecord, **changes: Any) -> dict[str, Any]:
    seen = {
        "idempotency_key": record.effects[0].effect_key,
        "outcome": "APPLIED",
        "body_sha256": hashlib.sha256(BODY.encode()).hexdigest(),
        "record_id": "post-1",
        "path": "/posts/kettle",
    }
    return {**seen, **changes}


def test_a_write_that_both_sides_know_alike_is_not_a_difference(ledger: Ledger) -> None:
    record = applied(ledger)
    assert comparison.http_effects([record], [request(record)]) == Row("HTTP writes applied", 1, 1)


def test_what_an_earlier_effect_has_brought_belongs_to_what_was_to_be_written(ledger: Ledger) -> None:
    name = "{effects.create.external_id}"
    plan = effect_plan("reply", url=f"http://cms/posts/{name}", body=f'{{"of":"{name}"}}')
    later = replace(plan, names=(name,), after=("create",))
    job = approve(ledger, ask(ledger, draft(ledger), replace(PLAN, name="create"), later))
    for each, external_id in ((replace(PLAN, name="create"), 'a "b"'), (later, "r-1")):
        claim = ledger.effects.claim(job.job_id, each, lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id=external_id, result=None, actor=TEST)
    record = ledger.record(job.job_id)
    body = hashlib.sha256(b'{"of":"a \\"b\\""}').hexdigest()
    seen = {"idempotency_key": record.effects[1].effect_key, "path": '/posts/a "b"', "body_sha256": body}
    requests = [request(record, record_id='a "b"'), request(record, record_id="r-1", **seen)]
    assert comparison.http_effects([record], requests) == Row("HTTP writes applied", 2, 2)
    other = comparison.http_effects([record], [requests[0], {**requests[1], "path": f"/posts/{name}"}])
    assert len(other.differences) == 1


def test_a_write_that_was_undone_is_not_a_difference(ledger: Ledger) -> None:
    undo = {"kind": "http", "plan": {"method": "DELETE", "url": "http://cms/posts/kettle", "headers": {}}}
    job_id = applied(ledger, replace(PLAN, undo=undo)).job.job_id
    (undone,) = ledger.roll_backs.start(job_id, actor=TEST, reason="the wrong product")
    claim = ledger.effects.claim(job_id, undone.as_plan, lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id=None, result=None, actor=TEST)
    record = ledger.record(job_id)
    removed = request(record, idempotency_key=undone.effect_key, body_sha256=hashlib.sha256(b"").hexdigest())

    row = comparison.http_effects([record], [request(record), removed])

    assert row == Row("HTTP writes applied", 2, 2)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"body_sha256": "0" * 64}, "what was written is not what was approved"),
        ({"path": "/posts/pan"}, "/posts/pan is not where it was to be written"),
        ({"record_id": "post-2"}, "post-1 in the ledger, post-2 outside"),
        ({"outcome": "REFUSED"}, "is applied in the ledger only"),
        ({"idempotency_key": "other"}, "other was applied, and the ledger does not say so"),
    ],
)
def test_a_write_that_they_know_differently_is_found(ledger: Ledger, changes: dict[str, Any], difference: str) -> None:
    record = applied(ledger)
    row = comparison.http_effects([record], [request(record, **changes)])
    assert any(difference in found for found in row.differences)


def test_a_write_that_happened_twice_is_found(ledger: Ledger) -> None:
    record = applied(ledger)
    row = comparison.http_effects([record], [request(record)] * 2)
    assert "was applied 2 times" in row.differences[0]
    assert (row.twice, row.lost, row.unrecorded) == (1, 0, 0)


def test_what_only_one_side_has_is_lost_or_not_on_the_record(ledger: Ledger) -> None:
    record = applied(ledger)
    row = comparison.http_effects([record], [request(record, idempotency_key="other")])
    assert (row.twice, row.lost, row.unrecorded) == (0, 1, 1)


def test_a_row_that_only_one_side_has_is_found(ledger: Ledger) -> None:
    plan = replace(PLAN, kind="postgres")
    record = applied(ledger, plan)
    assert comparison.sql_effects([record], {"post-1"}).differences == []
    assert comparison.sql_effects([record], set()).differences == ["report post-1 is in the ledger only"]
    assert comparison.sql_effects([], {"post-1"}).differences == ["report post-1 is in the table only"]
    row = comparison.sql_effects([record], {"report-2", "report-3"})
    assert (row.twice, row.lost, row.unrecorded) == (0, 1, 2)


def response(response_id: str, job_id: int, ledger_id: str = "own") -> dict[str, Any]:
    metadata = {"aihandoff_job": str(job_id), "aihandoff_revision": "1", "aihandoff_ledger": ledger_id}
    return {"response": {"id": response_id, "metadata": metadata}}


def test_a_response_that_no_revision_has_is_a_difference_unless_the_ledger_warned_of_it(ledger: Ledger) -> None:
    job = draft(ledger)
    stranger = response("resp_x", 1, ledger_id="another")
    seen = [response("resp_1", job.job_id), response("resp_2", job.job_id), stranger]
    record = ledger.record(job.job_id)
    submitted, unknown = comparison.responses_created([record], seen, "own")
    assert (submitted.ledger, submitted.outside, submitted.differences) == (1, 1, [])
    assert unknown.differences == [f"job {job.job_id}, revision 1: an orphan"]
    warned = replace(record, revisions=[replace(record.revisions[0], unknown_submissions=1)])
    assert comparison.responses_created([warned], seen, "own")[1] == Row("orphans, and warned of", 1, 1)


def test_a_response_that_only_the_ledger_has_is_a_difference(ledger: Ledger) -> None:
    record = ledger.record(draft(ledger).job_id)
    assert comparison.responses_created([record], [], "own")[0].differences == ["resp_1 is in the ledger only"]


def test_a_write_without_an_approval_of_its_digest_is_found(ledger: Ledger) -> None:
    record = applied(ledger)
    assert comparison.decisions_made([record]).differences == []
    assert comparison.decisions_made([replace(record, decisions=[])]).differences
    other = [replace(record.decisions[0], digest="0" * 64)]
    assert comparison.decisions_made([replace(record, decisions=other)]).differences


def test_a_history_that_was_altered_and_a_job_without_an_end_are_found(ledger: Ledger) -> None:
    record = applied(ledger)
    assert comparison.histories_unbroken([record]).differences == []
    assert comparison.histories_unbroken([replace(record, events=record.events[:-1])]).differences
    assert comparison.jobs_ended([record]).differences == []
    waiting = replace(record, job=replace(record.job, state=JobState.APPROVED))
    assert comparison.jobs_ended([waiting]).differences


def test_an_intent_without_a_result_warns_of_an_orphan(ledger: Ledger) -> None:
    opened = ledger.submission.open(job_spec())
    ledger.submission.intend(opened.job.job_id, 1, actor=Actor.program("died"), lease=timedelta(0))
    again = ledger.submission.intend(opened.job.job_id, 1, actor=Actor.program("next"), lease=LEASE)
    assert again.revision.unknown_submissions == 1
