"""The ledger fails just after a call was made: a real Airflow keeps what the call has brought, over retry and clear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from airflow.models.variable import Variable
from sqlalchemy import func, select, text

from airflow_provider_aihandoff import task_memory
from airflow_provider_aihandoff.airflow_compat import RELEASE
from airflow_provider_aihandoff.core.database import connection as connection_module
from airflow_provider_aihandoff.core.generation import submit
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.states import EffectState, JobState
from airflow_provider_aihandoff.testing import OpenAIStandIn
from tests.failing_database import failing
from tests.integration.operators.dag_runs import Dags, open_session
from tests.integration.operators.tasks import ask, publish
from tests.target import Target

Record = Callable[[], JobRecord]


@pytest.fixture(params=["task state store", "variables"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, airflow: None) -> Callable[[], int]:
    """How many outcomes Airflow keeps: in its task state store, or as releases without one do."""
    if request.param == "task state store" and RELEASE < (3, 3):
        pytest.skip("Airflow has a task state store as of 3.3")
    count: Any = text("SELECT count(*) FROM task_state_store")
    if request.param == "variables":
        count = select(func.count()).select_from(Variable)
        monkeypatch.setattr(
            task_memory, "memory_of", lambda context: task_memory._Variables(task_memory.owner_of(context))
        )

    def number() -> int:
        with open_session() as session:
            return int(session.execute(count).scalar_one())

    return number


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "PATIENCE", 0.3)


@pytest.fixture
def outage(conninfo: dict[str, Any]) -> Iterator[Callable[..., Callable[[], None]]]:
    """Begins: the ledger records no update of a table any more, for some rows; what it returns, ends it."""
    with ExitStack() as stack:

        def begin(table: str, where: str) -> Callable[[], None]:
            inner = stack.enter_context(ExitStack())
            inner.enter_context(failing(conninfo, table, where=where))
            return inner.close

        yield begin


def once(end: Callable[[], None]) -> Callable[[Any], None]:
    """A callback that ends the outage before a task is retried."""
    return lambda context: end()


class TestWrite:
    @pytest.mark.usefixtures("accepted")
    @pytest.mark.parametrize("again", ["retry", "clear"])
    def test_that_the_ledger_could_not_record_is_recorded_by_the_next_attempt_and_made_once(
        self,
        dags: Dags,
        record: Record,
        target: Target,
        outage: Callable[..., Callable[[], None]],
        kept: Callable[[], int],
        again: str,
    ) -> None:
        end = outage("effects", "NEW.state = 'applied'")
        retries = 1 if again == "retry" else 0
        dag = dags.make(lambda: publish(method="POST", retries=retries))
        if again == "retry":
            task: Any = dag.get_task("publish")
            task.on_retry_callback = [*task.on_retry_callback, once(end)]
        run = dags.run(dag)
        said = str(run.errors["publish"][0])
        assert "The external write was made" in said
        assert "external id rec-1" in said
        if again == "clear":
            assert (run.states["publish"], kept()) == ("failed", 1)
            end()
            run = dags.clear(dag, run)

        assert (run.states, len(target.received), kept()) == ({"publish": "success"}, 1, 0)
        (effect,) = record().current_effects
        assert (effect.state, effect.external_id) == (EffectState.APPLIED, "rec-1")
        assert run.xcoms["publish"]["external_id"] == "rec-1"


class TestResponse:
    @pytest.mark.parametrize("again", ["retry", "clear"])
    def test_whose_id_the_ledger_could_not_record_is_waited_for_and_paid_once(
        self,
        dags: Dags,
        record: Record,
        stand_in: OpenAIStandIn,
        outage: Callable[..., Callable[[], None]],
        kept: Callable[[], int],
        monkeypatch: pytest.MonkeyPatch,
        again: str,
    ) -> None:
        monkeypatch.setattr(submit, "SUBMIT_LEASE", submit.timedelta(seconds=1))
        monkeypatch.setattr(submit, "_SEND_WITHIN", 1.0)
        end = outage("revisions", "NEW.response_id IS NOT NULL")
        retries = 1 if again == "retry" else 0
        dag = dags.make(lambda: ask(retries=retries))
        if again == "retry":
            task: Any = dag.get_task("draft")
            task.on_retry_callback = [*task.on_retry_callback, once(end)]
        run = dags.run(dag)
        assert "Response resp_" in str(run.errors["draft"][0])
        if again == "clear":
            assert (run.states["draft"], kept()) == ("failed", 1)
            end()
            run = dags.clear(dag, run)

        assert (run.states, kept()) == ({"draft": "success"}, 0)
        assert len(stand_in.responses().responses) == 1
        assert record().job.state is JobState.REVIEW
        assert record().revision.unknown_submissions == 0
