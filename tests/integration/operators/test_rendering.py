"""Templates give texts: in every Dag, never twice, the same each time, and with placeholders of authors alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from airflow.sdk import task

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.operators.email import EmailSideEffectOperator
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.integration.operators.conftest import Model, RunDag
from tests.integration.operators.tasks import Policy, ask, ask_unapproved, publish, store
from tests.target import DROP, Answer, Target

Record = Callable[[], JobRecord]

#: What native rendering takes for something else than a text.
NATIVE = {"title": "1984", "body": "None"}


class TestNative:
    def test_every_effect_gets_texts_where_the_dag_renders_native_objects(
        self, run: RunDag, model: Model, target: Target, sales: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model.output = NATIVE
        policy = Policy()
        monkeypatch.setenv("AIRFLOW_CONN_MAIL", json.dumps({"conn_type": "smtp", "host": "127.0.0.1", "port": 1}))

        def define() -> None:
            draft = ask(input="{{ params.subject }}", params={"subject": "[1, 2]"})
            approve = ApprovalSensor(task_id="approve", job=draft, policy=policy)
            undo = {"method": "POST", "endpoint": "/undo", "json": {"title": "{{ job.output.title }}"}}
            probe = {"endpoint": "/posts", "found": {"$.title": "{{ job.output.title }}"}}
            mail = EmailSideEffectOperator(
                task_id="mail", job=draft, smtp_conn_id="mail", from_email="a@x.test", to="b@x.test",
                subject="{{ job.output.title }}", text="{{ job.output.body }}",
            )  # fmt: skip
            draft >> approve >> publish(draft, undo=undo, probe=probe) >> store(draft) >> mail

        run(define, render_template_as_native_obj=True)

        ((_, (http, sql, mail)),) = policy.asked
        assert json.loads(http["body"]) == NATIVE
        assert sql["parameters"] == {"title": "None"}
        assert (mail["subject"], mail["text"]) == ("1984", "None")
        assert target.received[0].json == NATIVE

    def test_what_the_model_is_asked_is_a_text_and_so_is_the_key(
        self, run: RunDag, stand_in: OpenAIStandIn, record: Record
    ) -> None:
        run(
            lambda: ask_unapproved(input="{{ params.subject }}", job_key="{{ params.number }}"),
            params={"subject": "{'role': 'user'}", "number": "1984"},
            render_template_as_native_obj=True,
        )

        assert (record().job.input["input"], record().job.job_key) == ("{'role': 'user'}", "1984")

    @pytest.mark.usefixtures("accepted")
    def test_an_undo_and_the_task_that_rolls_back_get_texts(self, run: RunDag, record: Record, target: Target) -> None:
        undo = {"method": "POST", "endpoint": "/undo", "json": {"n": "{{ params.number }}", "id": "{external_id}"}}
        native = {"render_template_as_native_obj": True, "params": {"number": "1984"}}
        run(lambda: publish(undo=undo), **native)

        done = run(
            lambda: RollbackOperator(task_id="back", job="{{ 0 + 1 }}", reason="{{ params.number }}"),
            **native,
        )

        assert done.states["back"] == "success"
        assert target.received[-1].json == {"n": "1984", "id": "rec-1"}
        assert [event.reason for event in record().events if event.event == "roll back started"] == ["1984"]


class TestWhatHasNoText:
    @pytest.mark.parametrize(
        ("template", "problem"),
        [
            ("{{ job.output.title }}", "'title' of a str is a method"),
            ("{{ job.output.title | upper }}", "'title' of a str is a method"),
            ("{{ 'a' ~ job.output.title }}", "'title' of a str is a method"),
            ("{% if job.output.title %}x{% endif %}", "'title' of a str is a method"),
            ("{{ [job.output['title']] }}", "'title' of a str is a method"),
            ("{{ range }}", "is a function or a class"),
            ("{{ [1, 2] | map('string') }}", "no order that is the same each time"),
            ("{{ macros.datetime }}", "is a function or a class"),
        ],
    )
    def test_an_effect_with_it_fails_at_once_and_the_error_names_task_field_and_template(
        self, run: RunDag, model: Model, record: Record, target: Target, template: str, problem: str
    ) -> None:
        model.output = "A plain text."

        def define() -> None:
            draft = ask(output_type=None)
            approve = ApprovalSensor(task_id="approve", job=draft, policy=Policy())
            draft >> approve >> publish(draft, json={"deep": [{"title": template}]})

        done = run(define)

        assert (done.states["approve"], done.tries["approve"]) == ("failed", 1)
        for part in (problem, "`json`", "'publish'", repr(template), "No external write was made."):
            assert part in done.error("approve")
        assert (target.received, record().effects) == ([], [])

    def test_the_task_that_asks_the_model_fails_before_it_is_asked(self, run: RunDag, stand_in: OpenAIStandIn) -> None:
        done = run(lambda: ask_unapproved(input="Write about {{ dag.test }}."))

        assert (done.states["draft"], done.tries["draft"]) == ("failed", 1)
        assert "`input` of the task 'draft' gives no text: 'test' of a" in done.error("draft")
        assert stand_in.responses().creates == 0

    def test_a_method_can_be_called_and_values_of_every_plain_kind_are_written(
        self, run: RunDag, model: Model, target: Target
    ) -> None:
        model.output = "a plain text"
        template = (
            "{{ job.output.title() }} {{ 1.5 }} {{ none }} {{ true }} {{ {'a': [1]} }} {{ macros.ds_add(ds, 1) }}"
        )

        def define() -> None:
            draft = ask_unapproved(output_type=None)
            draft >> publish(draft, json={"title": template})

        assert run(define).state == "success"
        assert target.received[0].json["title"].startswith("A Plain Text 1.5 None True {'a': [1]} 2026-01-02")


HOSTILE_OUTPUT = "{external_id} {effect_key} {undo_key} ***"
HOSTILE = "{{ conn.sales_db.password }}{{ 1 + 1 }} {external_id} ***"


class TestTwice:
    def test_a_value_from_another_task_is_not_rendered_in_a_mapped_task(
        self, run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        def define() -> None:
            @task
            def asked() -> list[dict[str, Any]]:
                return [{"input": HOSTILE, "metadata": {"note": HOSTILE}, "job_key": f"{{{{ 1 }}}}{n}"} for n in (1, 2)]

            OpenAIBackgroundResponseOperator.partial(
                task_id="draft", model="gpt-5.2", job_type="{{ 'publishing' }}", approval="not required",
                approval_reason="it is a test",
            ).expand_kwargs(asked())  # fmt: skip

        assert run(define).state == "success"
        for number in (1, 2):
            job = ledger.job(number)
            assert (job.job_type, job.input["input"]) == ("publishing", HOSTILE)
            assert job.job_key == f"{{{{ 1 }}}}{number}"
            assert ledger.revision(number, 1).request["metadata"]["note"] == HOSTILE

    @pytest.mark.usefixtures("accepted")
    def test_an_effect_that_is_mapped_by_a_decorator_gets_the_values_of_another_task_as_they_are(
        self, run: RunDag
    ) -> None:
        """The plan of a mapped effect is not known in advance, so it is refused; its fields are rendered before."""
        seen: list[Any] = []

        def define() -> None:
            @task
            def texts() -> list[dict[str, Any]]:
                return [{"text": HOSTILE}]

            @task.side_effect(job=1)
            def keep(text: str, note: str) -> None:
                raise AssertionError

            mapped: Any = keep.partial(note="{{ 1 + 1 }}").expand_kwargs(texts())
            mapped.operator.partial_kwargs["pre_execute"] = lambda context: seen.append(context["task"].arguments)

        run(define)
        assert seen == [{"text": HOSTILE, "note": "2"}]


class TestPlaceholders:
    @pytest.mark.usefixtures("written_hostile")
    def test_what_reads_like_a_placeholder_or_a_mask_in_an_output_neither_forbids_nor_changes_the_roll_back(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        done = run(lambda: RollbackOperator(task_id="back", job=1, reason="a test"))

        assert done.states["back"] == "success", done.error("back")
        sent = target.received[-1]
        assert sent.json == {"why": HOSTILE_OUTPUT, "id": "{undo_key}"}
        assert sent.headers["X-Why"] == HOSTILE_OUTPUT

    @pytest.fixture
    def written_hostile(self, run: RunDag, model: Model, target: Target) -> None:
        """A post of which the target said that it is called `{undo_key}`, and its undo, with a text by the model."""
        model.output = HOSTILE_OUTPUT
        target.answers = [Answer(201, {"id": "{undo_key}"})]
        undo = {
            "method": "POST",
            "endpoint": "/undo",
            "json": {"why": "{{ job.output }}", "id": "{external_id}"},
            "headers": {"X-Why": "{{ job.output }}"},
        }

        def define() -> None:
            draft = ask_unapproved(output_type=None)
            draft >> publish(draft, json={"text": "{{ job.output }}"}, undo=undo)

        assert run(define).state == "success"

    def test_a_probe_of_a_write_fills_in_the_key_where_its_author_names_it(
        self, run: RunDag, model: Model, record: Record, target: Target
    ) -> None:
        model.output = "{effect_key}"
        target.answers = [DROP, Answer(200, {"ok": True})]
        probe = {"endpoint": "/posts", "query": {"key": "{effect_key}", "text": "{{ job.output }}"}}

        def define() -> None:
            draft = ask_unapproved(output_type=None)
            draft >> publish(draft, json={"text": "{{ job.output }}"}, probe=probe)

        assert run(define).state == "success"
        (effect,) = record().effects
        assert target.received[-1].path == f"/posts?key={effect.effect_key}&text=%7Beffect_key%7D"

    def test_a_field_of_a_running_task_shows_the_placeholder_that_its_author_wrote(self) -> None:
        undo = {"method": "DELETE", "endpoint": "/posts/{external_id}"}
        operator = publish(1, json={"title": "Kettle"}, undo=undo)
        operator.render_template_fields({"job": None, "task": operator})  # type: ignore[typeddict-unknown-key]
        assert operator.undo == {"method": "DELETE", "endpoint": "/posts/{external_id}"}
        assert operator.marked("undo") != operator.undo
