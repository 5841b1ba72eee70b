"""What Schemathesis sends, where no schema says what is taken: a half of the bodies get values that are.

It is imported by Schemathesis, and knows none of our modules.
"""

from __future__ import annotations

import zlib
from typing import Any

import schemathesis

#: By operation: what is put into every second body that is an object.
TAKEN: dict[str, dict[str, Any]] = {
    "POST /api/v1/jobs": {"type": "note", "input": {"slug": "kettle"}, "permissions": {}, "requested_for": None},
    "POST /api/v1/budgets": {"amount_usd": "5", "period": "day", "time_zone": "UTC", "on_full": "hold", "scope": {}},
    "POST /api/v1/pauses": {"conn_id": "openai_default", "job_type": None, "dag_id": "notes", "writes": False},
}


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    taken = TAKEN.get(context.operation.label)
    if taken is None or not isinstance(body, dict) or zlib.crc32(repr(body).encode()) % 2:
        return body
    return {**body, **taken, **({"key": repr(body)[:100]} if "key" in body else {})}
