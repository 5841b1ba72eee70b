"""Requests for jobs, and a maker of runs which, as Airflow, has one run of an id."""

from __future__ import annotations

import psycopg

from airflow_provider_aihandoff.core.job_requests.begin import FoundDag, begin, begin_due
from airflow_provider_aihandoff.core.job_requests.enqueue import enqueue
from airflow_provider_aihandoff.core.job_requests.job_request import JobRequest, RequestState, Wanted
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from chaos.world import World

#: The type of the requests, and who asks.
JOB_TYPE, PERSON = "chaos request", "bob"

_MADE = "INSERT INTO chaos_runs (run_id) VALUES (%s) ON CONFLICT DO NOTHING"
_COUNT = """
    SELECT count(*) FROM chaos_runs AS r JOIN aihandoff.job_requests AS q ON r.run_id = 'request__' || q.request_id
    WHERE q.job_type = %s AND q.job_key = %s"""


class Runs:
    """Makes runs in a table."""

    def __init__(self, world: World) -> None:
        self._world = world

    def check(self, request: JobRequest) -> FoundDag:
        """The Dag of all requests."""
        return FoundDag("chaos")

    def make(self, dag_id: str, request: JobRequest) -> None:
        """Make the run, unless it is there."""
        with psycopg.connect(**self._world.ledger) as connection:
            connection.execute(_MADE, [request.own_run_id])


def ask(world: World, ledger: Ledger, key: str) -> bool:
    """A login asks over REST; return whether the run was made."""
    wanted = Wanted(JOB_TYPE, {"slug": key}, PERSON, job_key=key)
    request = ledger.job_requests.record(wanted, recorded_by=PERSON, per_minute=1_000_000)
    return begin(ledger, request, Runs(world)).state is RequestState.STARTED


def ask_in_a_transaction(world: World, ledger: Ledger, key: str) -> bool:
    """Another program asks, and the API server has its turn; return whether the run was made."""
    with psycopg.connect(**world.ledger) as connection:
        asked = enqueue(connection, JOB_TYPE, f"{key}-enqueued", {"slug": key}, requested_by=PERSON)
    begin_due(ledger, Runs(world))
    return ledger.job_requests.read(asked).request.state is RequestState.STARTED


def cancel(world: World, ledger: Ledger, key: str) -> bool:
    """A login asks, and cancels before there is a job; return whether no run is made after that."""
    wanted = Wanted(JOB_TYPE, {"slug": key}, PERSON, job_key=f"{key}-cancelled")
    request = ledger.job_requests.record(wanted, recorded_by=PERSON, per_minute=1_000_000)
    cancelled = ledger.job_requests.cancel(request.request_id, actor=Actor.user(PERSON))
    return begin(ledger, cancelled.request, Runs(world)).state is RequestState.CANCELLED


def runs_of(world: World, ledger: Ledger, key: str) -> int:
    """How many runs there are of the request of this key."""
    with psycopg.connect(**world.ledger) as connection:
        row = connection.execute(_COUNT, [JOB_TYPE, key]).fetchone()
    assert row is not None
    return int(row[0])
