"""A later effect that names what an earlier one has brought: approved with the placeholder, sent with the value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import psycopg
import pytest
from airflow.sdk import task as airflow_task

from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Effect
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators.email import EmailSideEffectOperator
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.operators.side_effect import Applied, SideEffectOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.factories import draft
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import Policy, publish, store
from tests.mail import AnsweringMailbox, mail_server
from tests.target import DROP, Answer, Target

Record = Callable[[], JobRecord]

ID, URL = "{effects.create.external_id}", "{effects.create.answer.data.url}"
CREATED = {"id": "T-7", "data": {"url": "https://desk/T-7", "n": 5, "list": [{"id": True}], "token": "s3cret", "x": {}}}


@pytest.fixture(autouse=True)
def _reviewed(ledger: Ledger) -> None:
    """The job, whose output reads like a placeholder."""
    draft(ledger, output={"title": ID, "lines": [1, 2]})


def create(**arguments: Any) -> Any:
    return publish(**{"task_id": "create", "method": "POST", "endpoint": "/tickets", "json": {}, **arguments})


def comment(**arguments: Any) -> Any:
    defaults = {"task_id": "comment", "method": "POST", "endpoint": f"/tickets/{ID}/comments", "json": {"at": URL}}
    return publish(**{**defaults, **arguments})


def in_order(*tasks: Any, policy: Policy | None = None) -> None:
    before = ApprovalSensor(task_id="approve", job=1, policy=policy or Policy())
    for task in tasks:
        before >> task
        before = task


def effect(record: JobRecord, name: str = "comment") -> Effect:
    return next(each for each in record.current_effects if each.name == name)


def test_the_plan_is_approved_with_the_placeholder_and_sent_with_its_value(
    run: RunDag, record: Record, target: Target
) -> None:
    policy = Policy()
    target.answers = [Answer(201, CREATED)]
    template = {"at": URL, "number": "{effects.create.answer.data.n}", "said": "{{ job.output.title }}"}
    headers = {"X-First": "{effects.create.answer.data.list[0].id}"}
    run(lambda: in_order(create(), comment(json=template, headers=headers, query={"of": f"no {ID}"}), policy=policy))
    ((_, plans),) = policy.asked
    assert plans[1]["url"].endswith(f"/tickets/{ID}/comments")
    assert plans[1]["body"] == f'{{"at":"{URL}","number":"{{effects.create.answer.data.n}}","said":"{ID}"}}'
    assert plans[1] == effect(record()).plan
    sent = target.received[1]
    assert sent.path == "/tickets/T-7/comments?of=no+T-7"
    assert sent.json == {"at": "https://desk/T-7", "number": "5", "said": ID}
    assert sent.headers["X-First"] == "true"
    assert effect(record()).filled == {
        ID: "T-7",
        URL: "https://desk/T-7",
        "{effects.create.answer.data.n}": "5",
        "{effects.create.answer.data.list[0].id}": "true",
    }
    assert record().job.state is JobState.COMPLETED


def test_only_the_fields_that_a_later_effect_names_are_kept_of_an_answer(
    run: RunDag, record: Record, target: Target
) -> None:
    target.answers = [Answer(201, CREATED)]
    run(lambda: in_order(create(), comment()))
    assert effect(record(), "create").result == {"status": 201, "answer": {"data.url": "https://desk/T-7"}}


def test_the_history_has_the_digest_of_what_was_filled_in(run: RunDag, record: Record, target: Target) -> None:
    target.answers = [Answer(201, CREATED)]
    run(lambda: in_order(create(), comment()))
    claims = [event.detail for event in record().events if event.event == "effect claimed"]
    assert [claim.get("filled_digest") for claim in claims] == [None, digest({ID: "T-7", URL: "https://desk/T-7"})]


@pytest.mark.parametrize(
    ("field", "why"),
    [
        ("data.none", "'data.none' of the answer to the effect 'create' cannot be used: it is not there"),
        ("data.list[4]", "cannot be used: it is not there"),
        ("data.x", "cannot be used: it is neither a text nor a number"),
        ("data.token", "cannot be used: it is a secret"),
        ("data.long", "cannot be used: it has more than 2000 characters"),
    ],
)
def test_a_field_that_cannot_be_used_stops_the_later_effect_before_it_is_sent(
    run: RunDag, record: Record, target: Target, field: str, why: str
) -> None:
    target.answers = [Answer(201, {"id": "T-7", "data": {**CREATED["data"], "long": "x" * 2001}})]  # type: ignore[dict-item]
    done = run(lambda: in_order(create(), comment(json={"x": f"{{effects.create.answer.{field}}}"})))
    assert why in done.error("comment")
    assert [each.path for each in target.received] == ["/tickets"]
    assert (effect(record()).state, effect(record()).filled) == (EffectState.REFUSED, None)
    assert why in (effect(record()).error or "")
    assert "s3cret" not in str(record())


def test_an_effect_that_was_skipped_brings_nothing(run: RunDag, record: Record, target: Target) -> None:
    done = run(lambda: in_order(create(when="{{ False }}"), comment(json={})))
    assert f"{ID} has no value, since the effect 'create' is skipped" in done.error("comment")
    assert target.received == []


def test_an_effect_without_an_external_id_brings_none(run: RunDag, target: Target) -> None:
    target.answers = [Answer(201, {})]
    done = run(lambda: in_order(create(), comment(json={})))
    assert "the target gave no external id of the effect 'create'" in done.error("comment")
    assert len(target.received) == 1


@pytest.mark.parametrize("external_id", ["..", "a/../b", "a%2Fb", "a\\b", "", "%252e%252e", "a\nb"])
def test_a_value_that_would_change_the_path_is_not_sent(run: RunDag, target: Target, external_id: str) -> None:
    target.answers = [Answer(201, {"id": external_id})]
    done = run(lambda: in_order(create(), comment(json={})))
    assert "the value for its url would change its path" in done.error("comment")
    assert len(target.received) == 1


def test_a_value_stays_one_part_of_the_path_and_of_the_body(run: RunDag, target: Target) -> None:
    value = '7?all=true&x#y;"}'
    target.answers = [Answer(201, {"id": value})]
    run(lambda: in_order(create(), comment(json={"id": ID})))
    assert target.received[1].path == "/tickets/7%3Fall%3Dtrue%26x%23y%3B%22%7D/comments"
    assert target.received[1].json == {"id": value}


def test_a_step_that_only_the_whole_path_makes_is_not_sent(run: RunDag, record: Record, target: Target) -> None:
    target.answers = [Answer(201, {"id": ";x"})]
    done = run(lambda: in_order(create(), comment(endpoint=f"/tickets/.{ID}/x", json={})))
    assert "what was filled in makes a step '.' or '..' of it" in done.error("comment")
    assert (len(target.received), effect(record()).state) == (1, EffectState.REFUSED)


def test_a_text_body_has_the_value_as_it_is(run: RunDag, target: Target) -> None:
    target.answers = [Answer(201, {"id": 'a "b"\nc'})]
    run(lambda: in_order(create(), comment(endpoint="/x", json=None, text=f"<{ID}>")))
    assert target.received[1].body == b'<a "b"\nc>'


def test_a_header_is_checked(run: RunDag, target: Target) -> None:
    target.answers = [Answer(201, {"id": "a\r\nX-Admin: yes"})]
    done = run(lambda: in_order(create(), comment(endpoint="/x", json={}, headers={"X-Of": ID})))
    assert "the value for its headers is not one line" in done.error("comment")
    assert len(target.received) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"json": {"x": "{effects.other.external_id}"}}, "and the job has no effect 'other'. "),
        ({"json": {"x": "{effects.comment.external_id}"}}, "and the effect 'comment' does not come before this one"),
        ({"json": {"x": "{effects.create.id}"}}, "has {effects.create.id}, which is no placeholder"),
        ({"json": {"x": "{effects.create.answer}"}}, "has {effects.create.answer}, which is no placeholder"),
        ({"json": {"x": "{current.title}"}}, "`json` of the task 'comment' has {current.title}, which only an undo"),
        ({"when": f"{{{{ '{ID}' == '7' }}}}"}, "`when` of the task 'comment' has"),
        ({"current": f"/tickets/{ID}"}, "nothing is known of earlier effects when this is rendered"),
        ({"probe": {"endpoint": "/x", "found": {f"$['{ID}']": 1}}}, "in a path"),
        ({"json": None, "files": {"a": {"path": f"/tmp/{ID}"}}}, "nothing is known of earlier effects"),
    ],
)
def test_a_placeholder_that_has_no_meaning_is_refused_when_it_is_planned(
    run: RunDag, target: Target, arguments: dict[str, Any], said: str
) -> None:
    done = run(lambda: in_order(create(), comment(**arguments)))
    assert said in done.error("approve")
    assert target.received == []


def test_an_effect_that_comes_later_and_one_for_each_element_cannot_be_named(run: RunDag, target: Target) -> None:
    done = run(lambda: in_order(comment(json={}), create()))
    assert "does not come before this one" in done.error("approve")
    done = run(lambda: in_order(create(for_each="$.lines"), comment(json={})))
    assert "one effect for each element of a list" in done.error("approve")
    assert target.received == []


def test_an_element_of_a_list_can_name_an_earlier_effect(run: RunDag, target: Target) -> None:
    target.answers = [Answer(201, {"id": "T-7"})]
    line: dict[str, Any] = {
        "task_id": "line",
        "for_each": "$.lines",
        "endpoint": f"/orders/{ID}/{{{{ item }}}}",
        "json": {},
    }
    run(lambda: in_order(create(), publish(**line)))
    assert [each.path for each in target.received] == ["/tickets", "/orders/T-7/1", "/orders/T-7/2"]


class TestUnknownOutcome:
    PROBE: ClassVar[dict[str, Any]] = {
        "endpoint": f"/find/{ID}",
        "found_in": "$.all",
        "found": {"$.at": URL},
        "external_id_path": "$.id",
    }

    def test_the_probe_of_the_later_effect_knows_the_value(self, run: RunDag, record: Record, target: Target) -> None:
        target.answers = [Answer(201, CREATED), DROP]
        target.answer_by_path["/find/T-7"] = Answer(
            200, {"all": [{"at": "no", "id": 1}, {"at": "https://desk/T-7", "id": 2}]}
        )
        run(lambda: in_order(create(), comment(probe=self.PROBE)))
        assert [each.path for each in target.received] == ["/tickets", "/tickets/T-7/comments", "/find/T-7"]
        assert (effect(record()).state, effect(record()).external_id) == (EffectState.APPLIED, "2")

    def test_an_attempt_after_a_lost_one_sends_the_same(
        self, dags: Dags, conninfo: dict[str, Any], record: Record, target: Target
    ) -> None:
        target.answers = [Answer(201, CREATED), DROP]
        dag = dags.make(lambda: in_order(create(), comment(idempotent=True, retries=0)))
        run = dags.run(dag)
        assert effect(record()).state is EffectState.UNKNOWN
        with psycopg.connect(**conninfo, autocommit=True) as connection:
            connection.execute("UPDATE aihandoff.effects SET external_id = 'other' WHERE name = 'create'")
        dags.clear(dag, run, ["comment"])
        assert [each.path for each in target.received[1:]] == ["/tickets/T-7/comments"] * 2

    def test_an_answer_that_was_lost_is_not_guessed(self, run: RunDag, record: Record, target: Target) -> None:
        probe = {
            "endpoint": "/find",
            "query": {"key": "{effect_key}"},
            "found": {"$.of": "x"},
            "external_id_path": "$.id",
        }
        target.answer_by_path["/find"] = Answer(404)
        target.answers = [Answer(404), DROP, Answer(200, {"of": "x", "id": "T-7", "data": {"url": "other"}})]
        done = run(lambda: in_order(create(json={"of": "x"}, probe=probe), comment()))
        assert effect(record(), "create").external_id == "T-7"
        assert "no 'data.url' is known of the answer to the effect 'create': it was lost" in done.error("comment")
        assert [each.method for each in target.received].count("POST") == 1


class TestUndo:
    UNDO: ClassVar[dict[str, Any]] = {
        "method": "DELETE",
        "endpoint": f"/tickets/{ID}/comments/{{external_id}}",
        "headers": {"X-Of": URL},
    }

    def rolled_back(self, **arguments: Any) -> None:
        comments = comment(external_id_path="$.id", **arguments)
        in_order(create(), comments, RollbackOperator(task_id="undo", job=1, reason="a test", leave=["create"]))

    def test_an_undo_has_what_was_filled_in(self, run: RunDag, record: Record, target: Target) -> None:
        target.answers = [Answer(201, CREATED), Answer(201, {"id": "c 1"})]
        run(lambda: self.rolled_back(undo=self.UNDO))
        assert effect(record()).undo["plan"]["url"].endswith(f"/tickets/{ID}/comments/{{external_id}}")  # type: ignore[index]
        sent = target.received[2]
        assert (sent.path, sent.headers["X-Of"]) == ("/tickets/T-7/comments/c%201", "https://desk/T-7")

    def test_an_effect_whose_undo_could_not_be_sent_is_not_sent(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        target.answers = [Answer(201, {"id": "a/b"})]
        done = run(lambda: self.rolled_back(endpoint="/x", json={}, undo={"method": "DELETE", "endpoint": f"/x/{ID}"}))
        assert "would change its path" in done.error("comment")
        assert [each.path for each in target.received] == ["/tickets"]

    def test_a_value_that_is_not_the_one_of_the_history_undoes_nothing(
        self, dags: Dags, ledger: Ledger, conninfo: dict[str, Any], target: Target
    ) -> None:
        target.answers = [Answer(201, CREATED)]
        dags.run(dags.make(lambda: in_order(create(), comment(undo=self.UNDO))))
        with psycopg.connect(**conninfo, autocommit=True) as connection:
            connection.execute("UPDATE aihandoff.effects SET filled = replace(filled::text, 'T-7', 'T-8')::json")
        (why,) = ledger.record(1).altered_undos.values()
        assert "another value of an earlier effect" in why


class TestOtherKinds:
    def test_a_statement_takes_a_value_as_a_parameter_and_gives_its_row(
        self, run: RunDag, record: Record, sales: psycopg.Connection[Any], target: Target
    ) -> None:
        target.answers = [Answer(201, {"id": "'; DROP TABLE reports; --"})]
        sql = "INSERT INTO reports (title) VALUES (%(title)s) RETURNING report_id, title"
        row = {
            "json": {"row": "{effects.store.answer.title}", "id": "{effects.store.external_id}"},
            "endpoint": "/rows",
        }
        current = "SELECT title FROM reports WHERE title = %(title)s"
        run(lambda: in_order(create(), store(sql=sql, parameters={"title": ID}, current=current), comment(**row)))
        (stored,) = sales.execute("SELECT title, report_id FROM reports").fetchall()
        assert stored[0] == "'; DROP TABLE reports; --"
        assert target.received[1].json == {"row": stored[0], "id": str(stored[1])}
        assert effect(record(), "store").plan["parameters"] == {"title": ID}
        assert "is not known yet" in effect(record(), "store").current["error"]  # type: ignore[index]

    def test_a_value_that_a_database_cannot_store_is_not_sent(
        self, run: RunDag, sales: psycopg.Connection[Any], target: Target
    ) -> None:
        target.answers = [Answer(201, {"id": 1, "data": {"url": "a\x00b"}})]
        done = run(lambda: in_order(create(), store(parameters={"title": URL})))
        assert "the value for its parameters has a NUL character" in done.error("store")
        assert sales.execute("SELECT count(*) FROM reports").fetchone() == (0,)

    def test_a_mail_has_the_value_in_its_text_and_not_among_its_recipients(
        self, run: RunDag, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = AnsweringMailbox()
        with mail_server(server) as connection:
            monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", connection)
            mail: dict[str, Any] = {"task_id": "mail", "job": 1, "to": "ann@example.com", "subject": f"Ticket {ID}"}
            wrong = {**mail, "to": f"{ID}@example.com", "text": "x"}
            done = run(lambda: in_order(create(), EmailSideEffectOperator(**wrong)))
            assert "`to` of the task 'mail' has" in done.error("approve")
            target.answers = [Answer(201, CREATED)]
            run(lambda: in_order(create(), EmailSideEffectOperator(**mail, text=f"See {URL}")))
        (sent,) = server.mails
        assert (sent["Subject"], str(sent.get_payload()).strip()) == ("Ticket T-7", "See https://desk/T-7")

    def test_a_function_takes_and_gives_values(self, run: RunDag, record: Record, target: Target) -> None:
        calls: list[dict[str, Any]] = []

        def note(ticket: str, of: dict[str, str]) -> Applied:
            calls.append({"ticket": ticket, "of": of})
            return Applied("n-1", answer={"at": "shelf 5", "more": "not kept"})

        def define() -> None:
            call: Any = airflow_task.side_effect(job=1, task_id="note")(note)
            made = call(ticket=ID, of={"said": "{{ job.output.title }}"})
            in_order(create(), made.operator, comment(endpoint="/x", json={"at": "{effects.note.answer.at}"}))

        run(define)
        assert calls == [{"ticket": "rec-1", "of": {"said": ID}}]
        assert target.received[1].json == {"at": "shelf 5"}
        assert effect(record(), "note").result == {"answer": {"at": "shelf 5"}}

    def test_an_operator_of_ones_own_fills_in_what_it_says_it_does_and_nothing_is_sent_unfilled(
        self, run: RunDag, target: Target
    ) -> None:
        sent: list[dict[str, Any]] = []

        class Plain(SideEffectOperator):
            template_fields = ("job", "when", "undo", "text")

            def __init__(self, *, text: str, **kwargs: Any) -> None:
                super().__init__(**kwargs)
                self.text = text

            def plan(self, job: Any) -> dict[str, Any]:
                return {"text": self.text}

            def apply(self, plan: dict[str, Any], key: str) -> Applied:
                sent.append(plan)
                return Applied()

        class Filled(Plain):
            def plan(self, job: Any) -> dict[str, Any]:
                return self.settled_plan({"text": self.marked("text")})

        done = run(lambda: in_order(create(), Plain(task_id="own", job=1, text=f"of {ID}")))
        assert "where the kind 'Plain' fills in nothing" in done.error("approve")
        undo = {"kind": "http", "connection": "cms", "method": "DELETE", "endpoint": f"/x/{ID}"}
        said: dict[str, Any] = {"task_id": "said", "job": 1, "text": "{{ job.output.title }}", "undo": undo}
        run(lambda: in_order(create(), Plain(**said), Filled(task_id="own", job=1, text=f"of {ID}")))
        assert sent == [{"text": ID}, {"text": "of rec-1"}]
