"""Airflow's API server in this process, with logins of different rights, on a real ledger and real metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from airflow import settings
from airflow.api_fastapi import app as airflow_app
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.utils import db
from fastapi import FastAPI
from fastapi.testclient import TestClient

from airflow_provider_aihandoff.core.database import connection
from airflow_provider_aihandoff.hooks import ledger as ledger_hook
from demo.postgres import Postgres

ROLES = {"admin": "admin", "bob": "user", "carol": "user", "vic": "viewer"}
BASE_URL = "http://airflow.test"
OWN_SITE = {"Origin": BASE_URL}

Login = Callable[..., TestClient]
Grant = Callable[[str, str, str], None]


@pytest.fixture(scope="package")
def airflow(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    """The API server as it runs in production: not in the mode in which everyone is an admin."""
    folder = Path(tmp_path_factory.mktemp("airflow"))
    metadata = f"web_{os.getpid()}"
    postgres.create_database(metadata)
    variables = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.airflow_uri(metadata),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in ROLES.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "of-these-tests-" * 5,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        _use_database_of_environment()
        db.initdb()
        airflow_app.purge_cached_app()
        yield airflow_app.create_app(apps="core")
        airflow_app.purge_cached_app()
    _use_database_of_environment()


def _use_database_of_environment() -> None:
    settings.dispose_orm()
    settings.configure_vars()
    settings.configure_orm()


@pytest.fixture
def use_ledger(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Make these connection parameters those of the ledger that the app opens."""
    opened: dict[str, Any] = {}
    monkeypatch.setattr(ledger_hook, "_shared", opened)
    monkeypatch.setattr(connection, "CONNECT_TIMEOUT", 0.5)

    def use(conninfo: dict[str, Any]) -> None:
        uri = {
            "conn_type": "postgres",
            "host": conninfo["host"],
            "port": conninfo["port"],
            "login": conninfo["user"],
            "password": conninfo.get("password", ""),
            "schema": conninfo["dbname"],
        }
        monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", json.dumps(uri))

    yield use
    for ledger in opened.values():
        ledger.close()


@pytest.fixture
def login(airflow: FastAPI, use_ledger: Callable[[dict[str, Any]], None], conninfo: dict[str, Any]) -> Login:
    """A browser of a user, or a program with their token, on the ledger of the test."""
    use_ledger(conninfo)

    def open_client(
        username: str, *, bearer: bool = False, headers: dict[str, str] = OWN_SITE, teams: Sequence[str] = ()
    ) -> TestClient:
        client = TestClient(
            airflow, base_url=BASE_URL, follow_redirects=False, headers=headers, raise_server_exceptions=False
        )
        of_teams: dict[str, Any] = {"teams": [*teams]} if teams else {}  # before 3.2, Airflow has none
        user = SimpleAuthManagerUser(username=username, role=ROLES.get(username, "user"), **of_teams)
        token = airflow_app.get_auth_manager().generate_jwt(user)
        if bearer:
            client.headers = {"Authorization": f"Bearer {token}"}
        else:
            client.cookies.set("_token", token)
        return client

    return open_client


@pytest.fixture
def stranger(airflow: FastAPI, use_ledger: Callable[[dict[str, Any]], None], conninfo: dict[str, Any]) -> TestClient:
    """A browser in which no one is logged in."""
    use_ledger(conninfo)
    return TestClient(
        airflow, base_url=BASE_URL, follow_redirects=False, headers=OWN_SITE, raise_server_exceptions=False
    )


@pytest.fixture
def grant(monkeypatch: pytest.MonkeyPatch) -> Grant:
    """From here on, users may do to the human-in-the-loop details of a Dag what is granted, and nothing else."""
    grants: set[tuple[str, str, str]] = set()

    def is_authorized_dag(
        self: Any,
        *,
        method: str,
        user: SimpleAuthManagerUser,
        access_entity: DagAccessEntity | None = None,
        details: DagDetails | None = None,
    ) -> bool:
        dag_id = details.id if details else None
        return access_entity is DagAccessEntity.HITL_DETAIL and (user.username, method, dag_id) in grants

    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", is_authorized_dag)
    return lambda username, method, dag_id: grants.add((username, method, dag_id))


@dataclass(frozen=True)
class Element:
    tag: str
    attributes: dict[str, str | None]


class Page(HTMLParser):
    """What a browser makes of a page: its elements, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.text = ""
        #: What a browser would send of all forms, buttons aside.
        self.form: dict[str, str] = {}
        self._area: str | None = None
        self._select = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.elements.append(Element(tag, found))
        name = found.get("name") or ""
        if tag == "textarea":
            self._area, self.form[name] = name, ""
        elif tag == "select":
            self._select = name
        elif tag == "option" and ("selected" in found or self._select not in self.form):
            self.form[self._select] = found.get("value") or ""
        elif tag == "input" and (found.get("type") != "checkbox" or "checked" in found):
            self.form[name] = (
                found.get("value") or "on" if found.get("type") == "checkbox" else found.get("value") or ""
            )

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea" and self._area is not None:
            self.form[self._area] = self.form[self._area].removeprefix("\n")
            self._area = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._area is not None:
            self.form[self._area] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [element.attributes for element in self.elements if element.tag == tag]

    def field(self, name: str) -> str | None:
        """The value of an input of the form."""
        return next((item["value"] for item in self.all("input") if item.get("name") == name), None)

    @property
    def buttons(self) -> list[str | None]:
        return [item.get("value") for item in self.all("button")]
