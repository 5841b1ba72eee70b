"""What came of a batch: the ledger compared with what was received outside, and for how long nothing went on."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import TERMINAL_JOB_STATES
from demo.airflow_stack import BUSINESS_DATABASE
from demo.comparison import (
    MOST_WEBHOOKS,
    PATIENCE_SECONDS,
    Row,
    decisions_made,
    histories_unbroken,
    http_effects,
    jobs_ended,
    responses_created,
    sql_effects,
    webhooks_delivered,
)
from demo.pipelines import MOST_JOBS
from demo.waiting import wait_until
from nodes.components import Stack
from nodes.topology import BUSINESS_URL, OPENAI_URL

_PAUSES = """
    SELECT coalesce(max(extract(epoch FROM pause)), 0) FROM (
        SELECT at - lag(at) OVER (ORDER BY at) AS pause FROM (
            SELECT to_timestamp(%(since)s) AS at UNION ALL
            SELECT at FROM aihandoff.events WHERE job_id > %(after)s AND at >= to_timestamp(%(since)s)) AS moments
    ) AS pauses"""
_EARLIER = "SELECT effect_key, external_id, kind FROM aihandoff.effects WHERE job_id <= %s"
WEBHOOK_SECONDS = 180.0
"""How long a webhook may take that is delivered again and again."""


@dataclass
class Verdict:
    """What ledger and witnesses say of a number of jobs."""

    jobs: int = 0
    writes: int = 0
    twice: int = 0
    lost: int = 0
    unrecorded: int = 0
    unknown_submissions: int = 0
    """Requests of which the ledger says that they may have been accepted; each may have cost one response more."""
    unwarned: int = 0
    """Responses that were paid for, and that the ledger neither has nor warns of."""
    open_jobs: int = 0
    differences: list[str] = field(default_factory=list)


def judge(stack: Stack, *, after: int) -> Verdict:
    """Compare the ledger with the witnesses.

    :param after: only jobs with a greater id.
    """
    wait_until(_webhooks_delivered, "the last webhook to be delivered", WEBHOOK_SECONDS, 0.5)
    with stack.open_ledger() as ledger:
        records = [ledger.record(job.job_id) for job in ledger.jobs(limit=MOST_JOBS) if job.job_id > after]
        rows = _rows(stack, ledger, records, after)
    named = {row.what: row for row in rows}
    writes = [named["HTTP writes applied"], named["SQL writes applied"]]
    return Verdict(
        jobs=len(records),
        writes=sum(row.ledger for row in writes),
        twice=sum(row.twice for row in writes),
        lost=sum(row.lost for row in writes),
        unrecorded=sum(row.unrecorded for row in writes),
        unknown_submissions=sum(r.unknown_submissions for record in records for r in record.revisions),
        unwarned=len(named["orphans, and warned of"].differences),
        open_jobs=sum(record.job.state not in TERMINAL_JOB_STATES for record in records),
        differences=[f"{row.what}: {difference}" for row in rows for difference in row.differences],
    )


def longest_pause(stack: Stack, *, after: int, since: float) -> float:
    """The longest time in seconds between two lines of the history of these jobs.

    :param after: only jobs with a greater id.
    :param since: in seconds since 1970, by this machine's clock.
    """
    with stack.databases.connect_ledger() as connection:
        row = connection.execute(_PAUSES, {"after": after, "since": since}).fetchone()
    assert row is not None
    return float(row[0])


def _rows(stack: Stack, ledger: Ledger, records: Sequence[JobRecord], after: int) -> list[Row]:
    requests = read_json(f"{BUSINESS_URL}/witness")["requests"]
    responses = read_json(f"{OPENAI_URL}/standin/responses")["responses"]
    with stack.databases.connect_ledger() as connection:
        earlier = connection.execute(_EARLIER, [after]).fetchall()
    keys, reports = {row[0] for row in earlier}, {row[1] for row in earlier if row[2] == "postgres"}
    return [
        *responses_created(records, _newer(responses, after), ledger.ledger_id()),
        http_effects(records, [each for each in requests if each["idempotency_key"] not in keys]),
        sql_effects(records, _report_ids(stack) - reports),
        decisions_made(records),
        histories_unbroken(records),
        jobs_ended(records),
        webhooks_delivered(
            ledger.inbox.entries(limit=MOST_WEBHOOKS), read_json(f"{OPENAI_URL}/standin/webhooks")["attempts"]
        ),
    ]


def _newer(responses: Iterable[Mapping[str, Any]], after: int) -> list[Mapping[str, Any]]:
    """The responses that were requested for jobs with a greater id."""
    return [each for each in responses if int(each["response"]["metadata"].get("aihandoff_job", 0)) > after]


def _report_ids(stack: Stack) -> set[str]:
    with stack.databases.metadata.connect(BUSINESS_DATABASE) as connection:
        return {str(row[0]) for row in connection.execute("SELECT report_id FROM reports").fetchall()}


def _webhooks_delivered() -> bool:
    return bool(read_json(f"{OPENAI_URL}/standin/webhooks")["due"] == 0)


def read_json(url: str) -> Any:
    """What a system outside answers."""
    headers = {"Accept": "application/json"}
    return httpx.get(url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False).raise_for_status().json()
