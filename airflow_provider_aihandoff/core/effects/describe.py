"""What a reviewer sees of a plan and of a declared undo: as the class of its target lays it out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_provider_aihandoff.core.effects.target import RequestView, plain_view
from airflow_provider_aihandoff.core.effects.target_registry import find_target_type
from airflow_provider_aihandoff.core.effects.undo import MASKED
from airflow_provider_aihandoff.core.error_text import shown

log = logging.getLogger(__name__)


def describe(kind: str, plan: Mapping[str, Any]) -> RequestView:
    """Lay a plan out. What the class of its kind cannot describe, or has no class, is shown field by field."""
    known = find_target_type(kind)
    if known is not None:
        try:
            return known.describe(plan)
        except Exception as error:
            seen = shown(error)
            log.error(
                "The target kind %r cannot describe a plan; its fields are shown as they are.", kind, exc_info=seen
            )
    return plain_view(plan)


def describe_undo(undo: Mapping[str, Any]) -> RequestView:
    """Lay a declared undo out, its plan and what is kept with it, as one request."""
    kind, plan = undo.get("kind"), undo.get("plan")
    if not isinstance(kind, str) or not isinstance(plan, Mapping):
        return plain_view(undo)
    view = describe(kind, plan)
    options = {name: part for name, part in undo.items() if name not in ("plan", MASKED)}
    # Where both have a name, the whole plan is shown under a name of its own, so that nothing is left out.
    rest = {**view.rest, **options} if not view.rest.keys() & options.keys() else {"plan": view.rest, **options}
    return replace(view, rest=rest)
