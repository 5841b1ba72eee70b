"""A bulk action on many jobs is finished, each job once, though the API server that takes its steps is killed.

The server is a process of its own, and dies by SIGKILL when it has taken the step of a job and has not recorded that.
The target counts what it was asked for. `AIHANDOFF_TEST_BULK_JOBS=500` makes it as many jobs.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import requests
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.states import JobState
from tests.factories import ask, draft, job_spec
from tests.integration.web.world import approved, cms, confirm, plan_of, undo_of
from tests.target import Target

JOBS = int(os.environ.get("AIHANDOFF_TEST_BULK_JOBS", "60"))

#: The job at which the server is killed.
KILLED_AT = JOBS // 4

#: Seconds for what is waited for, on whatever machine.
PATIENCE = 120.0

SERVE = """
import itertools
import os
import signal
import sys
import uvicorn
from airflow.api_fastapi.app import create_app
from airflow_provider_aihandoff.core.crashpoints import arm
port, killed_at = map(int, sys.argv[1:])
taken = itertools.count(1)
def die_at(point):
    if point == "bulk.record: before commit" and next(taken) == killed_at:
        os.kill(os.getpid(), signal.SIGKILL)
arm(die_at)
uvicorn.run(create_app(apps="core"), host="127.0.0.1", port=port, log_level="warning")
"""

BULK = "/aihandoff/api/v1/jobs/bulk"


class Server:
    """Airflow's API server in a process of its own, and bob, who uses its REST API.

    :param killed_at: the job of a bulk action at which the process is killed; 0 for none.
    """

    def __init__(self, log: Path, killed_at: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SERVE, str(self._port), str(killed_at)],
                stdout=sink,
                stderr=sink,
                env=dict(os.environ),
            )
        user = SimpleAuthManagerUser(username="bob", role="user")
        self._headers = {"Authorization": f"Bearer {airflow_app.get_auth_manager().generate_jwt(user)}"}
        wait_for(self._answers)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        answer = requests.post(self._url(path), json=body, headers=self._headers, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _answers(self) -> bool:
        assert self.process.poll() is None, "the server has ended; see its log"
        with suppress(requests.ConnectionError):
            return requests.get(self._url("/aihandoff/api/v1/effects"), headers=self._headers, timeout=10).ok
        return False

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}{path}"


@contextmanager
def serving(folder: Path, *, killed_at: int = 0) -> Iterator[Server]:
    server = Server(folder / "api-server.log", killed_at)
    try:
        yield server
    finally:
        server.kill()


def wait_for(condition: Callable[[], bool], *, seconds: float = PATIENCE) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it has not come to that"
        time.sleep(0.01)


@pytest.fixture
def target() -> Iterator[Target]:
    with cms() as target:
        yield target


def in_review(ledger: Ledger, target: Target) -> None:
    for number in range(JOBS):
        ask(ledger, draft(ledger, job_spec(job_key=f"post:{number}"), response_id=f"resp_{number}"))


def written(ledger: Ledger, target: Target) -> None:
    for number in range(JOBS):
        name = f"post-{number}"
        plan = plan_of(target, name, undo=undo_of(target, name, idempotent=True))
        confirm(ledger, approved(ledger, plan, key=name), plan)


@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("airflow")
@pytest.mark.parametrize(
    ("action", "make", "state", "event"),
    [
        ("cancel", in_review, JobState.CANCELLED, "cancelled"),
        ("roll back", written, JobState.ROLLED_BACK, "roll back started"),
    ],
)
def test_a_bulk_action_is_finished_each_job_once_though_the_api_server_is_killed_in_the_middle(
    action: str,
    make: Callable[[Ledger, Target], None],
    state: JobState,
    event: str,
    ledger: Ledger,
    conninfo: dict[str, Any],
    use_ledger: Callable[[dict[str, Any]], None],
    target: Target,
    tmp_path: Path,
) -> None:
    make(ledger, target)
    target.received.clear()
    use_ledger(conninfo)
    about = {"action": action, "filter": {"type": "publishing"}}

    with serving(tmp_path, killed_at=KILLED_AT) as server:
        shown = server.post(f"{BULK}/preview", about)
        assert (shown["count"], shown["refused"]) == (JOBS, 0)
        body = {**about, "reason": "a wrong prompt", "count": JOBS, "digest": shown["digest"]}
        with suppress(requests.ConnectionError):
            report = server.post(BULK, body)
            while not report["over"]:
                report = server.post(f"{BULK}/1/run")
        assert server.process.wait(PATIENCE) == -signal.SIGKILL

    killed = ledger.bulks.progress(1)
    assert (killed.done, killed.total) == (KILLED_AT - 1, JOBS), "the step of one more was taken, and not recorded"
    with psycopg.connect(**conninfo) as connection:  # in the clock's place: what the dead process has claimed expires
        connection.execute("UPDATE aihandoff.effects SET claim_until = now() - interval '1 h' WHERE state = 'claimed'")

    with serving(tmp_path) as server:
        wait_for(lambda: server.post(f"{BULK}/1/run")["over"], seconds=5 * PATIENCE)

    report = ledger.bulks.report(1)
    assert Counter(each.outcome for each in report) == {"done": JOBS}
    with psycopg.connect(**conninfo) as connection:
        states = connection.execute("SELECT state, count(*) FROM aihandoff.jobs GROUP BY state").fetchall()
        events = connection.execute(
            "SELECT count(*), count(DISTINCT job_id) FROM aihandoff.events WHERE event = %s", [event]
        ).fetchone()
    assert states == [(state.value, JOBS)]
    assert events == (JOBS, JOBS)
    undos = Counter((sent.path, sent.headers["Idempotency-Key"]) for sent in target.received)
    assert len(undos) == len({path for path, _ in undos}) == (JOBS if action == "roll back" else 0)
    assert undos.total() == len(undos), "what was taken and not recorded is not sent again"
