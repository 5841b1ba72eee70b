"""`airflow aihandoff events`: subscriptions to changes of jobs, sending them, and what was given up."""

from __future__ import annotations

import base64
import os
import secrets
import signal
import threading
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from airflow.providers.common.compat.sdk import AirflowException
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from airflow_provider_aihandoff.airflow_compat import PROGRAM
from airflow_provider_aihandoff.cli.common import actor, check_reason, command, fail, open_ledger, print_rows, say
from airflow_provider_aihandoff.cli.secret_places import is_of_database, keep_newest, make, put_first
from airflow_provider_aihandoff.core.errors import HandoffError
from airflow_provider_aihandoff.core.event_delivery.deliver import deliver_due, deliver_on
from airflow_provider_aihandoff.core.event_delivery.subscription import WantedSubscription
from airflow_provider_aihandoff.core.event_delivery.subscription_store import DeadEvent, SubscriptionView
from airflow_provider_aihandoff.core.webhooks.keys import NoConnection
from airflow_provider_aihandoff.core.webhooks.signature import SecretRefused, Verifier
from airflow_provider_aihandoff.hooks.event_posts import allowed_hosts, check_wanted, post_to_listed
from airflow_provider_aihandoff.hooks.webhook_secrets import SECRETS_KEY, read_secrets

#: Bytes of a new secret: what Standard Webhooks asks for is 24 to 64.
_SECRET_BYTES = 32

#: Threads of `deliver`: a slow receiver holds up one of them.
_THREADS = 4


@command
def subscribe(args: Namespace) -> None:
    """Subscribe, or change a subscription."""
    check_reason(args.reason)
    wanted = WantedSubscription(args.name, args.url, args.secret_conn_id, args.type, args.state)
    check_wanted(wanted)
    with open_ledger(args) as ledger:
        _make_first_secret(args.secret_conn_id, args.print_secret)
        subscription = ledger.event_subscriptions.subscribe(wanted, reason=args.reason, actor=actor())
    about = ", ".join(subscription.job_types) or "every type"
    states = ", ".join(subscription.states) or "each state"
    say(f"Changes of jobs of {about} to {states} are sent to {subscription.url} from now on ({subscription.name}).")
    say(f"Something has to send it: `{PROGRAM} events deliver`, or the Dag aihandoff_events.")


@command
def subscriptions(args: Namespace) -> None:
    """List the subscriptions, and how their events stand."""
    with open_ledger(args) as ledger:
        print_rows([_row(view) for view in ledger.event_subscriptions.find()], args.output)


@command
def unsubscribe(args: Namespace) -> None:
    """End a subscription."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        removed = ledger.event_subscriptions.end(args.name, reason=args.reason, actor=actor())
    say(f"{args.name} gets no events any more. {removed} that it did not have are removed.")


@command
def rotate(args: Namespace) -> None:
    """Make a new secret, which signs beside the old one; or remove the old one."""
    with open_ledger(args) as ledger:
        conn_id = ledger.event_subscriptions.read(args.name).subscription.secret_conn_id
    known = _known_secrets(conn_id)
    if args.finish:
        _check_place(conn_id, known or [], "Remove all but the first secret where the connection is.")
        keep_newest(conn_id)
        say(f"Only the newest secret of {conn_id!r} signs events from now on.")
        return
    if len(known or []) > 1:
        fail(
            f"the connection {conn_id!r} has {len(known or [])} secrets already, and a new one would take the place of "
            "the one that the receiver may know. Nothing was changed. Give it the newest one, then use --finish."
        )
    _new_secret(conn_id, known or [], print_only=args.print_secret)
    say("Events are signed with the new secret and the one before it. When the receiver knows the new one:")
    say(f"  {PROGRAM} events rotate {args.name} --finish")


@providers_configuration_loaded
def deliver(args: Namespace) -> None:
    """Send what is due, once or until the process is stopped. Its logs are not silenced: it runs for a long time."""
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    sending: dict[str, Any] = {"secrets_of": read_secrets, "post": post_to_listed, "name": args.name}
    try:
        allowed_hosts()
        with open_ledger(args, _THREADS) as ledger, ThreadPoolExecutor(_THREADS) as pool:
            if args.once:
                taken = sum(pool.map(lambda _: deliver_due(ledger, **sending), range(_THREADS)))
            else:
                stop = threading.Event()
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda *_: stop.set())
                say("Events are sent until this is stopped.")
                work = partial(deliver_on, ledger, stop, **sending)
                taken = sum(pool.map(lambda number: work(removes=not number), range(_THREADS)))
    except (HandoffError, AirflowException, ValueError) as error:
        fail(str(error))
    say(f"{taken} events were delivered.")


@command
def dead(args: Namespace) -> None:
    """List the events that were given up."""
    with open_ledger(args) as ledger:
        found = ledger.event_subscriptions.dead(args.name, limit=args.limit)
    print_rows([_dead_row(event) for event in found], args.output)


@command
def replay(args: Namespace) -> None:
    """Have events sent again."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        replayed = ledger.event_subscriptions.replay(args.name, args.event, reason=args.reason, actor=actor())
    say(f"{replayed} events are sent to {args.name} again, each with the id that it had.")


def _known_secrets(conn_id: str) -> list[object] | None:
    """The secrets of a connection; None where there is no such connection."""
    try:
        return list(read_secrets(conn_id))
    except NoConnection:
        return None


def _make_first_secret(conn_id: str, print_only: bool) -> None:
    """Make the connection and its first secret, unless it has one."""
    known = _known_secrets(conn_id)
    if known:
        try:
            Verifier(known)
        except SecretRefused:
            fail(
                f"a secret in the connection {conn_id!r} cannot be used: it is `whsec_` and base64 of 16 bytes or more."
            )
        return
    if known is None and not print_only:
        make(conn_id)
    _new_secret(conn_id, [], print_only=print_only)


def _new_secret(conn_id: str, known: Sequence[object], *, print_only: bool) -> None:
    """Make a secret, keep it before the newest one, and print it: the receiver needs it."""
    if not print_only:
        _check_place(conn_id, known, "With --print-secret it is only printed, for you to put where the connection is.")
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode('ascii')}"
    if not print_only:
        put_first(conn_id, secret, keep=1)
        say(f"A new secret is in the connection {conn_id!r}. The receiver needs it:")
    else:
        say(f"Put this before the others into {SECRETS_KEY} in the extra of the connection {conn_id!r}, and give it to")
        say("the receiver:")
    say(secret)


def _check_place(conn_id: str, known: Sequence[object], otherwise: str) -> None:
    if not is_of_database(conn_id, known):
        fail(
            f"the connection {conn_id!r} is not one of Airflow's database, so that its secrets cannot be changed "
            f"there. Nothing was changed. {otherwise}"
        )


def _row(view: SubscriptionView) -> dict[str, Any]:
    subscription = view.subscription
    names = ("name", "url", "job_types", "states", "secret_conn_id", "state", "state_reason")
    return {
        **{name.replace("_", " "): getattr(subscription, name) for name in names},
        "waiting": view.waiting,
        "waiting since": view.waiting_since,
        "dead": view.dead,
        "delivered": view.delivered_at,
    }


def _dead_row(event: DeadEvent) -> dict[str, Any]:
    return {
        "event": event.delivery_id,
        "subscription": event.name,
        "job": event.job_id,
        "request": event.request_id,
        "state": event.standing,
        "at": event.at,
        "tries": event.tries,
        "error": event.error,
        "given up": event.settled_at,
    }
