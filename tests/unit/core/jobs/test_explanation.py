"""What is said of a job: one test for each case that it can be in."""

from __future__ import annotations

import re
import shlex
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from airflow.cli.cli_config import GroupCommand
from airflow.cli.cli_parser import AirflowHelpFormatter, _add_command

import airflow_provider_aihandoff
from airflow_provider_aihandoff.cli.definition import get_commands
from airflow_provider_aihandoff.core.jobs.cases import CASES, Case, Safety
from airflow_provider_aihandoff.core.jobs.clear_preview import Draft, preview_clear
from airflow_provider_aihandoff.core.jobs.explanation import case_of, explain
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.review.rules import Approvers, ReviewRules
from airflow_provider_aihandoff.core.states import EffectState, JobState, RevisionState
from tests.unit.core.jobs.records import (
    BEFORE,
    LATER,
    NOW,
    TOKEN,
    decision,
    effect,
    event,
    failed,
    lost,
    record,
    revision,
    running,
)

E, J, R = EffectState, JobState, RevisionState
TEMPLATES = Path(airflow_provider_aihandoff.__file__).parent / "web" / "templates"

APPLIED = effect(E.APPLIED, "notify", 2)
OPEN: dict[str, Any] = {"review_deadline": LATER, "review_asked_at": BEFORE}
RULES = ReviewRules(approvers=Approvers(users=("bob", "carol")), approvals=2)
UNDO: dict[str, Any] = {"name": "undo:publish", "number": 3, "undoes": 1}
HELD: dict[str, Any] = {
    "held_kind": "pause",
    "held_name": "3",
    "held_why": "bob has paused requests.",
    "held_since": BEFORE,
}
RATE: dict[str, Any] = {**HELD, "held_kind": "rate", "held_name": "7", "held_why": "It waits for a limit."}
EXPIRED: dict[str, Any] = {"claim_until": NOW - timedelta(minutes=1)}


class Row(NamedTuple):
    case: Case
    record: JobRecord
    said: str
    then: str


def _rolling(undo: EffectState, **changes: Any) -> JobRecord:
    return record(J.ROLLING_BACK, effect(E.APPLIED), effect(undo, **{**UNDO, **changes}))


ROWS = [
    Row(
        Case.NOT_SENT,
        record(J.QUEUED, of=revision(R.QUEUED), events=(event("created"),)),
        "the job has been waiting for the task `draft` since 2026-07-20 11:55 UTC (5 min ago).",
        "At its deadline, 2026-07-20 15:00 UTC (in 3 h), the job fails",
    ),
    Row(
        Case.NOT_ACCEPTED,
        record(J.QUEUED, of=revision(R.QUEUED), events=(event("submit refused", "429: no quota"),)),
        "OpenAI did not accept the request at 2026-07-20 11:55 UTC (5 min ago): 429: no quota.",
        "sends it again while it runs or is retried, until the deadline",
    ),
    Row(
        Case.SEND_AGAIN,
        record(J.QUEUED, of=lost(), events=(event("submit resolved", "nothing in the logs"), event("attached"))),
        "A person said that the lost request may be sent again",
        "The task `draft` sends it",
    ),
    Row(
        Case.NOT_SENT_IN_TIME,
        record(J.QUEUED, of=revision(R.QUEUED, deadline=BEFORE)),
        "The deadline, 2026-07-20 11:55 UTC (5 min ago), passed, and no request is known to have been accepted.",
        "fails the job",
    ),
    Row(
        Case.PAUSED,
        record(J.QUEUED, of=revision(R.QUEUED, **HELD), events=(event("held", "bob has paused."),)),
        "Nothing has been sent to the model since 2026-07-20 11:55 UTC (5 min ago): bob has paused requests.",
        "When the pause ends, the task `draft` sends the request.",
    ),
    Row(
        Case.SPENT,
        record(J.QUEUED, of=revision(R.QUEUED, **{**HELD, "held_kind": "spending limit", "held_name": "openai"})),
        "bob has paused requests.",
        "One request of this connection at a time finds out whether that is still so",
    ),
    Row(
        Case.OVER_BUDGET,
        record(J.QUEUED, of=revision(R.QUEUED, **{**HELD, "held_kind": "budget", "held_name": "7"})),
        "bob has paused requests.",
        "sends the request when there is room, in order of arrival",
    ),
    Row(
        Case.RATE,
        record(J.QUEUED, of=revision(R.QUEUED, **RATE)),
        "Nothing has been sent to the model since 2026-07-20 11:55 UTC (5 min ago). It waits for a limit.",
        "When its turn comes, the task `draft` sends the request.",
    ),
    Row(
        Case.SENDING,
        record(J.QUEUED, of=revision(R.SUBMITTING, submit_token=TOKEN, submit_lease_until=NOW + timedelta(seconds=90))),
        "is sending the request to OpenAI",
        "counts as lost after 2026-07-20 12:01 UTC (in 1 min)",
    ),
    Row(
        Case.SENDER_DIED,
        record(J.QUEUED, of=revision(R.SUBMITTING, submit_token=TOKEN, submit_lease_until=BEFORE)),
        "recorded no outcome until 2026-07-20 11:55 UTC (5 min ago)",
        "counts the request as lost",
    ),
    Row(
        Case.LOST_HANDLE,
        record(J.QUEUED, of=lost(conversation_id="conv_1")),
        "its answer was lost",
        "OpenAI's conversation for this revision is polled",
    ),
    Row(
        Case.LOST_ASKS,
        record(J.QUEUED, of=lost(on_lost="ask")),
        "its answer was lost",
        "until 2026-07-20 12:02 UTC (in 2 min) for a person to say",
    ),
    Row(
        Case.LOST_FAILS,
        record(J.QUEUED, of=lost(submit_lease_until=LATER)),
        "its answer was lost",
        "Then the job fails.",
    ),
    Row(Case.LOST_RESENDS, record(J.QUEUED, of=lost()), "its answer was lost", "Then it is sent again, once."),
    Row(
        Case.RUNNING_WEBHOOKS,
        record(J.RUNNING, of=running(), webhook=BEFORE, events=(event("submitted"),)),
        "The model has been working on the response resp_1 since 2026-07-20 11:55 UTC (5 min ago).",
        "the newest at 2026-07-20 11:55 UTC (5 min ago)",
    ),
    Row(
        Case.RUNNING_POLLED,
        record(J.RUNNING, of=running(), webhook=NOW - timedelta(days=9)),
        "The model has been working on the response resp_1",
        "No webhook came on the connection `openai_default` within 8 days",
    ),
    Row(
        Case.RUNNING_BATCH,
        record(J.RUNNING, of=running(response_id=None, response_status="queued", batch_id=7)),
        "Its request is in batch 7 at OpenAI since",
        "The task `draft` reads the results when the batch has ended",
    ),
    Row(
        Case.RUNNING_ENDED,
        record(J.RUNNING, of=running(response_status="completed", deadline=BEFORE)),
        "The response resp_1 has ended (completed); this was recorded at",
        "The task `draft` stores it",
    ),
    Row(
        Case.RUNNING_OVERDUE,
        record(J.RUNNING, of=running(deadline=BEFORE)),
        "The response resp_1 is past its deadline",
        "the response is cancelled, and the job fails",
    ),
    Row(
        Case.RUNNING_CANCELLED,
        record(J.RUNNING, of=running(), cancelling="enough"),
        "The job is being cancelled",
        "An output that comes meanwhile is not taken.",
    ),
    Row(
        Case.NO_PLAN,
        record(J.REVIEW, review_digest=None),
        "Its plan has not been rendered yet.",
        "The approval task renders the plan",
    ),
    Row(
        Case.REVIEW,
        record(J.REVIEW, effect(E.PLANNED), **OPEN),
        "waiting since 2026-07-20 11:55 UTC (5 min ago) for a decision by every user who may answer",
        "Without a decision, the job is rejected (or as a policy of its author says) at 2026-07-20 15:00 UTC (in 3 h).",
    ),
    Row(
        Case.REVIEW_VOTED,
        record(J.REVIEW, **OPEN, decisions=(decision(),), review=RULES.to_json(), review_on_timeout="fail"),
        "1 of 2 approvals are there, by bob. Since 2026-07-20 11:55 UTC (5 min ago) the job has been waiting "
        "for the others, by bob, carol.",
        "Without them, the job fails at",
    ),
    Row(
        Case.REVIEW_OVERDUE,
        record(J.REVIEW, **{**OPEN, "review_deadline": BEFORE}),
        "No one decided by 2026-07-20 11:55 UTC (5 min ago), and decisions are refused now.",
        "or the maintenance Dag, ends the review: the job is rejected",
    ),
    Row(
        Case.APPROVED_NO_PLAN,
        record(J.APPROVED, review_digest=None, approval="not required"),
        "accepted without an approval",
        "renders the plan when it runs",
    ),
    Row(
        Case.APPROVED,
        record(J.APPROVED, effect(E.PLANNED), effect(E.SKIPPED, "mail"), decisions=(decision(),)),
        "approved by bob at 2026-07-20 11:55 UTC (5 min ago). Nothing has been sent yet.",
        "when they run: publish.",
    ),
    Row(
        Case.APPLYING,
        record(J.APPLYING, APPLIED, effect(E.PLANNED)),
        "1 of 2 effects applied. Since 2026-07-20 11:55 UTC (5 min ago), these have not been sent: publish.",
        "when they run",
    ),
    Row(
        Case.EFFECT_PAUSED,
        record(J.APPLYING, APPLIED, effect(E.PLANNED, **HELD)),
        "The effect `publish` has been held since 2026-07-20 11:55 UTC (5 min ago): bob has paused requests.",
        "When the pause ends, the task `publish` sends exactly what was approved.",
    ),
    Row(
        Case.EFFECT_RATE,
        record(J.APPLYING, APPLIED, effect(E.PLANNED, **RATE)),
        "The effect `publish` has been held since 2026-07-20 11:55 UTC (5 min ago). It waits for a limit.",
        "When its turn comes, the task `publish` sends exactly what was approved.",
    ),
    Row(
        Case.EFFECT_SENDING,
        record(J.APPLYING, APPLIED, effect(E.CLAIMED)),
        "task:d/r/publish#1 has been sending the effect `publish` since 2026-07-20 11:55 UTC (5 min ago). 1 of 2",
        "once its claim expires at 2026-07-20 12:02 UTC (in 2 min)",
    ),
    Row(
        Case.EFFECT_EXPIRED,
        record(J.APPLYING, effect(E.CLAIMED, **EXPIRED)),
        "recorded no outcome before its claim expired at 2026-07-20 11:59 UTC (1 min ago).",
        "makes it unknown",
    ),
    Row(
        Case.EFFECT_UNKNOWN,
        record(J.APPLYING, effect(E.REFUSED, "mail", 4), effect(E.UNKNOWN, error="timed out", probe_note="no trace")),
        "The effect `publish` may have been applied: the outcome of attempt 1, by task:d/r/publish#1, has not been "
        "known since 2026-07-20 11:55 UTC (5 min ago). Timed out. Probe: no trace.",
        "If the target has a probe",
    ),
    Row(
        Case.EFFECT_CONFIRMED,
        record(J.APPLYING, effect(E.UNKNOWN, result={"id": 1})),
        "The target confirmed the write, and its probe saw no trace of it.",
        "A person has to resolve it.",
    ),
    Row(
        Case.EFFECT_HELD,
        record(
            J.APPLYING, effect(E.UNKNOWN), events=(event("notified", notice="held", effect_id=1, attempt=1, more=[]),)
        ),
        "It waits for a person, who was notified at 2026-07-20 11:55 UTC (5 min ago).",
        "A person has to resolve it.",
    ),
    Row(
        Case.EFFECT_REFUSED,
        record(J.APPLYING, effect(E.REFUSED, error="422: no title.")),
        "The target refused the effect `publish` at 2026-07-20 11:55 UTC (5 min ago), and made no write of it: 422: no "
        "title.",
        "Nothing happens by itself",
    ),
    Row(
        Case.EFFECT_REFUSED_PARTLY,
        record(J.APPLYING, APPLIED, effect(E.REFUSED)),
        "Partly applied: 1 of 2 effects applied. The target refused the effect `publish`",
        "Nothing happens by itself",
    ),
    Row(
        Case.EFFECT_NOT_NOW,
        record(J.APPLYING, effect(E.PLANNED, "first"), effect(E.PLANNED, attempt=1, error="503: later")),
        "The effect `publish` was not sent, or its target asked to come back later",
        "tries again by itself",
    ),
    Row(
        Case.CANCELLING_SENDING,
        record(J.APPLYING, effect(E.CLAIMED), cancelling="enough"),
        "The job is being cancelled: effects that were not sent will not be sent.",
        "the job is cancelled, or completed if everything was applied after all",
    ),
    Row(
        Case.CANCELLING_UNKNOWN,
        record(J.APPLYING, effect(E.UNKNOWN), cancelling="enough"),
        "The job is being cancelled: effects that were not sent will not be sent.",
        "or a person resolves it",
    ),
    Row(
        Case.COMPLETED,
        record(J.COMPLETED, APPLIED, effect(E.SKIPPED), events=(event("all applied"),)),
        "Every effect was applied by 2026-07-20 11:55 UTC (5 min ago): 1 of 2 effects applied, 1 skipped.",
        "Nothing more happens.",
    ),
    Row(
        Case.COMPLETED_EMPTY,
        record(J.COMPLETED, effect(E.SKIPPED)),
        "It made no external write.",
        "Nothing more happens.",
    ),
    Row(
        Case.REJECTED,
        record(J.REJECTED, effect(E.VOID), decisions=(decision("reject"),)),
        "The job was rejected by bob",
        "Nothing more happens.",
    ),
    Row(
        Case.REJECTED_TIMEOUT,
        record(J.REJECTED, effect(E.VOID), decisions=(decision("reject", "timeout", "timeout"),)),
        "No one decided in time",
        "Nothing more happens.",
    ),
    Row(
        Case.FAILED,
        record(J.FAILED, of=failed("mismatch"), state_reason="the output does not match Note"),
        "The job failed at 2026-07-20 11:55 UTC (5 min ago): the output does not match Note.",
        "it makes a new revision by itself",
    ),
    Row(
        Case.FAILED_FINAL,
        record(J.FAILED, of=failed("refused request"), state_reason="400: no such model"),
        "400: no such model. The same request would fail again.",
        "is not retried",
    ),
    Row(
        Case.FAILED_DEADLINE,
        record(J.FAILED, of=failed("deadline", response_id="resp_1"), state_reason="the deadline passed"),
        "the deadline passed",
        "it makes a new revision by itself",
    ),
    Row(
        Case.FAILED_LOST,
        record(J.FAILED, of=failed("unknown submission", unknown_submissions=2), state_reason="twice"),
        "a response that the ledger does not know may have run, and may be billed",
        "is not retried",
    ),
    Row(
        Case.FAILED_REVIEW,
        record(J.FAILED, effect(E.VOID), events=(event("review expired"),)),
        "No one decided in time, so the job failed",
        "Nothing more happens.",
    ),
    Row(
        Case.FAILED_EXHAUSTED,
        record(J.FAILED, of=failed("refusal"), max_revisions=1, state_reason="the model refused"),
        "The job failed at 2026-07-20 11:55 UTC (5 min ago): the model refused.",
        "1 of 1 revisions are used",
    ),
    Row(
        Case.CANCELLED,
        record(J.CANCELLED, effect(E.VOID), state_reason="not needed"),
        "The job was cancelled at 2026-07-20 11:55 UTC (5 min ago): not needed. No external write was made.",
        "Nothing more happens.",
    ),
    Row(
        Case.CANCELLED_PARTLY,
        record(J.CANCELLED, APPLIED, effect(E.VOID), state_reason="not needed"),
        "not needed. Applied effects stay until you roll them back.",
        "Nothing more happens.",
    ),
    Row(
        Case.UNDOING,
        _rolling(E.PLANNED),
        "The applied effects are being undone. 0 of 1 effect undone. Not sent yet: undo:publish.",
        "has stopped here",
    ),
    Row(Case.UNDO_SENDING, _rolling(E.CLAIMED), "has been sending the effect `undo:publish`", "by the probe"),
    Row(Case.UNDO_EXPIRED, _rolling(E.CLAIMED, **EXPIRED), "its claim expired", "makes it unknown"),
    Row(Case.UNDO_UNKNOWN, _rolling(E.UNKNOWN), "The effect `undo:publish` may have been applied", "resolved it"),
    Row(Case.UNDO_REFUSED, _rolling(E.REFUSED, error="409"), "The target refused `undo:publish`", "Nothing happens"),
    Row(
        Case.UNDO_NOT_NOW,
        _rolling(E.PLANNED, attempt=1, error="503"),
        "`undo:publish` was not sent, or its target asked to come back later",
        "tries again by itself",
    ),
    Row(Case.ROLLED_BACK, record(J.ROLLED_BACK, effect(E.APPLIED), effect(E.APPLIED, **UNDO)), "All applied", ""),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case.value)
def test_a_job_is_explained(row: Row) -> None:
    assert case_of(row.record) is row.case
    words = explain(row.record)
    assert row.said in words.now
    assert row.then in words.then
    text = str(words)
    assert "{job}" not in text
    assert "an unknown time" not in text
    assert ".." not in text
    assert "  " not in text


def test_every_case_has_words_and_is_tested() -> None:
    assert [row.case for row in ROWS] == list(Case) == list(CASES)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case.value)
def test_what_a_retry_costs_is_what_the_preview_of_a_clear_says(row: Row) -> None:
    found, words = row.record, explain(row.record)
    draft = preview_clear(found.job, found.effects, model_revisions=1).draft
    if draft is Draft.ASK:
        assert re.search(r"\b(you pay|or paid|pays)\b", words.would)
    else:
        assert words.safety not in (Safety.PAID, Safety.CHECK)
    assert (draft is Draft.REFUSE) <= (words.safety is Safety.REFUSED)


def test_a_retry_that_costs_is_never_called_free() -> None:
    paid = {case for case, words in CASES.items() if words.safety in (Safety.PAID, Safety.CHECK)}
    assert paid == {case for case in Case if case.name.startswith("FAILED")} - {Case.FAILED_EXHAUSTED}


@pytest.mark.parametrize("case", Case)
def test_every_button_that_is_named_is_on_the_page(case: Case) -> None:
    page = (TEMPLATES / "job.html").read_text("utf-8")
    for step in CASES[case].steps:
        for button in step.buttons:
            assert f">{button}</button>" in page or f'roll_back_form("{button}")' in page


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="airflow", formatter_class=AirflowHelpFormatter)
    groups = parser.add_subparsers()
    for group in get_commands():
        assert isinstance(group, GroupCommand)
        _add_command(groups, group)
    return parser


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.case.value)
def test_every_command_that_is_named_can_be_run(row: Row) -> None:
    for step in explain(row.record).steps:
        if step.command is not None:
            assert _parser().parse_args(shlex.split(step.command)[1:]).func


def test_what_was_escalated_is_said() -> None:
    rules = ReviewRules(approvers=Approvers(users=("bob",)), escalate_to=Approvers(roles=("Admin",)))
    found = record(J.REVIEW, **OPEN, review=rules.to_json(), escalated_at=BEFORE)
    assert "by bob, and since 2026-07-20 11:55 UTC (5 min ago) the role Admin." in explain(found).now


def test_what_a_reviewer_asked_for_is_sent_by_the_approval_task() -> None:
    found = record(J.QUEUED, of=revision(R.QUEUED, changes="Shorter."), events=(event("changes requested"),))
    assert "the job has been waiting for the approval task since" in explain(found).now


def test_an_effect_that_was_left_as_it_is_is_named_after_a_roll_back() -> None:
    found = record(J.ROLLED_BACK, effect(E.APPLIED), APPLIED, effect(E.APPLIED, **UNDO))
    assert explain(found).now == "The applied effects were undone, except notify."


def test_an_approval_by_a_policy_names_it() -> None:
    found = record(J.APPROVED, effect(E.PLANNED), decisions=(decision(kind="policy", by="small@1"),))
    assert "approved by the policy small@1" in explain(found).now


def test_a_job_that_needed_no_review_names_no_one() -> None:
    found = record(J.APPROVED, effect(E.PLANNED), approval="not required")
    assert "approved by its author, without a review" in explain(found).now


def test_a_long_reason_is_cut_and_stays_on_one_line() -> None:
    found = record(J.FAILED, of=failed("failed"), state_reason="no\nquota " + "x" * 900)
    assert "no quota xxx" in explain(found).now
    assert len(explain(found).now) < 500


def test_braces_in_a_reason_are_text() -> None:
    found = record(J.FAILED, of=failed("failed"), state_reason="{job}")
    assert "{job}" in explain(found).now


def test_an_output_that_was_too_long_may_be_asked_for_again_by_its_task() -> None:
    error = {"kind": "incomplete", "code": "max_output_tokens", "final": True}
    assert case_of(record(J.FAILED, of=revision(R.FAILED, error=error))) is Case.FAILED
    assert case_of(record(J.FAILED, of=revision(R.FAILED, error={**error, "code": "x"}))) is Case.FAILED_FINAL


def test_a_revision_that_was_never_taken_does_not_count() -> None:
    found = record(J.FAILED, of=failed("refused request", submissions=0), max_revisions=1)
    assert case_of(found) is Case.FAILED_FINAL
