"""Where people see the record of an effect: refused at parsing where it is no address, and kept with the effect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import task

from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.operators.email import EmailSideEffectOperator
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.tasks import publish, store

Record = Callable[[], JobRecord]

URL = "https://cms.example/posts/{external_id}"


def call(**arguments: Any) -> Any:
    @task.side_effect(job=1, **arguments)
    def put_away(title: str) -> str:
        return f"shelf/{title}"

    return put_away("{{ job.output.title }}")


def mail(**arguments: Any) -> EmailSideEffectOperator:
    return EmailSideEffectOperator(task_id="mail", job=1, to="a@b.example", subject="A kettle", text="It.", **arguments)


@pytest.mark.parametrize("make", [publish, store, mail, call])
def test_every_kind_of_effect_refuses_at_parsing_what_is_no_address(run: RunDag, make: Callable[..., Any]) -> None:
    with pytest.raises(
        ValueError, match=r"external_url must begin with https://: 'http://cms\.example/\{external_id\}'"
    ):
        run(lambda: make(external_url="http://cms.example/{external_id}"))


@pytest.mark.usefixtures("accepted")
def test_the_record_of_a_request_has_its_address(run: RunDag, record: Record) -> None:
    assert run(lambda: publish(external_url=URL)).state == "success"
    (effect,) = record().effects
    assert effect.external_id is not None
    assert (effect.external_url, effect.external_link) == (URL, URL.format(external_id=effect.external_id))


@pytest.mark.usefixtures("accepted")
def test_the_record_of_a_function_has_its_address(run: RunDag, record: Record) -> None:
    assert run(lambda: call(external_url=URL)).state == "success"
    assert record().effects[0].external_link == "https://cms.example/posts/shelf%2FKettle"
