"""Tasks and budgets: what has no room waits deferred and goes on, and what may cost too much is not sent at all."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.generation.provider import WorstCase
from airflow_provider_aihandoff.core.generation.submission_store import Intent
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.triggers.submission import SubmissionTrigger
from tests.bill import bill_of, check_each_is_settled, reservations_in
from tests.factories import LEASE, TEST, job_spec
from tests.integration.operators.conftest import RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import ask, ask_unapproved, fault
from tests.integration.operators.test_held import Waiting, afterwards, waiting  # noqa: F401 - a fixture
from tests.integration.operators.test_reviewing import decide, edit, people, pipeline

Record = Callable[[], JobRecord]
ALICE = Actor.user("alice")

#: The job of the task, where another job was there before.
SECOND = 2

pytestmark = pytest.mark.usefixtures("connections")


def add(ledger: Ledger, amount: Any, **more: Any) -> None:
    spec = checked_spec(more.pop("name", "nightly"), amount, **{"owner": "alice", "period": "total", **more})
    ledger.budgets.add(spec, why="to be safe", actor=ALICE)


def test_a_task_waits_deferred_for_room_and_goes_on_when_the_budget_is_raised(
    run: RunDag,
    ledger: Ledger,
    stand_in: Any,
    waiting: Waiting,  # noqa: F811
) -> None:
    add(ledger, "0.05", scope={"tag": "nightly"})
    other = ask(task_id="other", job_key="other", tags=["nightly"], max_output_tokens=2000)
    worst = other.worst_case(other.build_request())
    assert worst.cost_usd is not None
    assert Decimal("0.0255") < worst.cost_usd < Decimal("0.05")

    def define() -> None:
        ask(tags=["nightly"], max_output_tokens=2000)

    _reserve(ledger, worst.cost_usd)

    def raise_it() -> None:
        held = ledger.record(SECOND).revision
        assert (stand_in.responses().creates, held.held_kind) == (0, "budget")
        assert "has 0.0" in str(held.held_why)
        ledger.budgets.raise_once("nightly", Decimal(1), why="month's end", actor=ALICE)

    with afterwards(waiting(SubmissionTrigger), raise_it):
        done = run(define)

    assert (done.states["draft"], done.tries["draft"]) == ("success", 1)
    job = ledger.job(SECOND)
    assert (job.state, job.tags, stand_in.responses().creates) == (JobState.REVIEW, ["nightly"], 1)
    use = ledger.budgets.read("nightly").use
    assert use.settled_usd == ledger.revision(SECOND, 1).cost_usd


def test_a_long_input_is_counted_by_the_provider_where_a_budget_is_about_it(
    run: RunDag, ledger: Ledger, stand_in: Any
) -> None:
    def define() -> None:
        ask_unapproved(input="word " * 20_000, max_output_tokens=1000)

    run(define)
    free = ledger.record(1).revision.worst_cost_usd
    assert not [each for each in stand_in.requests() if each.path.endswith("/input_tokens")]
    add(ledger, 1)

    def again() -> None:
        ask_unapproved(job_key="another", input="word " * 20_000, max_output_tokens=1000)

    run(again)
    assert len([each for each in stand_in.requests() if each.path.endswith("/input_tokens")]) == 1
    counted = ledger.record(SECOND).revision.worst_cost_usd
    assert free is not None
    assert counted is not None
    assert counted < free / 2


def _reserve(ledger: Ledger, need: Decimal) -> None:
    """What another job has reserved."""
    assert _ask(ledger, need, "in the way").token is not None


def _ask(ledger: Ledger, need: Decimal, key: str) -> Intent:
    opened = ledger.submission.open(job_spec(job_key=key, tags=("nightly",)))
    worst = WorstCase(cost_usd=need)
    return ledger.submission.intend(opened.job.job_id, 1, actor=TEST, lease=LEASE, worst=worst)


@pytest.mark.parametrize(
    ("budget", "arguments", "why"),
    [
        ("0.01", {"max_output_tokens": 2000}, "it could never be sent"),
        (None, {"max_output_tokens": 2000, "max_cost_usd": 0.01}, "not to cost more than 0.01 USD"),
        (10, {"model": "no-such-model"}, "no published price"),
        (10, {"tools": [{"type": "web_search"}]}, "max_tool_calls"),
    ],
)
def test_what_may_cost_too_much_is_not_sent_and_not_tried_again(
    run: RunDag, record: Record, ledger: Ledger, stand_in: Any, budget: Any, arguments: dict[str, Any], why: str
) -> None:
    if budget is not None:
        add(ledger, budget)
    done = run(lambda: ask(**arguments))
    assert (done.states["draft"], done.tries["draft"]) == ("failed", 1)
    assert why in str(record().job.state_reason)
    assert stand_in.responses().creates == 0


def test_a_price_that_the_author_states_is_reserved_and_counts(run: RunDag, record: Record, ledger: Ledger) -> None:
    add(ledger, 1)
    done = run(lambda: ask(model="no-such-model", unpriced=0.40))
    assert done.states["draft"] == "success"
    use = ledger.budgets.read("nightly").use
    assert (use.settled_usd, use.assumed_usd) == (Decimal("0.40"), Decimal("0.40"))


class TestEachWayThatCosts:
    """What is sent is reserved before, in each budget, and settled with what OpenAI has billed."""

    @pytest.fixture(autouse=True)
    def _budgets(self, ledger: Ledger) -> None:
        add(ledger, 100)
        add(ledger, 50, name="of the type", scope={"job_type": "publishing"})

    @pytest.fixture
    def check(self, ledger: Ledger, stand_in: Any, conninfo: dict[str, Any]) -> Callable[[int], None]:
        """Compare with the bill, on which so many responses are."""

        def check(responses: int) -> None:
            bill = bill_of(stand_in)
            assert len(bill) == responses
            check_each_is_settled(reservations_in(conninfo), bill)
            for view in ledger.budgets.find():
                assert view.use.reserved_usd == 0
                assert view.use.settled_usd >= sum(cost for cost in bill.values() if cost is not None)

        return check

    def test_a_request_that_is_refused_for_now_and_sent_again(self, run: RunDag, check: Callable[[int], None]) -> None:
        assert run(lambda: ask(metadata=fault("create=503 times=2"))).states["draft"] == "success"
        check(1)

    def test_further_tries_after_responses_that_failed(self, run: RunDag, check: Callable[[int], None]) -> None:
        assert run(lambda: ask(metadata=fault("status=failed"), max_revisions=3, retries=5)).states["draft"] == "failed"
        check(3)

    def test_a_clear_that_begins_again_with_other_input(self, dags: Dags, check: Callable[[int], None]) -> None:
        dags.run(dags.make(ask))
        dags.run(dags.make(lambda: ask(input="Write about the pan.")))
        check(2)

    def test_a_run_that_asks_for_a_new_revision(self, dags: Dags, check: Callable[[int], None]) -> None:
        dag = dags.make(ask_unapproved)
        dags.run(dag)
        dags.run(dag, conf={"regenerate": True})
        check(2)

    @pytest.mark.usefixtures("target")
    def test_a_change_that_a_reviewer_asks_for_but_not_an_edit(
        self, run: RunDag, ledger: Ledger, check: Callable[[int], None]
    ) -> None:
        steps = (decide("request changes", "Shorter."), edit({"title": "Pan", "body": "It boils."}), decide("approve"))
        with people(ledger, *steps):
            assert run(pipeline).states["publish"] == "success"
        check(2)

    def test_a_mapped_task_with_a_job_for_each_element(self, run: RunDag, check: Callable[[int], None]) -> None:
        def define() -> None:
            type(ask("another")).partial(task_id="draft", job_type="publishing", model="gpt-5.2").expand_kwargs(
                [{"job_key": str(number), "input": "Write."} for number in range(3)]
            )

        assert run(define).state == "success"
        check(4)

    def test_a_request_that_was_lost_and_sent_again_stays_reserved_until_its_response_is_found(
        self, run: RunDag, ledger: Ledger, stand_in: Any, conninfo: dict[str, Any]
    ) -> None:
        done = run(lambda: ask(metadata=fault("create=drop_after_accept times=1"), on_lost_submission="resend"))
        assert done.states["draft"] == "success"
        bill = bill_of(stand_in)
        assert len(bill) == 2
        rows = [row for row in reservations_in(conninfo) if row["budget_id"] == 1]
        assert sorted(row["state"] for row in rows) == ["reserved", "settled"]
        assert ledger.budgets.read("nightly").use.used_usd >= sum(cost or 0 for cost in bill.values())


@pytest.mark.parametrize(
    "arguments",
    [{"unpriced": 0}, {"unpriced": "a lot"}, {"max_cost_usd": -1}, {"expected_output_tokens": 0}],
    ids=str,
)
def test_an_argument_that_is_not_valid_fails_the_parsing_of_the_dag(arguments: dict[str, Any]) -> None:
    with pytest.raises(Exception, match=r"above 0|no amount|at least 1"):
        ask(**arguments)
