"""Writes over HTTP: exactly what was approved, at most once, and what every answer of a target means."""

from __future__ import annotations

import json
import socket
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor, Effect, Job
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import EffectState, JobState, ResponseStatus
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.targets.http import HttpTarget
from airflow_provider_aihandoff.triggers.approval import ApprovalTrigger
from tests.airflow_compat import get_parser
from tests.factories import draft, job_spec, submit
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import NOTE, Policy, ask, ask_unapproved, publish
from tests.recorder import recording
from tests.target import DROP, Answer, Target

Record = Callable[[], JobRecord]
EffectOf = Callable[[], Effect]


@pytest.fixture
def effect(record: Record) -> EffectOf:
    """The only effect of the only job."""

    def read() -> Effect:
        (only,) = record().current_effects
        return only

    return read


class TestRequest:
    @pytest.mark.usefixtures("review")
    def test_the_bytes_that_are_sent_are_those_of_the_plan_that_was_approved(
        self, run: RunDag, effect: EffectOf, target: Target
    ) -> None:
        policy = Policy()

        def define() -> None:
            approve = ApprovalSensor(task_id="approve", job=1, policy=policy)
            headers, query = {"X-Team": "shop"}, {"notify": "no", "title": "{{ job.output.title }}"}
            approve >> publish(headers=headers, query=query)

        run(define)

        (received,) = target.received
        ((_, (plan,)),) = policy.asked
        assert plan == effect().plan
        assert received.body == plan["body"].encode()
        assert received.json == NOTE
        assert (received.method, received.path) == ("PUT", "/posts/kettle?notify=no&title=Kettle")
        assert plan["url"] == f"http://127.0.0.1:{target.port}/posts/kettle"
        assert received.headers["X-Team"] == "shop"
        assert received.headers["Content-Type"] == "application/json"
        assert received.headers["Idempotency-Key"] == effect().effect_key

    @pytest.mark.usefixtures("accepted")
    def test_a_body_can_be_a_text_that_renders_to_json(self, run: RunDag, target: Target) -> None:
        run(lambda: publish(json='{"note": {{ job.output | tojson }}, "key": {{ job.job_key | tojson }}}'))
        assert target.received[0].json == {"note": NOTE, "key": "post:kettle"}

    @pytest.mark.parametrize("body", ['{"price": NaN}', '{"price": 1e999}', '{"a": 1, "a": 2}'])
    @pytest.mark.usefixtures("accepted")
    def test_a_text_that_json_readers_disagree_about_is_refused(self, run: RunDag, target: Target, body: str) -> None:
        done = run(lambda: publish(json=body))

        assert (done.states["publish"], done.tries["publish"]) == ("failed", 1)
        assert "did not render to JSON: Not valid JSON" in done.error("publish")
        assert target.received == []

    @pytest.mark.usefixtures("accepted")
    def test_a_text_that_does_not_render_to_json_is_refused_with_the_remedy(self, run: RunDag, target: Target) -> None:
        done = run(lambda: publish(json='{"body": "{{ job.output.body }}"}'))

        assert (done.states["publish"], done.tries["publish"]) == ("failed", 1)
        assert "did not render to JSON" in done.error("publish")
        assert "| tojson" in done.error("publish")
        assert target.received == []

    def test_a_text_with_nul_is_sent_as_json_and_one_that_utf_8_cannot_write_is_refused_when_it_is_planned(
        self, run: RunDag, ledger: Ledger, target: Target
    ) -> None:
        spec: dict[str, Any] = {"approval": "not required", "approval_reason": "it is a test"}
        fine = draft(ledger, job_spec(job_key="nul", **spec), {"title": "nul \x00", "body": ""}, "resp_2")
        odd = draft(ledger, job_spec(job_key="half", **spec), {"title": "\ud800", "body": ""}, "resp_3")

        assert run(lambda: publish(fine.job_id)).states == {"publish": "success"}
        refused = run(lambda: publish(odd.job_id))

        assert [received.json["title"] for received in target.received] == ["nul \x00"]
        assert refused.states == {"publish": "failed"}
        assert "the effect 'publish' has half of a surrogate pair in json.title" in refused.error("publish")
        assert ledger.record(odd.job_id).effects == []

    @pytest.mark.parametrize("title", ["One\ntwo", "nul \x00", "\u2192", " indented"])
    def test_a_header_that_could_not_be_sent_is_refused_when_it_is_planned(
        self, run: RunDag, ledger: Ledger, target: Target, title: str
    ) -> None:
        spec = job_spec(approval="not required", approval_reason="it is a test")
        job = draft(ledger, spec, {"title": title, "body": ""}, "resp_2")
        done = run(lambda: publish(job.job_id, headers={"X-Title": "{{ job.output.title }}"}))
        assert (done.states, done.tries) == ({"publish": "failed"}, {"publish": 1})
        assert "the header 'X-Title' of the effect 'publish'" in done.error("publish")
        assert (target.received, ledger.record(job.job_id).effects) == ([], [])

    @pytest.mark.usefixtures("accepted")
    def test_a_plan_that_is_nested_too_deeply_is_refused(self, run: RunDag, target: Target) -> None:
        deep: Any = 1
        for _ in range(70):
            deep = [deep]
        done = run(lambda: publish(query={"deep": deep}))
        assert done.states["publish"] == "failed"
        assert "nested more than 64 levels deep" in done.error("publish")
        assert target.received == []

    @pytest.mark.usefixtures("review")
    @pytest.mark.parametrize(
        ("arguments", "field"),
        [
            ({"endpoint": "/posts/{{ job.output.body }}"}, "endpoint"),
            ({"current": "/posts/{{ job.output.body }}"}, "current"),
            ({"probe": {"endpoint": "/posts?key={{ job.output.body }}"}}, "probe.endpoint"),
            ({"undo": {"method": "DELETE", "endpoint": "/posts/{{ job.output.body }}"}}, "undo.endpoint"),
            (
                {"undo": {"method": "DELETE", "endpoint": "/1", "probe": {"endpoint": "/{{ job.output.body }}"}}},
                "undo.probe.endpoint",
            ),
        ],
    )
    def test_a_value_of_the_model_that_would_change_a_url_is_refused_before_anyone_is_asked(
        self, run: RunDag, target: Target, arguments: dict[str, Any], field: str
    ) -> None:
        policy = Policy()
        done = run(lambda: ApprovalSensor(task_id="approve", job=1, policy=policy) >> publish(**arguments))

        assert f"`{field}` of the effect 'publish'" in done.error("approve")
        assert "which would change the" in done.error("approve")
        assert (done.tries["approve"], policy.asked, target.received) == (1, [], [])

    @pytest.mark.usefixtures("accepted")
    def test_a_value_that_would_change_a_url_is_refused_where_no_one_approves(
        self, run: RunDag, target: Target
    ) -> None:
        done = run(lambda: publish(endpoint="/posts/{{ job.output.body }}"))
        assert "fills in a value with ';', which would change the path" in done.error("publish")
        assert (done.tries["publish"], target.received) == (1, [])

    @pytest.mark.usefixtures("accepted")
    def test_the_effect_key_is_sent_where_the_author_wrote_it_and_a_text_of_the_job_that_reads_so_stays(
        self, run: RunDag, effect: EffectOf, ledger: Ledger, target: Target
    ) -> None:
        run(
            lambda: publish(
                endpoint="/posts/{effect_key}",
                json={"ref": "{effect_key}", "text": "{{ '{effect' ~ '_key}' }}"},
                headers={"X-Ref": "{effect_key}"},
                query={"ref": "{effect_key}"},
            )
        )
        key, (received,) = effect().effect_key, target.received
        assert received.path == f"/posts/{key}?ref={key}"
        assert (received.json, received.headers["X-Ref"]) == ({"ref": key, "text": "{effect_key}"}, key)

    @pytest.mark.usefixtures("accepted")
    @pytest.mark.parametrize(
        "arguments",
        [
            {"endpoint": "/posts/{external_id}"},
            {"json": {"ref": ["{effekt_key}"]}},
            {"headers": {"X-Ref": "{key}"}},
            {"probe": {"endpoint": "/posts", "query": {"key": "{undo_key}"}}},
            {"undo": {"method": "DELETE", "endpoint": "/posts/{id}"}},
        ],
    )
    def test_a_placeholder_that_nothing_fills_in_is_refused(
        self, run: RunDag, target: Target, arguments: dict[str, Any]
    ) -> None:
        done = run(lambda: publish(**arguments))
        assert (done.states["publish"], done.tries["publish"], target.received) == ("failed", 1, [])
        assert "which nothing fills in" in done.error("publish")

    @pytest.mark.usefixtures("accepted")
    def test_a_probe_that_sees_something_before_anything_was_sent_proves_nothing_later(
        self, run: RunDag, effect: EffectOf, target: Target
    ) -> None:
        target.answers = [Answer(200, {"title": "Kettle"}), DROP]  # the probe is tried, then the write is lost
        target.answers += [Answer(200, {"title": "Kettle"})] * 9

        with recording() as recorded:
            done = run(lambda: publish(probe={"endpoint": "/posts/kettle", "found": {"$.title": "Kettle"}}, grace=0))

        assert recorded.of(signals.PROBE_TRIALS) == [({"target": "http", "moment": "before", "proves": "no"}, 1)]
        assert [received.method for received in target.received][:2] == ["GET", "PUT"]
        assert (done.states["publish"], effect().state, effect().find_counts) == ("failed", EffectState.UNKNOWN, False)
        assert "before anything was sent" in str(effect().probe_note)

    @pytest.mark.usefixtures("accepted")
    def test_a_request_without_a_body_has_none(self, run: RunDag, target: Target) -> None:
        run(lambda: publish(json=None, method="DELETE"))
        assert (target.received[0].method, target.received[0].body) == ("DELETE", b"")

    @pytest.mark.usefixtures("accepted")
    def test_a_secret_header_is_sent_and_masked_in_the_ledger(
        self, run: RunDag, effect: EffectOf, target: Target
    ) -> None:
        run(lambda: publish(headers={"Authorization": "Bearer {{ secret() }}"}), user_defined_macros=SECRET)

        assert target.received[0].headers["Authorization"] == "Bearer s3cret-of-a-macro"
        assert effect().plan["headers"] == {"Authorization": "***"}

    def test_a_method_that_does_not_write_is_refused_when_the_dag_is_parsed(self) -> None:
        with pytest.raises(ValueError, match="an effect writes"):
            publish(1, method="GET")


LINE_BREAK = "s3cret-before-a-line-break"


class TestErrors:
    @pytest.mark.usefixtures("accepted")
    def test_a_header_with_a_line_break_behind_a_token_is_in_no_error_log_and_ledger(
        self, run: RunDag, record: Record, target: Target, caplog: pytest.LogCaptureFixture
    ) -> None:
        headers = {"Authorization": "Bearer {{ secret() }}"}
        probe = {"endpoint": "/posts", "headers": headers}
        macros = {"secret": lambda: f"{LINE_BREAK}\n"}

        done = run(lambda: publish(headers=headers, current="/posts", probe=probe), user_defined_macros=macros)

        printed = "".join(line for error in done.errors["publish"] for line in traceback.format_exception(error))
        assert done.states["publish"] == "failed"
        assert "cannot be sent: it is not one line" in printed
        assert LINE_BREAK not in printed + caplog.text + str(record())
        assert target.received == []

    @pytest.mark.usefixtures("review")
    def test_why_a_target_cannot_be_read_is_said_without_the_secret(
        self, run: RunDag, effect: EffectOf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def read(self: HttpTarget, plan: dict[str, Any]) -> None:
            raise ValueError(f"{plan['query']} is refused")

        def define() -> None:
            approve = ApprovalSensor(task_id="approve", job=1, policy=Policy())
            approve >> publish(query={"api_key": "{{ secret() }}"}, current="/posts")

        monkeypatch.setattr(HttpTarget, "read", read)
        run(define, user_defined_macros={"secret": lambda: LINE_BREAK})
        current = effect().current
        assert current is not None
        assert current["error"] == "ValueError: {'api_key': '***'} is refused"
        assert LINE_BREAK not in caplog.text


SECRET = {"secret": lambda: "s3cret-of-a-macro"}


@pytest.mark.usefixtures("accepted")
class TestExternalId:
    @pytest.mark.parametrize(
        ("arguments", "answer", "external_id"),
        [
            ({"external_id_path": "$.id"}, Answer(201, {"id": 7}), "7"),
            ({"external_id_path": "$.data[0].key"}, Answer(200, {"data": [{"key": "K-1"}]}), "K-1"),
            (
                {"external_id_path": None, "external_id_header": "Location"},
                Answer(201, None, {"Location": "/posts/7"}),
                "/posts/7",
            ),
            ({"external_id_path": "$.nothing"}, Answer(200, {"id": 7}), None),
            ({"external_id_path": "$.id"}, Answer(204), None),
            ({"external_id_path": None}, Answer(200, {"id": 7}), None),
        ],
    )
    def test_the_external_id_comes_from_the_answer_where_the_author_says(
        self,
        run: RunDag,
        effect: EffectOf,
        target: Target,
        arguments: dict[str, Any],
        answer: Answer,
        external_id: str | None,
    ) -> None:
        target.answers = [answer]

        done = run(lambda: publish(**arguments))

        assert (effect().state, effect().external_id) == (EffectState.APPLIED, external_id)
        assert done.xcoms["publish"] == {
            "job_id": 1,
            "effect_id": effect().effect_id,
            "effect_key": effect().effect_key,
            "external_id": external_id,
            "state": "applied",
        }


@pytest.mark.usefixtures("accepted")
class TestStatus:
    @pytest.mark.parametrize("status", [302, 307, 400, 401, 404, 422])
    def test_a_status_that_proves_that_nothing_was_written_is_a_refusal(
        self, run: RunDag, record: Record, effect: EffectOf, target: Target, status: int
    ) -> None:
        target.answers = [Answer(status, {"no": 1}, {"Location": f"http://127.0.0.1:{target.port}/elsewhere"})]

        done = run(publish)

        assert (done.states["publish"], done.tries["publish"]) == ("failed", 1)
        assert f"answered {status}" in done.error("publish")
        assert "This step made no external write." in done.error("publish")
        assert (effect().state, record().job.state) == (EffectState.REFUSED, JobState.APPLYING)
        assert len(target.received) == 1

    @pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 504])
    def test_a_status_that_proves_nothing_is_unknown_and_is_not_sent_again(
        self, run: RunDag, effect: EffectOf, target: Target, status: int
    ) -> None:
        target.answers = [Answer(status)]

        done = run(publish)

        assert (done.states["publish"], done.tries["publish"]) == ("failed", 1)
        assert effect().state is EffectState.UNKNOWN
        assert f"answered {status}" in done.error("publish")
        assert len(target.received) == 1

    @pytest.mark.parametrize("status", [422, 500])
    def test_what_the_target_says_is_in_the_ledger_in_the_terminal_and_in_the_error_that_airflow_logs(
        self, run: RunDag, effect: EffectOf, target: Target, capsys: pytest.CaptureFixture[str], status: int
    ) -> None:
        target.answers = [Answer(status, {"error": "the shelf is full", "password": "s3cret-of-the-target"})]

        done = run(publish)

        capsys.readouterr()
        args = get_parser().parse_args(["aihandoff", "effects", "list", "-o", "json"])
        args.func(args)
        (listed,) = json.loads(capsys.readouterr().out)
        for text in (str(effect().error), listed["error"], done.error("publish")):
            assert f"answered {status}" in text
            assert "the shelf is full" in text
            assert "s3cret-of-the-target" not in text

    def test_what_the_probe_was_answered_is_in_the_ledger_in_the_terminal_and_in_the_error_that_airflow_logs(
        self, run: RunDag, effect: EffectOf, target: Target, capsys: pytest.CaptureFixture[str]
    ) -> None:
        target.answers = [Answer(500)]
        target.answer_by_path = {"/lookup": Answer(403, {"error": "the token lacks a scope"})}
        probe = {"endpoint": "/lookup", "found": {"$.title": "Kettle"}}

        done = run(lambda: publish(probe=probe, grace=0))

        capsys.readouterr()
        args = get_parser().parse_args(["aihandoff", "effects", "list", "-o", "json"])
        args.func(args)
        (listed,) = json.loads(capsys.readouterr().out)
        for text in (str(effect().probe_note), listed["probe_note"], done.error("publish")):
            assert "the token lacks a scope" in text

    @pytest.mark.parametrize("status", [425, 429, 503])
    def test_a_status_that_says_not_now_is_sent_again_with_the_same_key_when_the_target_or_airflow_says(
        self, run: RunDag, effect: EffectOf, target: Target, status: int
    ) -> None:
        again = {} if status != 503 else {"Retry-After": "6"}  # a gateway's 503 counts only where it says when
        target.answers = [Answer(status, None, {"Retry-After": "1"}), Answer(status, None, again)]

        done = run(publish)

        # The first answer says when to come back, and is waited for; after the second one, Airflow's retry goes on.
        assert (done.states["publish"], done.tries["publish"]) == ("success", 1 if again else 2)
        assert (effect().state, effect().attempt) == (EffectState.APPLIED, 3)
        assert {received.headers["Idempotency-Key"] for received in target.received} == {effect().effect_key}
        assert len({received.body for received in target.received}) == 1

    def test_a_refused_effect_is_sent_again_when_its_task_is_cleared(
        self, dags: Dags, effect: EffectOf, target: Target
    ) -> None:
        target.answers = [Answer(422)]
        dag = dags.make(publish)
        first = dags.run(dag)

        again = dags.run(dag, again=first)

        assert again.states["publish"] == "success"
        assert (effect().state, len(target.received)) == (EffectState.APPLIED, 2)
        assert len({received.headers["Idempotency-Key"] for received in target.received}) == 1


@pytest.mark.usefixtures("accepted")
class TestBroken:
    def test_a_target_that_accepts_no_connection_is_tried_again(
        self, run: RunDag, effect: EffectOf, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        cms = {"conn_type": "http", "host": "127.0.0.1", "port": port, "schema": "http"}
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(cms))

        done = run(lambda: publish(retries=2))

        assert (done.states["publish"], done.tries["publish"]) == ("failed", 3)
        assert "no connection to the target" in done.error("publish")
        assert (effect().state, effect().attempt) == (EffectState.PLANNED, 3)

    @pytest.mark.parametrize("how", ["drop", "time-out"])
    def test_no_answer_after_the_request_left_is_unknown_and_says_what_to_check_and_how_to_resolve_it(
        self, dags: Dags, record: Record, effect: EffectOf, target: Target, ledger: Ledger, how: str
    ) -> None:
        target.answers = [DROP]
        target.hold = threading.Event() if how == "time-out" else None
        dag = dags.make(lambda: publish(timeout=1.5 if how == "time-out" else 30))

        first = dags.run(dag)
        if target.hold is not None:
            target.hold.set()
        again = dags.run(dag, again=first)

        assert effect().state is EffectState.UNKNOWN
        for done in (first, again):
            assert (done.states["publish"], done.tries["publish"]) == ("failed", 1)
            message = done.error("publish")
            assert "may have been applied" in message
            assert f"Search the target for the effect key {effect().effect_key}" in message
            assert f"airflow aihandoff effects resolve {effect().effect_id} --applied EXTERNAL_ID" in message
        assert len(target.received) == 1

        ledger.effects.resolve(
            effect().effect_id, external_id="rec-1", applied=True, actor=Actor.program("bob"), why="it is there"
        )
        resolved = dags.run(dag, again=first)

        assert resolved.xcoms["publish"]["external_id"] == "rec-1"
        assert (record().job.state, len(target.received)) == (JobState.COMPLETED, 1)

    def test_an_idempotent_target_gets_it_again_with_the_same_key(
        self, run: RunDag, effect: EffectOf, target: Target
    ) -> None:
        target.answers = [DROP, Answer(502), Answer(200, {"id": "rec-1"})]

        done = run(lambda: publish(idempotent=True))

        assert (done.states["publish"], done.tries["publish"]) == ("success", 3)
        assert (effect().state, effect().external_id, effect().attempt) == (EffectState.APPLIED, "rec-1", 3)
        assert [received.headers["Idempotency-Key"] for received in target.received] == [effect().effect_key] * 3
        assert len({received.body for received in target.received}) == 1

    @pytest.mark.parametrize("status", [422, 429])
    def test_a_refusal_of_what_was_sent_again_proves_nothing_about_the_first(
        self, run: RunDag, effect: EffectOf, target: Target, status: int
    ) -> None:
        target.answers = [DROP, Answer(status)]

        done = run(lambda: publish(idempotent=True, retries=1))

        assert done.states["publish"] == "failed"
        assert effect().state is EffectState.UNKNOWN
        assert "an earlier attempt was lost" in done.error("publish")


class TestApproval:
    @pytest.fixture
    def drafted(self, run: RunDag, ledger: Ledger, review: Job) -> str:
        """A job in review, asked about; its digest."""

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ApprovalTrigger, "run", breaks)
            run(lambda: ApprovalSensor(task_id="approve", job=1) >> publish())
        digest = ledger.job(1).review_digest
        assert digest is not None
        return digest

    def test_an_effect_without_an_approval_is_not_sent(self, run: RunDag, drafted: str, target: Target) -> None:
        done = run(lambda: publish())

        assert (done.states["publish"], done.tries["publish"]) == ("failed", 1)
        assert "it is review, and no one has approved" in done.error("publish")
        assert target.received == []

    def test_an_effect_of_a_rejected_job_is_not_sent(
        self, run: RunDag, drafted: str, ledger: Ledger, target: Target
    ) -> None:
        ledger.reviews.decide(1, "reject", digest=drafted, person=Person("bob"))

        done = run(lambda: publish())

        assert (done.states["publish"], done.tries["publish"]) == ("failed", 1)
        assert "it is rejected, and no one has approved" in done.error("publish")
        assert target.received == []

    def test_an_effect_of_a_cancelled_job_is_not_sent(self, run: RunDag, ledger: Ledger, target: Target) -> None:
        submit(ledger, job_spec())
        ledger.outputs.cancelled(1, 1, actor=Actor.program("bob"), reason="not needed", status=ResponseStatus.CANCELLED)

        done = run(lambda: [publish(), publish(1, "plain", json={"a": 1})])

        for name in ("publish", "plain"):
            assert (done.states[name], done.tries[name]) == ("failed", 1)
            assert "it was cancelled (not needed)" in done.error(name)
        assert target.received == []

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"json": {"title": "Another"}}, "body"),
            ({"endpoint": "/posts/pot"}, "url"),
            ({"method": "POST"}, "method"),
            ({"headers": {"X-Team": "pots"}}, "headers"),
            ({"query": {"notify": "all"}}, "query"),
            ({"undo": {"method": "DELETE", "endpoint": "/posts/kettle"}}, "undo"),
        ],
    )
    def test_a_plan_that_is_not_the_approved_one_is_not_sent(
        self, run: RunDag, drafted: str, ledger: Ledger, target: Target, changes: dict[str, Any], what: str
    ) -> None:
        ledger.reviews.decide(1, "approve", digest=drafted, person=Person("bob"))

        done = run(lambda: publish(1, **changes))

        assert (done.states["publish"], done.tries["publish"]) == ("failed", 1)
        assert f"is not what was approved. Changed: {what}." in done.error("publish")
        assert target.received == []

        assert "A person is asked about the plan as it is now" in done.error("publish")
        asked = ledger.job(1)
        assert (asked.state, asked.review_digest == drafted) == (JobState.REVIEW, False)
        assert f"Changed: {what}." in str(asked.state_reason)
        assert asked.review_digest is not None
        ledger.reviews.decide(1, "approve", digest=asked.review_digest, person=Person("bob"))
        assert run(lambda: publish(1, **changes)).states["publish"] == "success"
        assert len(target.received) == 1

    def test_after_a_write_no_one_is_asked_about_another_plan(
        self, run: RunDag, review: Job, ledger: Ledger, target: Target
    ) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ApprovalTrigger, "run", breaks)
            run(lambda: ApprovalSensor(task_id="approve", job=1) >> [publish(), publish(1, "second")])
        approved = ledger.job(1).review_digest
        assert approved is not None
        ledger.reviews.decide(1, "approve", digest=approved, person=Person("bob"))
        run(lambda: publish())

        done = run(lambda: publish(1, "second", endpoint="/posts/pot"))

        assert "is not what was approved. Changed: url." in done.error("second")
        assert "A person is asked" not in done.error("second")
        job = ledger.job(1)
        assert (job.state, job.review_digest, len(target.received)) == (JobState.APPLYING, approved, 1)

    def test_another_target_under_the_same_connection_id_is_another_plan(
        self, run: RunDag, drafted: str, ledger: Ledger, target: Target, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ledger.reviews.decide(1, "approve", digest=drafted, person=Person("bob"))
        cms = {"conn_type": "http", "host": "localhost", "port": target.port, "schema": "http"}
        monkeypatch.setenv("AIRFLOW_CONN_CMS", json.dumps(cms))

        done = run(lambda: publish())

        assert "Changed: url." in done.error("publish")
        assert target.received == []

    def test_an_effect_that_is_no_part_of_the_approved_plan_is_not_sent(
        self, run: RunDag, drafted: str, ledger: Ledger, target: Target
    ) -> None:
        ledger.reviews.decide(1, "approve", digest=drafted, person=Person("bob"))
        done = run(lambda: publish(1, "smuggled"))
        assert "is not part of the plan that was approved" in done.error("smuggled")
        assert target.received == []

    def test_an_approved_plan_is_sent_by_every_task_that_plans_exactly_that(
        self, run: RunDag, drafted: str, ledger: Ledger, target: Target
    ) -> None:
        ledger.reviews.decide(1, "approve", digest=drafted, person=Person("bob"))
        run(lambda: publish())
        assert len(target.received) == 1


async def breaks(self: ApprovalTrigger) -> Any:
    """A trigger's `run` that breaks off."""
    if self.until:
        raise RuntimeError("the triggerer is gone")
    yield


class TestAgain:
    def test_a_cleared_run_sends_nothing_and_gives_the_same_result(
        self, dags: Dags, record: Record, target: Target
    ) -> None:
        def define() -> None:
            draft = ask()
            draft >> ApprovalSensor(task_id="approve", job=draft, policy=Policy()) >> publish(draft)

        dag = dags.make(define)
        first = dags.run(dag)

        again = dags.run(dag, again=first)

        assert again.states == first.states
        assert again.xcoms["publish"] == first.xcoms["publish"]
        assert (len(target.received), len(record().decisions)) == (1, 1)

    def test_another_run_with_the_same_key_sends_nothing(self, run: RunDag, target: Target) -> None:
        define = lambda: publish(ask_unapproved())  # noqa: E731
        first, second = run(define), run(define)
        assert first.xcoms["publish"] == second.xcoms["publish"]
        assert len(target.received) == 1

    @pytest.mark.usefixtures("accepted")
    def test_a_second_effect_goes_on_where_the_first_is_applied(
        self, dags: Dags, record: Record, target: Target
    ) -> None:
        def define() -> None:
            publish(1, "one") >> publish(1, "two", endpoint="/two")

        target.answers = [Answer(201, {"id": 1}), Answer(422)]
        dag = dags.make(define)
        first = dags.run(dag)

        again = dags.run(dag, again=first)

        assert (first.states["two"], again.states["two"]) == ("failed", "success")
        assert [received.path for received in target.received] == ["/posts/kettle", "/two", "/two"]
        assert record().job.state is JobState.COMPLETED
