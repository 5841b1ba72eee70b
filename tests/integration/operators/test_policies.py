"""The shipped rules as an approval asks them: what the ledger keeps of their verdict, and who decides then."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.review.rules import Approvers, Person, rules_of, why_not
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.policies import AllOf, AllowedValues, ApprovalPolicy, Sampling
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.tasks import publish
from tests.target import Answer, Target

Record = Callable[[], JobRecord]
PRESS = Approvers(users=("eve",))


def write(policy: ApprovalPolicy) -> None:
    approve = ApprovalSensor(
        task_id="approve", job=1, policy=policy, approvers=Approvers(users=("bob",)), timeout=timedelta(seconds=0.2)
    )
    approve >> publish(1)


@pytest.mark.usefixtures("review")
class TestShippedRules:
    def test_a_job_that_every_rule_approves_needs_no_person_and_the_record_names_the_rules(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        policy = AllOf(AllowedValues("title", ["Kettle"]), Sampling(0))
        done = run(lambda: write(policy))

        (decision,) = record().decisions
        assert done.states == {"approve": "success", "publish": "success"}
        assert (decision.decided_by_kind, decision.decided_by) == ("policy", policy.label)
        assert decision.comment is not None
        assert all(f"({rule.label})" in decision.comment for rule in policy.policies)
        assert len(target.received) == 1

    def test_the_rule_that_asks_says_who_decides_and_how_many(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        policy = AllOf(Sampling(100), AllowedValues("title", ["Lamp"], approvers=PRESS, approvals=2))
        done = run(lambda: write(policy))

        job = record().job
        assert done.states["approve"] == "skipped"
        assert (job.state, target.received) == (JobState.REJECTED, [])
        assert (rules_of(job).approvers, rules_of(job).approvals) == (PRESS, 2)
        assert rules_of(job).because["policy"] == policy.label
        assert 'title is "Kettle", which needs a person' in str(rules_of(job).because["reason"])
        assert why_not(job, Person("bob")) is not None
        assert why_not(job, Person("eve")) is None

    def test_a_changed_limit_asks_again_about_what_is_approved_and_not_sent(
        self, run: RunDag, record: Record, target: Target
    ) -> None:
        target.answers = [Answer(429)]
        run(lambda: ApprovalSensor(task_id="approve", job=1, policy=Sampling(0)) >> publish(1, retries=0))
        first = record().job.review_digest
        run(lambda: write(Sampling(100)))

        assert record().job.state is JobState.REJECTED
        assert record().job.review_digest != first
