"""Who may decide on a job, as the author of a Dag or a policy names them."""

from airflow_provider_aihandoff.core.review.rules import Approvers

__all__ = ["Approvers"]
