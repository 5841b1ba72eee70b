"""`GET /v1/organization/costs` of the stand-in: what it would have billed, by the day on which a response ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.testing.api_errors import ApiError
from airflow_provider_aihandoff.testing.lifecycle import as_json, status_at
from airflow_provider_aihandoff.testing.state import State

_DAY = 86_400


class OrganizationApi:
    """The costs of one project, from the responses that were created.

    Args:
        state: what the stand-in remembers.
        clock: the time in Unix seconds.
        project_id: whose costs they are.
    """

    def __init__(self, state: State, clock: Callable[[], float], project_id: str) -> None:
        self._state, self._clock, self._project_id = state, clock, project_id

    def costs(self, start_time: int, end_time: int | None, limit: int, page: str | None) -> dict[str, Any]:
        """One page of days, as OpenAI gives them."""
        if not 1 <= limit <= 180:
            raise ApiError(400, "limit must be between 1 and 180")
        now = self._clock()
        first = int(page or start_time) // _DAY * _DAY
        last = min(end_time or int(now) + 1, int(now) + _DAY)
        days = list(range(first, last, _DAY))
        billed = self._billed(now)
        more = days[limit] if len(days) > limit else None
        return {
            "object": "page",
            "data": [self._bucket(day, billed.get(day)) for day in days[:limit]],
            "has_more": more is not None,
            "next_page": None if more is None else str(more),
        }

    def _bucket(self, day: int, amount: Decimal | None) -> dict[str, Any]:
        result = {
            "object": "organization.costs.result",
            "amount": {"value": float(amount or 0), "currency": "usd"},
            "line_item": None,
            "project_id": self._project_id,
        }
        return {
            "object": "bucket",
            "start_time": day,
            "end_time": day + _DAY,
            "results": [] if amount is None else [result],
        }

    def _billed(self, now: float) -> dict[int, Decimal]:
        """What each day has cost, by its beginning."""
        from genai_prices import calc_price, extract_usage

        days: dict[int, Decimal] = defaultdict(Decimal)
        for response in self._state.responses():
            said = as_json(response, status_at(response, now))
            if said.get("usage") is None:
                continue
            usage = extract_usage(said, provider_id="openai", api_flavor="responses").usage
            try:
                price = calc_price(usage, str(said["model"]), provider_id="openai").total_price
            except LookupError:  # a model without a published price
                continue
            days[int(said.get("completed_at") or said["created_at"]) // _DAY * _DAY] += price
        return days
