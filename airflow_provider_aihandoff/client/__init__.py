"""Asks for jobs from any Python program, and follows them, over REST: docs/client.md.

It needs httpx and urllib3, and neither Airflow nor a connection to the ledger::

    with Client("https://airflow.example.com", token=token) as jobs:
        request = jobs.submit("product-note", {"slug": "kettle"}, key="kettle")
        print(jobs.wait(request, timeout=3600).result)
"""

from airflow_provider_aihandoff.client.api_client import Client, ClientEvent, log_in
from airflow_provider_aihandoff.client.refusals import ApiError, Unavailable, WaitTimeout
from airflow_provider_aihandoff.client.values import JobRequest, JobType, MadeRecord, State

__all__ = [
    "ApiError",
    "Client",
    "ClientEvent",
    "JobRequest",
    "JobType",
    "MadeRecord",
    "State",
    "Unavailable",
    "WaitTimeout",
    "log_in",
]
