"""The event that a receiver gets: a CloudEvent, signed as Standard Webhooks has it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from airflow_provider_aihandoff.core.event_delivery.cloud_event import MAX_RESULT, OutgoingEvent, signed_headers
from airflow_provider_aihandoff.core.job_requests.job_request import Standing
from airflow_provider_aihandoff.core.webhooks.signature import SecretRefused

LEDGER = UUID(int=7)
NEW, OLD, OLDER = (f"whsec_{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2, 3))
EVENT = OutgoingEvent(
    delivery_id=1,
    job_id=17,
    request_id=UUID(int=9),
    seq=5,
    standing=Standing.IN_REVIEW,
    at=datetime(2026, 2, 2, 9, 17, 47, 589110, tzinfo=UTC),
    tries=1,
    job_type="product-note",
    job_key="käse/brot",
    shows_result=False,
    result=None,
    result_bytes=None,
)


def body(event: OutgoingEvent = EVENT) -> Any:
    return json.loads(event.body(LEDGER))


def test_it_names_the_job_and_its_state_and_has_no_content() -> None:
    assert body() == {
        "specversion": "1.0",
        "id": EVENT.event_id(LEDGER),
        "source": "urn:uuid:00000000-0000-0000-0000-000000000007",
        "type": "aihandoff.job.in_review",
        "subject": "product-note/k%C3%A4se%2Fbrot",
        "time": "2026-02-02T09:17:47.589110Z",
        "datacontenttype": "application/json",
        "data": {
            "request_id": "00000000-0000-0000-0000-000000000009",
            "job_id": 17,
            "type": "product-note",
            "key": "käse/brot",
            "state": "in review",
            "seq": 5,
        },
    }


def test_each_try_has_the_same_id_and_the_same_bytes_for_every_subscriber() -> None:
    again = replace(EVENT, delivery_id=99, tries=7)
    assert again.event_id(LEDGER) == EVENT.event_id(LEDGER)
    assert again.body(LEDGER) == EVENT.body(LEDGER)


def test_every_change_of_every_job_in_every_ledger_has_an_id_of_its_own() -> None:
    ids = {
        EVENT.event_id(LEDGER),
        EVENT.event_id(UUID(int=8)),
        replace(EVENT, seq=6).event_id(LEDGER),
        replace(EVENT, job_id=18).event_id(LEDGER),
        replace(EVENT, job_id=None, seq=0).event_id(LEDGER),
        replace(EVENT, job_id=None, request_id=UUID(int=10), seq=0).event_id(LEDGER),
    }
    assert len(ids) == 6
    assert not any("." in each for each in ids)  # it is signed between full stops


def test_the_output_is_in_it_only_where_its_author_says_so() -> None:
    done = replace(EVENT, standing=Standing.DONE, result={"title": "Kettle"}, result_bytes=18)
    assert "result" not in body(done)["data"]
    shown = body(replace(done, shows_result=True))["data"]
    assert (shown["result"], shown["result_left_out"]) == ({"title": "Kettle"}, False)
    large = body(replace(done, shows_result=True, result=None, result_bytes=MAX_RESULT + 1))["data"]
    assert (large["result"], large["result_left_out"]) == (None, True)


def test_a_receiver_verifies_it_with_the_new_secret_and_while_it_is_rotated_with_the_old_one() -> None:
    headers = signed_headers(EVENT.event_id(LEDGER), EVENT.body(LEDGER), [NEW, OLD, OLDER], datetime.now(UTC))
    for secret in (NEW, OLD):
        assert Webhook(secret).verify(EVENT.body(LEDGER), headers)["data"]["job_id"] == 17
    with pytest.raises(WebhookVerificationError):
        Webhook(OLDER).verify(EVENT.body(LEDGER), headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(NEW).verify(EVENT.body(LEDGER).replace(b"17", b"18"), headers)


@pytest.mark.parametrize("secrets", [["whsec_c2hvcnQ="], ["not base64!"], [None], [NEW, "whsec_"]])
def test_a_secret_that_anyone_could_guess_signs_nothing(secrets: list[object]) -> None:
    with pytest.raises(SecretRefused):
        signed_headers("id", b"{}", secrets, datetime.now(UTC))


def test_without_a_secret_nothing_is_signed() -> None:
    with pytest.raises(SecretRefused):
        signed_headers("id", b"{}", [], datetime.now(UTC))
