"""What `airflow aihandoff doctor` finds: each finding says why it matters, and what fixes it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.event_delivery.subscription import WantedSubscription
from airflow_provider_aihandoff.core.generation.openai.tools import ToolPrices
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.doctor import ledger_checks
from airflow_provider_aihandoff.doctor.airflow_checks import (
    check_capacity,
    check_deferral,
    check_link,
    check_preloading,
    check_tool_prices,
    triggerers,
)
from airflow_provider_aihandoff.doctor.connection_checks import (
    check_arrivals,
    check_delivery,
    check_provider,
    check_secrets,
)
from airflow_provider_aihandoff.doctor.finding import Finding, Level, worst
from airflow_provider_aihandoff.doctor.ledger_checks import check_ledger
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.testing import OpenAIStandIn
from demo.postgres import URL_VARIABLE
from tests.factories import TEST, ask, draft, effect_plan
from tests.integration.cli.conftest import use

SECRET = "whsec_c2VjcmV0IHdpdGggMzIgYnl0ZXMgb2YgbGVuZ3Ro"


def of(findings: list[Finding], subject: str) -> Finding:
    (found,) = [finding for finding in findings if finding.subject == subject]
    return found


class TestLedger:
    def test_a_ledger_that_is_set_up_has_no_error(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        findings = list(check_ledger(conninfo))
        assert worst(findings) is not Level.ERROR
        for subject in ("ledger schema", "ledger rights", "clock", "notifications"):
            assert of(findings, subject).level is Level.OK

    def test_a_database_that_cannot_be_reached_is_said_without_its_password(self, conninfo: dict[str, Any]) -> None:
        (found,) = check_ledger({**conninfo, "port": 1, "password": "hunter-2"})
        assert (found.level, found.subject) == (Level.ERROR, "ledger")
        assert "hunter-2" not in str(found)

    def test_a_database_without_a_ledger_names_the_command(self, empty_conninfo: dict[str, Any]) -> None:
        found = of(list(check_ledger(empty_conninfo)), "ledger schema")
        assert (found.level, schema.UPGRADE_COMMAND in found.fix) == (Level.ERROR, True)

    def test_the_rights_that_a_role_lacks_are_named(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        if URL_VARIABLE in os.environ:
            pytest.skip("creates roles: only on a server of our own")
        with psycopg.connect(**conninfo, autocommit=True) as connection:
            connection.execute("DROP ROLE IF EXISTS doctor_user")
            connection.execute("CREATE ROLE doctor_user LOGIN PASSWORD 'user'")
            connection.execute("GRANT USAGE ON SCHEMA aihandoff TO doctor_user")
            connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA aihandoff TO doctor_user")
            findings = list(check_ledger({**conninfo, "user": "doctor_user", "password": "user"}))
            connection.execute("DROP OWNED BY doctor_user")
            connection.execute("DROP ROLE doctor_user")
        found = of(findings, "ledger rights")
        assert found.level is Level.ERROR
        assert "INSERT on jobs" in found.what
        assert "DELETE on inbox" in found.what
        assert of(findings, "ledger role").level is Level.OK

    def test_probes_that_saw_other_than_they_should_are_named(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        assert of(list(check_ledger(conninfo)), "probes").level is Level.OK
        job = ask(ledger, draft(ledger), effect_plan(), replace(effect_plan("announce"), find_counts=False))
        publish, _ = ledger.record(job.job_id).current_effects
        ledger.effects.note_probe(publish.effect_id, "it sees 2 records")

        findings = list(check_ledger(conninfo))
        seen, early = of(findings, "probe of publishing/publish"), of(findings, "probe of publishing/announce")
        assert "did not see exactly one record, for 1 of 1 effects in the last 7 days" in seen.what
        assert "It proves nothing for 1 of 1 effects" in early.what
        assert {seen.level, early.level} == {Level.WARNING}
        assert not any(finding.subject == "probes" for finding in findings)

    def test_probes_are_examined_within_bounds_and_the_elements_of_a_list_are_one_effect(
        self, ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plans = [replace(effect_plan(f"line[{index}]"), find_counts=False) for index in range(3)]
        ask(ledger, draft(ledger), *plans)
        found = of(list(check_ledger(conninfo)), "probe of publishing/line")
        assert "for 3 of 3 effects" in found.what
        monkeypatch.setattr(ledger_checks, "_PROBED_EFFECTS", 2)
        assert "for 2 of 2 effects" in of(list(check_ledger(conninfo)), "probe of publishing/line").what
        monkeypatch.setattr(ledger_checks, "_PROBE_DAYS", 0)
        assert of(list(check_ledger(conninfo)), "probes").level is Level.OK

    def test_a_job_whose_approval_no_task_asks_for_is_named_by_its_dag(
        self, ledger: Ledger, conninfo: dict[str, Any]
    ) -> None:
        job = draft(ledger)
        assert of(list(check_ledger(conninfo)), "approvals").level is Level.OK
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.jobs SET updated_at = updated_at - interval '2 hours'")
        found = of(list(check_ledger(conninfo)), "approvals")
        assert (found.level, "publishing (1)" in found.what) == (Level.WARNING, True)
        ask(ledger, job)
        assert of(list(check_ledger(conninfo)), "approvals").level is Level.OK

    def test_events_that_no_one_sends_or_takes_are_said(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        wanted = WantedSubscription("shop", "https://hooks.shop.example/", "shop_events")
        ledger.event_subscriptions.subscribe(wanted, reason="the shop", actor=TEST)
        draft(ledger)
        assert of(list(check_ledger(conninfo)), "events for shop").level is Level.OK
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.event_deliveries SET try_at = try_at - interval '11 minutes'")
        found = of(list(check_ledger(conninfo)), "events for shop")
        assert (found.level, found.what.partition(" ")[0]) == (Level.ERROR, "1")  # the others wait for the first one
        assert "aihandoff_events" in found.fix
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.event_deliveries SET state = 'dead', settled_at = now()")
        found = of(list(check_ledger(conninfo)), "events for shop")
        assert (found.level, found.what) == (Level.WARNING, "3 events were given up.")
        with psycopg.connect(**conninfo) as connection:
            connection.execute("UPDATE aihandoff.event_subscriptions SET state = 'disabled', state_reason = 'gone'")
        assert "is disabled: gone" in of(list(check_ledger(conninfo)), "events for shop").what

    def test_the_rights_on_every_table_are_examined(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        with psycopg.connect(**conninfo) as connection:
            rows = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'aihandoff'").fetchall()
        assert {table for (table,) in rows} - {schema.VERSION_TABLE} == {table for table, _ in ledger_checks._RIGHTS}

    def test_an_owner_is_warned_about(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        assert of(list(check_ledger(conninfo)), "ledger role").level is Level.WARNING

    def test_a_clock_that_is_off_is_said(
        self, ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = ledger_checks.time.time
        monkeypatch.setattr(ledger_checks.time, "time", lambda: real() - 600)
        found = of(list(check_ledger(conninfo)), "clock")
        assert (found.level, "600 s behind" in found.what) == (Level.WARNING, True)

    def test_notifications_that_do_not_arrive_are_said(
        self, ledger: Ledger, conninfo: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger_checks, "_NOTIFIED_WITHIN", 0.2)
        with psycopg.connect(**conninfo, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
            found = ledger_checks._check_notifications(connection, lambda: Silent.connect(**conninfo, autocommit=True))
        assert (found.level, found.subject) == (Level.WARNING, "notifications")


class Silent(psycopg.Connection[Any]):
    """A connection behind a pooler that gives each statement to another server."""

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        return super().execute("SELECT 1")


class TestConnections:
    @pytest.fixture
    def api(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        with OpenAIStandIn(delay_seconds=0).serve() as running:
            self.connection(monkeypatch, running.base_url)
            yield running.base_url

    @staticmethod
    def connection(monkeypatch: pytest.MonkeyPatch, host: str, **extra: Any) -> None:
        value = {"conn_type": "openai", "password": "sk-1234567890", "host": host, "extra": json.dumps(extra)}
        monkeypatch.setenv("AIRFLOW_CONN_OPENAI_DEFAULT", json.dumps(value))

    @pytest.mark.usefixtures("api")
    def test_an_api_that_answers_is_fine(self) -> None:
        with providers() as provider_for:
            assert check_provider("openai_default", provider_for).level is Level.OK

    def test_an_api_that_does_not_answer_and_a_connection_that_is_not_there_are_errors(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.connection(monkeypatch, "http://127.0.0.1:1/v1")
        with providers() as provider_for:
            for conn_id in ("openai_default", "openai_missing"):
                found = check_provider(conn_id, provider_for)
                assert (found.level, bool(found.fix), "sk-1234567890" in str(found)) == (Level.ERROR, True, False)

    @pytest.mark.parametrize(
        ("secrets", "level"), [(SECRET, Level.OK), ("whsec_", Level.WARNING), (None, Level.WARNING)]
    )
    def test_webhook_secrets_are_examined_and_never_shown(
        self, monkeypatch: pytest.MonkeyPatch, secrets: str | None, level: Level
    ) -> None:
        self.connection(monkeypatch, "", **({"webhook_secrets": secrets} if secrets else {}))
        found = check_secrets("openai_default")
        assert (found.level, SECRET in str(found)) == (level, False)

    def test_a_connection_that_had_no_webhook_is_warned_about(self, ledger: Ledger) -> None:
        assert check_arrivals("openai_default", ledger).level is Level.WARNING

    def test_an_address_where_no_receiver_answers_is_an_error(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.connection(monkeypatch, "", webhook_secrets=SECRET)
        found = check_delivery("http://127.0.0.1:1/aihandoff/webhooks/openai/openai_default", "openai_default", ledger)
        assert (found.level, found.subject) == (Level.ERROR, "webhook delivery")

    @pytest.mark.usefixtures("api")
    def test_an_address_that_refuses_the_event_is_an_error(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, api: str
    ) -> None:
        self.connection(monkeypatch, api, webhook_secrets=SECRET)
        found = check_delivery(f"{api}/nothing", "openai_default", ledger)
        assert (found.level, "404" in found.what) == (Level.ERROR, True)


class TestAirflow:
    def test_no_triggerer_is_an_error(self) -> None:
        assert triggerers([]).level is Level.ERROR
        assert triggerers(["b", "a"]).what == "2 with a heartbeat: a, b."

    @pytest.mark.parametrize(
        ("min_deferral", "heartbeat", "level"),
        [(8, 5, Level.OK), (2, 5, Level.WARNING), (2, 1, Level.OK), (0, 5, Level.WARNING)],
    )
    def test_settings_that_can_lose_a_task_are_warned_about(
        self, min_deferral: float, heartbeat: float, level: Level
    ) -> None:
        assert check_deferral(min_deferral, heartbeat).level is level

    @pytest.mark.parametrize(
        ("text", "level"),
        [
            ("", Level.OK),
            ('{"web_search": 0.01}', Level.OK),
            ("0.01", Level.ERROR),
            ('{"web_search": -1}', Level.ERROR),
        ],
    )
    def test_prices_of_tools_that_cannot_be_read_are_said(self, text: str, level: Level) -> None:
        prices = ToolPrices.of_text(text)
        found = check_tool_prices(prices.usd, prices.wrong)
        assert (found.level, bool(found.fix)) == (level, level is not Level.OK)

    @pytest.mark.parametrize(
        ("waiting", "count", "level"),
        [(799, 1, Level.OK), (800, 1, Level.WARNING), (1000, 1, Level.ERROR), (1000, 2, Level.OK)],
    )
    def test_triggerers_without_room_for_what_waits_are_said(self, waiting: int, count: int, level: Level) -> None:
        found = check_capacity(waiting, count, 1000)
        assert (found.level, bool(found.fix)) == (level, level is not Level.OK)

    @pytest.mark.parametrize(
        ("executor", "source", "advised"),
        [
            ("LocalExecutor", None, True),
            ("LocalExecutor", "import airflow_provider_aihandoff.operators.http", False),
            ("CeleryExecutor,KubernetesExecutor", "# nothing of ours", True),
            ("KubernetesExecutor", None, False),
        ],
    )
    def test_preloading_is_advised_where_tasks_are_forked(
        self, executor: str, source: str | None, advised: bool
    ) -> None:
        found = check_preloading(executor, source)
        assert (found.level, bool(found.fix)) == (Level.OK, advised)

    def test_links_need_an_address(self) -> None:
        assert check_link("").level is Level.WARNING
        assert check_link("https://airflow.example.com").level is Level.OK


class TestCommand:
    def test_the_exit_code_is_that_of_the_worst_finding(
        self,
        conninfo: dict[str, Any],
        ledger: Ledger,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        from tests.airflow_compat import get_parser

        use(conninfo, monkeypatch)
        TestConnections.connection(monkeypatch, "http://127.0.0.1:1/v1", webhook_secrets=SECRET)
        args = get_parser().parse_args(["aihandoff", "doctor", "-o", "json"])
        with pytest.raises(SystemExit) as ended:
            args.func(args)
        findings = json.loads(capsys.readouterr().out)
        assert ended.value.code == 2
        assert {"ledger schema", "connection openai_default", "triggerers"} <= {each["subject"] for each in findings}
        assert all(each["fix"] for each in findings if each["level"] != "ok")
        assert SECRET not in json.dumps(findings)
