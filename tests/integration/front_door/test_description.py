"""The OpenAPI description is the truth: whatever is sent to the API, its answer is one that the description has.

Schemathesis makes the requests, valid and invalid ones, and follows the links from one answer to the next request.
`AIHANDOFF_TEST_API_EXAMPLES=100` makes many more of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.sdk import DAG

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.web import event_stream
from airflow_provider_aihandoff.web.api import request_routes, routes
from airflow_provider_aihandoff.web.conditional import respond_later
from tests.integration.front_door.conftest import Serve
from tests.integration.web import showcase
from tests.integration.web.conftest import Login

pytestmark = pytest.mark.timeout(900)

DESCRIPTION = "/aihandoff/api/v1/openapi.json"
EXAMPLES = os.environ.get("AIHANDOFF_TEST_API_EXAMPLES", "4")

#: Every check but those of what is taken: what a filter or a job type takes is more than a schema of the API can say;
#: and, of two paths, that of methods: they are also those of a job with a strange id.
CONFIGURATION = """
hooks = "tests.integration.front_door.generated_bodies"

[checks]
negative_data_rejection.enabled = false
positive_data_acceptance.enabled = false
missing_required_header.enabled = false
use_after_free.enabled = false
ensure_resource_availability.enabled = false
object_level_authorization.enabled = false

[[operations]]
include-path-regex = "/jobs/bulk(/preview)?$"
checks.unsupported_method.enabled = false
"""
ROOT = Path(__file__).parents[3]


@pytest.fixture
def filled(ledger: Ledger, stand_in: Any, target: Any) -> Ledger:
    """A ledger that has something of everything."""
    showcase.edited(ledger, showcase.note(ledger))
    showcase.tickets(ledger, 4)
    showcase.ended(ledger, 2)
    showcase.written(ledger)
    showcase.bulk(ledger)
    showcase.job_set(ledger)
    showcase.job_request(ledger)
    showcase.budget(ledger)
    return ledger


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is held back for seconds is answered after hundredths."""

    async def respond_sooner(*args: Any, wait: float, **options: Any) -> Any:
        return await respond_later(*args, wait=wait / 100, **options)

    for module in (routes, request_routes):
        monkeypatch.setattr(module, "respond_later", respond_sooner)
    monkeypatch.setattr(event_stream, "HEARTBEAT", 0.05)
    monkeypatch.setattr(event_stream, "LIFETIME", 0.1)


def test_every_answer_to_whatever_is_sent_is_described(
    login: Login, serve: Serve, notes: DAG, filled: Ledger, hurried: None, conninfo: dict[str, Any], tmp_path: Path
) -> None:
    bob = login("bob", bearer=True)
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{serve()}{DESCRIPTION}"),
        *("--header", f"Authorization: {bob.headers['Authorization']}"),
        *("--phases", "examples,coverage,fuzzing,stateful"),
        *("--max-examples", EXAMPLES, "--seed", "1", "--generation-deterministic"),
        *("--no-shrink", "--no-color", "--warnings", "off"),
        *("--suppress-health-check", "all", "--request-timeout", "60"),
    ]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=850, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
    with psycopg.connect(**conninfo) as connection:
        asked = connection.execute("SELECT count(*) FROM aihandoff.job_requests WHERE recorded_by = 'bob'").fetchone()
    assert asked is not None
    assert asked[0] > 1  # not all that was sent was refused
