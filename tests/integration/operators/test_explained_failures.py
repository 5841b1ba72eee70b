"""The error of each task that fails ends with what there is to say of its job."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.operators.rollback import RollbackOperator
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from tests.integration.operators.conftest import Model, RunDag
from tests.integration.operators.tasks import ask, publish
from tests.target import Answer, Target


@pytest.mark.usefixtures("accepted")
def test_a_refused_write_says_what_a_clear_would_do(run: RunDag, target: Target) -> None:
    target.answers = [Answer(422, {"error": "no title"})]
    done = run(publish)
    said = done.error("publish")
    assert "\nThe target refused the effect `publish` at" in said
    assert "A retry or a clear is safe: the task of the effect sends the same request." in said
    assert said.count("A retry or a clear") == 1


@pytest.mark.usefixtures("accepted")
def test_a_write_that_is_retried_says_that_it_is(run: RunDag, target: Target) -> None:
    target.answers = [Answer(429, {}), Answer(200, {"id": 7})]
    done = run(publish)
    assert done.state == "success"
    assert "The task of the effect tries again by itself" in str(done.errors["publish"][0])


def test_a_draft_that_finds_a_cancelled_job_says_so(run: RunDag, model: Model, ledger: Ledger) -> None:
    run(ask)
    ledger.cancels.cancel(1, actor=Actor.user("bob"), reason="not needed")
    said = run(ask).error("draft")
    assert "\nThe job was cancelled at" in said
    assert "A retry or a clear is safe, and is refused: a cancelled job stays cancelled" in said


def test_an_approval_and_a_roll_back_say_so_too(run: RunDag, model: Model, ledger: Ledger) -> None:
    run(ask)
    ledger.cancels.cancel(1, actor=Actor.user("bob"), reason="not needed")
    assert "\nThe job was cancelled at" in run(lambda: ApprovalSensor(task_id="approve", job=1)).error("approve")
    rolled_back = run(lambda: RollbackOperator(task_id="undo", job=1, reason="a mistake"))
    assert "\nThe job was cancelled at" in rolled_back.error("undo")
