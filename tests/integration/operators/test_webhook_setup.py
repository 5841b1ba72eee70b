"""`airflow aihandoff webhooks register|rotate|test`: what is sent to OpenAI, and where the secret goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.models import Connection
from airflow.utils.session import create_session

from tests.airflow_compat import get_parser
from tests.target import Answer, Target, serve

NEW, OLD = "whsec_bmV3IHNlY3JldCB3aXRoIDMyIGJ5dGVzIGluIGl0", "whsec_b2xkIHNlY3JldCB3aXRoIDMyIGJ5dGVzIGluIGl0"
URL = "https://airflow.example.com/aihandoff/webhooks/openai/openai_hooks"
TYPES = ["response.completed", "response.failed", "batch.completed", "safety.alert.created", "eval.run.succeeded"]
ENDPOINT = {
    "id": "wh_1",
    "object": "webhook_endpoint",
    "created_at": 1,
    "name": "Airflow AI Handoff",
    "url": URL,
    "event_types": ["response.completed"],
}

Cli = Callable[..., str]


def answer(status: int, body: Any) -> Answer:
    """An answer after which the client does not use its connection again, which the server closes."""
    return Answer(status, body, {"Connection": "close"})


def page(*endpoints: dict[str, Any]) -> Answer:
    return answer(200, {"object": "list", "data": list(endpoints), "has_more": False})


@pytest.fixture
def openai() -> Iterator[Target]:
    """What stands in for OpenAI's API of endpoints."""
    with serve() as target:
        yield target


@pytest.fixture
def stored(airflow: None, openai: Target) -> Iterator[Callable[[], Any]]:
    """A connection in Airflow's database; reads its secrets."""
    extra = json.dumps({"webhook_secrets": [OLD], "conversations": True})
    made = Connection(
        "openai_hooks", "openai", host=f"http://127.0.0.1:{openai.port}/v1", password="sk-secret", extra=extra
    )
    with create_session() as session:
        session.add(made)

    def secrets() -> Any:
        with create_session() as session:
            found = session.query(Connection).filter_by(conn_id="openai_hooks").one()
            assert found.extra_dejson["conversations"] is True
            return found.extra_dejson["webhook_secrets"]

    yield secrets
    with create_session() as session:
        session.query(Connection).filter_by(conn_id="openai_hooks").delete()


@pytest.fixture
def cli(airflow: None, capsys: pytest.CaptureFixture[str]) -> Cli:
    def run(*words: str) -> str:
        capsys.readouterr()
        args = get_parser().parse_args(["aihandoff", "webhooks", *words, "--openai-conn-id", "openai_hooks"])
        args.func(args)
        return capsys.readouterr().out

    return run


def test_register_makes_an_endpoint_for_responses_batches_and_safety_and_keeps_its_secret_first(
    cli: Cli, stored: Callable[[], Any], openai: Target
) -> None:
    created = {**ENDPOINT, "event_types": TYPES[:4], "signing_secret": NEW}
    openai.answers = [page(), answer(200, {"object": "list", "data": TYPES}), answer(200, created)]
    printed = cli("register", "--url", URL)
    assert stored() == [NEW, OLD]
    assert NEW not in printed
    asked = openai.received[-1]
    assert (asked.method, asked.path) == ("POST", "/v1/webhook_endpoints")
    assert asked.json["url"] == URL
    assert asked.json["event_types"] == TYPES[:4]


def test_register_makes_no_second_endpoint_for_an_address(cli: Cli, stored: Callable[[], Any], openai: Target) -> None:
    openai.answers = [page(ENDPOINT)]
    with pytest.raises(SystemExit, match="wh_1"):
        cli("register", "--url", URL)
    assert [request.method for request in openai.received] == ["GET"]
    assert stored() == [OLD]


def test_a_create_that_is_not_answered_is_not_sent_again(cli: Cli, stored: Callable[[], Any], openai: Target) -> None:
    openai.answers = [page(), answer(200, {"object": "list", "data": TYPES}), answer(500, {"error": {}})]
    with pytest.raises(SystemExit, match="the endpoint may be there"):
        cli("register", "--url", URL)
    assert [request.method for request in openai.received] == ["GET", "GET", "POST"]


def test_an_address_without_https_is_refused_before_openai_is_asked(
    cli: Cli, stored: Callable[[], Any], openai: Target
) -> None:
    with pytest.raises(SystemExit, match="https alone"):
        cli("register", "--url", "http://airflow.example.com/aihandoff/webhooks/openai/openai_hooks")
    assert openai.received == []


def test_rotate_keeps_the_old_secret_at_openai_and_here(cli: Cli, stored: Callable[[], Any], openai: Target) -> None:
    other = {**ENDPOINT, "id": "wh_2", "url": "https://elsewhere.example.com/hooks"}
    openai.answers = [page(other, ENDPOINT), answer(200, {**ENDPOINT, "signing_secret": NEW})]
    assert NEW not in cli("rotate")
    assert stored() == [NEW, OLD]
    asked = openai.received[-1]
    assert asked.path == "/v1/webhook_endpoints/wh_1/rotate_secret"
    assert asked.json == {"keep_old_secret_active_for_24_hours": True}


@pytest.mark.parametrize("words", [["register", "--url", URL], ["rotate"]])
def test_no_secret_is_made_that_could_not_be_kept_unless_it_is_to_be_printed(
    cli: Cli, stored: Callable[[], Any], openai: Target, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    elsewhere = {"conn_type": "openai", "host": f"http://127.0.0.1:{openai.port}/v1", "password": "sk-secret"}
    monkeypatch.setenv("AIRFLOW_CONN_OPENAI_HOOKS", json.dumps(elsewhere))
    with pytest.raises(SystemExit, match="--print-secret"):
        cli(*words)
    assert openai.received == []

    new = answer(200, {**ENDPOINT, "signing_secret": NEW})
    openai.answers = [page(), answer(200, {"object": "list", "data": TYPES}), new]
    if words == ["rotate"]:
        openai.answers = [page(ENDPOINT), new]
    assert NEW in cli(*words, "--print-secret").splitlines()
    assert stored() == [OLD]


def test_a_secret_that_cannot_be_used_or_written_is_printed_rather_than_lost(
    cli: Cli, stored: Callable[[], Any], openai: Target
) -> None:
    openai.answers = [page(ENDPOINT), answer(200, {**ENDPOINT, "signing_secret": "whsec_!"})]
    assert "whsec_!" in cli("rotate").splitlines()
    assert stored() == [OLD]


def test_rotate_needs_exactly_one_endpoint(cli: Cli, stored: Callable[[], Any], openai: Target) -> None:
    openai.answers = [page(ENDPOINT, {**ENDPOINT, "id": "wh_2"})]
    with pytest.raises(SystemExit, match="2 endpoints"):
        cli("rotate")
    openai.answers = [page({**ENDPOINT, "url": "https://elsewhere.example.com/hooks"})]
    with pytest.raises(SystemExit, match=r"0 endpoints.*elsewhere"):
        cli("rotate")


@pytest.mark.parametrize(("status", "ends"), [(200, None), (404, "404"), (503, "503")])
def test_a_test_says_how_the_receiver_has_answered(
    cli: Cli, stored: Callable[[], Any], openai: Target, status: int, ends: str | None
) -> None:
    result = {
        "object": "webhook_endpoint.test",
        "webhook_endpoint_id": "wh_1",
        "event_type": "response.completed",
        "status_code": status,
        "success": True,
    }
    openai.answers = [page(ENDPOINT), answer(200, result)]
    if ends is None:
        assert "took a sample event of OpenAI (200)" in cli("test")
    else:
        with pytest.raises(SystemExit, match=f"with {ends}"):
            cli("test")
    assert openai.received[-1].json == {"event_type": "response.completed"}


def test_a_server_without_this_api_is_named(cli: Cli, stored: Callable[[], Any], openai: Target) -> None:
    openai.answers = [answer(404, {"error": {"message": "no such route"}})]
    with pytest.raises(SystemExit, match="no such route"):
        cli("test")
