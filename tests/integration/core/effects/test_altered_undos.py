"""An undo is sent only as it was approved, whatever was written to the ledger since."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Json

from airflow_provider_aihandoff.core.database.history import GENESIS, event_hash
from airflow_provider_aihandoff.core.digests import keyed_digest
from airflow_provider_aihandoff.core.effects.roll_back import roll_back
from airflow_provider_aihandoff.core.errors import CannotRollBack, HandoffError, PlanError
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.review import review_store
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.targets import rollback_functions
from tests.factories import LEASE, TEST, approve, ask, draft, job_spec
from tests.integration.core.effects.effects import put
from tests.target import Target

EVE = Actor.user("eve")
DELETE = {"method": "DELETE", "endpoint": "/posts/{external_id}"}

Write = Callable[..., None]


@pytest.fixture
def write(conninfo: dict[str, Any]) -> Write:
    """Write to the ledger as one who has stolen its password."""

    def run(statement: str, *values: Any) -> None:
        with psycopg.connect(**conninfo) as connection:
            assert connection.execute(statement, values).rowcount == 1

    return run


def applied(ledger: Ledger, key: str = "post:kettle", external_id: str = "rec-1") -> Job:
    """A job that has put its post."""
    plan = put(undo=DELETE)
    job = approve(ledger, ask(ledger, draft(ledger, job_spec(job_key=key), response_id=key), plan))
    claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id=external_id, result=None, actor=TEST)
    return ledger.job(job.job_id)


def undo(ledger: Ledger, job_id: int = 1) -> None:
    roll_back(ledger, job_id, actor=EVE, reason="the wrong product", in_worker=True)


def url_of(target: Target, path: str) -> str:
    return f"http://127.0.0.1:{target.port}{path}"


def http(target: Target, path: str = "/posts/the-front-page") -> dict[str, Any]:
    plan = {"connection": "cms", "method": "DELETE", "url": url_of(target, path), "headers": {}}
    return {"kind": "http", "plan": plan, "idempotent": True}


SHELL = {"kind": "function", "plan": {"function": "subprocess:getoutput", "arguments": {"cmd": "id"}}}


@pytest.fixture(autouse=True)
def _imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback_functions, "import_module", lambda name: pytest.fail(f"imported {name}"))


class TestBeforeItStarts:
    @pytest.mark.parametrize("kind", ["url", "function", "connection"])
    def test_another_undo_than_the_approved_one_is_refused(
        self, ledger: Ledger, target: Target, write: Write, kind: str
    ) -> None:
        before = applied(ledger)
        other = {"url": http(target), "function": SHELL, "connection": http(target)}[kind]
        if kind == "connection":
            other["plan"]["connection"] = "aihandoff_ledger"
        write("UPDATE aihandoff.effects SET undo = %s", json.dumps(other))

        with pytest.raises(CannotRollBack, match="'publish' has an undo that is not the approved one"):
            undo(ledger)

        assert list(ledger.record(1).altered_undos) == [ledger.record(1).effects[0].effect_id]
        assert (ledger.job(1), ledger.record(1).undos, target.received) == (before, [], [])

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE aihandoff.effects SET external_id = 'rec-2'",
            "UPDATE aihandoff.effects SET effect_key = 'aih-9-r1-0'",
        ],
    )
    def test_what_fills_an_undo_must_be_what_the_history_says(
        self, ledger: Ledger, target: Target, write: Write, statement: str
    ) -> None:
        applied(ledger)
        write(statement)
        with pytest.raises(CannotRollBack, match="has another external id or effect key than the history says"):
            undo(ledger)
        assert target.received == []

    def test_the_undo_of_another_job_is_refused_with_all_that_belongs_to_it(
        self, ledger: Ledger, target: Target, write: Write
    ) -> None:
        applied(ledger)
        plan = put("front-page", undo=DELETE)
        other = approve(ledger, ask(ledger, draft(ledger, job_spec(job_key="page"), response_id="resp_2"), plan))
        write(
            "UPDATE aihandoff.effects SET (undo, plan, plan_digest) = "
            "(SELECT undo, plan, plan_digest FROM aihandoff.effects WHERE job_id = %s) WHERE job_id = 1",
            other.job_id,
        )
        with pytest.raises(CannotRollBack, match="has an undo that is not the approved one"):
            undo(ledger)
        assert target.received == []

    def test_an_effect_that_was_never_applied_is_not_undone(self, ledger: Ledger, target: Target, write: Write) -> None:
        approve(ledger, ask(ledger, draft(ledger), put(undo=DELETE)))
        write("UPDATE aihandoff.effects SET state = 'applied', external_id = 'rec-1'")
        write("UPDATE aihandoff.jobs SET state = 'completed'")
        with pytest.raises(CannotRollBack):
            undo(ledger)
        assert target.received == []

    def test_nothing_is_undone_by_a_history_that_was_altered(
        self, ledger: Ledger, target: Target, write: Write, conninfo: dict[str, Any]
    ) -> None:
        applied(ledger)
        with psycopg.connect(**conninfo) as connection:
            connection.execute("ALTER TABLE aihandoff.events DISABLE TRIGGER ALL")
            connection.execute("UPDATE aihandoff.events SET reason = 'no' WHERE seq = 3")
            connection.execute("ALTER TABLE aihandoff.events ENABLE TRIGGER ALL")
        with pytest.raises(CannotRollBack, match="line 3 of the history was altered"):
            undo(ledger)
        assert target.received == []

    def test_a_plan_that_an_earlier_release_stored_is_refused_by_name(
        self, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(review_store, "SEALS", "unknown_then")
        applied(ledger)
        with pytest.raises(CannotRollBack, match="planned by an earlier release, which did not record"):
            undo(ledger)
        assert target.received == []


class TestOnceItHasStarted:
    def test_another_undo_than_the_planned_one_is_refused(self, ledger: Ledger, target: Target, write: Write) -> None:
        applied(ledger)
        ledger.roll_backs.start(1, actor=EVE, reason="no")
        plan = http(target)["plan"]
        write("UPDATE aihandoff.effects SET plan = %s WHERE undoes IS NOT NULL", json.dumps(plan))

        with pytest.raises(CannotRollBack, match="'undo:publish' is not the undo that was planned"):
            undo(ledger)
        assert (ledger.job(1).state, target.received) == (JobState.ROLLING_BACK, [])

    def test_an_undo_that_was_added_is_refused(self, ledger: Ledger, target: Target, write: Write) -> None:
        applied(ledger)
        effect = applied(ledger, "post:pan")
        ledger.roll_backs.start(1, actor=EVE, reason="no")
        write(
            "INSERT INTO aihandoff.effects (job_id, revision, name, position, kind, effect_key, state, plan, "
            "plan_digest, undoes, after_effects, created_at, updated_at) SELECT 1, 1, 'undo:more', 9, 'function', 'k', "
            "'planned', %s, '0', effect_id, '[]', now(), now() FROM aihandoff.effects WHERE job_id = %s",
            json.dumps(SHELL["plan"]),
            effect.job_id,
        )
        with pytest.raises(CannotRollBack, match="'undo:more' undoes nothing that is applied and has an undo"):
            undo(ledger)
        assert target.received == []

    @pytest.mark.parametrize(
        "statement",
        [
            "UPDATE aihandoff.effects SET undo = NULL WHERE undoes IS NULL",
            "UPDATE aihandoff.effects SET state = 'planned' WHERE undoes IS NULL",
        ],
    )
    def test_an_effect_that_lost_its_undo_or_its_state_is_refused(
        self, ledger: Ledger, target: Target, write: Write, statement: str
    ) -> None:
        applied(ledger)
        ledger.roll_backs.start(1, actor=EVE, reason="no")
        write(statement)
        with pytest.raises(CannotRollBack, match="undoes nothing that is applied and has an undo"):
            undo(ledger)
        assert target.received == []


class TestTheKey:
    def test_a_forger_without_the_configured_key_can_make_no_seal(
        self, ledger: Ledger, target: Target, write: Write, conninfo: dict[str, Any]
    ) -> None:
        with Ledger(conninfo, digest_key="of the configuration") as configured:
            applied(configured)
            effect = configured.record(1).effects[0]
            forged = http(target)
            seal = keyed_digest([1, 1, "publish", effect.plan_digest, forged], ledger.digest_key())
            write("UPDATE aihandoff.effects SET undo = %s", json.dumps(forged))
            _reseal(conninfo, configured, {"publish": seal})
            assert "not the approved one" in str(configured.record(1).altered_undos)
            with pytest.raises(CannotRollBack, match="not the approved one"):
                undo(configured)
        assert target.received == []
        assert ledger.record(1).altered_undos == {}, "the forgery is one that would hold with the ledger's own key"

    def test_the_seal_of_another_job_seals_nothing_here(
        self, ledger: Ledger, target: Target, write: Write, conninfo: dict[str, Any]
    ) -> None:
        applied(ledger)
        plan = put(undo={**DELETE, "endpoint": "/front-page"})
        draft_of_it = draft(ledger, job_spec(job_key="page"), response_id="resp_2")
        other = approve(ledger, ask(ledger, draft_of_it, plan))
        write(
            "UPDATE aihandoff.effects SET (undo, plan, plan_digest) = "
            "(SELECT undo, plan, plan_digest FROM aihandoff.effects WHERE job_id = %s) WHERE job_id = 1",
            other.job_id,
        )
        (planned,) = [event for event in ledger.record(other.job_id).events if "components" in event.detail]
        _reseal(conninfo, ledger, planned.detail["undos"])
        with pytest.raises(CannotRollBack, match="has an undo that is not the approved one"):
            undo(ledger)
        assert target.received == []

    def test_the_same_key_is_needed_to_undo(self, ledger: Ledger, target: Target, conninfo: dict[str, Any]) -> None:
        with Ledger(conninfo, digest_key="old") as old, Ledger(conninfo, digest_key="new") as new:
            applied(old)
            with pytest.raises(CannotRollBack, match=r"or was approved with another \[aihandoff\] digest_key"):
                undo(new)
            undo(old)
        assert [received.path for received in target.received] == ["/posts/rec-1"]

    def test_a_whole_forged_history_still_runs_no_unmarked_function(
        self, ledger: Ledger, target: Target, write: Write, conninfo: dict[str, Any]
    ) -> None:
        applied(ledger)
        effect = ledger.record(1).effects[0]
        shell = {**SHELL, "idempotent": False}
        write("UPDATE aihandoff.effects SET undo = %s", json.dumps(shell))
        seal = keyed_digest([1, 1, "publish", effect.plan_digest, shell], ledger.digest_key())
        _reseal(conninfo, ledger, {"publish": seal})

        with pytest.raises(HandoffError, match="only a worker can send"):
            roll_back(ledger, 1, actor=EVE, reason="no")
        with pytest.raises(PlanError, match="'subprocess:getoutput' is not marked as one that a roll-back may call"):
            undo(ledger)
        assert ledger.job(1).state is JobState.COMPLETED


def _reseal(conninfo: dict[str, Any], ledger: Ledger, seals: dict[str, str]) -> None:
    """Write the history again, every hash fitting, with other seals: what the owner of the tables can do."""
    with psycopg.connect(**conninfo) as connection:
        connection.execute("ALTER TABLE aihandoff.events DISABLE TRIGGER ALL")
        previous = GENESIS
        for event in ledger.record(1).events:
            detail = {**event.detail, "undos": seals} if "components" in event.detail else event.detail
            line = replace(event, detail=detail, previous_hash=previous)
            previous = event_hash(line)
            connection.execute(
                "UPDATE aihandoff.events SET detail = %s, previous_hash = %s, hash = %s WHERE job_id = 1 AND seq = %s",
                [Json(detail), line.previous_hash, previous, line.seq],
            )
        connection.execute("UPDATE aihandoff.jobs SET event_hash = %s WHERE job_id = 1", [previous])
        connection.execute("ALTER TABLE aihandoff.events ENABLE TRIGGER ALL")
