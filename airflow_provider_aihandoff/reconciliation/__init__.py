"""What nobody waits for any more: found, and brought to its one next step."""

from airflow_provider_aihandoff.reconciliation.findings import Finding
from airflow_provider_aihandoff.reconciliation.run import reconcile
from airflow_provider_aihandoff.reconciliation.search import check_retention
from airflow_provider_aihandoff.reconciliation.troubles import TaskState

__all__ = ["Finding", "TaskState", "check_retention", "reconcile"]
