"""Reads what an answer says about the limits of speed of its project: ``x-ratelimit-*`` and ``Retry-After``. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from airflow_provider_aihandoff.core.backoff import retry_after_seconds
from airflow_provider_aihandoff.core.rates.slowdown import Heard

_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

#: A span of time as OpenAI writes it: ``6m0s``, ``120ms``, ``1.5s``.
_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|[dhms])", re.ASCII)

_TOO_MANY, _OVERLOADED = 429, 503


def heard(status: int, headers: Mapping[str, str], said: str = "") -> Heard | None:
    """What an answer says about limits; None where it says nothing.

    :param said: its message, for people.
    """
    requests = _number(headers.get("x-ratelimit-limit-requests"))
    too_much = status == _TOO_MANY
    wait = retry_after_seconds(headers.get("retry-after")) if status in (_TOO_MANY, _OVERLOADED) else None
    if wait is None:
        wait = _until_room(headers, too_much=too_much)
    found = Heard(too_much=too_much, wait=wait, requests=requests, said=said)
    return found if too_much or wait or requests is not None else None


def span(text: str | None) -> float | None:
    """Seconds of a span such as ``6m0s``; None where it is none."""
    parts = _PART.findall(text or "")
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _until_room(headers: Mapping[str, str], *, too_much: bool) -> float | None:
    """Seconds until there is room for another request, where there is none left.

    ``reset`` names the time until all of it is there again; it comes back evenly, so that there is some sooner.
    """
    limit, remaining = (_number(headers.get(f"x-ratelimit-{name}-requests")) for name in ("limit", "remaining"))
    reset = span(headers.get("x-ratelimit-reset-requests"))
    if remaining == 0 and reset is not None:
        return reset / max(limit or 1, 1)
    # How many tokens the next request needs, no one knows: where some were missing, all of them are waited for.
    if too_much and _number(headers.get("x-ratelimit-remaining-tokens")) == 0:
        return span(headers.get("x-ratelimit-reset-tokens"))
    return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch("[0-9]{1,15}", text, re.ASCII) else None
