"""Compares what the ledger says with what the outside systems have seen, each by its own record."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.effects.filled import sent_plan
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import Effect, InboxEntry
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES, EffectState, JobEvent
from demo.airflow_stack import BUSINESS_DATABASE
from demo.local import LocalDemo
from demo.pipelines import MOST_JOBS, open_ledger

PATIENCE_SECONDS = 30
MOST_WEBHOOKS = 100_000


@dataclass
class Row:
    """One thing that both sides have counted, and where they differ."""

    what: str
    ledger: int
    outside: int
    differences: list[str] = field(default_factory=list)
    twice: int = 0
    """How many writes were made more than once."""
    lost: int = 0
    """How many are in the ledger, and not outside."""
    unrecorded: int = 0
    """How many are outside, and not in the ledger."""


def compare(demo: LocalDemo) -> list[Row]:
    """Read both sides and compare them, row by row."""
    with open_ledger(demo) as ledger:
        records = [ledger.record(job.job_id) for job in ledger.jobs(limit=MOST_JOBS)]
        ledger_id = ledger.ledger_id()
        inbox = ledger.inbox.entries(limit=MOST_WEBHOOKS)
    rows = [
        http_effects(records, _json(f"{demo.business_url}/witness")["requests"]),
        sql_effects(records, _report_ids(demo)),
        decisions_made(records),
        histories_unbroken(records),
        jobs_ended(records),
    ]
    if demo.openai_url:
        responses = _json(f"{demo.openai_url}/standin/responses")["responses"]
        rows[:0] = responses_created(records, responses, ledger_id)
        rows.append(webhooks_delivered(inbox, _json(f"{demo.openai_url}/standin/webhooks")["attempts"]))
    return rows


def as_table(rows: Sequence[Row]) -> str:
    """The rows as a table for a terminal, with every difference below it."""
    width = max(len(row.what) for row in rows)
    lines = [f"{'':{width}}   ledger  outside  differences"]
    lines += [f"{row.what:{width}}  {row.ledger:7}  {row.outside:7}  {len(row.differences):11}" for row in rows]
    lines += [f"  {row.what}: {difference}" for row in rows for difference in row.differences]
    return "\n".join(lines)


def http_effects(records: Iterable[JobRecord], requests: Iterable[Mapping[str, Any]]) -> Row:
    """Each applied HTTP effect was applied once, where and byte for byte as planned, under the id that the ledger has.

    What earlier effects have brought stands where the approved plan names it.
    """
    applied = [request for request in requests if request["outcome"] == "APPLIED"]
    seen = {request["idempotency_key"]: request for request in applied}
    times = Counter(request["idempotency_key"] for request in applied)
    effects = {effect.effect_key: effect for effect in _effects(records, "http")}
    row = Row("HTTP writes applied", len(effects), len(applied))
    row.twice = sum(number > 1 for number in times.values())
    row.lost, row.unrecorded = len(effects.keys() - seen.keys()), len(seen.keys() - effects.keys())
    row.differences += [f"{key} was applied {number} times" for key, number in times.items() if number > 1]
    row.differences += [f"{key} was applied, and the ledger does not say so" for key in seen.keys() - effects.keys()]
    row.differences += [f"{key} is applied in the ledger only" for key in effects.keys() - seen.keys()]
    for key in effects.keys() & seen.keys():
        effect, request = effects[key], seen[key]
        plan = sent_plan(effect)
        if hashlib.sha256(plan.get("body", plan.get("text", "")).encode()).hexdigest() != request["body_sha256"]:
            row.differences.append(f"{key}: what was written is not what was approved")
        if unquote(urlsplit(plan["url"]).path) != unquote(request["path"]):
            row.differences.append(f"{key}: {request['path']} is not where it was to be written")
        if effect.undoes is None and effect.external_id != request["record_id"]:
            row.differences.append(f"{key}: {effect.external_id} in the ledger, {request['record_id']} outside")
    return row


def sql_effects(records: Iterable[JobRecord], report_ids: set[str]) -> Row:
    """Each applied SQL effect has its row, and each row its effect."""
    ids = [str(effect.external_id) for effect in _effects(records, "postgres")]
    row = Row("SQL writes applied", len(ids), len(report_ids))
    row.lost, row.unrecorded = len(set(ids) - report_ids), len(report_ids - set(ids))
    row.differences += [f"report {name} is in the ledger only" for name in set(ids) - report_ids]
    row.differences += [f"report {name} is in the table only" for name in report_ids - set(ids)]
    return row


def responses_created(
    records: Sequence[JobRecord], responses: Iterable[Mapping[str, Any]], ledger_id: str
) -> list[Row]:
    """Each response that was created, and is billed, belongs to one revision, or the ledger warns of it.

    A worker that is killed after OpenAI has accepted a request, and before the id was recorded, leaves an orphan. The
    revision says then that there may be one: an unknown submission. Its history names one that was replaced; one whose
    output was taken from its conversation has no id in the ledger.
    """
    revisions = [revision for record in records for revision in record.revisions]
    known = {revision.response_id for revision in revisions if revision.response_id}
    warned = Counter({(r.job_id, r.number): r.unknown_submissions for r in revisions if r.unknown_submissions})
    warned.update((r.job_id, r.number) for r in revisions if r.conversation_id and r.output and not r.response_id)
    for record in records:
        replaced = [event.detail for event in record.events if event.event == JobEvent.RESPONSE_REPLACED]
        warned.update((record.job.job_id, int(detail["revision"])) for detail in replaced)
    own = [seen["response"] for seen in responses if seen["response"]["metadata"].get("aihandoff_ledger") == ledger_id]
    created = {body["id"]: _names(body["metadata"]) for body in own}
    orphans = Counter(name for response_id, name in created.items() if response_id not in known)
    submitted = Row("responses with a revision", len(known), len(created) - orphans.total())
    submitted.differences += [f"{name} is in the ledger only" for name in known - created.keys()]
    unknown = Row("orphans, and warned of", warned.total(), orphans.total())
    unknown.differences += [f"job {job}, revision {number}: an orphan" for job, number in orphans - warned]
    return [submitted, unknown]


def _names(metadata: Mapping[str, str]) -> tuple[int, int]:
    """The job and the revision that a response was requested for."""
    return int(metadata["aihandoff_job"]), int(metadata["aihandoff_revision"])


def decisions_made(records: Sequence[JobRecord]) -> Row:
    """Whatever was applied has been approved, on the digest that the job has."""
    touched = [record for record in records if any(e.state is EffectState.APPLIED for e in record.effects)]
    approved = [
        record
        for record in touched
        if any(d.verdict == "approve" and d.digest == record.job.review_digest for d in record.decisions)
    ]
    row = Row("jobs written, and approved", len(touched), len(approved))
    row.differences += [f"{record.job.label} was written without" for record in touched if record not in approved]
    return row


def histories_unbroken(records: Sequence[JobRecord]) -> Row:
    """No line of any job's history was altered."""
    broken = [record.job.label for record in records if first_break(record.events, record.job) is not None]
    return Row("histories, and unbroken", len(records), len(records) - len(broken), broken)


def webhooks_delivered(inbox: Iterable[InboxEntry], attempts: Iterable[Mapping[str, Any]]) -> Row:
    """Each webhook that was answered with 2xx is in the inbox, and the inbox has none that was not sent.

    One whose answer got lost is delivered again, so the inbox may have counted more deliveries than were answered.
    """
    attempts = list(attempts)
    answered = Counter(a["webhook_id"] for a in attempts if a["status"] is not None and 200 <= a["status"] < 300)
    sent = {attempt["webhook_id"] for attempt in attempts}
    counted = {entry.webhook_id: entry.deliveries for entry in inbox}
    row = Row("webhooks in the inbox", len(counted), len(answered))
    row.differences += [f"{name} was answered, and is not in the inbox" for name in answered.keys() - counted.keys()]
    row.differences += [f"{name} is in the inbox, and was never sent" for name in counted.keys() - sent]
    row.differences += [
        f"{name} was answered {answered[name]} times, and counted {number} times"
        for name, number in counted.items()
        if number < answered[name]
    ]
    return row


def jobs_ended(records: Sequence[JobRecord]) -> Row:
    """Every job has come to an end."""
    open_jobs = [f"{r.job.label} is {r.job.state.value}" for r in records if r.job.state not in TERMINAL_JOB_STATES]
    return Row("jobs, and ended", len(records), len(records) - len(open_jobs), open_jobs)


def _effects(records: Iterable[JobRecord], kind: str) -> list[Effect]:
    return [e for record in records for e in record.effects if e.kind == kind and e.state is EffectState.APPLIED]


def _report_ids(demo: LocalDemo) -> set[str]:
    with demo.postgres.connect(BUSINESS_DATABASE) as connection:
        return {str(row[0]) for row in connection.execute("SELECT report_id FROM reports").fetchall()}


def _json(url: str) -> Any:
    headers = {"Accept": "application/json"}
    return httpx.get(url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False).raise_for_status().json()
