"""One Airflow for the tests of this folder, with its four components, the business system and the stand-in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.ledger import Ledger
from demo.airflow_api import AirflowApi
from demo.local import DAGS_FOLDER, LocalDemo, running_demo
from demo.pipelines import PIPELINES, open_ledger
from tests.airflow_compat import WAIT_IN
from tests.mail import Mailbox, mail_server
from tests.target import Answer, Target, serve

OTHER_DAGS = {"slow_draft", "watched_draft", "attended_draft", "function_effect", "aihandoff_rollback"}
OTHER_DAGS |= {
    "ticket_set",
    "ticket_set_written_as_decided",
    "notified",
    "notified_both",
    "notified_by_policy",
    "order_lines",
}
OTHER_DAGS |= {"refined"} if RELEASE >= (3, 4) else set()
OTHER_DAGS |= {"escalated", "expires_rejected", "expires_failed", "expires_by_policy"}


@pytest.fixture(scope="package")
def mailbox() -> Mailbox:
    """The mail that the notifiers of the Dags have sent."""
    return Mailbox()


@pytest.fixture(scope="package")
def slack() -> Iterator[Target]:
    """What stands in for Slack, and keeps what the notifiers of the Dags have sent there."""
    with serve() as target:
        target.answer_by_path["/services/secret"] = Answer(200, {"ok": True})
        yield target


@pytest.fixture(scope="package")
def connections(mailbox: Mailbox, slack: Target) -> Iterator[dict[str, str]]:
    """How Airflow reaches both, and where its approvals wait."""
    webhook = {"conn_type": "slackwebhook", "password": f"http://127.0.0.1:{slack.port}/services/secret"}
    wait_in = {"AIRFLOW__AIHANDOFF__APPROVALS_WAIT_IN": WAIT_IN}
    with mail_server(mailbox) as mail:
        yield {"AIRFLOW_CONN_REVIEWERS_MAIL": mail, "AIRFLOW_CONN_REVIEWERS_SLACK": json.dumps(webhook), **wait_in}


@pytest.fixture(scope="package")
def demo(tmp_path_factory: pytest.TempPathFactory, connections: dict[str, str]) -> Iterator[LocalDemo]:
    dags = Path(tmp_path_factory.mktemp("dags"))
    for folder in (DAGS_FOLDER, Path(__file__).parents[1] / "dags"):
        shutil.copytree(folder, dags, dirs_exist_ok=True, ignore=shutil.ignore_patterns("features.py"))  # needs 3.2
    home = Path(tmp_path_factory.mktemp("demo"))
    with running_demo(home, dags, extra_env=connections, answer_seconds=5) as demo:
        demo.airflow.api().wait_for_dags({*PIPELINES, *OTHER_DAGS})
        yield demo


@pytest.fixture(scope="package")
def admin(demo: LocalDemo) -> AirflowApi:
    return demo.airflow.api("admin")


@pytest.fixture(scope="package")
def ledger(demo: LocalDemo) -> Iterator[Ledger]:
    with open_ledger(demo) as ledger:
        yield ledger
