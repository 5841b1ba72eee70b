"""How long the filters of the job list take, and the overview, in a ledger of many jobs.

Run it with `.venv/bin/python -m benchmarks.fleet [jobs]` (1,000,000 unless given). The ledger is in PostgreSQL from the
wheel, with its durable defaults, filled by SQL; a fifth of its jobs has ended within the overview's 14 days. Each
figure is the median of five, of the statements as the pages send them, and the fastest of the five.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from demo.postgres import open_postgres

if TYPE_CHECKING:
    from airflow_provider_aihandoff.core.ledger import Ledger

TIMES = 5
LIMIT = 0.3

#: One job in 1,000 is open, one in 100 has failed; 20 Dags, 40 types, made over 70 days, the newest last.
_JOBS = """
    INSERT INTO aihandoff.jobs (job_type, job_key, state, state_reason, input, input_digest, requested_by, permissions,
        approval, max_revisions, revision, review_asked_at, review_deadline, dag_id, run_id, task_id, map_index, ti_id,
        try_number, event_seq, event_hash, created_at, updated_at, known_cost_usd, retries)
    SELECT 'type_' || n % 40, 'ticket:' || n,
        CASE WHEN n % 1000 = 0 THEN (ARRAY['queued', 'running', 'review', 'approved', 'applying'])[1 + n / 1000 % 5]
            WHEN n % 100 = 1 THEN 'failed' ELSE 'completed' END,
        CASE WHEN n % 100 = 1 THEN 'the model refused ticket ' || n || ': quota exceeded' END,
        '{"model": "gpt-5.2", "input": "Label the ticket."}', md5(n::text), 'user_' || n % 500, '{}', 'required', 3, 1,
        at - interval '10 minutes', at + interval '1 day', 'dag_' || n % 20, 'run_' || n / 100,
        'draft_' || n % 3, -1, 'ti_' || n, 1, 2, repeat('0', 64), at - interval '20 minutes', at,
        n % 977 * 0.0001, CASE WHEN n % 50 = 0 THEN 1 + n % 3 ELSE 0 END
    FROM generate_series(1, %(jobs)s) AS n,
        LATERAL (SELECT now() - (%(jobs)s - n) * interval '70 days' / %(jobs)s AS at) AS times"""
_REVISIONS = """
    INSERT INTO aihandoff.revisions (job_id, number, author, author_kind, state, conn_id, request, request_digest,
        deadline, submissions, unknown_submissions, response_id, response_status, output, output_digest, created_at,
        submitted_at, completed_at, cost_usd)
    SELECT job_id, 1, 'model', 'model',
        CASE state WHEN 'queued' THEN 'submitting' WHEN 'running' THEN 'running' WHEN 'failed' THEN 'failed'
            ELSE 'completed' END,
        'openai_' || job_id %% 3, '{"model": "gpt-5.2"}', input_digest, created_at + interval '2 days', 1 + retries,
        CASE WHEN state = 'queued' THEN 1 ELSE 0 END, CASE WHEN state <> 'queued' THEN 'resp_' || job_id END,
        CASE WHEN state = 'running' THEN 'running' WHEN state <> 'queued' THEN 'completed' END,
        CASE WHEN state NOT IN ('queued', 'running', 'failed') THEN to_json(repeat('Thank you. ', 20)) END,
        CASE WHEN state NOT IN ('queued', 'running', 'failed') THEN input_digest END,
        created_at, created_at, CASE WHEN state NOT IN ('queued', 'running') THEN
            created_at + (1 + job_id %% 90) * interval '1 second' END, known_cost_usd
    FROM aihandoff.jobs"""
_DECISIONS = """
    INSERT INTO aihandoff.decisions (job_id, revision, verdict, digest, decided_by, decided_by_kind, created_at)
    SELECT job_id, 1, 'approve', input_digest, 'reviewer_' || job_id %% 50, 'user', updated_at - interval '5 minutes'
    FROM aihandoff.jobs WHERE state = 'completed'"""
_DECIDED = """
    UPDATE aihandoff.jobs SET decision_id = decisions.decision_id FROM aihandoff.decisions
    WHERE decisions.job_id = jobs.job_id AND jobs.updated_at > now() - interval '14 days'"""
_EFFECTS = """
    INSERT INTO aihandoff.effects (job_id, revision, name, position, kind, effect_key, state, plan, plan_digest,
        attempt, claim_token, claimed_by, claimed_at, claim_until, external_id, error, created_at, updated_at)
    SELECT job_id, 1, 'label', 0, 'http', 'aih-' || job_id,
        CASE WHEN job_id %% 20000 = 7 THEN 'unknown' WHEN state = 'applying' THEN 'claimed' ELSE 'applied' END,
        json_build_object('method', 'PUT', 'url', 'http://helpdesk/tickets/' || job_id), input_digest, 1,
        gen_random_uuid(), 'run', now(), now() - interval '1 hour', 'record-' || job_id,
        CASE WHEN job_id %% 500 = 0 THEN 'ReadTimeout: the read timed out at host' || job_id %% 7 END, updated_at,
        updated_at
    FROM aihandoff.jobs WHERE state IN ('completed', 'applying')"""
_EVENTS = """
    INSERT INTO aihandoff.events (job_id, seq, at, actor, actor_kind, actor_dag_id, actor_run_id, actor_task_id,
        actor_map_index, actor_try_number, event, from_state, to_state, detail, previous_hash, hash)
    SELECT job_id, seq, updated_at, 'task:' || run_id, 'task', dag_id, run_id, task_id, -1, 1, 'attached', state, state,
        '{}', repeat('0', 64), repeat('0', 64)
    FROM aihandoff.jobs, generate_series(1, 2) AS seq"""
_INBOX = """
    INSERT INTO aihandoff.inbox (webhook_id, conn_id, event_type, response_id, body, disposition, job_id, received_at,
        updated_at)
    SELECT 'wh_' || job_id, 'openai_' || job_id %% 3, 'response.completed', 'resp_' || job_id, '{}',
        CASE WHEN job_id %% 50000 = 0 THEN 'quarantined' ELSE 'applied' END, job_id, updated_at, updated_at
    FROM aihandoff.jobs WHERE job_id %% 4 > 0 OR job_id %% 50000 = 0"""


def main() -> None:
    """Fill a ledger, and print the figures."""
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    from airflow_provider_aihandoff.core.ledger import Ledger

    with tempfile.TemporaryDirectory() as folder:
        postgres = open_postgres(Path(folder) / "postgres")
        postgres.start()
        try:
            postgres.create_database("ledger")
            connection = postgres.connection_kwargs("ledger")
            fill(connection, jobs)
            with Ledger(connection) as ledger:
                report(ledger, jobs)
        finally:
            postgres.destroy()


def fill(conninfo: dict[str, Any], jobs: int) -> None:
    """Make so many jobs, with what belongs to them."""
    from airflow_provider_aihandoff.core.database import schema

    schema.upgrade(conninfo)
    with psycopg.connect(**conninfo, autocommit=True) as connection:
        connection.execute("ALTER TABLE aihandoff.revisions DISABLE TRIGGER USER")  # the totals are there already
        connection.execute(_JOBS.replace("%(jobs)s", str(jobs)))
        for rows in (_REVISIONS, _DECISIONS, _DECIDED, _EFFECTS, _EVENTS, _INBOX):
            connection.execute(rows.replace("%%", "%"))
        connection.execute("ALTER TABLE aihandoff.revisions ENABLE TRIGGER USER")
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def filters() -> dict[str, Any]:
    """Each filter, with a value that finds many jobs, few, or none."""
    from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter, Need, Sort
    from airflow_provider_aihandoff.core.states import JobState

    return {
        "every job": JobFilter(),
        "oldest first": JobFilter(sort=Sort.OLDEST),
        "the most costly": JobFilter(sort=Sort.COST),
        "the most retries": JobFilter(sort=Sort.RETRIES),
        "state completed": JobFilter(states=(JobState.COMPLETED,)),
        "state review": JobFilter(states=(JobState.REVIEW,)),
        "state rejected (none)": JobFilter(states=(JobState.REJECTED,)),
        "type": JobFilter(job_type="type_7"),
        "type (none)": JobFilter(job_type="type"),
        "key prefix, many": JobFilter(key="ticket:"),
        "key prefix, few": JobFilter(key="ticket:7777"),
        "Dag": JobFilter(dag_id="dag_7"),
        "Dag and run": JobFilter(dag_id="dag_7", run_id="run_77"),
        "run": JobFilter(run_id="run_77"),
        "Dag and task": JobFilter(dag_id="dag_7", task_id="draft_1"),
        "requester": JobFilter(requester="user_77"),
        "reviewer": JobFilter(reviewer="reviewer_7"),
        "reviewer (none)": JobFilter(reviewer="reviewer"),
        "older than 69 days": JobFilter(older_than=timedelta(days=69)),
        "older than 7 days": JobFilter(older_than=timedelta(days=7)),
        "newer than 1 hour": JobFilter(newer_than=timedelta(hours=1)),
        "cost, many": JobFilter(min_cost_usd=Decimal("0.0001")),
        "cost, few": JobFilter(min_cost_usd=Decimal("0.0975")),
        "retries, many": JobFilter(min_retries=1),
        "retries, few": JobFilter(min_retries=3),
        "external id": JobFilter(external_id="record-777"),
        "response id": JobFilter(response_id="resp_777"),
        "words of errors, many": JobFilter(error="quota exceeded"),
        "words of errors, few": JobFilter(error="timed out host3"),
        "words of errors (none)": JobFilter(error="banana"),
        **{f"needs a person: {need}": JobFilter(need=need) for need in Need},
        "type, state, older than 7 days": JobFilter(
            job_type="type_7", states=(JobState.FAILED,), older_than=timedelta(days=7)
        ),
    }


def report(ledger: Ledger, jobs: int) -> None:
    """Print how long each filter and each part of the overview takes."""
    print(f"{jobs:,} jobs; seconds, median and fastest of {TIMES}; the bound is {LIMIT} s")
    slow = 0
    for name, (seconds, fastest), found in measured(ledger):
        slow += seconds > LIMIT
        over = "   OVER" if seconds > LIMIT else ""
        print(f"{name:40} {seconds:7.3f} {fastest:7.3f}   {found}{over}", flush=True)
    print(f"{slow} over the bound")


def measured(ledger: Ledger) -> Iterator[tuple[str, tuple[float, float], str]]:
    """Each figure: its name, seconds (median and fastest), and what was found."""
    from airflow_provider_aihandoff.core.jobs.overview import overview_of

    dag_ids = ledger.dag_ids()
    for name, wanted in filters().items():
        seconds, found = clock(lambda: ledger.search.page(wanted, dag_ids=dag_ids, limit=101))  # noqa: B023
        yield f"filter: {name}", seconds, f"{len(found)} jobs"
    seconds, needs = clock(lambda: ledger.search.count_needs(dag_ids, at_most=1_001))
    yield "overview: what needs a person", seconds, ", ".join(map(str, needs.values()))
    seconds, figures = clock(lambda: ledger.overviews.figures(dag_ids))
    yield "overview: its figures", seconds, f"{sum(each.jobs for each in figures.days):,} jobs ended"
    seconds, whole = clock(lambda: overview_of(ledger, dag_ids, silence=120))
    yield "overview: all of it", seconds, f"{len(whole.figures.connections)} connections"


def clock(act: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """How long something takes, in seconds (median and fastest), and what it returns."""
    seconds, found = [], None
    for _ in range(TIMES):
        started = time.perf_counter()
        found = act()
        seconds.append(time.perf_counter() - started)
    return (statistics.median(seconds), min(seconds)), found


if __name__ == "__main__":
    main()
