"""OpenAI's bill of an organization, by its SDK: ``GET /v1/organization/costs``, which needs an admin key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from typing import Any

from openai import OpenAI

from airflow_provider_aihandoff.core.generation.bill import Bill, Billed
from airflow_provider_aihandoff.core.generation.provider import ProviderError

#: Days of one answer, as many as OpenAI gives, and answers that are read at most.
_DAYS, _PAGES = 180, 50

_REMEDY = "Asking again is safe. The connection needs an admin key of the organization."


class CostsApi(Bill):
    """The costs of the organization that a client's admin key belongs to.

    :param client: with the admin key as its key.
    """

    def __init__(self, client: OpenAI) -> None:
        self._usage: Any = client.with_options(admin_api_key=client.api_key).admin.organization.usage

    def costs(self, since: date, until: date) -> list[Billed]:
        """As :meth:`Bill.costs`. Results without a project are left out."""
        found: dict[tuple[str, date], Decimal] = {}
        for bucket in self._buckets(since, until):
            day = datetime.fromtimestamp(bucket.start_time, UTC).date()
            for result in bucket.results or ():
                project_id = getattr(result, "project_id", None)
                if isinstance(project_id, str) and project_id:
                    key = project_id, day
                    found[key] = found.get(key, Decimal(0)) + _amount(result)
        return [Billed(project_id, day, amount) for (project_id, day), amount in sorted(found.items())]

    def _buckets(self, since: date, until: date) -> Iterator[Any]:
        asked = {"start_time": _seconds(since), "end_time": _seconds(until), "limit": _DAYS, "group_by": ["project_id"]}
        page: dict[str, str] = {}
        for _ in range(_PAGES):
            try:
                answer = self._usage.costs(bucket_width="1d", **asked, **page)
                buckets, more = list(answer.data), answer.next_page if answer.has_more else None
            except Exception as error:  # noqa: BLE001 - neither chained nor quoted: an answer may repeat the key
                status = getattr(error, "status_code", None)
                why = type(error).__name__ if status is None else f"the answer has the status {status}"
                raise ProviderError(f"OpenAI's costs cannot be read: {why}.", remedy=_REMEDY) from None
            yield from buckets
            if not more:
                return
            page = {"page": str(more)}
        raise ProviderError(f"OpenAI's costs have more than {_PAGES} pages.", remedy=_REMEDY)


def _amount(result: Any) -> Decimal:
    amount = getattr(result, "amount", None)
    currency = str(getattr(amount, "currency", None) or "usd")
    if currency.lower() != "usd":
        raise ProviderError(f"OpenAI's costs are in {currency[:10]!r}, not in US dollars.", remedy=_REMEDY)
    try:
        value = Decimal(str(getattr(amount, "value", None)))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite():
        raise ProviderError("OpenAI's costs have an amount that is no number.", remedy=_REMEDY)
    return value


def _seconds(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())
