"""Values that tests need often, with sensible defaults."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.database.history import event_hash
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.generation.batch_provider import BatchStatus, ModelBatch
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.jobs.attach import Attachment
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, ActorKind, EffectPlan, Event, Job, JobSpec, Owner, Revision
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.sets.batch_record import Batch
from airflow_provider_aihandoff.core.sets.batch_store import Line
from airflow_provider_aihandoff.core.sets.set_record import JobSet
from airflow_provider_aihandoff.core.states import ResponseStatus

TEST = Actor.program("test")
OWNER = Owner("publishing", "manual__1", "draft", -1, "ti-1", 1)
LEASE = timedelta(seconds=30)
#: What a request costs at most, where it does not matter.
CHEAP = WorstCase(cost_usd=Decimal("0.01"))


def in_an_hour() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


def job_spec(**changes: Any) -> JobSpec:
    spec = JobSpec(
        job_type="publishing",
        job_key="post:kettle",
        input={"model": "gpt-5.2", "input": "Write about the kettle."},
        request={"model": "gpt-5.2", "input": "Write about the kettle."},
        conn_id="openai_default",
        requested_by="alice",
        permissions={},
        approval="required",
        approval_reason=None,
        max_revisions=3,
        deadline=in_an_hour(),
        owner=OWNER,
    )
    return replace(spec, **changes)


def effect_plan(name: str = "publish", **request: Any) -> EffectPlan:
    plan = {"method": "PUT", "url": "http://cms/posts/kettle", **request}
    return EffectPlan(name=name, kind="http", plan=plan, plan_digest=digest(plan), shown=plan)


def line_of_version_1(**values: Any) -> Event:
    """A line of a history as it was before the facts of who acted were columns, with its hash, which covers none."""
    facts = {name: None for name in Event.__annotations__ if name.startswith("actor_")}
    line = Event(**{**facts, "actor_kind": ActorKind.OTHER, "hash_version": 1, "hash": "", **values})
    return replace(line, hash=event_hash(line))


def submit(ledger: Ledger, spec: JobSpec, response_id: str = "resp_1") -> Revision:
    opened = ledger.submission.open(spec)
    assert opened.next is Attachment.SUBMIT
    intent = ledger.submission.intend(opened.job.job_id, opened.job.revision, actor=TEST, lease=LEASE, worst=CHEAP)
    assert intent.token is not None
    revision = ledger.submission.submitted(
        opened.job.job_id,
        opened.job.revision,
        token=intent.token,
        response_id=response_id,
        status=ResponseStatus.QUEUED,
        actor=TEST,
    )
    assert revision is not None
    return revision


def draft(ledger: Ledger, spec: JobSpec | None = None, output: Any = "A kettle.", response_id: str = "resp_1") -> Job:
    """A job whose output is stored."""
    revision = submit(ledger, spec or job_spec(), response_id)
    return ledger.outputs.store(revision.job_id, revision.number, Output(ResponseStatus.COMPLETED, output), actor=TEST)


def ask(ledger: Ledger, job: Job, *plans: EffectPlan, policy: str | None = None, **more: Any) -> Job:
    values = {"policy": policy, "deadline": in_an_hour(), "actor": TEST, **more}
    return ledger.reviews.ask(job.job_id, plans or [effect_plan()], **values)


def approve(ledger: Ledger, job: Job) -> Job:
    assert job.review_digest is not None
    return ledger.reviews.decide(job.job_id, "approve", digest=job.review_digest, person=Person("bob"))


def in_batch(ledger: Ledger, job_set: JobSet, *job_ids: int) -> Batch:
    """A batch of a set that runs at the provider, with the first revisions of these jobs."""
    batch = ledger.batches.open(job_set.set_id, "openai_default", lease=LEASE)
    lines = [Line(job_id, 1, CHEAP) for job_id in job_ids]
    ledger.batches.intend(batch, lines, actor=TEST, lease=LEASE)
    batch = ledger.batches.uploaded(batch, "file_1", lease=LEASE)
    return ledger.batches.created(batch, ModelBatch("batch_1", BatchStatus.RUNNING), actor=TEST)
