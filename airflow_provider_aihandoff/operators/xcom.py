"""Whether an output can be an XCom: Airflow's metadata database and its serializer take less than the ledger."""

from __future__ import annotations

from typing import Any

from airflow_provider_aihandoff.core.digests import canonical_json
from airflow_provider_aihandoff.core.strict_json import is_shallow
from airflow_provider_aihandoff.core.text import first_problem, unstorable

#: A whole number between a task and Airflow's API server has at most 64 bits. A float from which on all are whole comes
#: back from ``jsonb`` as a whole number, and not as the same one.
_MAX_INT, _MAX_FLOAT = 2**63 - 1, 2.0**53

#: How names begin that Airflow's serializer keeps for itself, and refuses or reads as the name of a class.
_RESERVED = "__"


def fits_xcom(value: Any, *, limit: float) -> bool:
    """Whether Airflow can carry a JSON value, and it is not too large.

    :param limit: characters of its JSON.
    """
    if not is_shallow(value) or first_problem(value, unstorable) is not None or not _is_plain(value):
        return False
    return len(canonical_json(value)) <= limit


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(not str(name).startswith(_RESERVED) and _is_plain(item) for name, item in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    if isinstance(value, float):
        return abs(value) <= _MAX_FLOAT
    return not isinstance(value, int) or abs(value) <= _MAX_INT
