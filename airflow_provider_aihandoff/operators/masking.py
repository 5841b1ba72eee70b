"""Masks secrets in what the ledger keeps and pages show. What is sent, and what a digest is made from, stays whole."""

from __future__ import annotations

import re
from typing import Any

from airflow.providers.common.compat.sdk import redact

MASK = "***"

#: Names whose value is a secret. Whole names: `max_output_tokens` and `prompt_cache_key` are none.
_SECRET_NAME = re.compile(
    r"(.*[-_])?(authorization|cookie|password|passwd|passphrase|secret|token|credentials?|api[-_]?key|private[-_]?key)",
    re.IGNORECASE,
)


def masked(value: Any) -> Any:
    """A copy of a JSON value without its secrets.

    A secret is the value of a field with a name such as ``Authorization`` or ``api_key``, and wherever it stands, any
    text that Airflow's secrets masker knows: the passwords of the connections and the variables that the task has read.
    """
    if isinstance(value, dict):
        return {
            name: MASK if isinstance(item, str) and _SECRET_NAME.fullmatch(str(name)) else masked(item)
            for name, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [masked(item) for item in value]
    return redact(value) if isinstance(value, str) else value
