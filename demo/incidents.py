"""Makes one of each kind of incident in the ledger of a running demo, so that you can practise what to do.

Each is something that the overview lists. The demo's Airflow goes on, so that you can open its pages.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.jobs.job_filter import SLOW_HISTORY
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, Job, JobSpec, Owner
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import ResponseStatus
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from demo.airflow_stack import LEDGER_DATABASE
from demo.local import SILENCE, receiver_switch
from demo.postgres import open_postgres
from demo.waiting import wait_until

CONNECTION = "openai_default"
DAG = "ticket_classification"
RUN = "demo-incidents"
BY = Actor.program("make demo-trouble")

#: A type of jobs that write nothing and need no approval.
SUMMARIES = "ticket_summary"

#: For how long a response runs that had to end long ago, and how long it may take.
STUCK_FOR, DEADLINE = timedelta(hours=6), timedelta(hours=4)

_BEGAN_EARLIER = """
    UPDATE aihandoff.revisions
    SET created_at = created_at - %(by)s, submitted_at = submitted_at - %(by)s, deadline = deadline - %(by)s
    WHERE job_id = %(job_id)s"""

_TOOK = """
    UPDATE aihandoff.revisions SET created_at = created_at - %(by)s, submitted_at = submitted_at - %(by)s
    WHERE job_id = ANY(%(job_ids)s)"""

_RECEIVED_EARLIER = "UPDATE aihandoff.inbox SET received_at = received_at - %(by)s WHERE webhook_id = %(webhook_id)s"

_EXPIRED_EARLIER = """
    UPDATE aihandoff.effects SET claimed_at = claimed_at - %(by)s, claim_until = claim_until - %(by)s
    WHERE effect_id = %(effect_id)s"""


@dataclass(frozen=True)
class Incidents:
    """What was made: jobs by what is wrong with them, and a webhook of no response that the ledger knows.

    :param conn_id: the connection whose webhooks fell silent.
    """

    jobs: Mapping[str, int]
    webhook_id: str
    conn_id: str = CONNECTION


def make_in_running_demo(home: Path) -> Incidents:
    """Stop the receiver of webhooks of a demo that runs, and make one of each there.

    :raises psycopg.OperationalError: no demo runs there.
    """
    postgres = open_postgres(home / "postgres")
    postgres.find()
    conninfo = postgres.connection_kwargs(LEDGER_DATABASE)
    with Ledger(conninfo) as ledger, postgres.connect(LEDGER_DATABASE) as connection:
        receiver_switch(home).touch()
        wait_until(lambda: _is_quiet(ledger), "the webhooks to fall silent", every_seconds=1)
        return make_incidents(ledger, connection, str(int(time.time())))


def _is_quiet(ledger: Ledger) -> bool:
    """Whether no webhook has come for so long that the connection counts as silent once a response ends."""
    heard = [each.last_webhook_at for each in ledger.overviews.webhooks()[0] if each.conn_id == CONNECTION]
    return all(at is None or ledger.now() - at > timedelta(seconds=SILENCE) for at in heard)


def make_incidents(ledger: Ledger, connection: psycopg.Connection, name: str) -> Incidents:
    """Make one of each kind, by the steps of the protocols.

    :param connection: to the ledger's database, since no step lets a response or a write have begun earlier.
    :param name: part of each key, and different from those before.
    """
    webhook_id = f"wh_{name}"
    body = {"type": "response.completed", "data": {"id": f"resp_of_no_job_{name}"}}
    ledger.inbox.receive(Delivery(webhook_id, CONNECTION, "response.completed", f"resp_of_no_job_{name}", body))
    # Responses end below, and this one is the newest webhook of a connection that had none before.
    connection.execute(_RECEIVED_EARLIER, {"by": STUCK_FOR, "webhook_id": webhook_id})
    jobs = {
        "unknown effect": _unknown_effect(ledger, name),
        "expired claim": _expired_claim(ledger, connection, name),
        "failed job": _failed_job(ledger, name),
        "lost request": _lost_request(ledger, name),
        "overdue review": _overdue_review(ledger, name),
        "stuck response": _stuck_response(ledger, connection, name),
        "slow response": _slow_response(ledger, connection, name),
    }
    return Incidents(jobs, webhook_id)


def _unknown_effect(ledger: Ledger, name: str) -> int:
    job, plan = _approved(ledger, f"unknown-effect:{name}")
    claim = ledger.effects.claim(job.job_id, plan, lease=timedelta(minutes=1), actor=BY)
    ledger.effects.lose(claim, error="ReadTimeout: the helpdesk did not answer within 30 s", actor=BY)
    return job.job_id


def _expired_claim(ledger: Ledger, connection: psycopg.Connection, name: str) -> int:
    job, plan = _approved(ledger, f"expired-claim:{name}")
    claim = ledger.effects.claim(job.job_id, plan, lease=timedelta(0), actor=BY)
    connection.execute(_EXPIRED_EARLIER, {"by": STUCK_FOR, "effect_id": claim.effect.effect_id})
    return job.job_id


def _failed_job(ledger: Ledger, name: str) -> int:
    job = _running(ledger, f"failed-job:{name}", timedelta(hours=1))
    error = {"kind": "refusal", "text": "I cannot help with that."}
    output = Output(ResponseStatus.COMPLETED, error=error)
    ledger.outputs.store(job.job_id, job.revision, output, actor=BY, reason="the model refused")
    return job.job_id


def _lost_request(ledger: Ledger, name: str) -> int:
    job = ledger.submission.open(replace(_spec(f"lost-request:{name}", timedelta(hours=1)), on_lost="ask")).job
    intent = ledger.submission.intend(job.job_id, job.revision, actor=BY, lease=timedelta(minutes=1))
    assert intent.token is not None
    reason = "ReadTimeout: OpenAI did not answer within 30 s"
    ledger.submission.submission_lost(job.job_id, job.revision, token=intent.token, actor=BY, reason=reason)
    return job.job_id


def _overdue_review(ledger: Ledger, name: str) -> int:
    job = _drafted(ledger, f"overdue-review:{name}")
    ended = datetime.now(UTC) - timedelta(hours=2)
    plans = [_plan(job.job_key)]
    ledger.reviews.ask(job.job_id, plans, policy=None, deadline=ended, on_timeout="reject", actor=BY)
    return job.job_id


def _stuck_response(ledger: Ledger, connection: psycopg.Connection, name: str) -> int:
    job = _running(ledger, f"stuck-response:{name}", DEADLINE)
    connection.execute(_BEGAN_EARLIER, {"by": STUCK_FOR, "job_id": job.job_id})
    return job.job_id


def _slow_response(ledger: Ledger, connection: psycopg.Connection, name: str) -> int:
    """With as many before it that took half a minute as it takes to know what is usual."""
    before = [_summarized(ledger, f"summary:{name}-{number}") for number in range(SLOW_HISTORY)]
    connection.execute(_TOOK, {"by": timedelta(seconds=30), "job_ids": before})
    job = _running(ledger, f"slow-response:{name}", timedelta(days=1), job_type=SUMMARIES)
    connection.execute(_BEGAN_EARLIER, {"by": STUCK_FOR, "job_id": job.job_id})
    return job.job_id


def _summarized(ledger: Ledger, key: str) -> int:
    job = _running(ledger, key, timedelta(hours=1), job_type=SUMMARIES)
    output = Output(ResponseStatus.COMPLETED, "The customer was charged twice.")
    ledger.outputs.store(job.job_id, job.revision, output, actor=BY)
    ledger.effects.complete_without_effects(job.job_id, actor=BY)
    return job.job_id


def _approved(ledger: Ledger, key: str) -> tuple[Job, EffectPlan]:
    job, plan = _drafted(ledger, key), _plan(key)
    asked = ledger.reviews.ask(job.job_id, [plan], policy=None, deadline=timedelta(hours=1), actor=BY)
    assert asked.review_digest is not None
    person = Person("alice")
    return ledger.reviews.decide(job.job_id, "approve", digest=asked.review_digest, person=person), plan


def _drafted(ledger: Ledger, key: str) -> Job:
    job = _running(ledger, key, timedelta(hours=1))
    output = {"category": "billing", "priority": "high", "reply": "We are sorry. You get the money back today."}
    return ledger.outputs.store(job.job_id, job.revision, Output(ResponseStatus.COMPLETED, output), actor=BY)


def _spec(key: str, deadline: timedelta, job_type: str = "ticket") -> JobSpec:
    asked: dict[str, Any] = {"model": "gpt-5.2", "input": f"Classify the ticket: I was charged twice ({key})."}
    accepted = job_type == SUMMARIES
    return JobSpec(
        job_type=job_type,
        job_key=key,
        input=asked,
        request=asked,
        conn_id=CONNECTION,
        requested_by="admin",
        permissions={},
        approval="not required" if accepted else "required",
        approval_reason="a summary writes nothing" if accepted else None,
        max_revisions=3,
        deadline=deadline,
        owner=Owner(DAG, RUN, "draft", -1, key, 1),
    )


def _running(ledger: Ledger, key: str, deadline: timedelta, job_type: str = "ticket") -> Job:
    """A job whose request was accepted."""
    job = ledger.submission.open(_spec(key, deadline, job_type)).job
    intent = ledger.submission.intend(job.job_id, job.revision, actor=BY, lease=timedelta(minutes=1))
    assert intent.token is not None
    ledger.submission.submitted(
        job.job_id,
        job.revision,
        token=intent.token,
        response_id=f"resp_{key}",
        status=ResponseStatus.RUNNING,
        actor=BY,
    )
    return ledger.job(job.job_id)


def _plan(key: str) -> EffectPlan:
    plan = {
        "connection": "helpdesk",
        "method": "PUT",
        "url": f"https://helpdesk.example/tickets/{key}",
        "headers": {"Content-Type": "application/json"},
        "body": '{"category": "billing", "priority": "high"}',
    }
    return EffectPlan("label", "http", plan, digest(plan), plan, task_id="label")
