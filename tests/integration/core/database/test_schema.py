"""The schema: the same however it came to be, and strict about what it holds."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random
from typing import Any, get_args

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from airflow_provider_aihandoff.core.admission.pause_store import Scope
from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.database import schema
from airflow_provider_aihandoff.core.database.history import GENESIS, first_break
from airflow_provider_aihandoff.core.digests import digest, input_digest
from airflow_provider_aihandoff.core.effects.effect_store import Claim
from airflow_provider_aihandoff.core.errors import CannotRollBack, ClaimLost, EffectUnknown, LedgerSchemaError
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.surplus_store import Surplus
from airflow_provider_aihandoff.core.jobs.attach import Attachment
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import (
    Actor,
    ActorKind,
    Approval,
    AuthorKind,
    DeciderKind,
    Decision,
    Effect,
    EffectPlan,
    Event,
    InboxEntry,
    Job,
    OnTimeout,
    Revision,
    Verdict,
)
from airflow_provider_aihandoff.core.review.decision_link import LinkVerdict
from airflow_provider_aihandoff.core.states import Disposition, EffectState, JobState, ResponseStatus, RevisionState
from airflow_provider_aihandoff.core.webhooks.inbox import Delivery
from demo.postgres import Postgres
from tests.factories import LEASE, TEST, draft, job_spec, line_of_version_1, submit
from tests.integration.core.database import version_0004
from tests.integration.core.database.older import upgrade_to
from tests.integration.core.database.version_0002 import EFFECTS, HISTORIES, TOKEN, write_rows

#: Columns of jobs that a trigger keeps, for lists alone.
TOTALS = {"known_cost_usd", "retries"}

CATALOGS = {
    "columns": """
        SELECT table_name, column_name, ordinal_position, data_type, is_nullable, column_default, is_identity,
            identity_generation
        FROM information_schema.columns WHERE table_schema = 'aihandoff'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid), convalidated
        FROM pg_constraint WHERE connamespace = 'aihandoff'::regnamespace""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'aihandoff'",
    "triggers": """
        SELECT tgname, tgenabled, pg_get_triggerdef(t.oid) FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
        WHERE c.relnamespace = 'aihandoff'::regnamespace AND NOT tgisinternal""",
    "functions": """
        SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'aihandoff'::regnamespace""",
    "relations": """
        SELECT relname, relkind, relpersistence FROM pg_class WHERE relnamespace = 'aihandoff'::regnamespace""",
    "version": "SELECT version_num FROM aihandoff.alembic_version",
}


TABLES = ("ledger", "jobs", "revisions", "decisions", "effects", "inbox", "events")

#: A job that runs, and one of everything else, as the first release wrote them. Its history is of one line.
_LINE = line_of_version_1(
    job_id=1,
    seq=1,
    at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    actor="task:publishing/manual__1/draft#1",
    event="submitted",
    from_state="queued",
    to_state="running",
    reason=None,
    detail={"revision": 1},
    previous_hash=GENESIS,
)
ROWS_OF_0001 = f"""
    INSERT INTO aihandoff.jobs (job_type, job_key, state, input, input_digest, requested_by, permissions, approval,
        max_revisions, revision, dag_id, run_id, task_id, map_index, ti_id, try_number, event_seq, event_hash,
        created_at, updated_at)
    VALUES ('publishing', 'post:kettle', 'running', '{{"b": 1, "a": "\\u0000"}}', 'digest', 'alice', '{{}}', 'required',
        3, 1, 'publishing', 'manual__1', 'draft', -1, 'ti-1', 1, 1, '{_LINE.hash}', now(), now());
    INSERT INTO aihandoff.revisions (job_id, number, author, state, conn_id, request, request_digest, deadline,
        submissions, response_id, response_status, created_at)
    VALUES (1, 1, 'model', 'running', 'openai_default', '{{}}', 'digest', now(), 1, 'resp_1', 'queued', now());
    INSERT INTO aihandoff.decisions (job_id, revision, verdict, digest, decided_by, decided_by_kind, created_at)
    VALUES (1, 1, 'request changes', 'digest', 'bob', 'user', now());
    INSERT INTO aihandoff.effects (job_id, revision, name, position, kind, effect_key, state, plan, plan_digest,
        created_at, updated_at)
    VALUES (1, 1, 'publish', 0, 'http', 'aih-1', 'void', '{{}}', 'digest', now(), now());
    INSERT INTO aihandoff.inbox (webhook_id, conn_id, event_type, body, disposition, received_at, updated_at)
    VALUES ('wh_0', 'openai_default', 'batch.completed', '{{}}', 'ignored', now(), now());
    INSERT INTO aihandoff.events (job_id, seq, at, actor, event, from_state, to_state, detail, previous_hash, hash)
    VALUES (1, 1, '{_LINE.at.isoformat()}', '{_LINE.actor}', 'submitted', 'queued', 'running', '{{"revision": 1}}',
        '{GENESIS}', '{_LINE.hash}')"""  # noqa: S608


def catalogs(conninfo: Mapping[str, Any]) -> dict[str, list[Any]]:
    with psycopg.connect(**conninfo) as connection:
        return {name: sorted(connection.execute(query).fetchall(), key=repr) for name, query in CATALOGS.items()}


def run(conninfo: Mapping[str, Any], statement: str) -> None:
    with psycopg.connect(**conninfo) as connection:
        connection.execute(statement)


def rows(conninfo: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """All that a ledger holds."""
    with psycopg.connect(**conninfo, row_factory=dict_row) as connection:
        return {
            table: connection.execute(sql.SQL("SELECT * FROM aihandoff.{}").format(sql.Identifier(table))).fetchall()
            for table in TABLES
        }


def copy_rows(newer: Mapping[str, Any], older: Mapping[str, Any], *tables: str) -> None:
    """Copy rows into the ledger of an older release, with the columns that it has."""
    with psycopg.connect(**newer) as source, psycopg.connect(**older) as into:
        for table in tables:
            known = into.execute(
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_schema = 'aihandoff' AND table_name = %s",
                [table],
            ).fetchall()
            parts = {
                "table": sql.Identifier("aihandoff", table),
                "columns": sql.SQL(", ").join(sql.Identifier(name) for (name,) in known),
            }
            read = sql.SQL("SELECT json_agg(kept)::text FROM (SELECT {columns} FROM {table}) AS kept").format(**parts)
            write = sql.SQL(
                "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE "
                "SELECT {columns} FROM json_populate_recordset(NULL::{table}, %s::json)"
            ).format(**parts)
            into.execute(write, source.execute(read).fetchone())


def with_keyed_digests(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """The rows of an earlier release with the digests of inputs and requests as they are after the upgrade."""
    key = after["ledger"][0]["digest_key"].encode()
    names = {"input_digest", "request_digest"}
    for row in (row for rows in before.values() for row in rows):
        for name in row.keys() & names:
            row[name] = f"hmac-sha256:{hmac.new(key, row[name].encode(), 'sha256').hexdigest()}"
    return before


class TestUpgrade:
    def test_a_migrated_ledger_is_the_one_that_a_fresh_installation_gets(
        self, empty_conninfo: dict[str, Any], conninfo: dict[str, Any]
    ) -> None:
        schema.upgrade(empty_conninfo, from_migrations=True)
        migrated, fresh = catalogs(empty_conninfo), catalogs(conninfo)
        assert all(fresh.values())
        assert migrated == fresh

    def test_an_upgrade_says_what_it_did_and_a_second_one_does_nothing(self, empty_conninfo: dict[str, Any]) -> None:
        head = schema.head_version()
        assert schema.upgrade(empty_conninfo) == (None, head)
        with Ledger(empty_conninfo) as ledger:
            ledger_id = ledger.ledger_id()
        assert schema.upgrade(empty_conninfo) == (head, head)
        with Ledger(empty_conninfo) as ledger:
            assert ledger.ledger_id() == ledger_id

    def test_an_upgrade_from_the_first_release_keeps_what_the_ledger_holds_and_goes_on_with_it(
        self, empty_conninfo: dict[str, Any]
    ) -> None:
        upgrade_to(empty_conninfo, "0001")
        run(empty_conninfo, ROWS_OF_0001)
        before = rows(empty_conninfo)
        assert len(before) == len(TABLES)
        assert all(before.values())
        assert schema.upgrade(empty_conninfo) == ("0001", schema.head_version())
        after = rows(empty_conninfo)
        for table, kept in with_keyed_digests(before, after).items():
            assert [{name: row[name] for name in kept[0]} for row in after[table]] == kept
        assert after["jobs"][0]["review_on_timeout"] is None
        assert [(row["polls"], row["poll_at"], row["note"]) for row in after["inbox"]] == [(0, None, None)]
        with Ledger(empty_conninfo) as ledger:
            ledger.check_schema()
            job = ledger.record(1).job
            assert first_break(ledger.record(1).events, job) is None
            event = {"type": "response.completed", "data": {"id": "resp_1"}}
            delivery = Delivery("wh_1", "openai_default", "response.completed", "resp_1", event)
            assert ledger.inbox.receive(delivery).entry.disposition is Disposition.APPLIED
            assert first_break(ledger.record(1).events, ledger.job(1)) is None

    def test_two_upgrades_at_once_make_one_ledger(self, empty_conninfo: dict[str, Any]) -> None:
        with ThreadPoolExecutor(2) as threads:
            results = list(threads.map(schema.upgrade, [empty_conninfo] * 2))
        head = schema.head_version()
        assert sorted(results, key=repr) == sorted([(None, head), (head, head)], key=repr)

    def test_an_upgrade_that_fails_half_way_leaves_nothing(self, empty_conninfo: dict[str, Any]) -> None:
        run(empty_conninfo, "CREATE SCHEMA aihandoff; CREATE TABLE aihandoff.inbox (a int)")
        with pytest.raises(Exception, match="already exists"):
            schema.upgrade(empty_conninfo)
        run(empty_conninfo, "DROP TABLE aihandoff.inbox")
        assert schema.upgrade(empty_conninfo)[0] is None

    def test_a_role_that_may_not_create_schemas_can_fill_the_one_it_was_given(
        self, empty_conninfo: dict[str, Any], postgres: Postgres
    ) -> None:
        role = sql.Identifier(f"tenant_{empty_conninfo['dbname']}")
        with psycopg.connect(**empty_conninfo) as connection:
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'tenant'").format(role))
            connection.execute(sql.SQL("CREATE SCHEMA aihandoff AUTHORIZATION {}").format(role))
        tenant = {**empty_conninfo, "user": role.as_string().strip('"'), "password": "tenant"}
        assert schema.upgrade(tenant) == (None, schema.head_version())
        assert schema.upgrade(tenant)[0] == schema.head_version()


class TestUpgradeFrom0015:
    def test_jobs_in_every_state_go_on_and_what_was_sent_before_counts_for_no_budget(
        self, ledger: Ledger, conninfo: dict[str, Any], empty_conninfo: dict[str, Any]
    ) -> None:
        upgrade_to(empty_conninfo, "0015")
        asked = {key: self.intend(ledger, key) for key in ("sending", "refused", "lost", "failed")}
        lost, failed = asked["lost"], asked["failed"]
        ledger.submission.submission_lost(lost.revision.job_id, 1, token=lost.token, actor=TEST, reason="timeout")
        ledger.outputs.fail(failed.revision.job_id, 1, actor=TEST, reason="refused", error={"kind": "refused"})
        running, replaced = (submit(ledger, job_spec(job_key=key), f"resp_{key}") for key in ("running", "replaced"))
        ledger.submission.open(job_spec(job_key="replaced", input={"other": "input"}))
        draft(ledger, job_spec(job_key="review"), response_id="resp_review")
        queued = ledger.submission.open(job_spec(job_key="queued", max_cost_usd=Decimal(1))).job
        ledger.pauses.begin(Scope(job_type="paused"), writes=False, reason="so", actor=TEST)
        held = self.intend(ledger, "held", job_type="paused").revision
        assert held.is_held
        copy_rows(conninfo, empty_conninfo, "jobs", "revisions", "events", "pauses")
        with psycopg.connect(**empty_conninfo) as connection:
            for table, column in (("jobs", "job_id"), ("revisions", "revision_id"), ("pauses", "pause_id")):
                connection.execute(
                    "SELECT setval(pg_get_serial_sequence(%s, %s), 1000)", [f"aihandoff.{table}", column]
                )

        assert schema.upgrade(empty_conninfo) == ("0015", schema.head_version())

        with Ledger(empty_conninfo) as upgraded:
            upgraded.budgets.add(checked_spec("all", 1, period="total", owner="alice"), why="so", actor=TEST)
            for key in ("sending", "lost"):
                job_id, token = asked[key].revision.job_id, asked[key].token
                where: dict[str, Any] = {"token": token, "response_id": f"resp_{key}", "actor": TEST}
                assert upgraded.submission.submitted(job_id, 1, status=ResponseStatus.QUEUED, **where) is not None
            refused = asked["refused"]
            upgraded.submission.not_submitted(refused.revision.job_id, 1, token=refused.token, actor=TEST, reason="503")
            for job_id in (running.job_id, asked["sending"].revision.job_id, lost.revision.job_id):
                output = Output(ResponseStatus.COMPLETED, "Text.", cost_usd=Decimal(5))
                assert upgraded.outputs.store(job_id, 1, output, actor=TEST).state is JobState.REVIEW
            left = Surplus("resp_replaced", replaced.job_id, 1, replaced.conn_id, is_current=True)
            assert upgraded.surplus.settle(left, actor=TEST, reason="ended", detail={"cost_usd": Decimal(5)})
            assert upgraded.budgets.read("all").use.used_usd == 0

            upgraded.pauses.end(1, reason="so", actor=TEST)
            for count, job_id in enumerate((queued.job_id, held.job_id, refused.revision.job_id), start=1):
                assert self.ask(upgraded, job_id).token is not None
                assert upgraded.budgets.read("all").use.reserved_usd == count * Decimal("0.25")
            again = upgraded.submission.open(job_spec(job_key="failed"))
            assert (again.job.revision, self.ask(upgraded, again.job.job_id, 2).token is not None) == (2, True)
            more = upgraded.submission.open(job_spec(job_key="another")).job
            assert self.ask(upgraded, more.job_id).revision.held_kind == "budget"
            for job in upgraded.jobs():
                assert first_break(upgraded.record(job.job_id).events, job) is None

    def intend(self, ledger: Ledger, key: str, **more: Any) -> Any:
        return self.ask(ledger, ledger.submission.open(job_spec(job_key=key, **more)).job.job_id)

    @staticmethod
    def ask(ledger: Ledger, job_id: int, number: int = 1) -> Any:
        worst = WorstCase(cost_usd=Decimal("0.25"))
        return ledger.submission.intend(job_id, number, actor=TEST, lease=LEASE, worst=worst)


class TestUpgradeFrom0011:
    def test_what_a_person_has_failed_is_acknowledged_and_what_failed_by_itself_is_not(
        self, ledger: Ledger, conninfo: dict[str, Any], empty_conninfo: dict[str, Any]
    ) -> None:
        upgrade_to(empty_conninfo, "0011")
        for key, actor in (("by itself", TEST), ("by a person", Actor.user("bob"))):
            revision = submit(ledger, job_spec(job_key=key), f"resp of {key}")
            ledger.outputs.fail(revision.job_id, 1, actor=actor, reason="refused", error={"kind": "refused"})
        copy_rows(conninfo, empty_conninfo, "jobs", "revisions", "events")

        schema.upgrade(empty_conninfo)

        with Ledger(empty_conninfo) as upgraded:
            seen = {job.job_key: job.acknowledged_at for job in upgraded.jobs()}
            assert seen["by itself"] is None
            assert seen["by a person"] == upgraded.record(2).events[-1].at


class TestUpgradeFrom0006:
    def test_the_same_input_is_recognized_and_its_digest_tells_nothing_any_more(
        self, ledger: Ledger, conninfo: dict[str, Any], empty_conninfo: dict[str, Any]
    ) -> None:
        upgrade_to(empty_conninfo, "0006")
        spec = job_spec()
        submit(ledger, spec)
        copy_rows(conninfo, empty_conninfo, "jobs", "revisions", "events")
        with psycopg.connect(**empty_conninfo) as connection:
            connection.execute("UPDATE aihandoff.jobs SET input_digest = %s", [digest(spec.input)])
            connection.execute("UPDATE aihandoff.revisions SET request_digest = %s", [digest(spec.request)])

        assert schema.upgrade(empty_conninfo) == ("0006", schema.head_version())

        with Ledger(empty_conninfo) as upgraded:
            opened = upgraded.submission.open(spec)
            assert (opened.next, opened.job.revision) == (Attachment.WAIT, 1)
            assert opened.job.input_digest == input_digest(spec.input, upgraded.digest_key())
            assert opened.revision.request_digest == input_digest(spec.request, upgraded.digest_key())
            assert upgraded.submission.first_request(1, 1) == spec.request

    def test_an_upgrade_that_is_run_twice_changes_nothing_the_second_time(self, conninfo: dict[str, Any]) -> None:
        before = rows(conninfo)
        assert schema.upgrade(conninfo) == (schema.head_version(), schema.head_version())
        assert rows(conninfo) == before


class TestUpgradeFrom0002:
    @pytest.fixture
    def upgraded(self, empty_conninfo: dict[str, Any]) -> Iterator[Ledger]:
        """A ledger that was at that version."""
        upgrade_to(empty_conninfo, "0002")
        with psycopg.connect(**empty_conninfo) as connection:
            write_rows(connection)
        before = rows(empty_conninfo)
        assert schema.upgrade(empty_conninfo) == ("0002", schema.head_version())
        after = rows(empty_conninfo)
        for table, kept in with_keyed_digests(before, after).items():
            same = [{name: row[name] for name in kept[0]} for row in after[table]] if kept else after[table]
            assert sorted(same, key=repr) == sorted(kept, key=repr)
        with Ledger(empty_conninfo) as ledger:
            ledger.check_schema()
            yield ledger

    @pytest.mark.parametrize("job_id", EFFECTS)
    def test_every_effect_is_kept_as_it_was_and_the_history_is_unbroken(self, upgraded: Ledger, job_id: int) -> None:
        record = upgraded.record(job_id)
        assert {effect.name: effect.state.value for effect in record.effects} == EFFECTS[job_id]
        assert first_break(record.events, record.job) is None
        assert len(record.events) == len(HISTORIES[job_id])
        assert record.job.cancelling is None
        assert {(effect.undoes, tuple(effect.after_effects)) for effect in record.effects} == {(None, ())}

    def test_a_claim_from_before_the_upgrade_is_expired_and_its_outcome_is_found(self, upgraded: Ledger) -> None:
        claimed = self.effect(upgraded, "sent")
        assert claimed.claim_until == claimed.claimed_at
        assert [effect.name for effect in upgraded.abandoned.expired_claims(grace=timedelta(0), limit=9)] == ["sent"]
        with pytest.raises(EffectUnknown, match="attempt 1 by who held it ended without an outcome"):
            self.claim(upgraded, claimed)
        with pytest.raises(ClaimLost):  # who held it is no longer this version, and may still run
            upgraded.effects.confirm(
                Claim(claimed, TOKEN), external_id=None, result=None, actor=Actor.program("who held it")
            )
        self.resolve(upgraded, claimed, applied=True)
        record = upgraded.record(1)
        assert first_break(record.events, record.job) is None

    def test_for_how_long_an_effect_is_unknown_is_known_after_the_upgrade_too(self, upgraded: Ledger) -> None:
        lost = self.effect(upgraded, "lost")
        assert lost.unknown_since == lost.updated_at
        assert 60 <= upgraded.effects.seconds_unknown(lost.effect_id) < 3600
        self.resolve(upgraded, lost, applied=False)
        assert self.claim(upgraded, lost).effect.attempt == 2

    def test_a_job_that_was_being_applied_comes_to_its_end(self, upgraded: Ledger) -> None:
        upgraded.effects.give_up(self.effect(upgraded, "sent").effect_id, actor=Actor.program("reconciler"))
        for name in ("sent", "lost"):
            self.resolve(upgraded, self.effect(upgraded, name), applied=True)
        for name in ("next", "said no"):
            claim = self.claim(upgraded, self.effect(upgraded, name))
            upgraded.effects.confirm(claim, external_id=None, result=None, actor=TEST)
        record = upgraded.record(1)
        assert record.job.state is JobState.COMPLETED
        assert first_break(record.events, record.job) is None

    def test_a_completed_job_stays_completed_and_its_undo_for_people_is_never_sent(self, upgraded: Ledger) -> None:
        assert self.claim(upgraded, self.effect(upgraded, "publish")).applied
        with pytest.raises(CannotRollBack, match="'publish' has an undo that an earlier release kept for people"):
            upgraded.roll_backs.start(2, actor=Actor.user("eve"), reason="no")
        assert upgraded.job(2).state is JobState.COMPLETED

    def test_every_ledger_gets_a_key_of_its_own(self, upgraded: Ledger, ledger: Ledger) -> None:
        keys = {upgraded.digest_key(), ledger.digest_key()}
        assert len(keys) == 2
        assert all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)

    @staticmethod
    def effect(ledger: Ledger, name: str) -> Effect:
        effects = ledger.record(1).effects + ledger.record(2).effects
        return next(effect for effect in effects if effect.name == name)

    @staticmethod
    def claim(ledger: Ledger, effect: Effect) -> Claim:
        plan = EffectPlan(effect.name, effect.kind, effect.plan, effect.plan_digest, effect.plan, effect.undo)
        return ledger.effects.claim(effect.job_id, plan, lease=LEASE, actor=TEST)

    @staticmethod
    def resolve(ledger: Ledger, effect: Effect, *, applied: bool) -> None:
        ledger.effects.resolve(
            effect.effect_id, applied=applied, external_id=None, actor=Actor.user("bob"), why="looked"
        )


class TestUpgradeFrom0004:
    @pytest.fixture
    def upgraded(self, empty_conninfo: dict[str, Any]) -> Iterator[Ledger]:
        """A ledger that was at that version."""
        with self.upgrade(empty_conninfo, list(version_0004.ACTORS)) as ledger:
            yield ledger

    @staticmethod
    def upgrade(conninfo: dict[str, Any], actors: list[str]) -> Ledger:
        upgrade_to(conninfo, "0004")
        with psycopg.connect(**conninfo) as connection:
            version_0004.write_rows(connection, actors)
        assert schema.upgrade(conninfo) == ("0004", schema.head_version())
        return Ledger(conninfo)

    def test_who_acted_is_read_out_of_every_form_of_text_once(self, upgraded: Ledger) -> None:
        record = upgraded.record(1)
        assert {event.actor: event.by for event in record.events} == version_0004.ACTORS
        assert {event.hash_version for event in record.events} == {1}
        assert first_break(record.events, record.job) is None

    def test_who_decided_and_who_edited_too(self, upgraded: Ledger) -> None:
        record = upgraded.record(1)
        assert [decision.decider for decision in record.decisions] == list(version_0004.DECIDERS.values())
        assert [revision.editor for revision in record.revisions] == list(version_0004.AUTHORS.values())

    def test_approvals_whose_login_is_in_doubt_are_asked_for_again(self, upgraded: Ledger) -> None:
        assert upgraded.reviews.pending()[0].voters == []
        assert upgraded.reviews.votes(upgraded.job(1)) == []

    def test_approvals_by_plain_logins_still_count(self, empty_conninfo: dict[str, Any]) -> None:
        upgrade_to(empty_conninfo, "0004")
        with psycopg.connect(**empty_conninfo) as connection:
            version_0004.write_rows(connection)
            connection.execute("DELETE FROM aihandoff.decisions WHERE decided_by LIKE '% (%'")
        schema.upgrade(empty_conninfo)
        with Ledger(empty_conninfo) as upgraded:
            assert upgraded.reviews.pending()[0].voters == [Actor.user("bob")]

    def test_a_response_that_runs_has_the_ledgers_word_for_it(self, upgraded: Ledger) -> None:
        assert {revision.response_status for revision in upgraded.record(1).revisions} == {"running"}

    def test_a_poll_that_was_due_still_is(self, upgraded: Ledger) -> None:
        (entry,) = upgraded.inbox.due(9)
        assert (entry.webhook_id, entry.polls) == ("wh_1", 2)

    def test_the_chain_goes_on_with_lines_whose_hash_covers_the_facts(self, upgraded: Ledger) -> None:
        upgraded.cancels.cancel(1, actor=Actor.user("bob", "7"), reason="no")
        record = upgraded.record(1)
        assert (record.events[-1].by, record.events[-1].hash_version) == (Actor.user("bob", "7"), 2)
        assert first_break(record.events, record.job) is None

    def test_a_run_of_before_has_its_jobs(self, upgraded: Ledger) -> None:
        for run_id, jobs in (("manual__1", 1), ("manual__2", 1), ("manual__", 0), ("manual__1/draft", 0)):
            assert len(upgraded.jobs_of_run("publishing", run_id)) == jobs

    def test_the_history_is_closed_again(self, upgraded: Ledger, empty_conninfo: dict[str, Any]) -> None:
        with pytest.raises(psycopg.Error, match="append-only"):
            run(empty_conninfo, "UPDATE aihandoff.events SET actor_name = 'mallory'")

    def test_whatever_a_text_holds_its_facts_make_the_same_text(self, empty_conninfo: dict[str, Any]) -> None:
        random = Random(5)  # noqa: S311 - the same texts in every run
        begin = ["task:d/", "task:", "user:", "user:cli:", "policy:", "webhook:", "timeout", ""]
        texts = [
            random.choice(begin) + "".join(random.choices("ab/#[]0 (7):%", k=random.randint(0, 9))) for _ in range(3000)
        ]
        texts += [f"task:d/{text[:9]}/t#{number}" for number, text in enumerate(texts[:300])]
        with self.upgrade(empty_conninfo, texts) as ledger:
            record = ledger.record(1)
        assert first_break(record.events, record.job) is None
        kinds = {event.actor_kind for event in record.events}
        assert kinds == set(ActorKind) - {ActorKind.RECONCILER}


class TestCheck:
    def test_the_right_schema_passes(self, ledger: Ledger) -> None:
        ledger.check_schema()

    def test_a_missing_ledger_is_said_with_the_command_that_makes_one(self, empty_conninfo: dict[str, Any]) -> None:
        with (
            Ledger(empty_conninfo) as ledger,
            pytest.raises(LedgerSchemaError, match="has no AI Handoff ledger") as error,
        ):
            ledger.check_schema()
        assert "`airflow aihandoff db upgrade`" in str(error.value)

    def test_a_ledger_behind_is_said_with_the_command_that_upgrades_it(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        current = schema.head_version()
        monkeypatch.setattr(schema, "head_version", lambda: "9998")
        with pytest.raises(LedgerSchemaError, match=f"at version {current}, this package needs 9998") as error:
            ledger.check_schema()
        assert "`airflow aihandoff db upgrade`" in str(error.value)

    def test_a_ledger_ahead_is_said_and_is_not_touched(self, empty_conninfo: dict[str, Any]) -> None:
        schema.upgrade(empty_conninfo)
        run(empty_conninfo, "COMMENT ON TABLE aihandoff.alembic_version IS NULL")
        run(empty_conninfo, "UPDATE aihandoff.alembic_version SET version_num = '9999'")
        with Ledger(empty_conninfo) as ledger, pytest.raises(LedgerSchemaError, match=r"9999.*does not know.*install"):
            ledger.check_schema()
        before = catalogs(empty_conninfo)
        with pytest.raises(LedgerSchemaError, match="install that release"):
            schema.upgrade(empty_conninfo)
        assert catalogs(empty_conninfo) == before


class TestStrictness:
    @pytest.mark.parametrize(
        ("table", "column", "values"),
        [
            ("jobs", "state", [state.value for state in JobState]),
            ("jobs", "approval", get_args(Approval)),
            ("jobs", "review_on_timeout", get_args(OnTimeout)),
            ("revisions", "state", [state.value for state in RevisionState]),
            ("effects", "state", [state.value for state in EffectState]),
            ("decisions", "verdict", get_args(Verdict)),
            ("decisions", "decided_by_kind", get_args(DeciderKind)),
            ("decision_links", "verdict", get_args(LinkVerdict)),
            ("revisions", "author_kind", get_args(AuthorKind)),
            ("events", "actor_kind", [kind.value for kind in ActorKind]),
            ("inbox", "disposition", [disposition.value for disposition in Disposition]),
        ],
    )
    def test_a_column_takes_exactly_the_values_that_the_code_knows(
        self, conninfo: dict[str, Any], table: str, column: str, values: Any
    ) -> None:
        definitions = [row[3] for row in catalogs(conninfo)["constraints"] if row[1] == f"{table}_{column}_check"]
        assert len(definitions) == 1
        assert set(re.findall(r"'([^']*)'::text", definitions[0])) == set(values)

    def test_every_column_called_state_or_disposition_is_checked(self, conninfo: dict[str, Any]) -> None:
        seen = catalogs(conninfo)
        columns = {(row[0], row[1]) for row in seen["columns"] if row[1] in ("state", "disposition", "verdict")}
        assert len(columns) == 11
        assert {f"{table}_{column}_check" for table, column in columns} <= {row[1] for row in seen["constraints"]}

    def test_every_time_has_a_time_zone(self, conninfo: dict[str, Any]) -> None:
        times = {tuple(row) for row in catalogs(conninfo)["columns"] if "time" in row[3] or "date" in row[3]}
        others = {row[:2] for row in times if row[3] != "timestamp with time zone"}
        assert others == {("bill_days", "day")}, "a day of OpenAI's bill is one of UTC"

    @pytest.mark.parametrize(
        ("record", "table"),
        [
            (Job, "jobs"),
            (Revision, "revisions"),
            (Decision, "decisions"),
            (Effect, "effects"),
            (InboxEntry, "inbox"),
            (Event, "events"),
        ],
    )
    def test_a_record_has_the_columns_of_its_table(self, conninfo: dict[str, Any], record: type, table: str) -> None:
        columns = {row[1] for row in catalogs(conninfo)["columns"] if row[0] == table}
        assert columns - TOTALS == set(record.__annotations__)

    def test_there_is_one_ledger_in_a_database(self, conninfo: dict[str, Any]) -> None:
        with pytest.raises(psycopg.errors.UniqueViolation):
            run(conninfo, "INSERT INTO aihandoff.ledger DEFAULT VALUES")
