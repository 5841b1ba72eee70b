"""The buttons that Airflow shows with a task: to the page of its job, and to the record that it has written.

Airflow asks for them in the worker, also when the task begins to wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperatorLink, conf

from airflow_provider_aihandoff.operators.job_argument import resolve_job_id, set_id_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator


def base_url() -> str:
    """The address of Airflow's UI, without a slash at its end."""
    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


def job_page(job_id: int) -> str:
    """The address of the page of a job."""
    return f"{base_url()}/aihandoff/jobs/{job_id}"


class ReviewLink(BaseOperatorLink):
    """To the page of the task's job, where it is reviewed; or to that of its set."""

    @property
    def name(self) -> str:
        """What the button says."""
        return "Review"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """The address; empty where the task has no job yet."""
        reference = reference_of(operator)
        if (set_id := set_id_of(reference)) is not None:
            return f"{base_url()}/aihandoff/sets/{set_id}"
        job_id = job_id_of(operator)
        return "" if job_id is None else job_page(job_id)


class ExternalRecordLink(BaseOperatorLink):
    """To the record that the task has written, where its author says where that can be seen."""

    @property
    def name(self) -> str:
        """What the button says."""
        return "External record"

    def get_link(self, operator: BaseOperator, *, ti_key: Any) -> str:
        """The address; empty where nothing was written, where that is not known, and where there are several."""
        links: Sequence[str] = getattr(operator, "external_links", ())
        return links[0] if len(links) == 1 else ""


def reference_of(operator: Any) -> Any:
    """What an operator knows of the job that it is about: as one that makes it, or as one that takes it."""
    return getattr(operator, "made", None) or getattr(operator, "job", None)


def job_id_of(operator: Any) -> int | None:
    """The job that a task is about; None where it knows of none yet."""
    try:
        return resolve_job_id(reference_of(operator), operator.task_id)
    except AirflowFailException:
        return None
