"""The arguments that say how a request, or a write, waits for limits of speed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, get_args

import pytest

from airflow_provider_aihandoff.core.models import PriorityName
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator

WRONG = [
    ({"priority": "urgent"}, "priority must be 'interactive' or 'batch', not 'urgent'"),
    ({"max_wait": timedelta(0)}, "max_wait must be a timedelta above 0"),
    ({"max_wait": 60}, "max_wait must be a timedelta above 0"),
]


def draft(**arguments: Any) -> OpenAIBackgroundResponseOperator:
    return OpenAIBackgroundResponseOperator(task_id="draft", input="Write.", model="gpt-5.2", **arguments)


def publish(**arguments: Any) -> HttpSideEffectOperator:
    return HttpSideEffectOperator(task_id="publish", job=1, http_conn_id="cms", endpoint="/posts", **arguments)


@pytest.mark.parametrize("make", [draft, publish])
@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_what_makes_no_sense_is_an_error_when_the_dag_is_read(make: Any, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(**arguments)


@pytest.mark.parametrize("make", [draft, publish])
def test_a_task_is_a_batch_unless_its_author_says_that_a_person_waits(make: Any) -> None:
    assert (make().priority, make().rate_key, make().max_wait) == ("batch", None, None)
    task = make(priority="interactive", rate_key="erp", max_wait=timedelta(hours=1))
    assert (task.priority, task.rate_key, task.max_wait) == ("interactive", "erp", timedelta(hours=1))


@pytest.mark.parametrize("make", [draft, publish])
@pytest.mark.parametrize("priority", get_args(PriorityName))
def test_every_priority_of_the_ledger_can_be_named(make: Any, priority: PriorityName) -> None:
    assert make(priority=priority).priority == priority
