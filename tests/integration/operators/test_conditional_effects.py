"""Effects that apply only sometimes: by their author's condition, or since Airflow skipped their task."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from airflow.sdk import task

from airflow_provider_aihandoff.core.errors import JobNotApproved
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.factories import TEST, approve, ask, draft, effect_plan
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import Policy, publish
from tests.target import Target

Record = Callable[[], JobRecord]

IS_LAMP = "{{ job.output.title == 'Lamp' }}"
IS_KETTLE = "{{ job.output.title == 'Kettle' }}"


def states(record: JobRecord) -> dict[str, EffectState]:
    return {effect.name: effect.state for effect in record.current_effects}


def policy_and(*effects: Any, policy: Policy | None = None) -> ApprovalSensor:
    approval = ApprovalSensor(task_id="approve", job=1, policy=policy or Policy())
    approval >> effects[0]
    for before, after in pairwise(effects):
        before >> after
    return approval


class TestCondition:
    @pytest.mark.usefixtures("review")
    def test_an_effect_that_does_not_apply_is_not_sent_and_the_job_completes(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        policy = Policy()

        def define() -> None:
            lamp = publish(task_id="lamp", when=IS_LAMP, endpoint="/lamps")
            kettle = publish(task_id="kettle", when=IS_KETTLE, endpoint="/kettles")
            policy_and(lamp, kettle, policy=policy)

        done = run(define)
        assert set(done.states.values()) == {"success"}
        assert [received.path for received in target.received] == ["/kettles"]
        assert states(record()) == {"lamp": EffectState.SKIPPED, "kettle": EffectState.APPLIED}
        assert (record().job.state, done.xcoms["lamp"]["state"]) == (JobState.COMPLETED, "skipped")
        assert record().current_effects[0].plan == {"when": IS_LAMP}
        assert [plan["url"].rpartition("/")[2] for _, plans in policy.asked for plan in plans] == ["kettles"]

    @pytest.mark.usefixtures("review")
    def test_the_fields_of_an_effect_that_does_not_apply_are_not_rendered(self, run: RunDag, record: Record) -> None:
        def define() -> None:
            policy_and(publish(when=IS_LAMP, json={"watts": "{{ job.output.lamp.watts }}"}))

        assert run(define).states["publish"] == "success"
        assert record().job.state is JobState.COMPLETED

    @pytest.mark.usefixtures("accepted")
    def test_a_job_without_approval_of_which_nothing_applies_completes(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        assert run(lambda: publish(when=IS_LAMP)).state == "success"
        assert (record().job.state, target.received) == (JobState.COMPLETED, [])

    @pytest.mark.usefixtures("accepted")
    @pytest.mark.parametrize(("when", "said"), [("{{ job.output.title }}", "'Kettle'"), ("", "''"), ("yes", "'yes'")])
    def test_a_condition_that_says_neither_is_refused(self, run: RunDag, target: Target, when: str, said: str) -> None:
        done = run(lambda: publish(when=when))
        assert f"the condition of the effect 'publish' renders to {said}" in done.error("publish")
        assert target.received == []

    def test_a_condition_that_changed_after_the_approval_is_not_what_was_approved(
        self, dags: Dags, ledger: Ledger, target: Target
    ) -> None:
        draft(ledger, output={"title": "Kettle", "body": "It boils."})

        def define(when: str) -> Any:
            return lambda: policy_and(publish(when=when), policy=Policy())

        first = dags.make(define(IS_LAMP), dag_id="conditions")
        run = dags.run(first)
        assert ledger.job(1).state is JobState.COMPLETED
        changed = dags.make(define(IS_KETTLE), dag_id="conditions")
        done = dags.clear(changed, run, ["publish"])
        assert "is not what was approved" in done.error("publish")
        assert target.received == []


def branch_to(*task_ids: str) -> Any:
    @task.branch
    def choose() -> list[str]:
        return list(task_ids)

    return choose()


class TestBranch:
    @pytest.mark.usefixtures("review")
    def test_an_effect_whose_task_a_branch_skips_is_recorded_as_skipped_and_the_job_completes(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        def define() -> None:
            lamp, kettle = publish(task_id="lamp"), publish(task_id="kettle")
            ApprovalSensor(task_id="approve", job=1, policy=Policy()) >> branch_to("kettle") >> [lamp, kettle]

        done = run(define)
        assert (done.states["lamp"], done.states["kettle"]) == ("skipped", "success")
        assert states(record()) == {"lamp": EffectState.SKIPPED, "kettle": EffectState.APPLIED}
        assert record().job.state is JobState.COMPLETED
        (line,) = [event for event in record().events if event.event == "effect skipped"]
        assert "lamp: Airflow skipped its task" in str(line.reason)
        assert len(target.received) == 1

    @pytest.mark.usefixtures("review")
    def test_a_skipped_task_that_is_cleared_later_writes_nothing_and_says_why(
        self, dags: Dags, ledger: Ledger, target: Target
    ) -> None:
        def define(*chosen: str) -> Any:
            def tasks() -> None:
                lamp, kettle = publish(task_id="lamp"), publish(task_id="kettle")
                ApprovalSensor(task_id="approve", job=1, policy=Policy()) >> branch_to(*chosen) >> [lamp, kettle]

            return tasks

        run = dags.run(dags.make(define("kettle"), dag_id="branches"))
        assert ledger.job(1).state is JobState.COMPLETED
        done = dags.clear(dags.make(define("lamp", "kettle"), dag_id="branches"), run, ["choose", "lamp"])
        assert "Airflow skipped the task of the effect 'lamp', and the job has completed" in done.error("lamp")
        assert len(target.received) == 1


class TestSkip:
    def test_an_effect_that_was_skipped_is_applied_if_its_task_runs_before_the_job_has_ended(
        self, ledger: Ledger
    ) -> None:
        plans = [effect_plan("lamp"), effect_plan("kettle")]
        job = approve(ledger, ask(ledger, draft(ledger), *plans))
        lamp = ledger.record(job.job_id).current_effects[0]
        assert ledger.effects.skip(lamp.effect_id, actor=TEST, reason="no").state is EffectState.SKIPPED
        assert ledger.job(job.job_id).state is JobState.APPROVED
        claim = ledger.effects.claim(job.job_id, plans[0], lease=timedelta(seconds=5), actor=TEST)
        assert claim.token is not None

    def test_only_an_effect_of_an_approved_job_can_be_skipped(self, ledger: Ledger) -> None:
        job = ask(ledger, draft(ledger), effect_plan("publish"))
        (effect,) = ledger.record(job.job_id).current_effects
        assert ledger.effects.skip(effect.effect_id, actor=TEST, reason="no").state is EffectState.PLANNED
        approve(ledger, job)
        assert ledger.effects.skip(effect.effect_id, actor=TEST, reason="no").state is EffectState.SKIPPED
        assert ledger.job(job.job_id).state is JobState.COMPLETED
        with pytest.raises(JobNotApproved, match="has completed without it"):
            ledger.effects.claim(job.job_id, effect_plan("publish"), lease=timedelta(seconds=5), actor=TEST)
