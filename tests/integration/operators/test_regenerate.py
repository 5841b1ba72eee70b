"""A new revision on demand: the run's conf says so, and nothing else makes one."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_aihandoff.core.effects.roll_back import roll_back
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import ask_unapproved, publish
from tests.target import DROP, Target


def write() -> None:
    draft = ask_unapproved()
    draft >> publish(draft, undo={"method": "DELETE", "endpoint": "/posts/{external_id}"})


@pytest.mark.parametrize("wanted", [True, ["draft"]])
def test_a_run_with_regenerate_asks_the_model_again_and_a_clear_of_it_does_not(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, wanted: Any
) -> None:
    dag = dags.make(ask_unapproved)
    dags.run(dag)

    run = dags.run(dag, conf={"regenerate": wanted})
    cleared = dags.run(dag, again=run, conf={"regenerate": wanted})

    assert [run.xcoms["draft"]["revision"], cleared.xcoms["draft"]["revision"]] == [2, 2]
    assert len(stand_in.responses().responses) == 2
    assert ledger.job(1).revision == 2


@pytest.mark.parametrize("wanted", [False, ["another"]])
def test_a_run_without_regenerate_attaches(dags: Dags, stand_in: OpenAIStandIn, wanted: Any) -> None:
    dag = dags.make(ask_unapproved)
    dags.run(dag)

    dags.run(dag, conf={"regenerate": wanted})

    assert len(stand_in.responses().responses) == 1


def test_an_invalid_value_of_regenerate_fails_the_task_and_asks_the_model_nothing(
    dags: Dags, stand_in: OpenAIStandIn
) -> None:
    run = dags.run(dags.make(ask_unapproved), conf={"regenerate": "yes"})

    assert (run.states["draft"], run.tries["draft"]) == ("failed", 1)
    assert "must be true, false or a list of task ids" in run.error("draft")
    assert not stand_in.responses().responses


def test_regenerate_is_refused_while_an_external_write_may_happen(
    dags: Dags, stand_in: OpenAIStandIn, target: Target
) -> None:
    target.answers = [DROP]
    dag = dags.make(write)
    dags.run(dag)

    run = dags.run(dag, conf={"regenerate": True})

    assert (run.states["draft"], run.tries["draft"]) == ("failed", 1)
    assert "publish is unknown" in run.error("draft")
    assert (len(stand_in.responses().responses), len(target.received)) == (1, 1)


def test_after_a_roll_back_regenerate_makes_and_writes_a_new_revision(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, target: Target
) -> None:
    dag = dags.make(write)
    dags.run(dag)
    roll_back(ledger, 1, actor=Actor.user("bob"), reason="the wrong product")

    run = dags.run(dag, conf={"regenerate": True})

    assert (run.state, ledger.job(1).revision, len(stand_in.responses().responses)) == ("success", 2, 2)
    assert [received.method for received in target.received] == ["PUT", "DELETE", "PUT"]
    assert ledger.job(1).state is JobState.COMPLETED


def test_regenerate_is_refused_while_an_external_write_is_not_undone(
    dags: Dags, stand_in: OpenAIStandIn, target: Target
) -> None:
    dag = dags.make(write)
    dags.run(dag)

    run = dags.run(dag, conf={"regenerate": True})

    assert (run.states["draft"], run.tries["draft"]) == ("failed", 1)
    assert "publish is applied" in run.error("draft")
    assert "aihandoff rollback 1" in run.error("draft")
    assert (len(stand_in.responses().responses), len(target.received)) == (1, 1)
