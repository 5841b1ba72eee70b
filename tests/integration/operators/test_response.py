"""The operator that asks the model: one job, one bill, whatever the answer is."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import task
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.triggers.base import TriggerEvent
from pydantic import create_model
from sqlalchemy import text

from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.errors import RequestError
from airflow_provider_aihandoff.core.generation import settle
from airflow_provider_aihandoff.core.generation import submit as submit_module
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import JobState, RevisionState
from airflow_provider_aihandoff.operators import responding
from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.testing import OpenAIStandIn, responses_api
from airflow_provider_aihandoff.testing.lifecycle import as_json
from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger
from tests.integration.operators.conftest import API_KEY, Model, RunDag
from tests.integration.operators.dag_runs import Dags, open_session
from tests.integration.operators.tasks import NOTE, ask, ask_unapproved, fault, publish
from tests.target import Target

Record = Callable[[], JobRecord]


def sent(stand_in: OpenAIStandIn, number: int = 0) -> dict[str, Any]:
    """The body of a create."""
    request: dict[str, Any] = stand_in._state.responses()[number].request
    return request


class TestOutput:
    def test_a_structured_output_is_stored_and_stands_in_the_xcom_with_what_names_it(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        done = run(ask)

        job, revision = record().job, record().revision
        assert done.states == {"draft": "success"}
        assert (job.state, revision.state, revision.output) == (JobState.REVIEW, RevisionState.COMPLETED, NOTE)
        assert revision.cost_usd is not None
        assert revision.usage is not None
        assert done.xcoms["draft"] == {
            "job_id": job.job_id,
            "job_type": "publishing",
            "job_key": "post:kettle",
            "revision": 1,
            "response_id": stand_in.responses().responses[0].response["id"],
            "output_digest": digest(NOTE),
            "state": "review",
            "cost_usd": str(revision.cost_usd),
            "output": NOTE,
        }

    def test_a_big_output_is_in_the_ledger_and_not_in_the_xcom(self, run: RunDag, record: Record, model: Model) -> None:
        model.output = {"title": "Kettle", "body": "x" * 10_000}

        done = run(ask)

        assert record().revision.output == model.output
        assert "output" not in done.xcoms["draft"]
        assert done.xcoms["draft"]["output_digest"] == digest(model.output)

    def test_a_price_that_is_unknown_is_none_and_not_0(self, run: RunDag, record: Record) -> None:
        done = run(lambda: ask(model="a-model-of-the-future"))

        assert record().revision.usage is not None
        assert (record().revision.cost_usd, done.xcoms["draft"]["cost_usd"]) == (None, None)

    def test_a_text_is_the_output_where_there_is_no_output_type(
        self, run: RunDag, record: Record, model: Model, stand_in: OpenAIStandIn
    ) -> None:
        model.output = "A kettle."

        run(lambda: ask(output_type=None))

        assert record().revision.output == "A kettle."
        assert "text" not in sent(stand_in)

    def test_the_schema_is_sent_strict_and_the_metadata_names_job_revision_and_ledger(
        self, run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        run(lambda: ask(metadata={"team": "shop"}))

        body = sent(stand_in)
        assert body["text"]["format"] | {"schema": None} == {
            "type": "json_schema",
            "strict": True,
            "name": "Note",
            "schema": None,
        }
        assert body["metadata"] == {
            "team": "shop",
            "aihandoff_job": "1",
            "aihandoff_revision": "1",
            "aihandoff_ledger": ledger.ledger_id(),
        }
        assert (body["background"], body["store"]) == (True, True)


class TestAttach:
    def test_a_second_run_with_the_same_key_attaches_and_pays_nothing(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        first, second = run(ask), run(ask)

        assert stand_in.responses().creates == 1
        assert first.xcoms == second.xcoms
        assert len(record().revisions) == 1

    def test_a_cleared_run_gives_the_same_result_and_pays_nothing(self, dags: Dags, stand_in: OpenAIStandIn) -> None:
        dag = dags.make(ask)
        first = dags.run(dag)

        again = dags.run(dag, again=first)

        assert again.run_id == first.run_id
        assert again.xcoms == first.xcoms
        assert stand_in.responses().creates == 1

    def test_the_key_is_dag_run_task_and_map_index_where_the_author_gives_none(
        self, run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        def define() -> None:
            ask("alone", job_key=None, job_type="{{ dag.dag_id }}")
            OpenAIBackgroundResponseOperator.partial(task_id="mapped", model="gpt-5.2").expand(input=["A", "B"])

        done = run(define)

        expected = {f"{done.dag_id}/{done.run_id}/{task_id}" for task_id in ("alone", "mapped[0]", "mapped[1]")}
        jobs = ledger.jobs()
        assert {job.job_key for job in jobs} == expected
        assert {job.job_type for job in jobs} == {done.dag_id}
        assert {done.xcoms[name]["job_key"] for name in done.xcoms} == expected
        assert {sent(stand_in, number)["input"] for number in range(3)} == {"Write about the kettle.", "A", "B"}

    def test_other_input_under_the_same_key_is_a_new_revision_before_anything_was_written(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        run(ask)

        done = run(lambda: ask(input="Write about the pot."))

        assert [revision.number for revision in record().revisions] == [1, 2]
        assert done.xcoms["draft"]["revision"] == 2
        assert stand_in.responses().creates == 2

    def test_other_input_under_the_same_key_is_refused_after_something_was_written(
        self, run: RunDag, record: Record, target: Target, stand_in: OpenAIStandIn
    ) -> None:
        run(lambda: publish(ask_unapproved()))

        done = run(lambda: publish(ask_unapproved(input="Write about the pot.")))

        assert done.states == {"draft": "failed", "publish": "upstream_failed"}
        assert done.tries["draft"] == 1
        assert "(changed: input)" in done.error("draft")
        assert "publish is applied" in done.error("draft")
        assert (len(target.received), stand_in.responses().creates) == (1, 1)


class TestRecord:
    def test_the_user_who_triggered_the_run_has_asked(self, run: RunDag, record: Record) -> None:
        run(ask)
        assert record().job.requested_by == "dag_test"

    def test_the_author_may_say_who_asked_and_what_the_work_may_touch(self, run: RunDag, record: Record) -> None:
        run(
            lambda: ask(requested_by="{{ params.who }}", permissions={"writes": "cms/{{ params.slug }}"}),
            params={"who": "alice", "slug": "kettle"},
        )
        assert (record().job.requested_by, record().job.permissions) == ("alice", {"writes": "cms/kettle"})

    def test_a_job_without_effects_that_needs_no_approval_completes_and_says_why(
        self, run: RunDag, record: Record
    ) -> None:
        done = run(ask_unapproved)

        (decision,) = record().decisions
        assert (record().job.state, done.xcoms["draft"]["state"]) == (JobState.COMPLETED, "completed")
        assert (decision.verdict, decision.decided_by_kind, decision.comment) == ("approve", "policy", "it is a test")
        assert decision.decided_by == "approval not required"

    def test_a_job_that_needs_no_approval_is_written_without_a_sensor(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        done = run(lambda: publish(ask_unapproved()))

        assert done.states == {"draft": "success", "publish": "success"}
        assert (record().job.state, len(target.received)) == (JobState.COMPLETED, 1)


class TestArguments:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"approval": "not required"}, "approval_reason"),
            ({"approval": "never"}, "approval must be"),
            ({"max_revisions": 0}, "max_revisions"),
            ({"deadline": datetime(2030, 1, 1)}, "time zone"),  # noqa: DTZ001  what is refused
        ],
    )
    def test_arguments_that_make_no_sense_are_refused_when_the_dag_is_parsed(
        self, arguments: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(ValueError, match=message):
            ask(**arguments)

    def test_an_argument_that_is_reserved_fails_the_task_and_nothing_is_sent(
        self, run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
    ) -> None:
        done = run(lambda: ask(response_kwargs={"background": False}))

        assert done.states == {"draft": "failed"}
        assert done.tries == {"draft": 1}
        assert "background cannot be set" in done.error("draft")
        assert (ledger.jobs(), stand_in.requests()) == ([], [])

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"job_key": "{{ 'k' * 6000 }}"}, "the argument job_key has 6000 bytes"),
            ({"job_key": "{{ '' }}"}, "the argument job_key is empty"),
            ({"job_type": "  "}, "the argument job_type has only spaces"),
            ({"requested_by": "a{{ '\\x00' }}b"}, "the argument requested_by has the character U+0000"),
            ({"model": ""}, "the argument model is empty"),
            ({"openai_conn_id": ""}, "the argument openai_conn_id is empty"),
            ({"ledger_conn_id": "led\nger"}, "the argument ledger_conn_id has the character U+000A"),
            (
                {"approval": "not required", "approval_reason": "{{ '\\x00' }}"},
                "the argument approval_reason has a NUL",
            ),
            ({"max_output_tokens": "many"}, "max_output_tokens must be a whole number"),
        ],
    )
    def test_an_argument_that_cannot_be_is_named_and_nothing_is_done(
        self, run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, arguments: dict[str, Any], said: str
    ) -> None:
        done = run(lambda: ask(**arguments))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 1})
        assert said in done.error("draft")
        assert (ledger.jobs(), stand_in.requests()) == ([], [])

    def test_an_input_that_is_nested_too_deeply_is_refused(self, run: RunDag, ledger: Ledger) -> None:
        deep: Any = "x"
        for _ in range(70):
            deep = [deep]
        done = run(lambda: ask(input=[{"role": "user", "content": deep}]))
        assert "the argument input cannot be kept: it is nested more than 64 levels deep" in done.error("draft")
        assert (done.tries, ledger.jobs()) == ({"draft": 1}, [])

    def test_a_key_that_is_a_number_is_the_same_key_in_every_run(self, run: RunDag, stand_in: OpenAIStandIn) -> None:
        for _ in range(2):
            done = run(lambda: ask(job_key="{{ params.year }}"), params={"year": 0}, render_template_as_native_obj=True)
            assert done.xcoms["draft"]["job_key"] == "0"
        assert stand_in.responses().creates == 1

    def test_an_output_type_that_openai_refuses_is_refused_when_the_dag_is_parsed(self) -> None:
        with pytest.raises(RequestError, match="output type Guess: sure: 'default' is not permitted"):
            ask(output_type=create_model("Guess", sure=(bool, False)))

    def test_a_text_that_airflow_cannot_carry_is_stored_and_left_out_of_the_xcom(
        self, run: RunDag, record: Record, model: Model
    ) -> None:
        model.output = "nul \x00"
        done = run(lambda: ask(output_type=None))
        assert done.states == {"draft": "success"}
        assert "output" not in done.xcoms["draft"]
        assert record().revision.output == model.output

    def test_a_response_that_only_asks_for_a_tool_fails_once_and_names_it(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        call = {"type": "function_call", "id": "fc", "call_id": "c", "name": "get_weather", "arguments": "{}"}
        monkeypatch.setattr(responses_api, "as_json", lambda *said: {**as_json(*said), "output": [call]})

        done = run(lambda: ask(retries=5))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 1})
        assert "the model asked for a tool that a job cannot run for it: get_weather" in done.error("draft")
        assert (record().revision.error or {})["kind"] == "tool call"
        assert stand_in.responses().creates == 1

    def test_an_argument_that_the_sdk_does_not_know_fails_the_task_and_nothing_is_sent(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        done = run(lambda: ask(response_kwargs={"temprature": 1}))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 1})
        assert "temprature" in done.error("draft")
        assert (record().job.state, stand_in.requests()) == (JobState.FAILED, [])

    def test_every_argument_is_rendered_and_sent(self, run: RunDag, stand_in: OpenAIStandIn) -> None:
        run(
            lambda: ask(
                input=[{"role": "user", "content": "About {{ params.slug }}"}],
                model="{{ params.model }}",
                instructions="Be {{ params.tone }}.",
                tools=[{"type": "web_search", "filters": {"allowed_domains": ["{{ params.slug }}.test"]}}],
                reasoning={"effort": "{{ params.effort }}"},
                max_output_tokens="{{ params.tokens }}",
                max_tool_calls=3,
                service_tier="{{ params.tier }}",
                metadata={"slug": "{{ params.slug }}"},
                prompt_cache_key="notes-{{ params.slug }}",
                safety_identifier="user-{{ params.slug }}",
                response_kwargs={"top_p": 0.5, "truncation": "{{ params.truncation }}"},
                job_key="{{ params.slug }}",
                approval="not required",
                approval_reason="{{ params.slug }}",
            ),
            params={
                "slug": "kettle",
                "model": "gpt-5-mini",
                "tone": "warm",
                "effort": "low",
                "tokens": 500,
                "tier": "flex",
                "truncation": "auto",
            },
            render_template_as_native_obj=True,
        )

        body = sent(stand_in)
        assert {name: body[name] for name in body if name not in ("background", "store", "text", "metadata")} == {
            "input": [{"role": "user", "content": "About kettle"}],
            "model": "gpt-5-mini",
            "instructions": "Be warm.",
            "tools": [{"type": "web_search", "filters": {"allowed_domains": ["kettle.test"]}}],
            "reasoning": {"effort": "low"},
            "max_output_tokens": 500,
            "max_tool_calls": 3,
            "service_tier": "flex",
            "prompt_cache_key": "notes-kettle",
            "safety_identifier": "user-kettle",
            "top_p": 0.5,
            "truncation": "auto",
        }
        assert body["metadata"]["slug"] == "kettle"

    def test_a_whole_list_of_input_items_can_come_from_a_template(self, run: RunDag, stand_in: OpenAIStandIn) -> None:
        items = [{"role": "user", "content": "Kettle?"}, {"role": "assistant", "content": "Kettle."}]

        @task
        def chat() -> list[dict[str, str]]:
            return items

        run(lambda: ask(input=chat()))

        assert sent(stand_in)["input"] == items

    def test_the_retries_of_a_dag_go_before_those_of_the_operators(self, dags: Dags) -> None:
        def define() -> None:
            draft = ask()
            ApprovalSensor(task_id="approve", job=draft) >> publish(draft)
            OpenAIBackgroundResponseOperator.partial(task_id="mapped", model="m").expand(input=["A"])

        own = dags.make(define, default_args={"retries": 7, "retry_delay": timedelta(seconds=1)})
        default = dags.make(define, default_args={"retry_delay": timedelta(seconds=1)})

        assert {task.retries for task in own.tasks} == {7}
        assert {task.retries for task in default.tasks if task.task_id != "mapped"} == {3}
        # Before 3.3, a mapped task takes Airflow's own default, whatever its operator says.
        assert default.get_task("mapped").retries == (3 if RELEASE >= (3, 3) else 0)
        assert {task.retry_delay for task in (*own.tasks, *default.tasks)} == {timedelta(seconds=1)}


class TestFailure:
    def test_a_refusal_by_the_model_fails_the_job_without_a_retry_and_keeps_its_text(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        done = run(lambda: ask(metadata=fault('refusal="Not this."')))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 1})
        assert "the model refused" in done.error("draft")
        assert record().job.state is JobState.FAILED
        assert record().revision.error == {"kind": "refusal", "text": "Not this.", "final": True}
        assert record().revision.usage is not None
        assert stand_in.responses().creates == 1

    def test_an_output_that_does_not_match_is_a_failed_revision_with_its_text_and_a_retry_asks_again(
        self, run: RunDag, record: Record, model: Model
    ) -> None:
        answers = iter([{"title": "no body"}, NOTE])
        model.output = lambda request: next(answers)

        done = run(ask)

        first, second = record().revisions
        assert first.error is not None
        assert (first.state, first.error["kind"]) == (RevisionState.FAILED, "mismatch")
        assert json.loads(first.error["text"]) == {"title": "no body"}
        assert first.error["problems"][0]["loc"] == ["body"]
        assert (second.state, second.output) == (RevisionState.COMPLETED, NOTE)
        assert (done.states, done.tries) == ({"draft": "success"}, {"draft": 2})

    @pytest.mark.parametrize(
        ("words", "kind", "code"),
        [
            ("status=failed", "failed", "server_error"),
            ("status=incomplete reason=new", "incomplete", "new"),
            ("status=cancelled", "cancelled", None),
        ],
    )
    def test_a_response_that_did_not_complete_is_tried_again_up_to_max_revisions(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn, words: str, kind: str, code: str | None
    ) -> None:
        done = run(lambda: ask(metadata=fault(words), max_revisions=2, retries=5))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 2})
        errors = [revision.error or {} for revision in record().revisions]
        assert [(error["kind"], error.get("code")) for error in errors] == [(kind, code)] * 2
        assert stand_in.responses().creates == 2

    def test_a_response_that_reached_its_token_limit_is_not_asked_for_again(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        done = run(lambda: ask(metadata=fault("status=incomplete"), retries=5))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 1})
        assert "max_output_tokens" in done.error("draft")
        assert (record().job.state_reason, stand_in.responses().creates) == (
            "the response is incomplete: max_output_tokens",
            1,
        )

    def test_a_response_that_reached_its_token_limit_is_asked_for_again_where_the_author_wants_it(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        done = run(lambda: ask(metadata=fault("status=incomplete"), max_revisions=2, retries=5, retry_incomplete=True))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 2})
        assert stand_in.responses().creates == 2

    def test_a_content_filter_ends_the_job_at_once(self, run: RunDag, record: Record) -> None:
        done = run(lambda: ask(metadata=fault("status=incomplete reason=content_filter")))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 1})
        assert len(record().revisions) == 1

    def test_a_cleared_task_of_a_job_without_revisions_left_says_so(self, dags: Dags, stand_in: OpenAIStandIn) -> None:
        dag = dags.make(lambda: ask(metadata=fault("status=failed"), max_revisions=1))
        first = dags.run(dag)

        again = dags.run(dag, again=first)

        assert again.states == {"draft": "failed"}
        assert "1 of 1 revisions" in again.error("draft")
        assert stand_in.responses().creates == 1

    def test_a_request_that_openai_refuses_fails_the_job_without_a_retry(self, run: RunDag, record: Record) -> None:
        done = run(lambda: ask(metadata=fault("create=400 times=99")))

        assert (done.states, done.tries) == ({"draft": "failed"}, {"draft": 1})
        assert "no response was created: OpenAI answered 400" in done.error("draft")
        assert record().job.state is JobState.FAILED

    def test_a_request_that_was_not_accepted_is_sent_again_by_the_retry_of_the_task(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(submit_module, "SUBMIT_TRIES", 1)

        done = run(lambda: ask(metadata=fault("create=503 times=2")))

        assert (done.states, done.tries) == ({"draft": "success"}, {"draft": 3})
        assert len(stand_in.responses().responses) == 1
        assert len(record().revisions) == 1

    @pytest.mark.parametrize("words", ["retrieve=404", "retrieve=html", "retrieve=null_output", "retrieve=wrong_id"])
    def test_an_answer_that_cannot_be_read_at_first_is_read_later(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch, words: str
    ) -> None:
        monkeypatch.setattr(settle, "backoff", lambda *_, **__: 0.0)

        monkeypatch.setattr(OpenAIBackgroundResponseTrigger, "run", fires("completed"))

        done = run(lambda: ask(metadata=fault(f"{words} times=3 when=finished"), inline_wait=timedelta(0)))

        assert (done.states, done.tries) == ({"draft": "success"}, {"draft": 1})
        assert record().revision.output == NOTE
        assert stand_in.responses().creates == 1

    def test_a_completed_response_that_stays_without_output_fails_its_revision(
        self, run: RunDag, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settle, "backoff", lambda *_, **__: 0.0)

        run(lambda: ask(metadata=fault("retrieve=null_output times=99"), max_revisions=1))

        assert record().revision.error == {"kind": "empty"}

    def test_an_answer_that_cannot_be_read_for_long_is_read_by_the_retry(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(settle, "backoff", lambda *_, **__: 0.0)
        monkeypatch.setattr(settle, "READ_TRIES", 2)

        monkeypatch.setattr(OpenAIBackgroundResponseTrigger, "run", fires("completed"))

        done = run(lambda: ask(metadata=fault("retrieve=html times=3"), inline_wait=timedelta(0)))

        assert (done.states, done.tries) == ({"draft": "success"}, {"draft": 2})
        assert "retry of this task reads it again" in done.error("draft")
        assert len(record().revisions) == 1
        assert stand_in.responses().creates == 1


class TestWaiting:
    def test_a_response_that_takes_longer_is_waited_for_by_the_trigger(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        done = run(lambda: ask(metadata=fault("delay=0.3"), inline_wait=timedelta(0)))

        assert (done.states, done.tries) == ({"draft": "success"}, {"draft": 1})
        assert record().revision.output == NOTE
        assert stand_in.responses().creates == 1

    def test_a_response_that_misses_its_deadline_is_cancelled_and_the_job_fails(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        done = run(
            lambda: ask(
                metadata=fault("stuck=in_progress"),
                deadline=timedelta(seconds=1),
                inline_wait=timedelta(0),
                max_revisions=1,
            )
        )

        assert done.states == {"draft": "failed"}
        assert "the deadline passed" in done.error("draft")
        assert (record().job.state, record().revision.error) == (JobState.FAILED, {"kind": "deadline"})
        assert stand_in.responses().responses[0].response["status"] == "cancelled"

    def test_a_response_that_completed_at_the_deadline_counts(
        self, run: RunDag, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(OpenAIBackgroundResponseTrigger, "run", fires("deadline"))

        run(lambda: ask(inline_wait=timedelta(0)))

        assert (record().job.state, record().revision.output) == (JobState.REVIEW, NOTE)

    def test_a_response_that_openai_no_longer_has_fails_the_job(
        self, run: RunDag, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(OpenAIBackgroundResponseTrigger, "run", fires("gone"))

        done = run(lambda: ask(inline_wait=timedelta(0), max_revisions=1, metadata=fault("stuck=queued")))

        assert "OpenAI does not find the response (404): it was not stored (store=false, " in done.error("draft")
        assert record().revision.error == {"kind": "gone"}

    def test_the_deadline_of_a_revision_is_not_moved_by_another_attempt(
        self, dags: Dags, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[str] = []
        dag = dags.make(lambda: ask(inline_wait=timedelta(0), deadline=timedelta(hours=1)))
        monkeypatch.setattr(OpenAIBackgroundResponseTrigger, "run", breaks(seen))
        first = dags.run(dag)
        monkeypatch.setattr(OpenAIBackgroundResponseTrigger, "run", fires("completed", seen))

        again = dags.run(dag, again=first)

        assert (first.states, again.states) == ({"draft": "failed"}, {"draft": "success"})
        assert {datetime.fromisoformat(deadline) for deadline in seen} == {record().revision.deadline}
        assert len(seen) == 2

    def test_a_deadline_that_has_passed_sends_nothing(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn
    ) -> None:
        done = run(lambda: ask(deadline=datetime(2026, 1, 1, tzinfo=UTC), retries=0))

        assert "the deadline passed before a request was accepted" in done.error("draft")
        assert stand_in.requests() == []

    def test_the_response_of_an_earlier_input_is_cancelled(
        self, run: RunDag, record: Record, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(OpenAIBackgroundResponseTrigger, "run", breaks([]))
            run(lambda: ask(metadata=fault("stuck=in_progress"), inline_wait=timedelta(0)))

        run(lambda: ask(input="Write about the pot."))

        assert [report.response["status"] for report in stand_in.responses().responses] == ["cancelled", "completed"]
        assert [revision.state for revision in record().revisions] == [RevisionState.CANCELLED, RevisionState.COMPLETED]


class TestKill:
    @pytest.mark.parametrize("state", ["failed", "success"])
    def test_a_task_that_was_ended_while_it_ran_cancels_its_response(
        self, killed: Callable[[Any], None], record: Record, stand_in: OpenAIStandIn, state: str
    ) -> None:
        killed(state)

        assert record().job.state is JobState.CANCELLED
        assert "cancel requested" in [event.event for event in record().events]
        assert stand_in.responses().responses[0].response["status"] == "cancelled"

    @pytest.mark.parametrize("state", ["running", "queued", None, RuntimeError("no word")])
    def test_a_clear_or_the_end_of_a_worker_lets_the_response_go_on(
        self, killed: Callable[[Any], None], record: Record, stand_in: OpenAIStandIn, state: Any
    ) -> None:
        killed(state)

        assert record().job.state is JobState.RUNNING
        assert stand_in.responses().cancels == 0

    def test_a_task_without_a_job_is_killed_without_an_error(self) -> None:
        ask().on_kill()

    @pytest.fixture
    def killed(self, run: RunDag, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
        """Kill the task while it waits; then Airflow says that the task is in this state."""

        def kill(state: Any) -> None:
            def get_task_states(*_: Any, run_ids: list[str], task_ids: list[str], **__: Any) -> Any:
                if isinstance(state, Exception):
                    raise state
                return {run_ids[0]: {task_ids[0]: state} if state else {}}

            def wait(operator: OpenAIBackgroundResponseOperator, *_: Any, **__: Any) -> bool:
                operator.on_kill()
                raise AirflowFailException("killed")

            monkeypatch.setattr(RuntimeTaskInstance, "get_task_states", get_task_states)
            monkeypatch.setattr(responding, "wait_inline", wait)
            run(lambda: ask(metadata=fault("stuck=in_progress")))

        return kill


def test_secrets_of_a_request_are_sent_and_kept_nowhere(
    run: RunDag,
    conninfo: dict[str, Any],
    model: Model,
    stand_in: OpenAIStandIn,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MCP", json.dumps({"conn_type": "generic", "password": "of-a-connection"}))

    with caplog.at_level(logging.DEBUG):
        done = run(
            lambda: ask(
                input="Ask with {{ conn.mcp.password }}.",
                tools=[
                    {"type": "mcp", "server_label": "a", "server_url": "http://a", "authorization": "{{ named() }}"},
                    {"type": "mcp", "server_label": "{{ conn.mcp.password }}", "server_url": "http://b"},
                ],
                response_kwargs={"extra_headers": {"X-Api-Key": "{{ header() }}"}},
                inline_wait=timedelta(0),
            ),
            user_defined_macros={"named": lambda: "only-by-its-name", "header": lambda: "of-a-header"},
        )

    first, second = sent(stand_in)["tools"]
    assert done.states == {"draft": "success"}
    assert (first["authorization"], second["server_label"]) == ("only-by-its-name", "of-a-connection")
    assert sent(stand_in)["input"] == "Ask with of-a-connection."
    assert "of-a-header" in model.headers
    kept = {
        "ledger": everything_in(psycopg.connect(**conninfo), "aihandoff"),
        "xcoms": str(done.xcoms),
        "logs": "".join(capfd.readouterr()) + caplog.text,
        **everything_in_airflow(),
    }
    assert "Ask with" in kept["ledger"]
    assert "Ask with" in kept[RenderedTaskInstanceFields.__tablename__]
    assert "Attached to job" in kept["logs"]
    secrets = ("only-by-its-name", "of-a-header", "of-a-connection", API_KEY)
    assert [(name, secret) for name in kept for secret in secrets if secret in kept[name]] == []


def everything_in(connection: psycopg.Connection[Any], schema: str) -> str:
    """Every row of every table of a schema, as text."""
    with connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = %s", [schema]
        ).fetchall()
        rows = [
            connection.execute(f"SELECT row_to_json(t)::text FROM {schema}.{table} AS t").fetchall()  # noqa: S608
            for (table,) in tables
        ]
    return str(rows)


def everything_in_airflow() -> dict[str, str]:
    """Every row of every table of Airflow's metadata, as text, by table."""
    with open_session() as session:
        tables = session.execute(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")).scalars().all()
        return {
            table: str(session.execute(text(f'SELECT t::text FROM "{table}" AS t')).fetchall())  # noqa: S608
            for table in tables
        }


def fires(status: str, deadlines: list[str] | None = None) -> Any:
    """A trigger's `run` that does not wait; it keeps the deadline that it was given."""

    async def run(trigger: OpenAIBackgroundResponseTrigger) -> Any:
        if deadlines is not None:
            deadlines.append(trigger.deadline)
        yield TriggerEvent({"job_id": trigger.job_id, "revision": trigger.revision, "status": status})

    return run


def breaks(deadlines: list[str]) -> Any:
    """A trigger's `run` that fails; it keeps the deadline that it was given."""

    async def run(trigger: OpenAIBackgroundResponseTrigger) -> Any:
        deadlines.append(trigger.deadline)
        if deadlines:
            raise RuntimeError("the triggerer is gone")
        yield

    return run
