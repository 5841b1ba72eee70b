"""``job`` in templates, plans and policies."""

from airflow_provider_aihandoff.core.jobs.job_view import JobView

__all__ = ["JobView"]
