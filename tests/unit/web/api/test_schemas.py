"""What the API shows of a record beyond its fields."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_aihandoff.core.database.history import GENESIS
from airflow_provider_aihandoff.core.digests import digest, input_digest
from airflow_provider_aihandoff.web.api.schemas import Event
from tests.factories import line_of_version_1

PIN = {"input": "The PIN is 1234."}


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        ({"revision": 1, "input_digest": digest(PIN)}, {"revision": 1}),
        ({"input_digest": input_digest(PIN, "key")}, {"input_digest": input_digest(PIN, "key")}),
        ({"revision": 1}, {"revision": 1}),
    ],
)
def test_a_digest_of_an_input_that_was_made_without_a_key_is_not_shown(
    detail: dict[str, Any], shown: dict[str, Any]
) -> None:
    line = line_of_version_1(
        job_id=1, seq=1, at=datetime(2026, 1, 1, tzinfo=UTC), actor="x", event="created", from_state=None,
        to_state="queued", reason=None, detail=detail, previous_hash=GENESIS,
    )  # fmt: skip
    assert Event.model_validate(line, from_attributes=True).detail == shown
