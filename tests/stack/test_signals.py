"""What the processes of a real Airflow send to StatsD and to a collector of traces, and the alert that comes of it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.jobs.job_filter import Need
from airflow_provider_aihandoff.core.jobs.needs import needs_of
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.spans import job_context
from airflow_provider_aihandoff.core.states import JobState
from demo.airflow_api import AirflowApi
from demo.airflow_stack import Component
from demo.local import DAGS_FOLDER, SILENCE, LocalDemo, running_demo
from demo.pipelines import open_ledger
from demo.waiting import wait_until
from tests.airflow_compat import WAITS_FOR_APPROVAL
from tests.factories import LEASE, TEST, approve, ask, draft, effect_plan, job_spec
from tests.otlp import Otlp, Received, serving
from tests.promtool import check_firing
from tests.stack.pipelines.shared import API, asked, decide, wait_for_state
from tests.statsd import Listener

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

OURS = "airflow.aihandoff."

#: The product that is written about.
SLUG = "drift-bottle"


@dataclass(frozen=True)
class Published:
    """A note that was drafted, approved and published, with a deferral for the model and one for the reviewer."""

    run_id: str
    record: JobRecord


@pytest.fixture(scope="module")
def metrics() -> Iterator[Listener]:
    """The StatsD server to which every process of Airflow sends its metrics."""
    listener = Listener()
    yield listener
    listener.close()


@pytest.fixture(scope="module")
def traces() -> Iterator[Otlp]:
    """The collector to which every process of Airflow exports its spans."""
    with serving() as otlp:
        yield otlp


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, metrics: Listener, traces: Otlp) -> Iterator[LocalDemo]:
    dags = Path(tmp_path_factory.mktemp("dags"))
    for folder in (DAGS_FOLDER, Path(__file__).parent / "dags"):
        shutil.copytree(folder, dags, dirs_exist_ok=True)
    env = {
        **metrics.settings(),
        "AIRFLOW__TRACES__OTEL_ON": "True",
        "OTEL_TRACES_EXPORTER": "otlp_proto_http",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": traces.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "500",
    }
    with running_demo(Path(tmp_path_factory.mktemp("demo")), dags, extra_env=env, answer_seconds=5) as demo:
        demo.airflow.api().wait_for_dags({"publishing", "slow_draft", "aihandoff_reconcile"})
        yield demo


@pytest.fixture(scope="module")
def admin(demo: LocalDemo) -> AirflowApi:
    return demo.airflow.api("admin")


@pytest.fixture(scope="module")
def ledger(demo: LocalDemo) -> Iterator[Ledger]:
    with open_ledger(demo) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def published(demo: LocalDemo, admin: AirflowApi, ledger: Ledger, polled: None) -> Published:
    run_id, job = asked(ledger, admin, SLUG, "publishing")
    assert decide(demo.airflow.api("alice"), job).status_code == 200
    assert admin.wait_for_run("publishing", run_id) == "success"
    return Published(run_id, ledger.record(job.job_id))


@pytest.fixture(scope="module")
def polled(admin: AirflowApi, ledger: Ledger, metrics: Listener) -> Iterator[None]:
    """A response that runs for minutes was polled by the triggerer, since no webhook comes meanwhile.

    Its task, which is retried, is the first one: on a busy machine, the first call of Airflow's execution API can take
    so long that a task fails.
    """
    run_id = admin.trigger("slow_draft", {"case": "signals"})
    job_id = wait_for_state(ledger, admin, "slow_draft", run_id, JobState.RUNNING)
    wait_until(lambda: metrics.series(f"{OURS}polls"), "the triggerer to poll it", timeout_seconds=60)
    yield
    answer = admin.request("POST", f"{API}/jobs/{job_id}/cancel", json={"reason": "the test is over"})
    assert answer.status_code == 200


@pytest.fixture(scope="module")
def unknown(ledger: Ledger) -> Iterator[int]:
    """A job with an effect whose outcome is not known, which is resolved afterwards."""
    plan = effect_plan()
    job = approve(ledger, ask(ledger, draft(ledger, job_spec(job_key="signals"), response_id="resp_signals"), plan))
    claim = ledger.effects.claim(job.job_id, plan, lease=LEASE, actor=TEST)
    ledger.effects.lose(claim, error="a time-out", actor=TEST)
    yield job.job_id
    bob = Actor.user("bob")
    ledger.cancels.cancel(job.job_id, actor=bob, reason="the test is over")
    ledger.effects.resolve(claim.effect.effect_id, applied=False, external_id=None, actor=bob, why="it is not there")
    assert ledger.job(job.job_id).state is JobState.CANCELLED


@pytest.fixture(scope="module")
def maintained(admin: AirflowApi, unknown: int, published: Published) -> None:
    """The maintenance Dag has run."""
    run_id = admin.trigger("aihandoff_reconcile")
    assert admin.wait_for_run("aihandoff_reconcile", run_id) == "success"


def spans_of(traces: Otlp, published: Published) -> dict[str, list[Received]]:
    """The spans of the trace of the run, by their names, once the last ones have arrived."""

    def found() -> dict[str, list[Received]] | None:
        ours = [span for span in list(traces.spans) if span.name == "dag_run.publishing"]
        roots = [span for span in ours if span.attributes.get("airflow.dag_run.run_id") == published.run_id]
        if not roots:
            return None
        spans: dict[str, list[Received]] = {}
        for span in list(traces.spans):
            if span.trace_id == roots[0].trace_id:
                spans.setdefault(span.name, []).append(span)
        return spans

    return wait_until(found, "the span of the Dag run", timeout_seconds=30)


def test_one_trace_joins_the_tasks_the_model_and_the_write_across_the_deferrals(
    traces: Otlp, published: Published, ledger: Ledger
) -> None:
    spans, record = spans_of(traces, published), published.record
    assert len(spans["worker.draft"]) == 2, "before the deferral, and after it"
    assert len(spans["worker.approve"]) == 2
    waits_in_triggerer = {"trigger.draft"} | ({"trigger.approve"} if WAITS_FOR_APPROVAL == "deferred" else set())
    assert waits_in_triggerer <= set(spans), "the triggerer is in it too"
    (submitted,), (model,), (review,), (effect,) = (
        spans[name] for name in ("aihandoff.submit", "chat gpt-5.2", "aihandoff.review", "aihandoff.effect")
    )
    tasks = {span.span_id: span.name for name, several in spans.items() for span in several if "worker." in name}
    assert [tasks[span.parent] for span in (submitted, model, review, effect)] == [
        "worker.draft",
        "worker.draft",
        "worker.approve",
        "worker.publish",
    ]
    assert submitted.parent != model.parent, "one was begun before the deferral, the other is of the leg after it"
    job = job_context(ledger.ledger_id(), record.job.job_id)
    link = (job.trace_id.to_bytes(16, "big"), job.span_id.to_bytes(8, "big"))
    assert [span.links for span in (submitted, model, review, effect)] == [[link]] * 4

    usage = record.revision.usage
    assert usage is not None
    facts = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5.2",
        "gen_ai.response.id": record.revision.response_id,
        "gen_ai.response.finish_reasons": ["completed"],
        "gen_ai.usage.input_tokens": usage["input_tokens"],
        "gen_ai.usage.output_tokens": usage["output_tokens"],
    }
    assert facts.items() <= model.attributes.items()
    assert model.seconds > 4, "from the request until the output, however long no worker waited"
    assert effect.attributes["aihandoff.effect.name"] == "publish"
    assert not effect.failed


def test_no_span_has_content(traces: Otlp, published: Published) -> None:
    sent = b"".join(span.raw for several in spans_of(traces, published).values() for span in several)
    revision = published.record.revision
    contents = [*revision.output.values(), revision.request["instructions"], published.record.effects[0].effect_key]
    assert [content for content in contents if str(content).encode() in sent] == []


def test_metrics_arrive_from_each_kind_of_process_under_their_documented_names(
    demo: LocalDemo, metrics: Listener, polled: None, maintained: None
) -> None:
    known = {f"airflow.{metric.name}": set(metric.labels) for metric in signals.METRICS}
    arrived = {packet.text.partition(":")[0]: packet.port for packet in metrics.packets if OURS in packet.text}
    names: set[str] = set()
    for series in arrived:
        name, *labels = series.split(",")
        assert {label.partition("=")[0] for label in labels} == known[name], series
        names.add(name.removeprefix(OURS))
    # A worker; the API server, to which Alice sent her decision; a triggerer; the receiver; the maintenance Dag.
    assert {"steps", "responses", "tokens", "response_time", "effects", "effect_time"} <= names
    assert {"decisions", "decision_time", "polls", "webhooks", "webhook_delay", "jobs", "reconciled_at"} <= names

    def ports(pattern: str) -> set[int]:
        return {packet.port for packet in metrics.packets if re.match(pattern, packet.text)}

    assert ports(r"airflow\.scheduler_heartbeat") & ports_of(demo, "scheduler")
    assert ports(r"airflow\.aihandoff\.polls") & ports_of(demo, "triggerer")
    assert ports(r"airflow\.aihandoff\.decisions,.*by=user") & ports_of(demo, "api-server")
    assert not ports(r"airflow\.aihandoff\.effects") & (ports_of(demo, "triggerer") | ports_of(demo, "api-server"))


def ports_of(demo: LocalDemo, component: Component) -> set[int]:
    """From which UDP ports the processes of a component send."""
    psutil: Any = import_module("psutil")  # Airflow needs it
    found: set[int] = set()
    for pid in demo.airflow.process(component).descendants():
        try:
            found |= {each.laddr.port for each in psutil.Process(pid).net_connections("udp") if each.laddr}
        except psutil.NoSuchProcess:
            continue
    return found


def test_an_alert_fires_on_the_metrics_that_arrived(
    metrics: Listener, maintained: None, ledger: Ledger, tmp_path: Path
) -> None:
    waiting = needs_of(ledger, None, silence=SILENCE).jobs[Need.UNKNOWN_EFFECT]
    assert waiting >= 1
    # What other tests of this Airflow leave behind decides about the other gauges.
    name = "airflow_aihandoff_unknown_effects"
    received = metrics.series(OURS)
    assert received[name] == waiting
    check_firing({name: received[name]}, {"AIHandoffUnknownEffects"}, tmp_path)
