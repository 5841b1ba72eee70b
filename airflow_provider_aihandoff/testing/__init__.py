"""For testing Dags: a stand-in for OpenAI's Responses API in background mode, over real HTTP. NOT OpenAI.

In a test::

    with OpenAIStandIn(delay_seconds=0.1).serve() as server:
        client = OpenAI(base_url=server.base_url, api_key="any", max_retries=0)

From a shell: ``python -m airflow_provider_aihandoff.testing --help``, which also lists the faults that a
request can ask for. With `webhook_url` and `webhook_secrets` (`--webhook-url`, `--webhook-secret`) it also sends
signed webhooks when responses end.
"""

from airflow_provider_aihandoff.testing.json_scalars import UnsupportedSchemaError
from airflow_provider_aihandoff.testing.json_schema_sampler import sample
from airflow_provider_aihandoff.testing.openai_server import (
    OpenAIStandIn,
    ResponseReport,
    ResponsesReport,
)
from airflow_provider_aihandoff.testing.output import Responder, ResponderRequest
from airflow_provider_aihandoff.testing.server_kind import ServerKind
from airflow_provider_aihandoff.testing.serving import RunningServer
from airflow_provider_aihandoff.testing.state import LoggedRequest
from airflow_provider_aihandoff.testing.webhook_events import WebhookAttempt, WebhooksReport

__all__ = [
    "LoggedRequest",
    "OpenAIStandIn",
    "Responder",
    "ResponderRequest",
    "ResponseReport",
    "ResponsesReport",
    "RunningServer",
    "ServerKind",
    "UnsupportedSchemaError",
    "WebhookAttempt",
    "WebhooksReport",
    "sample",
]
