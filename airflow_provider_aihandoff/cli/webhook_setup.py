"""`airflow aihandoff webhooks register|rotate|test`: the endpoint at OpenAI, and its secret in Airflow's connection."""

from __future__ import annotations

from argparse import Namespace

from airflow.providers.common.compat.sdk import conf

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli.common import command, fail, say
from airflow_provider_aihandoff.cli.secret_places import is_of_database, put_first
from airflow_provider_aihandoff.core.generation.webhook_endpoints import Endpoint, WebhookEndpoints
from airflow_provider_aihandoff.hooks.model_provider import endpoint_api
from airflow_provider_aihandoff.hooks.webhook_secrets import SECRETS_KEY, configured_conn_ids, read_secrets
from airflow_provider_aihandoff.plugins.aihandoff import URL_PREFIX
from airflow_provider_aihandoff.web.links import WEBHOOKS_PREFIX

_NAME = "Airflow AI Handoff"


@command
def register(args: Namespace) -> None:
    """Create the endpoint at OpenAI, and keep its secret."""
    conn_id, url = _conn_id(args), _url(args)
    _check_place(conn_id, args.print_secret)
    with endpoint_api(conn_id) as api:
        there = [endpoint for endpoint in api.endpoints() if endpoint.url == url]
        if there:
            fail(
                f"OpenAI has an endpoint for {url} ({there[0].endpoint_id}). Nothing was changed. If you have lost its "
                "secret, use `airflow aihandoff webhooks rotate`."
            )
        endpoint, secret = api.create(_NAME, url)
    _keep(conn_id, secret, print_secret=args.print_secret)
    say(f"OpenAI sends {', '.join(endpoint.event_types)} to {endpoint.url} ({endpoint.endpoint_id}).")
    say(f"Check it with `{PROGRAM} webhooks test`.")


@command
def rotate(args: Namespace) -> None:
    """Get a new secret from OpenAI, and keep it before the old ones."""
    conn_id = _conn_id(args)
    _check_place(conn_id, args.print_secret)
    with endpoint_api(conn_id) as api:
        endpoint = _find(api, conn_id, args.url)
        secret = api.rotate(endpoint.endpoint_id)
    _keep(conn_id, secret, print_secret=args.print_secret)
    say(f"The secret of {endpoint.url} ({endpoint.endpoint_id}) is rotated. OpenAI accepts the old one for 24 hours.")
    say(f"Remove the old one from {SECRETS_KEY} in the extra of the connection {conn_id!r} after that.")


@command
def test(args: Namespace) -> None:
    """Have OpenAI send a sample event, and say how the receiver answered."""
    conn_id = _conn_id(args)
    with endpoint_api(conn_id) as api:
        endpoint = _find(api, conn_id, args.url)
        status = api.test(endpoint.endpoint_id)
    if not 200 <= status < 300:
        fail(
            f"{endpoint.url} answered a sample event of OpenAI with {status}. 400: the secrets differ; 404: the "
            "connection has no secrets, or is not in [aihandoff] webhook_conn_ids; 503: the ledger is unavailable. "
            "`airflow aihandoff doctor` says more."
        )
    say(f"{endpoint.url} took a sample event of OpenAI ({status}). `{PROGRAM} inbox list` shows it.")


def _conn_id(args: Namespace) -> str:
    named: str | None = args.openai_conn_id
    configured = configured_conn_ids()
    if named is not None:
        return named
    if len(configured) != 1:
        fail("--openai-conn-id is needed: webhook_conn_ids in the section aihandoff does not name exactly one.")
    return configured[0]


def _path(conn_id: str) -> str:
    return f"{URL_PREFIX}{WEBHOOKS_PREFIX}/openai/{conn_id}"


def _url(args: Namespace) -> str:
    """The address of the receiver: OpenAI sends to https alone."""
    base = conf.get("api", "base_url", fallback="").rstrip("/")
    url = str(args.url or f"{base}{_path(_conn_id(args))}")
    if not url.startswith("https://"):
        fail(f"OpenAI sends webhooks to https alone, not to {url}. Name the public address with --url.")
    return url


def _find(api: WebhookEndpoints, conn_id: str, url: str | None) -> Endpoint:
    """The endpoint at OpenAI for a connection.

    :param url: its address; None: the one whose path is that of the connection.
    """
    there = api.endpoints()
    found = [each for each in there if (each.url == url if url else each.url.endswith(_path(conn_id)))]
    if len(found) != 1:
        known = ", ".join(each.url for each in there) or "none"
        wanted = url or f"an address that ends with {_path(conn_id)}"
        fail(f"OpenAI has {len(found)} endpoints for {wanted}, not one. Nothing was changed. It has: {known}.")
    return found[0]


def _check_place(conn_id: str, print_secret: bool) -> None:
    """End here, before OpenAI shows a secret once, where there is no place for it."""
    known = read_secrets(conn_id)  # the connection exists
    if print_secret or is_of_database(conn_id, known):
        return
    fail(
        f"the connection {conn_id!r} is not one of Airflow's database, so that its secret cannot be written there. "
        "Nothing was changed. With --print-secret, the secret is printed, for you to put where the connection is."
    )


def _keep(conn_id: str, secret: str, *, print_secret: bool) -> None:
    """Put a new secret before those that the connection has, or print it: OpenAI does not show it again."""
    if not print_secret:
        try:
            put_first(conn_id, secret)
        except Exception as error:  # noqa: BLE001 - whatever it was, the secret must not be lost
            say(f"The secret could not be written into the connection ({type(error).__name__}).", error=True)
            print_secret = True
    if print_secret:
        say(f"Put this into {SECRETS_KEY} in the extra of the connection {conn_id!r}. OpenAI does not show it again:")
        say(secret)
    else:
        say(f"The secret is in the connection {conn_id!r}. Receivers read it within a minute.")
