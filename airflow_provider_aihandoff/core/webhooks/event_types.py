"""What the type of a webhook says. The inbox keeps types as OpenAI's webhooks name them: it is the form it receives.

A provider whose webhooks name the end of a response otherwise is translated where they come in. Pure.
"""

from __future__ import annotations

from airflow_provider_aihandoff.core.generation.batch_provider import ENDED_BATCH_STATUSES, BatchStatus
from airflow_provider_aihandoff.core.states import ENDED_RESPONSE_STATUSES, ResponseStatus

_ENDED = {f"response.{status}": status for status in ENDED_RESPONSE_STATUSES}

_ENDED_BATCH = {f"batch.{status}": status for status in ENDED_BATCH_STATUSES}

#: Notices about a user or an organization: ``safety.warning_issued``, ``safety_identifier.blocked`` and their like.
_SAFETY = ("safety.", "safety_")


def is_safety_notice(event_type: str) -> bool:
    """Whether a webhook of this type says something about abuse that a person must hear of."""
    return event_type.startswith(_SAFETY)


def ended_status(event_type: str) -> ResponseStatus | None:
    """The status with which a response has ended, as a webhook of this type says; None for any other type."""
    return _ENDED.get(event_type)


def ended_batch_status(event_type: str) -> BatchStatus | None:
    """The status with which a batch has ended, as a webhook of this type says; None for any other type."""
    return _ENDED_BATCH.get(event_type)
