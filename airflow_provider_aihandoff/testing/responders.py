"""The demo's responders: answers that look real for a sales report, a ticket's label and a product note.

Each is chosen by the names of the schema's properties, and its answer is fitted to the schema that was sent:
what the schema does not allow is replaced by something that it does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from airflow_provider_aihandoff.testing.json_schema_sampler import NO_SUGGESTION, resolve, sample
from airflow_provider_aihandoff.testing.output import Responder, ResponderRequest
from airflow_provider_aihandoff.testing.product_note import product_note
from airflow_provider_aihandoff.testing.sales_report import report
from airflow_provider_aihandoff.testing.ticket_label import label

_REPORT = frozenset({"title", "summary", "sections", "figures"})
_TICKET_LABEL = frozenset({"category", "priority", "confidence", "sensitive", "suggested_reply"})
_PRODUCT_NOTE = frozenset({"title", "body", "tagline"})


def respond_with_report(request: ResponderRequest) -> object:
    """A report on the sales figures in the input."""
    if request.property_names != _REPORT:
        return None
    return _fitted(request, report(request.input_text))


def respond_with_ticket_label(request: ResponderRequest) -> object:
    """The label of the ticket in the input."""
    if request.property_names != _TICKET_LABEL:
        return None
    found = label(request.input_text, request.seed)
    draft = {
        "category": _first_allowed(request, "category", found.categories),
        "priority": _first_allowed(request, "priority", found.priorities),
        "confidence": found.confidence,
        "sensitive": found.sensitive,
        "suggested_reply": found.suggested_reply,
    }
    return _fitted(request, draft)


def respond_with_product_note(request: ResponderRequest) -> object:
    """A note on the product in the input."""
    if request.property_names != _PRODUCT_NOTE:
        return None
    return _fitted(request, product_note(request.input_text, request.seed))


DEMO_RESPONDERS: Sequence[Responder] = (
    respond_with_report,
    respond_with_ticket_label,
    respond_with_product_note,
)


def _fitted(request: ResponderRequest, draft: dict[str, Any]) -> Any:
    return sample(request.schema or {}, request.seed, draft)


def _first_allowed(request: ResponderRequest, name: str, candidates: list[str]) -> object:
    """The first candidate in the enum of property `name`, spelled as there; any, where there is no enum."""
    root = request.schema or {}
    allowed = resolve(resolve(root, root)["properties"][name], root).get("enum")
    if allowed is None:
        return candidates[0]
    spelled = {_letters(value): value for value in allowed}
    return next((spelled[_letters(word)] for word in candidates if _letters(word) in spelled), NO_SUGGESTION)


def _letters(value: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(value).lower())
