"""An answer as JSON that the ledger can keep."""

from __future__ import annotations

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.generation.openai.json_answer import json_of


def test_a_number_that_no_json_has_is_null() -> None:
    found = json_of(b'{"usage": {"input_tokens": 1e999, "cost": -1e999, "output_tokens": NaN, "share": 0.5}}')
    assert found == {"usage": {"input_tokens": None, "cost": None, "output_tokens": None, "share": 0.5}}
    assert canonical_json(found)
