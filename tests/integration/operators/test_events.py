"""Events at a terminal and from a triggerer: subscribed, signed, and sent to a receiver over real HTTP."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.models import Connection
from airflow.utils.session import create_session
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from airflow_provider_aihandoff.core.event_delivery import deliver as deliver_module
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.operators.event_delivery import EventDeliveryOperator
from airflow_provider_aihandoff.triggers.event_delivery import EventDeliveryTrigger
from tests.airflow_compat import get_parser
from tests.event_receiver import Receiver, receiving, saying
from tests.factories import draft
from tests.integration.operators.conftest import RunDag
from tests.waiting import until

Cli = Callable[..., str]
SECRET = re.compile(r"^whsec_\S+$", re.MULTILINE)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving(saying(204)) as running:
        yield running


@pytest.fixture
def cli(airflow: None, connections: None, capsys: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    def run(*words: object) -> str:
        capsys.readouterr()
        args = get_parser().parse_args(["aihandoff", "events", *map(str, words)])
        args.func(args)
        return capsys.readouterr().out

    yield run
    with create_session() as session:
        session.query(Connection).filter_by(conn_id="shop_events").delete()


@pytest.fixture
def url(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> str:
    """The receiver's address, which is listed."""
    listed = f"http://127.0.0.1:{receiver.server_port}"
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__EVENT_INTERNAL_HOSTS", listed)
    return f"{listed}/jobs"


def subscribe(cli: Cli, url: str, *more: object) -> str:
    return cli("subscribe", "shop", url, "--secret-conn-id", "shop_events", "--reason", "the shop", *more)


def test_a_subscriber_gets_signed_events_with_the_secret_that_was_printed_once(
    cli: Cli, url: str, receiver: Receiver, ledger: Ledger
) -> None:
    said = subscribe(cli, url, "--type", "publishing", "--state", "working", "--state", "in review")
    (secret,) = SECRET.findall(said)
    assert "Changes of jobs of publishing to working, in review are sent" in said
    job = draft(ledger)
    assert "2 events were delivered" in cli("deliver", "--once")
    events = [Webhook(secret).verify(body, headers) for _, headers, body in receiver.got]
    assert [(event["data"]["job_id"], event["data"]["state"]) for event in events] == [
        (job.job_id, "working"),
        (job.job_id, "in review"),
    ]
    assert [headers["webhook-id"] for _, headers, _ in receiver.got] == [event["id"] for event in events]
    (row,) = json.loads(cli("subscriptions", "-o", "json"))
    assert (row["name"], row["state"], row["waiting"], row["dead"]) == ("shop", "active", 0, 0)
    assert secret not in json.dumps(row)
    assert secret not in subscribe(cli, url)


def test_the_receiver_of_the_docs_takes_what_is_sent_and_nothing_else(
    cli: Cli, url: str, receiver: Receiver, ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[3] / "docs" / "events.md").read_text("utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (shown,) = set(re.findall(r"whsec_[^\"\s]+", text))
    (secret,) = SECRET.findall(subscribe(cli, url, "--state", "queued"))
    draft(ledger)
    cli("deliver", "--once")
    names: dict[str, Any] = {}
    exec(example.replace(shown, secret), names)  # noqa: S102
    (_, headers, body), receive = receiver.got[0], names["receive"]
    assert [receive(headers, body), receive(headers, body)] == [204, 204]
    assert capsys.readouterr().out == "post:kettle is queued\n"
    assert receive(headers, body + b" ") == 401


def test_a_secret_is_rotated_while_the_receiver_still_knows_the_old_one(
    cli: Cli, url: str, receiver: Receiver, ledger: Ledger
) -> None:
    (old,) = SECRET.findall(subscribe(cli, url, "--state", "queued"))
    (new,) = SECRET.findall(cli("rotate", "shop"))
    draft(ledger)
    cli("deliver", "--once")
    _, headers, body = receiver.got[-1]
    for secret in (old, new):
        Webhook(secret).verify(body, headers)
    with pytest.raises(SystemExit, match="has 2 secrets already"):
        cli("rotate", "shop")
    cli("rotate", "shop", "--finish")
    ((delivery_id,),) = read(ledger, "SELECT delivery_id FROM aihandoff.event_deliveries")
    cli("replay", "shop", "--event", delivery_id, "--reason", "to see")
    cli("deliver", "--once", "shop")
    _, headers, body = receiver.got[-1]
    Webhook(new).verify(body, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(old).verify(body, headers)


def test_what_was_given_up_is_listed_and_replayed(
    cli: Cli, url: str, ledger: Ledger, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    subscribe(cli, url, "--state", "queued")
    draft(ledger)
    write(ledger, "UPDATE aihandoff.event_deliveries SET first_try_at = now() - interval '4 days'")
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__EVENT_INTERNAL_HOSTS", "")
    assert "0 events were delivered" in cli("deliver", "--once")
    (row,) = json.loads(cli("dead", "shop", "-o", "json"))
    assert (row["state"], "not on the list" in row["error"], receiver.got) == ("queued", True, [])
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__EVENT_INTERNAL_HOSTS", url.removesuffix("/jobs"))
    assert "1 events are sent to shop again" in cli("replay", "shop", "--reason", "it is listed again")
    assert "1 events were delivered" in cli("deliver", "--once")
    assert json.loads(cli("dead", "-o", "json")) == []


def test_a_subscription_ends_with_what_waits_for_it(cli: Cli, url: str, ledger: Ledger) -> None:
    subscribe(cli, url)
    draft(ledger)
    assert "3 that it did not have are removed" in cli("unsubscribe", "shop", "--reason", "the shop is closed")
    assert json.loads(cli("subscriptions", "-o", "json")) == []
    with pytest.raises(SystemExit, match="there is no subscription 'shop'"):
        cli("unsubscribe", "shop", "--reason", "again")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("subscribe", "shop", "https://evil.example/", "--secret-conn-id", "s", "--reason", "x"), "not on the list"),
        (("subscribe", "shop", "{url}", "--secret-conn-id", "s", "--reason", " "), "--reason must not be empty"),
        (("subscribe", "shop", "{url}", "--secret-conn-id", "openai_default", "--reason", "x"), "forge webhooks"),
        (("subscribe", "", "{url}", "--secret-conn-id", "s", "--reason", "x"), "the argument name is empty"),
        (("rotate", "shop"), "there is no subscription 'shop'"),
        (("replay", "shop", "--reason", "x"), "there is no subscription 'shop'"),
    ],
)
def test_what_makes_no_sense_ends_with_one_line_and_makes_no_secret(
    cli: Cli, url: str, words: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit, match=said):
        cli(*(word.replace("{url}", url) for word in words))
    with create_session() as session:
        assert session.query(Connection).filter(Connection.conn_id.in_(["s", "shop_events"])).count() == 0


def test_a_list_that_names_no_host_ends_the_deliverer_at_once(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__EVENT_HOSTS", "https://hooks.example")
    with pytest.raises(SystemExit, match="not a host"):
        cli("deliver", "--once")


def test_a_triggerer_sends_without_a_worker_and_the_task_says_how_many(
    run: RunDag, cli: Cli, url: str, receiver: Receiver, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "generic", "extra": {"webhook_secrets": f"whsec_{'c2VjcmV0' * 5}"}}
    monkeypatch.setenv("AIRFLOW_CONN_SHOP_EVENTS", json.dumps(connection))
    assert "whsec" not in subscribe(cli, url)
    draft(ledger)

    def define() -> None:
        EventDeliveryOperator(task_id="deliver", duration=timedelta(seconds=1.5))

    assert run(define).xcoms["deliver"] == {"delivered": 3}
    states = [json.loads(body)["data"]["state"] for _, _, body in receiver.got]
    assert states == ["queued", "working", "in review"]


async def test_a_trigger_that_is_cancelled_sends_nothing_more(
    cli: Cli, url: str, receiver: Receiver, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliver_module, "POLL_SECONDS", 0.01)
    await asyncio.to_thread(subscribe, cli, url)
    trigger = EventDeliveryTrigger(ledger_conn_id="aihandoff_ledger", seconds=60)
    assert trigger.serialize()[1] == {"ledger_conn_id": "aihandoff_ledger", "seconds": 60}
    running = asyncio.ensure_future(anext(aiter(trigger.run())))
    await asyncio.to_thread(draft, ledger)
    await asyncio.to_thread(until, lambda: len(receiver.got) == 3)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_a_deliverer_that_is_killed_between_the_post_and_its_record_loses_nothing(
    cli: Cli, url: str, receiver: Receiver, ledger: Ledger
) -> None:
    subscribe(cli, url, "--state", "queued")
    draft(ledger)
    script = """
import os, sys
from tests.airflow_compat import get_parser
from airflow_provider_aihandoff.core import crashpoints
crashpoints.arm(lambda point: os._exit(9) if point == "event.send: after call" else None)
args = get_parser().parse_args(["aihandoff", "events", "deliver", "--once"])
args.func(args)
"""
    died = subprocess.run([sys.executable, "-c", script], check=False, timeout=120)
    assert (died.returncode, len(receiver.got)) == (9, 1)
    write(ledger, "UPDATE aihandoff.event_subscriptions SET lease_until = clock_timestamp()")
    write(ledger, "UPDATE aihandoff.event_deliveries SET try_at = clock_timestamp()")
    assert "1 events were delivered" in cli("deliver", "--once")
    (_, first, body), (_, second, again) = receiver.got
    assert (first["webhook-id"], body) == (second["webhook-id"], again)


def test_the_command_sends_until_it_is_stopped(cli: Cli, url: str, receiver: Receiver, ledger: Ledger) -> None:
    subscribe(cli, url)
    script = """
from tests.airflow_compat import get_parser
args = get_parser().parse_args(["aihandoff", "events", "deliver"])
args.func(args)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert any("sent until this is stopped" in line for line in running.stdout)
            draft(ledger)
            until(lambda: len(receiver.got) == 3, within=60)
            until(lambda: ledger.event_subscriptions.read("shop").waiting == 0)
            running.terminate()
            assert running.wait(timeout=60) == 0
            assert "3 events were delivered." in running.stdout.read()
        finally:
            running.kill()


def test_a_receiver_that_is_gone_disables_its_subscription(
    cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(handler: BaseHTTPRequestHandler) -> None:
        saying(410)(handler)

    with receiving(gone) as receiver:
        listed = f"http://127.0.0.1:{receiver.server_port}"
        monkeypatch.setenv("AIRFLOW__AIHANDOFF__EVENT_INTERNAL_HOSTS", listed)
        subscribe(cli, listed)
        draft(ledger)
        cli("deliver", "--once")
    (row,) = json.loads(cli("subscriptions", "-o", "json"))
    assert (row["state"], len(receiver.got)) == ("disabled", 1)


def read(ledger: Ledger, statement: str) -> list[Any]:
    with psycopg.connect(**ledger._database.conninfo) as connection:
        return connection.execute(statement).fetchall()


def write(ledger: Ledger, statement: str) -> None:
    with psycopg.connect(**ledger._database.conninfo) as connection:
        connection.execute(statement)
