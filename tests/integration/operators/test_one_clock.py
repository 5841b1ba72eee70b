"""The clocks of workers and triggerers are hours off: every deadline is the ledger's, so that nothing changes."""

from __future__ import annotations

import ast
import asyncio
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest

import airflow_provider_aihandoff
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger
from tests import factories
from tests.factories import job_spec
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.tasks import ask, publish
from tests.target import DROP, Target

Record = Callable[[], JobRecord]
PACKAGE = Path(airflow_provider_aihandoff.__file__).parent

#: Where this machine's clock is read, and no deadline is made or compared by it.
OWN_CLOCK = {
    "doctor/connection_checks.py": "signs as OpenAI does",
    "doctor/ledger_checks.py": "compares this clock with the ledger's, to warn",
    "core/webhooks/signature.py": "the time of a signature counts before the ledger may be asked",
    "operators/side_effect.py": "says when a target was read, for the reviewer",
    "web/pages/doctor_page.py": "says when this server examined, also where no ledger answers",
    "web/render/environment.py": "says how long ago or how soon something is, for the reader of a page",
    "testing/webhook_endpoint.py": "signs as OpenAI does",
    "web/front_door/parked_tasks.py": "says in Airflow's list when something was asked and answered, as Airflow does",
}


@pytest.fixture(autouse=True, params=[-3, 3], ids=["three hours slow", "three hours fast"])
def wrong_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In every module of the package, it is another time than in the ledger."""
    off = timedelta(hours=request.param)

    class Kind(type):
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, datetime)

    class WrongClock(datetime, metaclass=Kind):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return datetime.now(tz) + off

    for name, module in list(sys.modules.items()):
        if name.startswith(PACKAGE.name) and getattr(module, "datetime", None) is datetime:
            monkeypatch.setattr(module, "datetime", WrongClock)


def reads_its_own_clock(tree: ast.Module) -> bool:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    read = {ast.unparse(call) for call in calls}
    return bool(read & {"datetime.now", "datetime.utcnow", "time.time", "time.time_ns", "date.today"})


def test_no_other_module_reads_the_clock_of_its_machine() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if reads_its_own_clock(ast.parse(path.read_text()))
    }
    assert found == set(OWN_CLOCK)


def test_a_response_has_as_long_as_its_author_says(run: RunDag, record: Record) -> None:
    done = run(lambda: ask(deadline=timedelta(hours=1)))
    revision = record().revision
    assert done.states == {"draft": "success"}
    assert revision.deadline - revision.created_at == pytest.approx(timedelta(hours=1), abs=timedelta(minutes=5))


@pytest.mark.parametrize("on_timeout", ["reject", "fail"])
@pytest.mark.usefixtures("review")
def test_a_review_ends_at_its_deadline_and_not_before(run: RunDag, record: Record, on_timeout: Any) -> None:
    run(lambda: ApprovalSensor(task_id="approve", job=1, timeout=1.5, on_timeout=on_timeout))
    job = record().job
    assert job.state is (JobState.REJECTED if on_timeout == "reject" else JobState.FAILED)
    assert job.review_deadline is not None
    assert job.review_asked_at is not None
    assert job.review_deadline - job.review_asked_at == timedelta(seconds=1.5)
    assert record().events[-1].at >= job.review_deadline


@pytest.mark.usefixtures("accepted")
def test_a_write_with_an_unknown_outcome_waits_for_a_person_for_as_long_as_its_author_says(
    run: RunDag, record: Record, target: Target
) -> None:
    target.answers = [DROP]
    began = datetime.now(UTC)
    done = run(lambda: publish(method="POST", hold_timeout=timedelta(seconds=7), retries=0))
    assert done.states == {"publish": "failed"}
    assert timedelta(seconds=7) <= datetime.now(UTC) - began < timedelta(seconds=60)


@pytest.mark.usefixtures("connections")
class TestTrigger:
    async def fired(self, ledger: Ledger, *, seconds: float, **times: datetime) -> str | None:
        """What a trigger fires within so many seconds."""
        revision = factories.submit(ledger, job_spec())
        trigger = OpenAIBackgroundResponseTrigger(
            job_id=revision.job_id,
            revision=1,
            response_id="resp_1",
            openai_conn_id="openai_default",
            ledger_conn_id="aihandoff_ledger",
            poll_interval=3600,
            **{name: moment.isoformat() for name, moment in times.items()},
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for event in trigger.run():
                    return str(event.payload["status"])
        return None

    async def test_a_deadline_counts_when_it_has_come_in_the_ledger(self, ledger: Ledger) -> None:
        now = ledger.now()
        assert await self.fired(ledger, seconds=30, deadline=now + timedelta(seconds=1), not_before=now) == "deadline"
        assert ledger.now() >= now + timedelta(seconds=1)

    async def test_a_deadline_that_has_not_come_does_not_count(self, ledger: Ledger) -> None:
        now = ledger.now()
        assert await self.fired(ledger, seconds=3, deadline=now + timedelta(hours=1), not_before=now) is None

    async def test_the_time_before_which_nothing_may_resume_is_the_ledgers_too(self, ledger: Ledger) -> None:
        now = ledger.now()
        soon = now + timedelta(seconds=2)
        assert await self.fired(ledger, seconds=30, deadline=now, not_before=soon) == "deadline"
        assert ledger.now() >= soon
