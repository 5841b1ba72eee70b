"""Events on a real Airflow: a triggerer sends them, with secrets from a connection in Airflow's database."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook

from airflow_provider_aihandoff.core.event_delivery.subscription import WantedSubscription
from demo.local import DAGS_FOLDER, running_demo
from demo.pipelines import open_ledger
from tests.event_receiver import receiving, saying
from tests.factories import TEST, draft, job_spec

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

SECRET = f"whsec_{'c2VjcmV0' * 5}"
STATES = ["queued", "working", "in review"]


def test_a_triggerer_sends_events_and_one_that_is_killed_is_followed_by_the_next(tmp_path: Path) -> None:
    dags = tmp_path / "dags"
    dags.mkdir()
    shutil.copy(DAGS_FOLDER / "aihandoff_events.py", dags)
    with receiving(saying(204)) as receiver:
        listed = f"http://127.0.0.1:{receiver.server_port}"
        env = {
            "AIRFLOW__AIHANDOFF__EVENT_INTERNAL_HOSTS": listed,
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": "True",  # the Dag is a continuous one
        }
        with running_demo(tmp_path / "demo", dags, extra_env=env) as demo, open_ledger(demo) as ledger:
            admin = demo.airflow.api("admin")
            admin.wait_for_dags({"aihandoff_events"})
            extra = json.dumps({"webhook_secrets": SECRET})
            made = {"connection_id": "shop_events", "conn_type": "generic", "extra": extra}
            admin.json("POST", "/api/v2/connections", json=made)
            wanted = WantedSubscription("shop", f"{listed}/jobs", "shop_events")
            ledger.event_subscriptions.subscribe(wanted, reason="the shop", actor=TEST)
            admin.set_paused("aihandoff_events", paused=False)

            draft(ledger)
            admin.wait_for(lambda: len(receiver.got) >= len(STATES), "the events of a job", 180)
            demo.airflow.kill("triggerer")
            draft(ledger, job_spec(job_key="post:pot"), response_id="resp_2")
            demo.airflow.revive()
            admin.wait_for(lambda: ledger.event_subscriptions.read("shop").waiting == 0, "the rest of the events", 300)

        events = [Webhook(SECRET).verify(body, headers) for _, headers, body in receiver.got]
    heard = {event["id"]: (event["data"]["key"], event["data"]["state"]) for event in events}
    assert list(heard.values()) == [(key, state) for key in ("post:kettle", "post:pot") for state in STATES]
