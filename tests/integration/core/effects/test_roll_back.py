"""What was written is undone over HTTP, in SQL and by functions: in order, and each at most once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.effects import roll_back as roll_back_module
from airflow_provider_aihandoff.core.effects.apply import Wait, apply_effect
from airflow_provider_aihandoff.core.effects.roll_back import Unfinished, roll_back, roll_back_now
from airflow_provider_aihandoff.core.effects.target import Applied, NotApplied
from airflow_provider_aihandoff.core.effects.undo import undo_target
from airflow_provider_aihandoff.core.errors import (
    CannotRollBack,
    EffectNotNow,
    EffectRefused,
    EffectUnknown,
    LedgerUnavailable,
    PlanError,
)
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, EffectPlan, Job
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.targets.http import HttpTarget
from airflow_provider_aihandoff.targets.postgres import PostgresTarget
from airflow_provider_aihandoff.targets.rollback_functions import rollback_function
from tests.factories import LEASE, TEST
from tests.integration.core.effects.effects import ACTOR, approved, call, insert, later, put
from tests.target import DROP, Answer, Target

EVE = Actor.user("eve")
OVER = timedelta(0)
DELETE = {"method": "DELETE", "endpoint": "/posts/{external_id}"}
RECALL = {"method": "POST", "endpoint": "/recalls", "json": {"message": "{external_id}"}}
REMOVE = {"sql": "DELETE FROM reports WHERE title = %(title)s RETURNING report_id", "parameters": {"title": "Kettle"}}
HERE = __name__

Sales = psycopg.Connection[Any]


class Mailbox:
    """What functions do when they undo something, and what they are asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.on_call: Callable[[], Any] = lambda: None
        self.found: Any = None


mailbox = Mailbox()


@rollback_function
def unsend(mail: str, effect_key: str) -> Any:
    """Undo one mail."""
    mailbox.calls.append((mail, effect_key))
    return mailbox.on_call()


@rollback_function
def is_unsent(mail: str) -> Any:
    """Look whether it is undone."""
    return mailbox.found


@pytest.fixture(autouse=True)
def _mailbox() -> Iterator[None]:
    yield
    mailbox.__init__()  # type: ignore[misc]


UNMAIL = {"function": f"{HERE}:unsend", "arguments": {"mail": "{external_id}"}}
PROBED = {**UNMAIL, "probe": f"{HERE}:is_unsent", "grace": 0}


def applied(ledger: Ledger, *plans: EffectPlan) -> Job:
    """A job whose effects are applied, as a person has confirmed."""
    approved(ledger, *plans)
    for plan in plans:
        claim = ledger.effects.claim(1, plan, lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id=f"{plan.name}-1", result=None, actor=TEST)
    return ledger.job(1)


def undo(ledger: Ledger, **options: Any) -> Job | Wait:
    return roll_back(ledger, 1, actor=EVE, reason="the wrong product", in_worker=True, **options)


def now(ledger: Ledger, **options: Any) -> Job | Unfinished:
    return roll_back_now(ledger, 1, actor=EVE, reason="the wrong product", **options)


def undos(ledger: Ledger) -> list[Effect]:
    return ledger.record(1).undos


def states(ledger: Ledger) -> list[str]:
    return [effect.state.value for effect in undos(ledger)]


def requests(target: Target) -> list[tuple[str, str]]:
    return [(received.method, received.path) for received in target.received]


def rolled_back(ledger: Ledger) -> bool:
    return ledger.job(1).state is JobState.ROLLED_BACK


class TestHttp:
    def test_written_records_are_removed_the_last_one_first_and_only_once(self, ledger: Ledger, target: Target) -> None:
        plans = put("post", undo=DELETE), put("teaser", undo=DELETE)
        approved(ledger, *plans)
        for plan in plans:
            to = HttpTarget(plan.name, external_id_path="$.id")
            assert isinstance(apply_effect(ledger, 1, plan, to, actor=ACTOR), Effect)
        target.received.clear()

        jobs = [undo(ledger) for _ in range(3)]

        assert requests(target) == [("DELETE", "/posts/rec-2"), ("DELETE", "/posts/rec-1")]
        assert [received.headers["Idempotency-Key"] for received in target.received] == [
            each.effect_key for each in undos(ledger)
        ]
        assert jobs == [ledger.job(1)] * 3
        assert rolled_back(ledger)
        effects = ledger.record(1).effects
        assert len({effect.effect_key for effect in effects}) == 4
        assert {effect.state for effect in effects} == {EffectState.APPLIED}
        assert {effect.claimed_by for effect in undos(ledger)} == {str(EVE)}

    def test_an_external_id_is_data_in_the_url_and_in_the_body(self, ledger: Ledger, target: Target) -> None:
        plan = put(undo={"method": "POST", "endpoint": "/{external_id}/undo", "json": {"id": "{external_id}"}})
        approved(ledger, plan)
        target.answers = [Answer(201, {"id": '7/8?"}, "all": {"'})]
        apply_effect(ledger, 1, plan, HttpTarget("publish", external_id_path="$.id"), actor=ACTOR)

        undo(ledger)

        sent = target.received[1]
        assert sent.path == "/7%2F8%3F%22%7D%2C%20%22all%22%3A%20%7B%22/undo"
        assert sent.json == {"id": '7/8?"}, "all": {"'}

    @pytest.mark.parametrize(
        "external_id", ["..", "../users", "..\\users", "..%2fusers", "%252e%252e/users", "7/../8", "7\nX-Admin: 1"]
    )
    def test_an_external_id_that_leads_elsewhere_is_refused(
        self, ledger: Ledger, target: Target, external_id: str
    ) -> None:
        plan = put(undo=DELETE)
        approved(ledger, plan)
        claim = ledger.effects.claim(1, plan, lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id=external_id, result=None, actor=TEST)
        with pytest.raises(CannotRollBack, match=r"names \{external_id\}, and its external id is"):
            undo(ledger)
        assert target.received == []

    @pytest.mark.parametrize("status", [404, 410])
    def test_a_record_that_is_already_gone_counts_as_removed(self, ledger: Ledger, target: Target, status: int) -> None:
        applied(ledger, put(undo=DELETE))
        target.answers = [Answer(status)]
        undo(ledger)
        (gone,) = undos(ledger)
        assert rolled_back(ledger)
        assert gone.result == {"status": status, "note": "it was gone"}

    @pytest.mark.parametrize("status", [404, 410])
    def test_a_missing_record_refuses_any_other_method(self, ledger: Ledger, target: Target, status: int) -> None:
        applied(ledger, put(undo=RECALL))
        target.answers = [Answer(status)]
        with pytest.raises(EffectRefused, match=f"'undo:publish' answered {status}"):
            undo(ledger)
        assert states(ledger) == ["refused"]

    def test_an_undo_that_the_target_refuses_is_sent_again_when_the_roll_back_continues(
        self, ledger: Ledger, target: Target
    ) -> None:
        applied(ledger, put("post", undo=DELETE), put("teaser", undo=DELETE))
        target.answers = [Answer(204), Answer(403)]
        with pytest.raises(EffectRefused, match="answered 403"):
            undo(ledger)
        assert (ledger.job(1).state, states(ledger)) == (JobState.ROLLING_BACK, ["applied", "refused"])

        undo(ledger)

        assert requests(target) == [("DELETE", "/posts/teaser-1")] + [("DELETE", "/posts/post-1")] * 2
        assert rolled_back(ledger)

    def test_a_target_that_asks_to_come_back_later_is_left_alone_and_counted_separately(
        self, ledger: Ledger, target: Target
    ) -> None:
        applied(ledger, put("post", undo=DELETE), put("teaser", undo=DELETE))
        target.answers = [Answer(503, headers={"Retry-After": "7"}), Answer(204)]
        target.answers += [Answer(503, headers={"Retry-After": "9"})]

        first = undo(ledger)
        assert isinstance(first, Wait)
        assert (first.effect.name, first.seconds, first.not_now) == ("undo:teaser", 7, 1)
        second = undo(ledger, not_now=first.not_now)
        assert isinstance(second, Wait)
        assert (second.effect.name, second.seconds, second.not_now) == ("undo:post", 9, 1)
        assert isinstance(undo(ledger, not_now=second.not_now), Job)

    def test_a_target_that_does_not_say_when_to_retry_is_left_to_the_caller(
        self, ledger: Ledger, target: Target
    ) -> None:
        applied(ledger, put(undo=DELETE))
        target.answers = [Answer(429)]
        with pytest.raises(EffectNotNow):
            undo(ledger)
        assert states(ledger) == ["planned"]
        undo(ledger)
        assert rolled_back(ledger)


class TestLost:
    def test_a_lost_undo_that_is_safe_to_repeat_is_sent_again_with_the_same_key(
        self, ledger: Ledger, target: Target
    ) -> None:
        applied(ledger, put(undo=DELETE))
        target.answers = [DROP]
        with pytest.raises(EffectUnknown, match="'undo:publish' may have been applied"):
            undo(ledger)
        assert states(ledger) == ["unknown"]

        undo(ledger)

        assert len({received.headers["Idempotency-Key"] for received in target.received}) == 1
        assert (len(target.received), undos(ledger)[0].attempt) == (2, 2)
        assert rolled_back(ledger)

    def test_with_the_last_try_it_is_left_to_a_person(self, ledger: Ledger, target: Target) -> None:
        applied(ledger, put(undo=DELETE))
        target.answers = [DROP]
        wait = undo(ledger, last_try=True)
        assert isinstance(wait, Wait)
        assert (wait.seconds, len(target.received)) == (None, 1)

    @pytest.mark.parametrize("was_undone", [True, False])
    def test_a_lost_undo_that_is_not_safe_to_repeat_waits_for_a_person_and_then_continues(
        self, ledger: Ledger, target: Target, was_undone: bool
    ) -> None:
        applied(ledger, put("post", undo=DELETE), put("mail", undo=RECALL))
        target.answers = [DROP]
        for _ in range(2):
            wait = undo(ledger)
            assert isinstance(wait, Wait)
            assert (wait.effect.name, wait.seconds) == ("undo:mail", None)
            assert f"effects resolve {wait.effect.effect_id}" in wait.why
        assert requests(target) == [("POST", "/recalls")]
        assert isinstance(wait, Wait)

        ledger.effects.resolve(
            wait.effect.effect_id, applied=was_undone, external_id=None, actor=Actor.user("bob"), why="looked"
        )
        undo(ledger)

        assert requests(target) == [("POST", "/recalls")] * (1 if was_undone else 2) + [("DELETE", "/posts/post-1")]
        assert rolled_back(ledger)

    @pytest.mark.parametrize(
        ("probe", "seen", "again"),
        [
            ({}, Answer(404), False),
            ({}, Answer(410), False),
            ({}, Answer(200, {"id": "publish-1"}), True),
            ({"found": {"$.state": "deleted"}}, Answer(200, {"state": "deleted"}), False),
            ({"found": {"$.state": "deleted"}}, Answer(200, {"state": "live"}), True),
            ({"found": {"$.state": "deleted"}}, Answer(404), False),
        ],
    )
    def test_a_removal_is_probed_and_sent_again_only_where_the_record_is_still_there(
        self, ledger: Ledger, target: Target, probe: dict[str, Any], seen: Answer, again: bool
    ) -> None:
        look = {"endpoint": "/posts/{external_id}", **probe}
        applied(ledger, put(undo={**DELETE, "idempotent": False, "probe": look, "grace": 0}))
        target.answers = [DROP, seen]

        undo(ledger)

        sent = [("DELETE", "/posts/publish-1"), ("GET", "/posts/publish-1")]
        assert requests(target) == sent + ([("DELETE", "/posts/publish-1")] if again else [])
        assert rolled_back(ledger)

    @pytest.mark.parametrize("seen", [Answer(500), Answer(200, b"<html>")])
    def test_a_lost_undo_without_a_probe_answer_waits_for_a_person(
        self, ledger: Ledger, target: Target, seen: Answer
    ) -> None:
        look = {"endpoint": "/posts/{external_id}", "found": {"$.state": "deleted"}}
        applied(ledger, put(undo={**DELETE, "idempotent": False, "probe": look, "grace": 0}))
        target.answers = [DROP, seen]
        wait = undo(ledger)
        assert isinstance(wait, Wait)
        assert (wait.seconds, states(ledger)) == (None, ["unknown"])

    def test_a_removal_that_shows_only_later_is_waited_for(self, ledger: Ledger, target: Target) -> None:
        look = {"endpoint": "/posts/{external_id}"}
        applied(ledger, put(undo={**DELETE, "idempotent": False, "probe": look, "grace": 60}))
        target.answers = [DROP, Answer(200, {}), Answer(404)]
        wait = undo(ledger)
        assert isinstance(wait, Wait)
        assert wait.seconds is not None
        assert wait.seconds <= 1
        undo(ledger)
        assert requests(target) == [("DELETE", "/posts/publish-1")] + [("GET", "/posts/publish-1")] * 2
        assert rolled_back(ledger)

    def test_the_probe_of_an_undo_searches_for_the_undone_effect_and_fills_nothing_in_twice(
        self, ledger: Ledger, target: Target
    ) -> None:
        look = {"endpoint": "/recalls", "query": {"key": "{effect_key}", "message": "{external_id}"}}
        plan = put(undo={**RECALL, "probe": look})
        approved(ledger, plan)
        claim = ledger.effects.claim(1, plan, lease=LEASE, actor=TEST)
        ledger.effects.confirm(claim, external_id="<{effect_key}>", result=None, actor=TEST)
        target.answers = [DROP, Answer(200, {})]

        undo(ledger)

        key = claim.effect.effect_key
        assert requests(target) == [
            ("POST", "/recalls"),
            ("GET", f"/recalls?key={key}&message=%3C%7Beffect_key%7D%3E"),
        ]
        assert target.received[0].json == {"message": "<{effect_key}>"}
        assert rolled_back(ledger)

    def test_the_probe_of_an_undo_can_search_for_the_undo_by_its_own_key(self, ledger: Ledger, target: Target) -> None:
        look = {
            "endpoint": "/writes",
            "query": {"key": "{undo_key}"},
            "found_in": "$",
            "found": {"$.key": "{undo_key}"},
            "next": "link",
        }
        applied(ledger, put(undo={**RECALL, "probe": look, "grace": 0}))
        target.answers = [DROP, Answer(200, [{"key": ledger.record(1).effects[0].effect_key}]), Answer(201)]

        undo(ledger)

        (sent, looked, _) = target.received
        assert looked.path == f"/writes?key={sent.headers['Idempotency-Key']}"
        assert len(requests(target)) == 3  # the write that is to be undone is not its undo

    @pytest.mark.parametrize(("declared", "sent"), [(DELETE, 1), (RECALL, 0)])
    def test_an_attempt_that_died_with_its_claim_is_sent_again_only_where_that_is_safe(
        self, ledger: Ledger, target: Target, declared: dict[str, Any], sent: int
    ) -> None:
        applied(ledger, put(undo=declared))
        (planned,) = ledger.roll_backs.start(1, actor=EVE, reason="no")
        ledger.effects.claim(1, planned.as_plan, lease=OVER, actor=Actor.program("who died"))
        done = undo(ledger)
        assert isinstance(done, Job if sent else Wait)
        assert len(target.received) == sent

    def test_no_undo_is_sent_while_another_attempt_has_the_claim(self, ledger: Ledger, target: Target) -> None:
        applied(ledger, put(undo=DELETE))
        (planned,) = ledger.roll_backs.start(1, actor=EVE, reason="no")
        ledger.effects.claim(1, planned.as_plan, lease=LEASE, actor=Actor.program("the other"))
        wait = undo(ledger)
        assert isinstance(wait, Wait)
        assert wait.seconds is not None
        assert "by the other, may be sending it right now" in wait.why
        assert target.received == []
        later(ledger, LEASE.total_seconds())
        assert isinstance(undo(ledger), Job)


class TestPostgres:
    def rows(self, sales: Sales) -> list[Any]:
        return [title for (title,) in sales.execute("SELECT title FROM reports ORDER BY title").fetchall()]

    @pytest.fixture(autouse=True)
    def _kettle(self, sales: Sales) -> None:
        sales.execute("INSERT INTO reports (title) VALUES ('Kettle'), ('Pan')")

    def test_a_row_is_removed_with_a_marker_of_its_own_and_never_again(self, ledger: Ledger, sales: Sales) -> None:
        applied(ledger, insert(undo=REMOVE))
        undo(ledger)
        assert rolled_back(ledger)
        assert self.rows(sales) == ["Pan"]
        sales.execute("INSERT INTO reports (title) VALUES ('Kettle')")

        undo(ledger)

        assert self.rows(sales) == ["Kettle", "Pan"]
        (only,) = undos(ledger)
        assert sales.execute("SELECT effect_key FROM aihandoff_marker").fetchall() == [(only.effect_key,)]
        assert (only.external_id, only.result) == ("1", {"rows": 1})

    @pytest.mark.parametrize("declared", [REMOVE, {**REMOVE, "connection": "sales_db"}])
    def test_an_undo_that_was_committed_by_an_attempt_that_died_is_found_by_its_marker(
        self, ledger: Ledger, sales: Sales, declared: dict[str, Any]
    ) -> None:
        applied(ledger, insert(undo=declared))
        (planned,) = ledger.roll_backs.start(1, actor=EVE, reason="no")
        claim = ledger.effects.claim(1, planned.as_plan, lease=OVER, actor=Actor.program("who died"))
        PostgresTarget("undo:store").apply(planned.plan, claim.effect.effect_key)
        sales.execute("INSERT INTO reports (title) VALUES ('Kettle')")

        undo(ledger)

        assert rolled_back(ledger)
        assert undos(ledger)[0].result == {"marker": "found"}
        assert self.rows(sales) == ["Kettle", "Pan"]

    def test_an_external_id_is_data_in_a_statement(self, ledger: Ledger, sales: Sales) -> None:
        plan = insert(undo={**REMOVE, "parameters": {"title": "{external_id}"}})
        approved(ledger, plan)
        claim = ledger.effects.claim(1, plan, lease=LEASE, actor=TEST)
        hostile = "Kettle' OR true; DROP TABLE reports; --%(title)s"
        ledger.effects.confirm(claim, external_id=hostile, result=None, actor=TEST)

        undo(ledger)

        assert self.rows(sales) == ["Kettle", "Pan"]
        assert undos(ledger)[0].result == {"rows": 0}

    def test_a_statement_that_the_database_refuses_can_be_sent_again_once_that_is_fixed(
        self, ledger: Ledger, sales: Sales
    ) -> None:
        applied(ledger, insert(undo={**REMOVE, "sql": "DELETE FROM archive WHERE title = %(title)s"}))
        with pytest.raises(EffectRefused, match='relation "archive" does not exist'):
            undo(ledger)
        assert states(ledger) == ["refused"]
        sales.execute("CREATE TABLE archive (title text)")
        try:
            undo(ledger)
        finally:
            sales.execute("DROP TABLE archive")
        assert rolled_back(ledger)

    def test_a_different_database_under_the_same_name_is_not_written_to(
        self, ledger: Ledger, sales: Sales, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        applied(ledger, insert(undo=REMOVE))
        monkeypatch.setenv("AIRFLOW_CONN_SALES_DB", "postgres://elsewhere/sales")
        with pytest.raises(EffectRefused, match="its connection leads elsewhere"):
            undo(ledger)
        assert self.rows(sales) == ["Kettle", "Pan"]


class TestFunction:
    def test_an_undo_function_is_called_once_with_what_it_undoes_and_a_key_of_its_own(self, ledger: Ledger) -> None:
        applied(ledger, call("mail", undo=UNMAIL))
        mailbox.on_call = lambda: "unsent-1"
        for _ in range(2):
            undo(ledger)
        (only,) = undos(ledger)
        assert mailbox.calls == [("mail-1", only.effect_key)]
        assert (only.external_id, rolled_back(ledger)) == ("unsent-1", True)

    def test_a_roll_back_that_starts_while_another_one_runs_calls_nothing(self, ledger: Ledger) -> None:
        applied(ledger, call("mail", undo=UNMAIL))
        waits: list[Any] = []
        mailbox.on_call = lambda: waits.append(undo(ledger))
        undo(ledger)
        assert isinstance(waits[0], Wait)
        assert len(mailbox.calls) == 1
        assert rolled_back(ledger)

    @pytest.mark.parametrize(("found", "calls"), [(Applied("unsent-9"), 1), (True, 1), (NotApplied(), 2), (False, 2)])
    def test_a_lost_undo_function_is_probed(self, ledger: Ledger, found: Any, calls: int) -> None:
        applied(ledger, call("mail", undo=PROBED))
        mailbox.found = found

        def once() -> str:
            if len(mailbox.calls) == 1:
                raise ConnectionError("cut off")
            return "unsent-2"

        mailbox.on_call = once
        assert isinstance(undo(ledger), Job)
        assert len(mailbox.calls) == calls
        assert len({key for _, key in mailbox.calls}) == 1

    @pytest.mark.parametrize("declared", [UNMAIL, PROBED])
    def test_a_lost_undo_function_without_a_probe_answer_waits_for_a_person(
        self, ledger: Ledger, declared: dict[str, Any]
    ) -> None:
        applied(ledger, call("mail", undo=declared))
        mailbox.on_call = lambda: 1 / 0
        for _ in range(2):
            wait = undo(ledger)
            assert isinstance(wait, Wait)
            assert (wait.seconds, wait.effect.name) == (None, "undo:mail")
        assert len(mailbox.calls) == 1

    @pytest.mark.parametrize("missing", ["unsend", "is_unsent"])
    def test_an_undo_function_that_is_not_there_is_reported_before_anything_is_undone(
        self, ledger: Ledger, target: Target, missing: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = applied(ledger, call("mail", undo=PROBED), put("post", undo=DELETE))
        monkeypatch.delattr(f"{HERE}.{missing}")
        with pytest.raises(PlanError, match=f"'{HERE}:{missing}' is not marked as one that a roll-back may call"):
            undo(ledger)
        assert (ledger.job(1), undos(ledger), target.received) == (before, [], [])

        assert isinstance(undo(ledger, leave=["mail"]), Job)
        assert requests(target) == [("DELETE", "/posts/post-1")]

    def test_an_effect_that_was_left_is_not_asked_for_again(self, ledger: Ledger, target: Target) -> None:
        applied(ledger, call("mail", undo=UNMAIL), put("post", undo=DELETE))
        target.answers = [Answer(429)]
        with pytest.raises(EffectNotNow):
            undo(ledger, leave=["mail"])
        assert isinstance(undo(ledger), Job)
        assert mailbox.calls == []

    def test_an_undo_that_an_earlier_release_kept_is_said_to_be_one(self, ledger: Ledger) -> None:
        plan = call("mail")
        applied(ledger, EffectPlan(plan.name, plan.kind, plan.plan, plan.plan_digest, plan.shown, {"kind": "function"}))
        with pytest.raises(CannotRollBack, match="an earlier release kept for people to read"):
            undo(ledger)


class TestAllKinds:
    def test_one_job_is_rolled_back_through_all_kinds_in_order(
        self, ledger: Ledger, target: Target, sales: Sales
    ) -> None:
        sales.execute("INSERT INTO reports (title) VALUES ('Kettle')")
        applied(ledger, put("post", undo=DELETE), insert(undo=REMOVE), call("mail", undo=UNMAIL))
        seen: list[Any] = []
        mailbox.on_call = lambda: seen.append((len(target.received), sales.execute("SELECT FROM reports").rowcount))

        undo(ledger)

        assert seen == [(0, 1)]
        assert sales.execute("SELECT FROM reports").rowcount == 0
        assert requests(target) == [("DELETE", "/posts/post-1")]
        names = [effect.name for effect in sorted(undos(ledger), key=lambda each: each.updated_at)]
        assert names == ["undo:mail", "undo:store", "undo:post"]

    @pytest.mark.parametrize(
        "declared", [{**DELETE, "kind": "http", "connection": "cms"}, {**UNMAIL, "kind": "function"}]
    )
    def test_the_authors_options_of_the_target_are_kept_until_the_undo(
        self, ledger: Ledger, declared: dict[str, Any]
    ) -> None:
        applied(ledger, call("mail", undo={**declared, "idempotent": True, "timeout": 5, "grace": 60}))
        (planned,) = ledger.roll_backs.start(1, actor=EVE, reason="no")
        to = undo_target(planned.as_plan)
        assert (to.idempotent, to.can_probe, to.grace_seconds) == (True, False, 60)
        assert getattr(to, "timeout", to.call_seconds) == 5


class TestReturnedForAPage:
    def test_a_roll_back_that_is_done_returns_the_job(self, ledger: Ledger) -> None:
        applied(ledger, put(undo=DELETE))
        assert now(ledger) == ledger.job(1)
        assert rolled_back(ledger)

    @pytest.mark.parametrize(
        ("declared", "answer", "said", "seconds", "not_now"),
        [
            (DELETE, Answer(429, headers={"Retry-After": "7"}), "asked for a retry after 7 s", 7.0, 1),
            (DELETE, Answer(429), "answered 429", None, 0),
            (DELETE, Answer(403), "answered 403", None, 0),
            (DELETE, DROP, "'undo:publish' may have been applied", None, 0),
            (RECALL, DROP, "'undo:publish' may have been applied", None, 0),
        ],
    )
    def test_an_error_that_stops_a_roll_back_that_has_begun_is_returned(
        self,
        ledger: Ledger,
        target: Target,
        declared: dict[str, Any],
        answer: Answer,
        said: str,
        seconds: float | None,
        not_now: int,
    ) -> None:
        applied(ledger, put(undo=declared))
        target.answers = [answer]

        stopped = now(ledger)

        assert isinstance(stopped, Unfinished)
        assert said in stopped.why
        assert (stopped.seconds, stopped.not_now) == (seconds, not_now)
        assert ledger.job(1).state is JobState.ROLLING_BACK
        if answer is DROP and declared is RECALL:
            assert stopped.effect == undos(ledger)[0]

    def test_a_missing_connection_is_returned_and_nothing_was_sent(
        self, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        applied(ledger, put(undo=DELETE))
        monkeypatch.delenv("AIRFLOW_CONN_CMS")
        stopped = now(ledger)
        assert isinstance(stopped, Unfinished)
        assert "the connection 'cms' of the effect 'undo:publish' is not defined here" in stopped.why
        assert (states(ledger), target.received) == (["planned"], [])

    @pytest.mark.parametrize("plan", [put, call])
    def test_an_error_that_keeps_a_roll_back_from_beginning_is_raised(self, ledger: Ledger, plan: Any) -> None:
        before = applied(ledger, plan("post"))
        with pytest.raises(CannotRollBack, match="'post' declares no undo"):
            now(ledger)
        assert ledger.job(1) == before

    def test_a_function_is_never_called_from_a_page_or_a_command(self, ledger: Ledger, target: Target) -> None:
        before = applied(ledger, call("mail", undo=UNMAIL), put("post", undo=DELETE))
        with pytest.raises(CannotRollBack, match="only a worker can send 'undo:mail': it calls a function"):
            now(ledger)
        assert (ledger.job(1), undos(ledger), target.received, mailbox.calls) == (before, [], [], [])

        ledger.roll_backs.start(1, actor=EVE, reason="no")
        stopped = now(ledger)
        assert isinstance(stopped, Unfinished)
        assert "Trigger the Dag `aihandoff_rollback` with the job 1" in stopped.why
        assert (target.received, mailbox.calls) == ([], [])

    def test_a_ledger_that_cannot_be_reached_is_no_answer(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        applied(ledger, put(undo=DELETE))

        def breaks(*_: Any, **__: Any) -> Any:
            raise LedgerUnavailable("the connection broke.")

        monkeypatch.setattr(roll_back_module, "apply_effect", breaks)
        with pytest.raises(LedgerUnavailable):
            now(ledger)
        assert ledger.job(1).state is JobState.ROLLING_BACK
