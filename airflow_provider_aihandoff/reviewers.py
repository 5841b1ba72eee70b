"""Who may decide on a job, as the author of a Dag or a policy names them, and a person who decides."""

from airflow_provider_aihandoff.core.review.rules import Approvers, Person

__all__ = ["Approvers", "Person"]
