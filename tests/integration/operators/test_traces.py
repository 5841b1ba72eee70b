"""The spans of a job, as a receiver of OTLP decodes them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import mask_secret
from opentelemetry import trace

from airflow_provider_aihandoff.core import spans
from airflow_provider_aihandoff.core.effects.apply import apply_effect
from airflow_provider_aihandoff.core.errors import EffectRefused
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.spans import job_context
from airflow_provider_aihandoff.hooks.observability import observe
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.core.effects.effects import ACTOR, approved, call, function
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.tasks import ask, ask_unapproved, publish
from tests.otlp import Otlp, receiving
from tests.people import insist
from tests.target import Target

CLIENT = 3


@pytest.fixture
def otlp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Otlp]:
    spans.use(None)
    with receiving(monkeypatch) as received:
        yield received
    spans.use(None)


def link_to(ledger: Ledger, job_id: int = 1) -> list[tuple[bytes, bytes]]:
    job = job_context(ledger.ledger_id(), job_id)
    return [(job.trace_id.to_bytes(16, "big"), job.span_id.to_bytes(8, "big"))]


def approve_soon(ledger: Ledger) -> threading.Thread:
    def decide() -> None:
        while not (jobs := ledger.jobs()) or jobs[0].review_digest is None:
            given_up.wait(0.02)
        digest = jobs[0].review_digest
        ledger.reviews.decide(jobs[0].job_id, "approve", digest=digest, person=Person("bob"), comment="a comment")

    given_up = threading.Event()
    thread = threading.Thread(target=insist(decide), daemon=True)
    thread.start()
    return thread


def test_model_review_and_effect_are_linked_by_the_job_and_have_no_content(
    run: RunDag, ledger: Ledger, target: Target, model: Any, otlp: Otlp
) -> None:
    def define() -> None:
        draft = ask()
        draft >> ApprovalSensor(task_id="approve", job=draft) >> publish(draft)

    thread = approve_soon(ledger)
    ended = run(define)
    thread.join()
    assert set(ended.states.values()) == {"success"}

    record = ledger.record(1)
    of_model, effect = otlp.named("chat gpt-5.2"), otlp.named("aihandoff.effect")
    submitted, review = otlp.named("aihandoff.submit"), otlp.named("aihandoff.review")
    assert [span.links for span in (of_model, effect, submitted, review)] == [link_to(ledger)] * 4
    assert {span.attributes["aihandoff.job.id"] for span in otlp.spans if span.links} == {1}

    revision = record.revision
    assert revision.usage is not None
    facts = of_model.attributes
    assert facts["gen_ai.operation.name"] == "chat"
    assert facts["gen_ai.provider.name"] == "openai"
    assert facts["gen_ai.request.model"] == "gpt-5.2"
    assert facts["gen_ai.response.id"] == revision.response_id
    assert facts["gen_ai.response.finish_reasons"] == ["completed"]
    assert facts["gen_ai.usage.input_tokens"] == revision.usage["input_tokens"]
    assert facts["gen_ai.usage.output_tokens"] == revision.usage["output_tokens"]
    assert of_model.kind == CLIENT
    assert revision.completed_at is not None
    assert revision.submitted_at is not None
    assert of_model.seconds == pytest.approx((revision.completed_at - revision.submitted_at).total_seconds(), abs=1e-3)
    assert submitted.attributes["aihandoff.submit.outcome"] == "accepted"

    assert review.attributes["aihandoff.decision.verdict"] == "approve"
    assert record.job.review_asked_at is not None
    waited = (record.decisions[0].created_at - record.job.review_asked_at).total_seconds()
    assert review.seconds == pytest.approx(waited, abs=1e-3)

    assert effect.attributes["aihandoff.effect.name"] == "publish"
    assert effect.attributes["aihandoff.effect.target"] == "http"
    assert effect.attributes["aihandoff.effect.attempt"] == 1
    assert effect.kind == CLIENT

    sent = b"".join(span.raw for span in otlp.spans)
    output, plan = str(revision.output["title"]).encode(), str(record.effects[0].effect_key).encode()
    for content in (output, plan, b"a comment", b"bob", str(revision.request["input"]).encode()):
        assert content not in sent


def test_content_is_in_the_span_of_the_model_where_it_is_switched_on_and_is_masked(
    run: RunDag, ledger: Ledger, model: Any, otlp: Otlp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__TRACE_CONTENT", "True")
    model.output = {"title": "Kettle", "body": "The key is pass-word-of-the-cms-4711."}

    def define() -> None:
        ask_unapproved(input='{"topic": "a kettle", "api_key": "a-key-of-the-input"}', instructions="Be brief.")

    mask_secret("pass-word-of-the-cms-4711")
    assert set(run(define).states.values()) == {"success"}
    facts = otlp.named("chat gpt-5.2").attributes
    ((asked,),) = [message["parts"] for message in json.loads(facts["gen_ai.input.messages"])]
    assert json.loads(asked["content"]) == {"topic": "a kettle", "api_key": "***"}
    assert json.loads(facts["gen_ai.system_instructions"]) == [{"type": "text", "content": "Be brief."}]
    (answer,) = json.loads(facts["gen_ai.output.messages"])
    assert (answer["role"], answer["finish_reason"]) == ("assistant", "stop")
    assert json.loads(answer["parts"][0]["content"]) == {"title": "Kettle", "body": "The key is ***."}
    others = b"".join(span.raw for span in otlp.spans if span.name != "chat gpt-5.2")
    assert b"kettle" not in others.lower()


def test_an_option_that_is_neither_true_nor_false_leaves_out_the_content_alone(
    run: RunDag, ledger: Ledger, model: Any, otlp: Otlp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__TRACE_CONTENT", "perhaps")
    assert set(run(ask_unapproved).states.values()) == {"success"}
    assert not any(".messages" in name for name in otlp.named("chat gpt-5.2").attributes)


def test_an_effect_is_a_child_of_airflows_span_of_the_task(ledger: Ledger, otlp: Otlp) -> None:
    observe(in_task=True)
    plan = call("publish")
    job = approved(ledger, plan)
    with trace.get_tracer("airflow").start_as_current_span("worker.publish"):
        apply_effect(ledger, job.job_id, plan, function(lambda *_: "rec-1"), actor=ACTOR)
    task, effect = otlp.named("worker.publish"), otlp.named("aihandoff.effect")
    assert (effect.trace_id, effect.parent) == (task.trace_id, task.span_id)
    assert not effect.failed


def test_a_refused_effect_is_a_failed_span_without_what_the_target_said(ledger: Ledger, otlp: Otlp) -> None:
    def refuse(*_: Any) -> None:
        raise EffectRefused("the customer Ann Secret is blocked")

    observe(in_task=True)
    plan = call("publish")
    job = approved(ledger, plan)
    with pytest.raises(EffectRefused):
        apply_effect(ledger, job.job_id, plan, function(refuse), actor=ACTOR)
    effect = otlp.named("aihandoff.effect")
    assert effect.failed
    assert effect.attributes["error.type"] == "EffectRefused"
    assert b"Secret" not in effect.raw


def test_a_tracer_that_fails_stops_nothing(ledger: Ledger) -> None:
    class Broken:
        def span(self, *args: Any, **more: Any) -> Any:
            raise RuntimeError("no collector")

        ended = span

    spans.use(Broken())
    try:
        plan = call("publish")
        job = approved(ledger, plan)
        applied = apply_effect(ledger, job.job_id, plan, function(lambda *_: "rec-1"), actor=ACTOR)
        now = ledger.now()
        spans.ended("chat", ledger, 1, {}, began=now, at=now + timedelta(seconds=1))
    finally:
        spans.use(None)
    assert ledger.effects.read(applied.effect_id).external_id == "rec-1"  # type: ignore[union-attr]
