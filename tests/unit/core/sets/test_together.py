"""What a step for a group gives to each of its members."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.sets.together import Together, Wish


def test_one_permission_is_given_to_one_of_two_that_ask_for_the_same_request() -> None:
    wishes = [Wish(1, 1, uuid4(), None), Wish(1, 1, uuid4(), None)]
    permitted = {(1, 1): Intent(SimpleNamespace(), wishes[1].token)}  # type: ignore[arg-type]
    database: Any = SimpleNamespace(transact=lambda work, **_: permitted)
    given = Together(database).intend(wishes, actor=None, lease=timedelta(45))  # type: ignore[arg-type]
    assert given == [None, permitted[1, 1]]
