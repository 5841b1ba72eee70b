"""What a request for changes can cost: known before it is asked for, and the same that is then reserved."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest

from airflow_provider_aihandoff.core.budgets.budget_spec import checked_spec
from airflow_provider_aihandoff.core.generation.openai.facts import OpenAIFacts
from airflow_provider_aihandoff.core.generation.revision_store import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Job
from airflow_provider_aihandoff.core.review.change_cost import CHARACTERS, ChangeCost, change_cost
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import ResponseStatus
from tests.factories import LEASE, TEST, ask, draft, job_spec, submit

FACTS = OpenAIFacts()
REQUEST = {"model": "gpt-5.2", "input": "Write about the kettle.", "max_output_tokens": 1000}
USAGE = {"input_tokens": 3000, "output_tokens": 200}
#: Of gpt-5.2, for one token.
IN, OUT = Decimal("0.00000175"), Decimal("0.000014")


def in_review(ledger: Ledger, usage: Any = USAGE, **changes: Any) -> Job:
    spec = job_spec(**{"request": REQUEST, **changes})
    revision = submit(ledger, spec, f"resp_{spec.job_key}")
    output = Output(ResponseStatus.COMPLETED, "A kettle.", usage=usage, cost_usd=Decimal("0.01"))
    return ask(ledger, ledger.outputs.store(revision.job_id, revision.number, output, actor=TEST))


def cost(ledger: Ledger, job: Job) -> ChangeCost:
    found = change_cost(ledger, ledger.record(job.job_id), FACTS)
    assert found is not None
    return found


def add(ledger: Ledger, amount: Any, **more: Any) -> None:
    ledger.budgets.add(checked_spec("all", amount, owner="alice", **more), why="to be safe", actor=TEST)


def request_changes(ledger: Ledger, job: Job, comment: str) -> Job:
    return ledger.reviews.decide(
        job.job_id, "request changes", digest=str(job.review_digest), person=Person("bob"), comment=comment
    )


def test_it_is_the_answer_and_what_the_model_reads_again_and_a_comment_of_the_widest_characters(
    ledger: Ledger,
) -> None:
    found = cost(ledger, in_review(ledger)).worst_usd
    assert found is not None
    read = 3200 + 4 * CHARACTERS
    assert 1000 * OUT + read * IN < found < 1000 * OUT + (read + 1500) * IN


def test_it_is_at_least_what_is_reserved_for_such_a_comment(ledger: Ledger) -> None:
    job = in_review(ledger)
    before = cost(ledger, job).worst_usd
    add(ledger, 10)
    queued = request_changes(ledger, job, "ä" * CHARACTERS)
    request = FACTS.continued(
        REQUEST, changes="ä" * CHARACTERS, before=ledger.revision(job.job_id, 1), response_id="resp_post:kettle"
    )
    worst = FACTS.worst_case(request, context_tokens=3200)
    intent = ledger.submission.intend(job.job_id, queued.revision, actor=TEST, lease=LEASE, worst=worst)
    assert intent.token is not None
    reserved = ledger.budgets.read("all").use.reserved_usd
    assert before is not None
    assert 0 < reserved <= before


def test_the_dearer_of_the_two_ways_to_continue_counts(ledger: Ledger) -> None:
    """Whether OpenAI still has the response is not known before; without it, the whole output is sent again."""
    short = cost(ledger, in_review(ledger, usage={"input_tokens": 1, "output_tokens": 1})).worst_usd
    with_long_output = draft(ledger, job_spec(job_key="long", request=REQUEST), "x" * 50_000, "resp_2")
    long = cost(ledger, ask(ledger, with_long_output)).worst_usd
    assert short is not None
    assert long is not None
    assert long > short + 50_000 * IN


def test_what_the_author_has_said_of_the_first_request_counts_for_changes_too(ledger: Ledger) -> None:
    unbounded = {"model": "gpt-5.2", "input": "Write."}
    wide = cost(ledger, in_review(ledger, request=unbounded)).worst_usd
    narrow = cost(ledger, in_review(ledger, job_key="b", request=unbounded, expected_output_tokens=500)).worst_usd
    assert wide is not None
    assert narrow is not None
    assert wide > 400_000 * OUT > narrow
    unpriced = in_review(ledger, job_key="c", request={"model": "my-own"}, unpriced_usd=Decimal("0.5"))
    assert cost(ledger, unpriced).worst_usd == Decimal("0.5")
    queued = request_changes(ledger, unpriced, "Shorter.")
    assert ledger.revision(queued.job_id, queued.revision).unpriced_usd == Decimal("0.5")


def test_a_request_whose_secrets_are_masked_may_fill_the_context_of_the_model(ledger: Ledger) -> None:
    masked = {**REQUEST, "input": "Write with ***."}
    found = cost(ledger, in_review(ledger, request={**REQUEST, "input": "Write with key."}, shown_request=masked))
    assert found.worst_usd is not None
    assert found.worst_usd > 400_000 * IN


def test_what_is_not_known_is_said_and_never_0(ledger: Ledger) -> None:
    job = in_review(ledger, request={"model": "my-own", "input": "Write."})
    assert cost(ledger, job) == ChangeCost(None, "the model 'my-own' has no published price", None)
    add(ledger, 10)
    assert "is not known" in str(cost(ledger, job).held)


class TestHeld:
    def test_a_budget_without_room_says_so_before_anything_is_asked_for(self, ledger: Ledger) -> None:
        job = in_review(ledger)
        assert cost(ledger, job).held is None
        add(ledger, "0.03", on_full="hold")
        assert cost(ledger, job).held is None
        submit(ledger, job_spec(job_key="other"), "resp_9")  # reserves 0.01 of it
        held = cost(ledger, job).held
        assert held is not None
        assert "has 0.02 USD of 0.03 USD left" in held
        assert "It is sent when there is room" in held

    @pytest.mark.parametrize(("amount", "said"), [("0.001", "could never be sent"), ("10", None)])
    def test_a_period_in_which_nothing_was_asked_for_has_its_whole_amount(
        self, ledger: Ledger, amount: str, said: str | None
    ) -> None:
        job = in_review(ledger)
        add(ledger, amount, period="day", time_zone="Europe/Berlin")
        held = cost(ledger, job).held
        assert (held is None) if said is None else (said in str(held))

    def test_one_that_only_warns_holds_nothing(self, ledger: Ledger) -> None:
        job = in_review(ledger)
        add(ledger, "0.001", on_full="warn")
        assert cost(ledger, job).held is None

    def test_one_about_other_jobs_holds_nothing(self, ledger: Ledger) -> None:
        job = in_review(ledger)
        add(ledger, "0.015", scope={"tag": "nightly"})
        assert cost(ledger, job).held is None
        tagged = in_review(ledger, job_key="tagged", tags=("nightly",))
        assert cost(ledger, tagged).held is not None

    def test_the_jobs_for_which_people_wait_come_first(self, ledger: Ledger) -> None:
        job = in_review(ledger)
        add(ledger, "0.05")
        waiting = ledger.submission.open(job_spec(job_key="waits", priority="interactive"))
        first = replace(FACTS.worst_case(REQUEST), cost_usd=Decimal("0.04"))
        taken = ledger.submission.open(job_spec(job_key="taken"))
        ledger.submission.intend(taken.job.job_id, 1, actor=TEST, lease=timedelta(minutes=1), worst=first)
        ledger.submission.intend(
            waiting.job.job_id, 1, actor=TEST, lease=LEASE, worst=replace(first, cost_usd=Decimal("0.02"))
        )
        assert "1 wait before it" in str(cost(ledger, job).held)

    def test_the_bound_of_the_job_counts_what_it_has_cost(self, ledger: Ledger) -> None:
        job = in_review(ledger, max_cost_usd=Decimal("0.02"))
        held = cost(ledger, job).held
        assert "has cost 0.01 USD until now" in str(held)
        assert "max_cost_usd" in str(held)

    def test_to_ask_reserves_nothing(self, ledger: Ledger, conninfo: dict[str, Any]) -> None:
        job = in_review(ledger)
        add(ledger, 10)
        cost(ledger, job)
        with psycopg.connect(**conninfo) as connection:
            for table in ("budget_windows", "budget_reservations"):
                assert connection.execute(f"SELECT FROM aihandoff.{table}").fetchall() == []


def test_a_job_that_is_not_in_review_has_none(ledger: Ledger) -> None:
    job = draft(ledger)
    assert change_cost(ledger, ledger.record(job.job_id), FACTS) is None
