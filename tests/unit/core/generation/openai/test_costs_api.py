"""OpenAI's costs are read page by page, and nothing odd is taken for an amount."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import httpx2
import pytest
from openai import OpenAI

from airflow_provider_aihandoff.core.generation.bill import Billed
from airflow_provider_aihandoff.core.generation.openai.costs_api import CostsApi
from airflow_provider_aihandoff.core.generation.provider import ProviderError

SINCE, UNTIL = date(2026, 2, 1), date(2026, 2, 4)
KEY = "sk-admin-of-these-tests"


def bucket(day: int, *results: Any) -> dict[str, Any]:
    start = int(datetime(2026, 2, day, tzinfo=UTC).timestamp())
    return {"object": "bucket", "start_time": start, "end_time": start + 86_400, "results": list(results)}


def result(value: Any, project_id: str | None = "proj_a", currency: str = "usd") -> dict[str, Any]:
    amount = {"value": value, "currency": currency}
    return {"object": "organization.costs.result", "amount": amount, "project_id": project_id, "line_item": None}


def page(*buckets: Any, next_page: str | None = None) -> dict[str, Any]:
    return {"object": "page", "data": list(buckets), "has_more": next_page is not None, "next_page": next_page}


def ask(answer: Callable[[httpx2.Request], httpx2.Response]) -> list[Billed]:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    with OpenAI(api_key=KEY, base_url="http://openai.test/v1", http_client=http, max_retries=0) as client:
        return CostsApi(client).costs(SINCE, UNTIL)


def test_all_pages_are_added_up_by_project_and_day() -> None:
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(request)
        if "page" not in request.url.params:
            return httpx2.Response(
                200, json=page(bucket(1, result(0.1), result(0.02), result(7, None)), next_page="p2")
            )
        return httpx2.Response(200, json=page(bucket(2), bucket(3, result(3), result("0.5", "proj_b"))))

    assert ask(answer) == [
        Billed("proj_a", date(2026, 2, 1), Decimal("0.12")),
        Billed("proj_a", date(2026, 2, 3), Decimal(3)),
        Billed("proj_b", date(2026, 2, 3), Decimal("0.5")),
    ]
    first = asked[0]
    assert first.url.path == "/v1/organization/costs"
    assert first.headers["authorization"] == f"Bearer {KEY}"
    assert first.url.params["start_time"] == str(int(datetime(2026, 2, 1, tzinfo=UTC).timestamp()))
    assert first.url.params["end_time"] == str(int(datetime(2026, 2, 4, tzinfo=UTC).timestamp()))
    assert "project_id" in str(first.url.query)
    assert asked[1].url.params["page"] == "p2"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx2.Response(401, json={"error": {"message": f"Incorrect API key: {KEY}"}}), "admin key"),
        (httpx2.Response(403, json={"error": {"message": "no"}}), "admin key"),
        (httpx2.Response(200, text="<html>"), "OpenAI's costs"),
        (httpx2.Response(200, json=page(bucket(1, result(1, currency="eur")))), "not in US dollars"),
        (httpx2.Response(200, content=json.dumps(page(bucket(1, result("much"))))), "no number"),
        (httpx2.Response(200, json={"object": "page", "data": None}), "OpenAI's costs"),
    ],
    ids=["401", "403", "HTML", "euros", "no number", "no data"],
)
def test_what_is_no_bill_is_refused_without_a_word_of_the_key(answer: httpx2.Response, said: str) -> None:
    with pytest.raises(ProviderError) as refused:
        ask(lambda _: answer)
    assert said in str(refused.value)
    assert KEY not in str(refused.value)


def test_pages_without_an_end_do_not_go_on_for_ever() -> None:
    with pytest.raises(ProviderError, match="pages"):
        ask(lambda _: httpx2.Response(200, json=page(bucket(1), next_page="again")))
