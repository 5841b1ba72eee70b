"""Many jobs of one task, through the tasks of an author: drafted, decided and written as one set."""

from __future__ import annotations

import gc
import threading
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from airflow.sdk import task

from airflow_provider_aihandoff.core.bulk.bulk_run import begin, preview
from airflow_provider_aihandoff.core.bulk.bulk_run import run as run_bulk
from airflow_provider_aihandoff.core.bulk.bulk_store import BulkAction
from airflow_provider_aihandoff.core.generation import lost
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.sets.pause_set import pause_set, resume_set
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.hooks.model_provider import providers
from airflow_provider_aihandoff.operators import response_set
from airflow_provider_aihandoff.operators.items import JsonLines, SqlItems
from airflow_provider_aihandoff.operators.response_set import OpenAIResponseSetOperator
from airflow_provider_aihandoff.policies import Approve, AskPerson
from airflow_provider_aihandoff.sensors.approval import ApprovalSensor
from airflow_provider_aihandoff.testing import OpenAIStandIn, ResponderRequest
from tests.integration.core.generation.test_submit import webhooks_arrive
from tests.integration.operators.conftest import Model, RunDag
from tests.integration.operators.dag_runs import Dags
from tests.integration.operators.tasks import Note, Policy, publish
from tests.target import Answer, Target

ITEMS = [{"id": f"t{number}", "text": f"Ticket {number}"} for number in range(7)]


@pytest.fixture(autouse=True)
def _no_inline_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__INLINE_WAIT", "0")


def draft_set(items: Any = ITEMS, task_id: str = "draft", **arguments: Any) -> OpenAIResponseSetOperator:
    defaults: dict[str, Any] = {
        "job_type": "ticket",
        "job_key": "{{ item.id }}",
        "model": "gpt-5.2",
        "input": "{{ item.text }}",
        "output_type": Note,
        "approval": "not required",
        "approval_reason": "it is a test",
    }
    return OpenAIResponseSetOperator(task_id=task_id, items=items, **{**defaults, **arguments})


def states(ledger: Ledger) -> dict[str, int]:
    return dict(Counter(job.state.value for job in ledger.jobs(limit=1000)))


def requests_of(stand_in: OpenAIStandIn) -> int:
    return len(stand_in.responses().responses)


def test_each_item_is_a_job_of_the_set_and_is_paid_once(run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn) -> None:
    done = run(lambda: draft_set())
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["states"] == {"completed": 7}
    assert done.xcoms["draft"]["said"] == "7 completed"
    jobs = ledger.jobs(limit=100)
    assert sorted(job.job_key for job in jobs) == [f"t{number}" for number in range(7)]
    assert {job.set_id for job in jobs} == {done.xcoms["draft"]["set_id"]}
    assert requests_of(stand_in) == 7


def test_a_clear_pays_only_for_what_is_missing(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, model: Model
) -> None:
    def output(request: ResponderRequest) -> Any:
        return "no JSON" if "Ticket 3" in request.input_text else {"title": "a", "body": "b"}

    model.output = output
    dag = dags.make(lambda: draft_set(max_revisions=2))
    done = dags.run(dag)
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["states"] == {"completed": 6, "failed": 1}
    assert done.xcoms["draft"]["failures"] == {"mismatch": 1}
    assert requests_of(stand_in) == 8, "a new revision of the one that failed, within its bound"
    model.output = {"title": "a", "body": "b"}
    again = dags.clear(dags.make(lambda: draft_set(max_revisions=3), dag_id=dag.dag_id), done)
    assert again.xcoms["draft"]["states"] == {"completed": 7}
    assert requests_of(stand_in) == 9


def test_no_more_are_in_flight_than_its_author_allows(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = list[int]()
    defer = OpenAIResponseSetOperator._defer

    def counted(self: OpenAIResponseSetOperator, leg: Any, found: Any) -> None:
        at_once.append(leg.ledger.sets.in_flight(found.set_id))
        defer(self, leg, found)

    monkeypatch.setattr(OpenAIResponseSetOperator, "_defer", counted)
    done = run(lambda: draft_set(max_in_flight=2, metadata={"standin": "delay=0.3"}))
    assert done.state == "success", done.errors
    assert max(at_once) == 2
    assert (states(ledger), requests_of(stand_in)) == ({"completed": 7}, 7)


def test_a_worker_goes_on_while_answers_come_with_no_more_in_flight_than_its_author_allows(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    legs, at_once = list[str](), list[int]()
    begin, send = OpenAIResponseSetOperator._leg, OpenAIResponseSetOperator._send

    def counted_leg(self: OpenAIResponseSetOperator, *arguments: Any) -> Any:
        legs.append(self.task_id)
        return begin(self, *arguments)

    def counted_send(self: OpenAIResponseSetOperator, leg: Any, job: Any, *arguments: Any) -> str:
        sent = send(self, leg, job, *arguments)
        at_once.append(leg.ledger.sets.in_flight(job.set_id))
        return sent

    monkeypatch.setattr(OpenAIResponseSetOperator, "_leg", counted_leg)
    monkeypatch.setattr(OpenAIResponseSetOperator, "_send", counted_send)
    waits: dict[str, Any] = {"max_in_flight": 2, "inline_wait": timedelta(seconds=30)}
    done = run(lambda: draft_set(metadata={"standin": "delay=0.3"}, **waits))
    assert done.state == "success", done.errors
    assert legs == ["draft"], "it never deferred"
    assert max(at_once) == 2
    assert (states(ledger), requests_of(stand_in)) == ({"completed": 7}, 7)


def test_while_the_model_works_some_jobs_are_opened_ahead(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[int]()
    come = OpenAIResponseSetOperator._answers_come

    def counted(self: OpenAIResponseSetOperator, *arguments: Any) -> bool:
        seen.append(len(ledger.jobs(limit=100)))
        if seen.count(5) > 5 or len(seen) > 500:
            raise AirflowFailException("enough was seen")
        return come(self, *arguments)

    monkeypatch.setattr(OpenAIResponseSetOperator, "_answers_come", counted)
    monkeypatch.setattr(response_set, "_OPENED_TOGETHER", 1)
    monkeypatch.setattr(response_set, "_OPENED_AHEAD", 3)
    waits: dict[str, Any] = {"max_in_flight": 2, "inline_wait": timedelta(hours=1)}
    done = run(lambda: draft_set(metadata={"standin": "delay=3600"}, **waits))
    assert "enough was seen" in done.error("draft")
    assert (max(seen), requests_of(stand_in)) == (5, 2), "two that the model has, and three more"


def test_where_no_answer_comes_for_a_while_the_rest_is_sent_by_a_later_leg(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn
) -> None:
    waits: dict[str, Any] = {"max_in_flight": 3, "inline_wait": timedelta(seconds=0.2)}
    done = run(lambda: draft_set(metadata={"standin": "delay=2"}, **waits))
    assert done.state == "success", done.errors
    assert (states(ledger), requests_of(stand_in)) == ({"completed": 7}, 7)


def test_a_request_that_was_lost_is_waited_for_no_longer_than_what_the_others_took_says(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost, "MIN_HISTORY", len(ITEMS) - 1)  # it is known once all others have ended
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__WEBHOOK_SILENCE", "1")
    webhooks_arrive(ledger)
    items = [{**item, "fault": "create=drop_after_accept" if item["id"] == "t0" else ""} for item in ITEMS]
    at_last = timedelta(minutes=2)
    done = run(lambda: draft_set(items, metadata={"standin": "delay=0.3 {{ item.fault }}"}, deadline=at_last))
    assert done.state == "success", done.errors
    assert (states(ledger), requests_of(stand_in)) == ({"completed": 7}, 8)
    unknown = {job.job_key: ledger.revision(job.job_id, 1).unknown_submissions for job in ledger.jobs(limit=10)}
    assert {key for key, number in unknown.items() if number} == {"t0"}


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], "there is no item"),
        ([{"id": "a", "text": "x"}, {"id": "b", "text": "x"}, {"id": "a", "text": "x"}], "item 3: its key 'a' is"),
        ([{"id": "a", "text": "x"}, {"id": "b"}], "item 2: the template '{{ item.text }}' in `input`"),
        ("text", "`items` is a str"),
    ],
)
def test_what_cannot_be_a_set_is_said_before_anything_is_paid(
    run: RunDag, ledger: Ledger, stand_in: OpenAIStandIn, items: Any, said: str
) -> None:
    done = run(lambda: draft_set(items))
    assert said in done.error("draft")
    assert "Nothing was sent to the model" in done.error("draft") or isinstance(items, str)
    assert (requests_of(stand_in), ledger.jobs(), ledger.sets.newest(), done.tries["draft"]) == (0, [], [], 1)


def test_the_others_go_on_where_its_author_leaves_bad_items_out(run: RunDag, ledger: Ledger) -> None:
    items = [*ITEMS, {"id": "t1", "text": "again"}, {"id": "t9"}]
    done = run(lambda: draft_set(items, on_bad_items="leave out"))
    assert (done.xcoms["draft"]["items"], done.xcoms["draft"]["left_out"]) == (9, 2)
    assert done.xcoms["draft"]["said"] == "7 completed, 2 left out"
    (found,) = ledger.sets.newest()
    assert [(each.number, each.reason.value) for each in found.without_job.first] == [
        (8, "duplicate"),
        (9, "not rendered"),
    ]


@pytest.mark.parametrize(("fail_when", "state"), [(0.5, "success"), (2, "success"), (1, "failed"), (0.1, "failed")])
def test_its_author_says_how_many_may_fail(run: RunDag, model: Model, fail_when: Any, state: str) -> None:
    def output(request: ResponderRequest) -> Any:
        return "no JSON" if "Ticket 3" in request.input_text else {"title": "a", "body": "b"}

    model.output = output
    done = run(lambda: draft_set(max_revisions=1, fail_when=fail_when))
    assert done.states["draft"] == state
    if state == "failed":
        assert "1 of 7 items have no output (1 mismatch)" in done.error("draft")


def test_items_of_a_task_before_are_taken_as_they_are(run: RunDag, ledger: Ledger) -> None:
    def define() -> None:
        @task
        def tickets() -> list[dict[str, str]]:
            return [{"id": "a", "text": "{{ not a template }}"}, {"id": "b", "text": "x"}]

        draft_set(tickets())

    done = run(define)
    assert done.state == "success", done.errors
    assert {job.input["input"] for job in ledger.jobs()} == {"{{ not a template }}", "x"}


def write(draft: Any, task_id: str = "write", **arguments: Any) -> Any:
    return publish(
        draft,
        task_id,
        **{"endpoint": "/posts/{{ job.job_key }}", "json": {"title": "{{ job.output.title }}"}, **arguments},
    )


def pipeline(items: Any = ITEMS, policy: Any = None, *, effect: Any = None, **approval: Any) -> None:
    draft = draft_set(items, approval="required", approval_reason=None)
    approve = ApprovalSensor(task_id="approve", job=draft, policy=policy or Policy(), **approval)
    draft >> approve >> write(draft, **(effect or {}))


def test_a_set_is_drafted_decided_and_written(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, target: Target
) -> None:
    dag = dags.make(pipeline)
    done = dags.run(dag)
    assert done.state == "success", done.errors
    assert done.xcoms["approve"]["said"] == "7 approved"
    assert done.xcoms["write"]["effects"] == {"applied": 7}
    assert done.xcoms["write"]["said"] == "7 applied"
    assert sorted(each.path for each in target.received) == [f"/posts/t{number}" for number in range(7)]
    assert states(ledger) == {"completed": 7}
    again = dags.clear(dag, done)
    assert again.state == "success", again.errors
    assert again.xcoms["write"]["said"] == "7 applied"
    assert (len(target.received), requests_of(stand_in)) == (7, 7), "nothing is paid or written twice"


def test_what_the_process_has_imported_is_left_out_of_each_search_for_garbage_while_jobs_are_planned(
    dags: Dags,
) -> None:
    frozen = list[int]()

    class Counting(Policy):
        def decide(self, job: Any, plan: Any) -> Any:
            frozen.append(gc.get_freeze_count())
            return super().decide(job, plan)

    done = dags.run(dags.make(lambda: pipeline(policy=Counting())))
    assert done.state == "success", done.errors
    assert min(frozen) > 10_000
    assert gc.get_freeze_count() == 0


def test_what_a_person_decides_ends_the_wait_and_the_rest_is_written(
    dags: Dags, ledger: Ledger, target: Target
) -> None:
    decided = threading.Event()

    def decide() -> None:
        while not decided.is_set():
            waiting = [job for job in ledger.jobs(states=[JobState.REVIEW]) if job.review_digest]
            for job in waiting:
                verdict: Any = "reject" if job.job_key == "t2" else "approve"
                ledger.reviews.decide(job.job_id, verdict, digest=str(job.review_digest), person=Person("bob"))
            time.sleep(0.1)

    people = threading.Thread(target=decide)
    people.start()
    try:
        done = dags.run(dags.make(lambda: pipeline(policy=Policy(AskPerson("it is a test")))))
    finally:
        decided.set()
        people.join()
    assert done.state == "success", done.errors
    assert done.xcoms["approve"]["said"] == "1 rejected, 6 approved"
    assert done.xcoms["write"]["said"] == "6 applied, 1 rejected"
    assert len(target.received) == 6


def test_at_the_end_of_the_time_it_goes_on_with_what_is_decided(dags: Dags, target: Target) -> None:
    class Some(Policy):
        def decide(self, job: Any, plan: Any) -> Any:
            return Approve("plain") if job.job_key != "t2" else AskPerson("not plain")

    done = dags.run(dags.make(lambda: pipeline(policy=Some(), timeout=2)))
    assert done.state == "success", done.errors
    assert done.xcoms["write"]["said"] == "6 applied, 1 rejected"
    assert "/posts/t2" not in [each.path for each in target.received]


def test_what_is_refused_or_unknown_holds_up_no_other(dags: Dags, ledger: Ledger, target: Target) -> None:
    target.answer_by_path["/posts/t2"] = Answer(422, {"error": "no"})
    target.answer_by_path["/posts/t4"] = Answer(504, {"error": "lost"})
    dag = dags.make(lambda: pipeline(effect={"hold_timeout": None}))
    done = dags.run(dag)
    assert done.state == "success", done.errors
    assert done.xcoms["write"]["effects"] == {"applied": 5, "refused": 1, "unknown": 1}
    assert done.xcoms["write"]["said"] == "5 applied, 1 unknown, 1 applying"
    target.answer_by_path.clear()
    (unknown,) = ledger.list_effects(states=["unknown"])
    ledger.effects.resolve(
        unknown.effect_id, external_id="rec", applied=True, actor=Actor.program("a test"), why="it is there"
    )
    again = dags.clear(dag, done, ["write"])
    assert again.xcoms["write"]["said"] == "7 applied"
    assert [each.path for each in target.received].count("/posts/t2") == 2
    assert [each.path for each in target.received].count("/posts/t4") == 1


def test_a_plan_that_does_not_render_holds_up_no_other(dags: Dags, ledger: Ledger, target: Target) -> None:
    done = dags.run(dags.make(lambda: pipeline(effect={"json": {"of": "{{ 1 // (job.job_key != 't3') }}"}})))
    assert done.xcoms["approve"]["not_asked"] == 1
    assert len(target.received) == 6
    assert states(ledger) == {"completed": 6, "review": 1}


def test_an_edit_of_one_job_is_asked_about_again(dags: Dags, ledger: Ledger, target: Target) -> None:
    ended = threading.Event()

    def edit() -> None:
        edited = False
        while not ended.is_set():
            for job in ledger.jobs(states=[JobState.REVIEW]):
                if job.review_digest is None:
                    continue
                seen = str(job.review_digest)
                if job.job_key == "t1" and not edited:
                    ledger.reviews.edit(
                        job.job_id, digest=seen, output={"title": "Mine", "body": "b"}, person=Person("bob")
                    )
                    edited = True
                else:
                    ledger.reviews.decide(job.job_id, "approve", digest=seen, person=Person("bob"))
            time.sleep(0.1)

    people = threading.Thread(target=edit)
    people.start()
    try:
        done = dags.run(dags.make(lambda: pipeline(policy=Policy(AskPerson("it is a test")))))
    finally:
        ended.set()
        people.join()
    assert done.state == "success", done.errors
    assert {each.path: each.json for each in target.received}["/posts/t1"] == {"title": "Mine"}


def test_jobs_that_need_no_approval_are_planned_and_written(dags: Dags, ledger: Ledger, target: Target) -> None:
    def define() -> None:
        draft = draft_set()
        draft >> write(draft)

    done = dags.run(dags.make(define))
    assert done.state == "success", done.errors
    assert (done.xcoms["write"]["said"], len(target.received)) == ("7 applied", 7)


def test_items_are_rows_of_a_query_or_lines_of_a_file(
    dags: Dags, ledger: Ledger, sales: psycopg.Connection[Any], tmp_path: Path
) -> None:
    sales.execute("INSERT INTO reports (title) SELECT 'report ' || n FROM generate_series(1, 1500) AS n")
    query = SqlItems(
        "sales_db", "SELECT report_id AS id, title AS text FROM reports WHERE report_id <= %s ORDER BY 1", [3]
    )
    done = dags.run(dags.make(lambda: draft_set(query)))
    assert done.state == "success", done.errors
    assert sorted(job.job_key for job in ledger.jobs()) == ["1", "2", "3"]
    file = tmp_path / "items.jsonl"
    file.write_text("".join(f'{{"id": "line {number}", "text": "x"}}\n' for number in range(2)), "utf-8")
    done = dags.run(
        dags.make(
            lambda: draft_set(JsonLines("file://{{ params.folder }}/items.jsonl")), params={"folder": str(tmp_path)}
        )
    )
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["items"] == 2


def test_a_retry_asks_nothing_again_and_a_change_that_a_reviewer_wants_is_made(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended, fails = threading.Event(), [True]
    end = OpenAIResponseSetOperator._end

    def failing(self: OpenAIResponseSetOperator, leg: Any, found: Any) -> Any:
        if fails:
            fails.clear()
            raise RuntimeError("the worker is gone")
        return end(self, leg, found)

    monkeypatch.setattr(OpenAIResponseSetOperator, "_end", failing)

    def decide() -> None:
        asked_for_changes = False
        while not ended.is_set():
            for job in ledger.jobs(states=[JobState.REVIEW]):
                if job.review_digest is None:
                    continue
                verdict: Any = "approve"
                if job.job_key == "t3" and not asked_for_changes:
                    verdict, asked_for_changes = "request changes", True
                ledger.reviews.decide(
                    job.job_id, verdict, digest=str(job.review_digest), person=Person("bob"), comment="Shorter."
                )
            time.sleep(0.1)

    people = threading.Thread(target=decide)
    people.start()
    try:
        done = dags.run(dags.make(lambda: pipeline(policy=Policy(AskPerson("it is a test")))))
    finally:
        ended.set()
        people.join()
    assert done.state == "success", done.errors
    assert done.tries["draft"] == 2
    assert requests_of(stand_in) == 8, "each once, and the change"
    assert done.xcoms["write"]["said"] == "7 applied"
    assert len(target.received) == 7


def test_an_item_that_is_gone_before_it_was_sent_fails_with_the_reason(
    dags: Dags, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "items.jsonl"
    lines = [f'{{"id": "{name}", "text": "x"}}\n' for name in "abc"]
    file.write_text("".join(lines), "utf-8")
    defer = OpenAIResponseSetOperator._defer

    def after_an_edit(self: OpenAIResponseSetOperator, leg: Any, found: Any) -> None:
        file.write_text("".join(lines[:2]), "utf-8")
        defer(self, leg, found)

    monkeypatch.setattr(OpenAIResponseSetOperator, "_defer", after_an_edit)
    done = dags.run(dags.make(lambda: draft_set(JsonLines(f"file://{file}"), max_in_flight=1)))
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["failures"] == {"item missing": 1}
    (failed,) = ledger.jobs(states=[JobState.FAILED])
    assert (failed.job_key, failed.state_reason) == ("c", "its item is no longer among the items of its set")


def test_a_pause_of_the_set_holds_what_is_not_sent_until_it_is_resumed(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused while it waits for its first responses: the rest is held, and then the writes of what was decided."""
    monkeypatch.setenv("AIRFLOW__AIHANDOFF__SWEEP_INTERVAL", "1")
    bob, sent = Actor.user("bob"), list[int]()
    defer = OpenAIResponseSetOperator._defer

    def pausing(self: OpenAIResponseSetOperator, leg: Any, found: Any) -> None:
        if not sent:
            pause_set(ledger, found, reason="wrong prompt", actor=bob)
            sent.append(requests_of(stand_in))
            threading.Timer(4, resume, [found]).start()
        defer(self, leg, found)

    def resume(found: Any) -> None:
        sent.append(requests_of(stand_in))
        resume_set(ledger, found, reason="it is right", actor=bob)

    monkeypatch.setattr(OpenAIResponseSetOperator, "_defer", pausing)
    done = dags.run(dags.make(lambda: draft_set(max_in_flight=2, metadata={"standin": "delay=0.3"})))
    assert done.state == "success", done.errors
    assert sent == [2, 2], "nothing is sent while it is paused"
    assert (states(ledger), requests_of(stand_in)) == ({"completed": 7}, 7)


def test_what_is_cancelled_before_it_is_sent_ends_the_wait_and_is_counted(
    dags: Dags, ledger: Ledger, stand_in: OpenAIStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    defer = OpenAIResponseSetOperator._defer

    def cancelling(self: OpenAIResponseSetOperator, leg: Any, found: Any) -> None:
        for job in ledger.jobs(states=[JobState.QUEUED]):
            ledger.cancels.cancel(job.job_id, actor=Actor.user("bob"), reason="wrong prompt")
        defer(self, leg, found)

    monkeypatch.setattr(OpenAIResponseSetOperator, "_defer", cancelling)
    done = dags.run(dags.make(lambda: draft_set(max_in_flight=2)))
    assert done.state == "success", done.errors
    assert done.xcoms["draft"]["said"] == "2 completed, 5 cancelled"
    assert requests_of(stand_in) == 2


def test_a_set_is_rolled_back_by_its_filter_and_so_is_a_part_of_it(dags: Dags, ledger: Ledger, target: Target) -> None:
    undo = {"method": "DELETE", "endpoint": "/posts/{{ job.job_key }}"}
    done = dags.run(dags.make(lambda: pipeline(effect={"undo": undo})))
    assert done.state == "success", done.errors
    set_id, bob = done.xcoms["draft"]["set_id"], Actor.user("bob")

    def roll_back(**more: Any) -> None:
        wanted = JobFilter(set_id=set_id, states=(JobState.COMPLETED,), **more)
        shown = preview(ledger, BulkAction.ROLL_BACK, wanted, answerable=list, actor=bob)
        bulk_id = begin(ledger, shown, count=shown.count, digest=shown.digest, reason="wrong labels", actor=bob)
        with providers() as provider_for:
            over = run_bulk(ledger, bulk_id, provider_for=provider_for, states_of=lambda _: {}, answerable=list)
        assert over.is_over

    roll_back(key="t1")
    assert ledger.sets.total(set_id).in_words() == "6 applied, 1 rolled back"
    roll_back()
    assert ledger.sets.total(set_id).in_words() == "7 rolled back"
    assert sorted(each.path for each in target.received if each.method == "DELETE") == [
        f"/posts/t{number}" for number in range(7)
    ]
