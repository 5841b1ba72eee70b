"""The doctor's page: for users who may edit connections, on request, in time, and also where there is no ledger."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from inspect import iscoroutinefunction
from typing import Any

import pytest
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.doctor.examine import Check
from airflow_provider_aihandoff.doctor.finding import Finding, Level
from airflow_provider_aihandoff.testing import OpenAIStandIn
from airflow_provider_aihandoff.web.pages import doctor_page, overview_page
from tests.integration.web.conftest import Login, Page

DOCTOR = "/aihandoff/doctor"
SECRET = "whsec_c2VjcmV0IHdpdGggMzIgYnl0ZXMgb2YgbGVuZ3Ro"


@pytest.fixture(autouse=True)
def openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(overview_page, "live_triggerers", lambda: ["host-1"])
    with OpenAIStandIn().serve() as running:
        extra = json.dumps({"webhook_secrets": SECRET})
        connection = {"conn_type": "openai", "password": "sk-1234567890", "host": running.base_url, "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(connection))
        yield


def links(client: Any, path: str) -> list[str | None]:
    return [a["href"] for a in Page(client.get(path).text).all("a")]


def test_it_examines_on_request_and_says_what_why_and_what_fixes_it(login: Login, ledger: Ledger) -> None:
    admin = login("admin")
    assert DOCTOR in links(admin, "/aihandoff/overview")
    before = admin.get(DOCTOR)
    assert "Run the checks" in before.text
    assert "no triggerer" not in before.text.lower()
    answer = admin.get(f"{DOCTOR}?run=true")
    assert answer.status_code == 200
    text = " ".join(Page(answer.text).text.split())
    # The tests' role is a superuser, and no triggerer runs.
    for said in (
        "warning ledger role The role",
        "error triggerers None has a heartbeat.",
        "Why it mattersDeferred tasks do not go on",
        "What fixes itStart one: airflow triggerer.",
        "connection openai_defaultThe API answers, and accepts the credentials.",
        "ledger schemaThe schema has the version",
        "None has ever come.",
    ):
        assert said in text, said
    for secret in ("sk-1234567890", SECRET):
        assert secret not in answer.text


def test_errors_stand_before_warnings(login: Login, ledger: Ledger) -> None:
    html = login("admin").get(f"{DOCTOR}?run=true").text
    levels = [each["class"] for each in Page(html).all("span") if "badge" in (each.get("class") or "")]
    errors = levels.count("badge error")
    assert 0 < errors < len(levels)
    assert levels == ["badge error"] * errors + ["badge warning"] * (len(levels) - errors)


@pytest.mark.parametrize("name", ["bob", "vic"])
def test_who_may_not_edit_connections_is_refused_and_sees_no_link(login: Login, ledger: Ledger, name: str) -> None:
    client = login(name)
    for path in (DOCTOR, f"{DOCTOR}?run=true"):
        answer = client.get(path)
        assert (answer.status_code, "permission to edit Airflow&#39;s connections" in answer.text) == (403, True)
    assert DOCTOR not in links(client, "/aihandoff/overview")


def test_a_stranger_is_sent_to_log_in(stranger: Any, ledger: Ledger) -> None:
    assert stranger.get(f"{DOCTOR}?run=true").status_code == 303


def test_the_right_is_that_of_the_auth_manager(login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def is_authorized_connection(self: Any, *, method: str, user: Any, details: Any = None) -> bool:
        asked.append((user.username, method))
        return False

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_connection", is_authorized_connection)
    assert login("admin").get(DOCTOR).status_code == 403
    assert set(asked) == {("admin", "PUT")}


def test_a_ledger_that_cannot_be_reached_is_a_finding_and_no_error(
    login: Login, ledger: Ledger, use_ledger: Callable[[dict[str, Any]], None], conninfo: dict[str, Any]
) -> None:
    admin = login("admin")
    use_ledger({**conninfo, "port": 1, "password": "hunter-2"})
    answer = admin.get(f"{DOCTOR}?run=true")
    assert answer.status_code == 200
    assert "The database cannot be reached from here" in answer.text
    assert "hunter-2" not in answer.text


def test_a_check_that_hangs_ends_in_time_and_holds_up_no_other_request(
    login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def hang() -> list[Finding]:
        go_on.wait(30)
        return []

    checks = [Check("hanging", hang), Check("fine", lambda: [Finding(Level.OK, "fine", "It is fine.")])]
    monkeypatch.setattr(doctor_page, "checks_of", lambda *args: checks)
    monkeypatch.setattr(doctor_page.run_bounded, "__defaults__", (1.0,))
    text = " ".join(Page(login("admin").get(f"{DOCTOR}?run=true").text).text.split())
    assert "The check did not end within 1 s." in text
    assert "It is fine." in text
    go_on.set()
    # It runs in a thread: only a coroutine would run in the event loop of the API server.
    assert not iscoroutinefunction(doctor_page.doctor)


def test_what_a_finding_says_is_shown_as_text(login: Login, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    attack = "<script>alert(1)</script> `<b>`"
    finding = Finding(Level.ERROR, attack, attack, attack, attack)
    monkeypatch.setattr(doctor_page, "checks_of", lambda *args: [Check("a", lambda: [finding])])
    html = login("admin").get(f"{DOCTOR}?run=true").text
    assert "<script" not in html
    assert "<b>" not in html
