"""`airflow aihandoff webhooks serve`: the receiver of webhooks without an API server around it.

Its logs are not silenced as those of the other commands are: it runs for a long time.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence

from airflow.providers.common.compat.sdk import AirflowException
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from starlette.applications import Starlette
from starlette.routing import Mount

from airflow_provider_aihandoff.cli.common import fail, say
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.webhooks.keys import NoConnection
from airflow_provider_aihandoff.core.webhooks.signature import SecretRefused, Verifier
from airflow_provider_aihandoff.hooks.observability import set_up_metrics
from airflow_provider_aihandoff.hooks.webhook_secrets import SECRETS_KEY, configured_conn_ids, read_secrets
from airflow_provider_aihandoff.plugins.aihandoff import URL_PREFIX
from airflow_provider_aihandoff.web.api.webhook_receiver import Receiver, open_ledger
from airflow_provider_aihandoff.web.app import build_receiver
from airflow_provider_aihandoff.web.bounded_server import BoundedServer
from airflow_provider_aihandoff.web.links import WEBHOOKS_PREFIX

#: Seconds for which deliveries that have begun may take when the server stops.
GRACE = 10


@providers_configuration_loaded
def serve(args: Namespace) -> None:
    """Receive webhooks until the process is stopped."""
    # As Airflow's own servers do: without it, connections in the metadata database are not found.
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    try:
        conn_ids = args.openai_conn_id or configured_conn_ids()
        _check(conn_ids, args.conn_id)
        server = _server(args, conn_ids)
        listener = _listen(args.host, args.port)
    except (HandoffError, AirflowException, ValueError, OSError) as error:
        fail(str(error))
    set_up_metrics()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    _announce(listener, conn_ids, secure=bool(args.ssl_certfile))
    server.run(sockets=[listener])


def _stop(number: int, _: object) -> None:
    """End with 0. The server has a handler of its own while it runs; it calls this one when it has stopped."""
    sys.exit(0)


def _check(conn_ids: Sequence[str], ledger_conn_id: str | None) -> None:
    """Return when webhooks can be verified and recorded.

    :raises ValueError: one of the connections cannot be used.
    :raises HandoffError: the ledger is not there, or not set up.
    """
    if not conn_ids:
        raise ValueError("no OpenAI connection is set: webhook_conn_ids in the section aihandoff is empty.")
    for conn_id in conn_ids:
        try:
            Verifier(read_secrets(conn_id))
        except NoConnection:
            raise ValueError(f"the connection {conn_id!r} does not exist.") from None
        except SecretRefused as error:
            raise ValueError(f"the connection {conn_id!r}, {SECRETS_KEY} in its extra: {error}") from None
    open_ledger(ledger_conn_id).close()


def _server(args: Namespace, conn_ids: Sequence[str]) -> BoundedServer:
    app = Starlette(routes=[Mount(URL_PREFIX, app=build_receiver(Receiver(conn_ids, args.conn_id)))])
    return BoundedServer(
        app,
        ssl_certfile=args.ssl_certfile,
        ssl_keyfile=args.ssl_keyfile,
        proxy_headers=args.proxy_headers,
        log_config=None,
        # A line for each request would undo what the receiver does against floods of them.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def _announce(listener: socket.socket, conn_ids: Sequence[str], *, secure: bool) -> None:
    host, port = listener.getsockname()[:2]
    address = f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}{URL_PREFIX}"
    for conn_id in conn_ids:
        say(f"Listening for webhooks on {address}{WEBHOOKS_PREFIX}/openai/{conn_id}")
