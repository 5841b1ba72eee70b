"""The approval sensor: what is asked about, who answers, and what the answer means for the Dag."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.sdk import task, task_group

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Verdict
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.operators.http import HttpSideEffectOperator
from airflow_provider_aihandoff.policies import Approve, AskPerson
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.triggers.approval import ApprovalTrigger
from tests import factories
from tests.factories import effect_plan, in_an_hour
from tests.integration.operators.conftest import Model, RunDag, postgres_connection
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import NOTE, Policy, ask, publish, store
from tests.people import insist
from tests.target import Answer, Target

Record = Callable[[], JobRecord]


def approved_by(policy: Policy | None, then: Callable[[Any], Any] = publish, **arguments: Any) -> None:
    """Ask for approval of the first job, then write."""
    ApprovalSensor(task_id="approve", job=1, policy=policy, **arguments) >> then(1)


@contextmanager
def person(ledger: Ledger, verdict: Verdict, comment: str = "seen") -> Iterator[None]:
    """A person who decides as soon as there is something to decide on."""

    def decide() -> None:
        while not (jobs := ledger.jobs()) or jobs[0].review_digest is None:
            if given_up.wait(0.02):
                return
        digest = jobs[0].review_digest
        ledger.reviews.decide(jobs[0].job_id, verdict, digest=digest, person=Person("bob"), comment=comment)

    given_up = threading.Event()
    thread = threading.Thread(target=insist(decide))
    thread.start()
    yield
    given_up.set()
    thread.join()


@pytest.mark.usefixtures("wait_in", "review")
class TestPerson:
    def test_an_approval_while_the_task_waits_releases_the_effect(
        self, run: RunDag, ledger: Ledger, record: Record, target: Target
    ) -> None:
        with person(ledger, "approve"):
            done = run(lambda: approved_by(None))

        (decision,) = record().decisions
        assert done.states == {"approve": "success", "publish": "success"}
        assert done.xcoms["approve"] == {"job_id": 1, "state": "approved", "digest": decision.digest}
        assert (decision.decided_by, decision.decided_by_kind, decision.verdict) == ("bob", "user", "approve")
        assert (record().job.state, len(target.received)) == (JobState.COMPLETED, 1)

    @pytest.mark.parametrize(
        ("arguments", "approve", "after"),
        [({}, "skipped", "skipped"), ({"on_reject": "fail"}, "failed", "upstream_failed")],
    )
    def test_a_rejection_skips_or_fails_what_comes_after_and_writes_nothing(
        self,
        run: RunDag,
        ledger: Ledger,
        record: Record,
        target: Target,
        arguments: dict[str, Any],
        approve: str,
        after: str,
    ) -> None:
        with person(ledger, "reject", "too long"):
            done = run(lambda: approved_by(None, **arguments))

        assert done.states == {"approve": approve, "publish": after}
        assert done.tries["approve"] == 1
        assert (record().job.state, record().job.state_reason) == (JobState.REJECTED, "too long")
        if approve == "failed":
            assert "was rejected: too long. No external write was made." in done.error("approve")
        assert target.received == []

    def test_a_cleared_run_ends_the_same_way_and_asks_no_one_again(
        self, dags: Dags, ledger: Ledger, record: Record, target: Target
    ) -> None:
        dag = dags.make(lambda: approved_by(None))
        with person(ledger, "reject"):
            first = dags.run(dag)

        again = dags.run(dag, again=first)

        assert again.states == first.states
        assert (len(record().decisions), target.received) == (1, [])

    def test_a_review_that_expires_is_a_rejection(self, run: RunDag, record: Record, target: Target) -> None:
        done = run(lambda: approved_by(None, timeout=timedelta(seconds=0.2)))

        (decision,) = record().decisions
        assert done.states["approve"] == "skipped"
        assert (decision.verdict, decision.decided_by_kind) == ("reject", "timeout")
        assert (record().job.state, target.received) == (JobState.REJECTED, [])

    def test_a_review_that_expires_can_fail_the_job(self, run: RunDag, record: Record, target: Target) -> None:
        done = run(lambda: approved_by(None, timeout=0.2, on_timeout="fail"))

        assert (done.states["approve"], done.tries["approve"]) == ("failed", 1)
        assert "no one decided in time" in done.error("approve")
        assert (record().job.state, target.received) == (JobState.FAILED, [])

    @pytest.mark.parametrize("wait_in", ["triggerer"], indirect=True)
    def test_the_time_to_decide_is_not_moved_by_another_attempt(
        self, dags: Dags, record: Record, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async def breaks(self: ApprovalTrigger) -> Any:
            if self.until:
                raise RuntimeError("the triggerer is gone")
            yield

        monkeypatch.setattr(ApprovalTrigger, "run", breaks)
        dag = dags.make(lambda: approved_by(None, timeout=3600))
        first = dags.run(dag)
        deadline = record().job.review_deadline

        dags.run(dag, again=first)

        assert deadline is not None
        assert record().job.review_deadline == deadline


@pytest.mark.usefixtures("wait_in", "review")
class TestPolicy:
    def test_a_policy_approves_by_name_and_version_and_sees_job_and_plan(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        policy = Policy(Approve("it is harmless"))

        done = run(lambda: approved_by(policy))

        (decision,) = record().decisions
        ((job, plan),) = policy.asked
        assert done.states["publish"] == "success"
        assert (decision.decided_by, decision.decided_by_kind, decision.comment) == (
            "test@1",
            "policy",
            "it is harmless",
        )
        assert job.output == NOTE
        assert plan[0]["method"] == "PUT"
        assert len(target.received) == 1

    @pytest.mark.parametrize(
        "verdict",
        [AskPerson("it is delicate"), ValueError("a bug"), True, Approve],
        ids=["asks", "raises", "true", "class"],
    )
    def test_a_policy_that_does_not_approve_leaves_it_to_a_person(
        self, run: RunDag, record: Record, target: Target, verdict: Any
    ) -> None:
        done = run(lambda: approved_by(Policy(verdict), timeout=0))

        assert (done.states["approve"], done.tries["approve"]) == ("skipped", 1)
        assert [decision.decided_by_kind for decision in record().decisions] == ["timeout"]
        assert target.received == []

    def test_a_policy_of_another_version_is_asked_again(self, run: RunDag, record: Record, target: Target) -> None:
        target.answers = [Answer(429)]
        run(lambda: approved_by(Policy(), then=lambda draft: publish(draft, retries=0)))
        newer = Policy()
        newer.version = "2"

        done = run(lambda: approved_by(newer))

        assert done.states["publish"] == "success"
        assert [decision.decided_by for decision in record().decisions] == ["test@1", "test@2"]


class TestPlan:
    def test_the_plan_covers_every_effect_of_the_job_in_the_order_in_which_they_run(
        self, run: RunDag, record: Record, sales: Any
    ) -> None:
        def define() -> None:
            draft, other = ask(), ask("other", job_key="post:pot")
            last = publish(draft, "a_last", endpoint="/last")
            first = publish(draft, "z_first", effect="named", undo={"method": "DELETE", "endpoint": "/first"})
            approve = ApprovalSensor(task_id="approve", job=draft, policy=Policy())
            draft >> approve >> first >> store(draft, "m_middle") >> last
            draft >> other  # so that the job of the assertions below is the first one of the ledger
            approve >> publish(other, "of_another_job")

        run(define)

        effects = record().current_effects
        assert [(effect.name, effect.kind) for effect in effects] == [
            ("named", "http"),
            ("m_middle", "postgres"),
            ("a_last", "http"),
        ]
        assert {effect.state for effect in effects} == {EffectState.APPLIED}
        assert [effect.after_effects for effect in effects] == [[], ["named"], ["named", "m_middle"]]
        undo = effects[0].undo or {}
        assert (undo["kind"], undo["plan"]["method"], undo["idempotent"]) == ("http", "DELETE", True)

    def test_every_job_of_a_mapped_group_has_the_plan_of_its_own_effects(
        self, run: RunDag, ledger: Ledger, target: Target, model: Model
    ) -> None:
        model.output = lambda request: {"title": request.input_text.upper(), "body": ""}

        @task
        def tickets() -> list[dict[str, str]]:
            return [{"ticket_id": name, "text": f"text of {name}"} for name in ("t1", "t2", "t3")]

        @task_group
        def ticket(ticket_id: str, text: str) -> None:
            label = ask("label", job_type="ticket", job_key=ticket_id, input=text)
            approve = ApprovalSensor(task_id="approve", job=label, policy=Policy())
            write = publish(
                label, "write", endpoint="/tickets/{{ job.job_key }}", json={"is": "{{ job.output.title }}"}
            )
            label >> approve >> write >> publish(label, "announce", endpoint="/announce/{{ job.job_key }}")

        done = run(lambda: ticket.expand_kwargs(tickets()))

        assert set(done.states.values()) == {"success"}
        for job in ledger.jobs():
            record = ledger.record(job.job_id)
            assert [effect.name for effect in record.current_effects] == ["ticket.write", "ticket.announce"]
            assert record.current_effects[0].plan["url"].endswith(f"/tickets/{job.job_key}")
            assert job.state is JobState.COMPLETED
        written = {received.path: received.json for received in target.received if "tickets" in received.path}
        assert written == {f"/tickets/{name}": {"is": f"TEXT OF {name.upper()}"} for name in ("t1", "t2", "t3")}
        assert len(target.received) == 6

    @pytest.mark.usefixtures("review")
    def test_a_job_without_effects_completes_when_it_is_approved(self, run: RunDag, record: Record) -> None:
        @task
        def read() -> None:
            """Something that writes nothing."""

        run(lambda: approved_by(Policy(), then=lambda _: read()))

        assert (record().job.state, record().effects) == (JobState.COMPLETED, [])

    @pytest.mark.usefixtures("review")
    def test_an_effect_that_is_mapped_by_itself_is_refused_with_the_remedy(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        def mapped(draft: Any) -> Any:
            partial = HttpSideEffectOperator.partial(task_id="publish", job=draft, http_conn_id="cms")
            return partial.expand(endpoint=["/a", "/b"])

        done = run(lambda: approved_by(Policy(), then=mapped))

        assert (done.states["approve"], done.tries["approve"]) == ("failed", 1)
        assert "'publish' is mapped by itself" in done.error("approve")
        assert "Map the whole task group" in done.error("approve")
        assert (record().job.state, record().decisions, target.received) == (JobState.REVIEW, [], [])

    @pytest.mark.parametrize(
        "template",
        ["{{ job.output.titel }}", "{{ job.state }}", "{{ "],
    )
    @pytest.mark.usefixtures("review")
    def test_a_template_that_cannot_be_rendered_names_the_task_and_asks_no_one(
        self, run: RunDag, record: Record, target: Target, template: str
    ) -> None:
        done = run(lambda: approved_by(Policy(), then=lambda draft: publish(draft, json={"title": template})))

        assert (done.states["approve"], done.tries["approve"]) == ("failed", 1)
        assert "'publish'" in done.error("approve")
        assert "external write" in done.error("approve")
        assert (record().decisions, target.received) == ([], [])

    @pytest.mark.usefixtures("review")
    def test_two_effects_of_one_name_are_refused(self, run: RunDag, target: Target) -> None:
        done = run(
            lambda: approved_by(Policy(), then=lambda draft: [publish(draft, name, effect="x") for name in ("a", "b")])
        )
        assert "two of its effects have the same name: x" in done.error("approve")
        assert target.received == []

    def test_text_by_the_model_is_not_rendered_as_a_template(self, run: RunDag, model: Model, target: Target) -> None:
        model.output = {"title": "{{ conn.cms.port }}", "body": "{% raw"}

        def define() -> None:
            draft = ask()
            draft >> ApprovalSensor(task_id="approve", job=draft, policy=Policy()) >> publish(draft)

        run(define)

        assert target.received[0].json == model.output


@pytest.mark.parametrize("argument", ["on_timeout", "on_reject"])
def test_a_choice_that_does_not_exist_is_refused_when_the_dag_is_parsed(argument: str) -> None:
    choice: dict[str, Any] = {argument: "sometimes"}
    with pytest.raises(ValueError, match=argument):
        ApprovalSensor(task_id="approve", job=1, **choice)


@pytest.mark.parametrize("job", [None, "no number", {"state": "x"}])
def test_a_reference_that_does_not_name_a_job_fails_without_a_retry(run: RunDag, job: Any) -> None:
    done = run(lambda: [ApprovalSensor(task_id="approve", job=job), publish(job, json={"a": 1})])

    assert set(done.tries.values()) == {1}
    assert all("does not name a job" in done.error(name) for name in ("approve", "publish"))


@pytest.mark.usefixtures("connections")
class TestTrigger:
    @pytest.fixture
    def trigger(self, ledger: Ledger) -> Callable[..., ApprovalTrigger]:
        """A trigger that waits for a decision on the first job."""

        def trigger(**changes: Any) -> ApprovalTrigger:
            job = factories.ask(ledger, factories.draft(ledger))
            kwargs = {
                "job_id": job.job_id,
                "digest": job.review_digest,
                "ledger_conn_id": "aihandoff_ledger",
                "until": in_an_hour().isoformat(),
                "not_before": datetime.now(UTC).isoformat(),
            }
            return ApprovalTrigger(**{**kwargs, **changes})

        return trigger

    @staticmethod
    async def events(trigger: ApprovalTrigger) -> list[Any]:
        async with asyncio.timeout(30):
            return [event.payload async for event in trigger.run()]

    async def test_the_approval_trigger_fires_once_when_a_person_has_decided(
        self, trigger: Callable[..., ApprovalTrigger], ledger: Ledger
    ) -> None:
        waiting = trigger()
        running = asyncio.create_task(self.events(waiting))
        await asyncio.sleep(0)
        assert not running.done()

        ledger.reviews.decide(waiting.job_id, "approve", digest=waiting.digest, person=Person("bob"))

        assert await running == [{"job_id": waiting.job_id}]

    async def test_the_approval_trigger_fires_when_the_plan_has_changed(
        self, trigger: Callable[..., ApprovalTrigger], ledger: Ledger
    ) -> None:
        waiting = trigger()
        factories.ask(ledger, ledger.job(waiting.job_id), effect_plan(url="http://elsewhere"))
        assert await self.events(waiting) == [{"job_id": waiting.job_id}]

    async def test_the_approval_trigger_fires_at_the_deadline(self, trigger: Callable[..., ApprovalTrigger]) -> None:
        soon = datetime.now(UTC) + timedelta(seconds=0.2)
        waiting = trigger(until=soon.isoformat())
        assert await self.events(waiting) == [{"job_id": waiting.job_id}]
        assert datetime.now(UTC) >= soon

    async def test_the_approval_trigger_does_not_fire_before_the_minimum_wait(
        self, trigger: Callable[..., ApprovalTrigger]
    ) -> None:
        not_before = datetime.now(UTC) + timedelta(seconds=0.3)
        await self.events(trigger(digest="of another plan", not_before=not_before.isoformat()))
        assert datetime.now(UTC) >= not_before

    async def test_the_approval_trigger_waits_while_the_ledger_is_unavailable(
        self,
        trigger: Callable[..., ApprovalTrigger],
        conninfo: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        waiting = trigger(digest="of another plan")
        with socket.socket() as bound:  # it does not listen
            bound.bind(("127.0.0.1", 0))
            unreachable = postgres_connection(conninfo, port=bound.getsockname()[1])
            monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", unreachable)
            running = asyncio.create_task(self.events(waiting))
            async with asyncio.timeout(30):
                while "cannot be followed" not in caplog.text:  # noqa: ASYNC110  a log is no event
                    await asyncio.sleep(0.01)
        assert not running.done()

        monkeypatch.setenv("AIRFLOW_CONN_AIHANDOFF_LEDGER", postgres_connection(conninfo))

        assert await running == [{"job_id": waiting.job_id}]

    def test_the_approval_trigger_survives_serialization(self, trigger: Callable[..., ApprovalTrigger]) -> None:
        path, kwargs = trigger().serialize()
        assert path == "airflow_provider_aihandoff.triggers.approval.ApprovalTrigger"
        assert ApprovalTrigger(**kwargs).serialize() == (path, kwargs)
