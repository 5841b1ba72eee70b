"""What became of a webhook, in words. Pure."""

from __future__ import annotations

from airflow_provider_aihandoff.core.models import InboxEntry
from airflow_provider_aihandoff.core.states import Disposition


def became(entry: InboxEntry) -> str:
    """What is known of a webhook now, and whether its response is polled again, as sentences."""
    said = f"Webhook {entry.webhook_id} is {entry.disposition}"
    said += f" ({entry.note})." if entry.note else "."
    if entry.job_id is not None:
        said += f" It belongs to job {entry.job_id}."
    if entry.poll_at is not None:
        return f"{said} OpenAI is polled again after {entry.poll_at.isoformat(timespec='seconds')}."
    return f"{said} OpenAI will not be polled for it again." if entry.disposition is Disposition.QUARANTINED else said
