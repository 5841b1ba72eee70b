"""Tasks that a limit of speed holds: they wait deferred, and continue by themselves when they may."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.rates.rate_limit import LimitKind, Measure
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.triggers.effect import EffectTrigger
from airflow_provider_aihandoff.triggers.submission import SubmissionTrigger
from demo.waiting import wait_until
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.tasks import ask, ask_unapproved, publish
from tests.integration.operators.test_held import Waiting, afterwards, waiting
from tests.target import Target

__all__ = ["waiting"]

Record = Callable[[], JobRecord]
BOB = Actor.user("bob")

pytestmark = pytest.mark.usefixtures("connections")


def stop(ledger: Ledger, kind: LimitKind, name: str) -> None:
    ledger.rate_limits.set(kind, name, Measure.REQUESTS, 0, reason="too fast", actor=BOB)


def end(ledger: Ledger, kind: LimitKind, name: str) -> None:
    ledger.rate_limits.end(kind, name, Measure.REQUESTS, reason="fixed", actor=BOB)


def test_a_request_waits_deferred_for_its_limit(
    run: RunDag, record: Record, ledger: Ledger, stand_in: Any, waiting: Waiting
) -> None:
    stop(ledger, LimitKind.KEY, "slow")

    def let_go() -> None:
        assert (stand_in.responses().creates, record().revision.held_kind) == (0, "rate")
        assert "a limit of 0 has stopped the requests of the key slow" in str(record().revision.held_why)
        end(ledger, LimitKind.KEY, "slow")

    with afterwards(waiting(SubmissionTrigger), let_go):
        done = run(lambda: ask(rate_key="slow", priority="interactive"))

    assert (done.states["draft"], done.tries["draft"]) == ("success", 1)
    assert (stand_in.responses().creates, record().job.state) == (1, JobState.REVIEW)
    assert record().revision.priority == "interactive"


def test_a_request_that_waits_for_longer_than_its_author_allows_fails(
    run: RunDag, record: Record, ledger: Ledger, stand_in: Any, waiting: Waiting
) -> None:
    stop(ledger, LimitKind.OPENAI, "openai_default")

    def let_time_pass() -> None:
        ledger._database.transact(
            lambda connection: connection.execute("UPDATE aihandoff.rate_waits SET since = since - interval '1 h'")
        )
        ledger._database.transact(
            lambda connection: connection.execute(
                "UPDATE aihandoff.revisions SET submit_lease_until = clock_timestamp()"
            )
        )

    with afterwards(waiting(SubmissionTrigger), let_time_pass):
        done = run(lambda: ask(max_wait=timedelta(hours=1)))

    assert done.states["draft"] == "failed"
    assert record().job.state is JobState.FAILED
    assert "as long as its author allows (max_wait)" in str(record().job.state_reason)
    assert stand_in.responses().creates == 0


def test_a_write_waits_deferred_for_the_limit_of_its_connection(
    run: RunDag, record: Record, ledger: Ledger, target: Target, waiting: Waiting
) -> None:
    def define() -> None:
        draft = ask_unapproved()
        publish(draft.output)

    stop(ledger, LimitKind.TARGET, "cms")

    def let_go() -> None:
        wait_until(lambda: record().current_effects[0].held_kind, "the hold")
        assert target.received == []
        end(ledger, LimitKind.TARGET, "cms")

    with afterwards(waiting(EffectTrigger), let_go):
        done = run(define)

    assert (done.states["publish"], done.tries["publish"]) == ("success", 1)
    assert [effect.state for effect in record().current_effects] == [EffectState.APPLIED]
    assert len(target.received) == 1


def test_a_write_that_waits_for_longer_than_its_author_allows_fails_its_task_and_stays_as_it_was(
    run: RunDag, record: Record, ledger: Ledger, target: Target
) -> None:
    def define() -> None:
        draft = ask_unapproved()
        publish(draft.output, max_wait=timedelta(milliseconds=1))

    stop(ledger, LimitKind.TARGET, "cms")
    done = run(define)
    assert done.states["publish"] == "failed"
    assert [effect.state for effect in record().current_effects] == [EffectState.PLANNED]
    assert target.received == []
