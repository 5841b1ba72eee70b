"""The asset of a job type: it has an event when a job of that type is approved and written."""

from __future__ import annotations

from urllib.parse import quote

from airflow.providers.common.compat.sdk import Asset

from airflow_provider_aihandoff.core.arguments import MAX_JOB_TYPE, identifier
from airflow_provider_aihandoff.core.job_requests.declared_type import DeclaredType

__all__ = ["applied_asset"]

#: What the address of such an asset begins with.
APPLIED = "aihandoff://applied/"


def applied_asset(job_type: str | DeclaredType) -> Asset:
    """The asset that has an event when all effects of a job of this type are applied.

    Name it as an outlet of a task that writes, and as the schedule of the Dags that come after:
    ``outlets=[applied_asset("ticket_label")]``, ``schedule=applied_asset("ticket_label")``.

    The extra of an event has the job and the ids of the records that were written, and no content.

    :param job_type: as of the draft, or its :class:`~airflow_provider_aihandoff.job_types.JobType`.
    :raises RequestError: it is no name of a job type.
    """
    given = job_type.name if isinstance(job_type, DeclaredType) else job_type
    name = quote(identifier("job_type", given, max_bytes=MAX_JOB_TYPE), safe="")
    return Asset(name=f"aihandoff.applied.{name}", uri=f"{APPLIED}{name}")
