from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from airflow_provider_aihandoff.testing import OpenAIStandIn, RunningServer
from tests.unit.testing.conftest import Clock
from tests.unit.testing.test_stand_in_observed import process
from tests.waiting import until

from .receiver import OTHER_SECRET, SECRET, Receiver, all_is_sent, create


class TestRestart:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "state.jsonl"

    def test_what_was_not_delivered_is_sent_after_a_restart_under_the_same_id(
        self, url: str, receiver: Receiver, clock: Clock, path: Path
    ) -> None:
        def stand_in() -> OpenAIStandIn:
            return OpenAIStandIn(webhook_url=url, webhook_secrets=[SECRET], clock=clock, state_file=path)

        before = stand_in()
        receiver.statuses = [200, 500]
        with before.serve() as server:
            delivered = create(server, "delay=0")
            until(lambda: all_is_sent(before))
            refused = create(server, "delay=0")
            until(lambda: len(before.webhooks().attempts) == 2)
            running = create(server, "delay=10")
        clock.advance(10)
        after = stand_in()
        assert after.webhooks().attempts == before.webhooks().attempts
        with after.serve():
            until(lambda: all_is_sent(after))
        counted = Counter(received.response_id for received in receiver.received)
        assert counted == {delivered: 1, refused: 2, running: 1}
        assert len({received.id for received in receiver.received}) == 3

    def test_a_stand_in_that_sends_webhooks_can_be_served_again(
        self, stand_in: OpenAIStandIn, receiver: Receiver, clock: Clock
    ) -> None:
        with stand_in.serve() as server:
            create(server)
        clock.advance(10)
        with stand_in.serve() as server:
            create(server, "webhook=early")
            until(lambda: all_is_sent(stand_in))
        assert len(receiver.received) == 2

    def test_a_killed_process_sends_the_rest_when_it_starts_again(
        self, url: str, receiver: Receiver, path: Path
    ) -> None:
        options = ("--port", "0", "--delay-seconds", "0", "--state-file", str(path), "--webhook-url", url)
        receiver.answers.clear()
        with process(*options, "--webhook-secret", SECRET) as (started, base_url):
            host, _, port = base_url.removeprefix("http://").removesuffix("/v1").partition(":")
            ids = {create(RunningServer(host, int(port))) for _ in range(40)}
            until(lambda: receiver.received)
            started.send_signal(signal.SIGKILL)
            started.wait()
        receiver.answers.set()
        with process(*options, "--webhook-secret", SECRET):
            until(lambda: {received.response_id for received in receiver.received} == ids)
        by_response = {(received.response_id, received.id) for received in receiver.received}
        assert len(by_response) == 40


class TestProcess:
    def test_secrets_come_from_options_and_from_the_environment(
        self, url: str, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        third = "whsec_dGhpcmQ="
        monkeypatch.setenv("AIHANDOFF_STANDIN_WEBHOOK_SECRETS", f"{OTHER_SECRET}  {third}")
        with process("--port", "0", "--webhook-url", url, "--webhook-secret", SECRET) as (_, base_url):
            host, _, port = base_url.removeprefix("http://").removesuffix("/v1").partition(":")
            create(RunningServer(host, int(port)), "delay=0")
            until(lambda: receiver.received)
        [received] = receiver.received
        assert [received.verifies(secret) for secret in (SECRET, OTHER_SECRET, third)] == [True, True, True]

    def test_a_webhook_url_without_a_secret_is_refused_in_a_sentence(self) -> None:
        command = [sys.executable, "-m", "airflow_provider_aihandoff.testing", "--webhook-url", "http://127.0.0.1/h"]
        environment = {k: v for k, v in os.environ.items() if k != "AIHANDOFF_STANDIN_WEBHOOK_SECRETS"}
        refused = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert refused.returncode == 2
        assert "need a secret" in refused.stderr
        assert "Traceback" not in refused.stderr
