"""`airflow aihandoff review`: the review queue and decisions, in the terminal."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from argparse import Namespace
from decimal import Decimal
from pathlib import Path
from typing import Any

from airflow_provider_aihandoff.cli.common import (
    actor,
    check_reason,
    command,
    fail,
    open_ledger,
    person,
    print_rows,
    reviewers,
    say,
)
from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.core.errors import HandoffError, StaleBulkDecision, StaleDecision
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import Decision, Effect, Job, PendingReview, Revision, Verdict
from airflow_provider_aihandoff.core.review.blind import as_seen_by, is_kept_from
from airflow_provider_aihandoff.core.review.change_cost import ChangeCost, change_cost
from airflow_provider_aihandoff.core.review.rules import Reassignment, author_rules, rules_of, why_not
from airflow_provider_aihandoff.core.states import JobState
from airflow_provider_aihandoff.hooks.model_provider import facts_for

#: The editor where neither VISUAL nor EDITOR names one.
EDITOR = "vi"


@command
def list_reviews(args: Namespace) -> None:
    """List the jobs that wait for a decision, oldest first."""
    with open_ledger(args) as ledger:
        waiting = ledger.reviews.pending(dag_ids=[args.dag_id] if args.dag_id else None, set_id=args.set)
    rows = [_waiting(review) for review in waiting]
    if args.output == "table":  # which breaks long words
        rows = [{name: value for name, value in row.items() if name != "digest"} for row in rows]
    print_rows(rows, args.output)


def _waiting(review: PendingReview) -> dict[str, Any]:
    return {
        "job_id": review.job_id,
        "job_type": review.job_type,
        "job_key": review.job_key,
        "requested_by": review.requested_by,
        "dag_id": review.dag_id,
        "run_id": review.run_id,
        "asked_at": review.review_asked_at,
        "deadline": review.review_deadline,
        "approvals": f"{_so_far(review)} of {rules_of(review).approvals}",
        "why_not": why_not(review, person()),
        "digest": review.review_digest,
    }


def _so_far(review: PendingReview) -> str:
    """How many have approved, as far as the person may know that yet."""
    return "?" if is_kept_from(review, actor(), review.voters) else str(len(review.voters))


@command
def show(args: Namespace) -> None:
    """Show what a reviewer needs to decide on a job."""
    with open_ledger(args) as ledger:
        record = as_seen_by(ledger.record(args.job_id), actor())
        votes = [] if record.unseen else ledger.reviews.votes(record.job)
        change = change_cost(ledger, record, facts_for(record.revision.conn_id))
    print_rows([_review(record, votes, change)], "yaml" if args.output == "table" else args.output)


def _review(record: JobRecord, votes: list[Decision], change: ChangeCost | None) -> dict[str, Any]:
    job = record.job
    return {
        "job": job.label,
        "state": job.state.value,
        "state_reason": job.state_reason,
        "requested_by": job.requested_by,
        "because": rules_of(job).because.get("reason"),
        "asked_at": job.review_asked_at,
        "deadline": job.review_deadline,
        "approvers": str(rules_of(job).approvers),
        "reassigned": _reassigned(job),
        "why_not": why_not(job, person()),
        "output": record.revision.output,
        "plan": [_effect(effect) for effect in record.current_effects],
        "revisions": [_revision(revision) for revision in record.revisions],
        "cost_usd": sum((each.cost_usd or 0 for each in record.revisions), Decimal(0)),
        "cost_of_changes": None if change is None else vars(change),
        "approvals": f"{'?' if record.unseen else len(votes)} of {rules_of(job).approvals}",
        "votes": [{"by": vote.decider.label, "at": vote.created_at, "comment": vote.comment} for vote in votes],
        "digest": job.review_digest,
    }


def _reassigned(job: Job) -> str | None:
    """Who has reassigned the review, and whom its author had named."""
    by = Reassignment.from_json(job.reassigned).by
    names = ", ".join(actor.label for actor in by)
    return f"by {names}; its author has named: {author_rules(job).approvers}" if by else None


def _effect(effect: Effect) -> dict[str, Any]:
    names = ("name", "state", "kind", "plan", "after_effects", "undo", "current", "filled")
    return {name: getattr(effect, name) for name in names}


def _revision(revision: Revision) -> dict[str, Any]:
    names = ("number", "author", "state", "based_on", "changes", "created_at", "cost_usd", "error")
    shown = {name: getattr(revision, name) for name in names}
    return {**shown, "author": revision.editor.label} if revision.editor else shown


@command
def approve(args: Namespace) -> None:
    """Approve what a job would write."""
    _decide(args, "approve")


@command
def reject(args: Namespace) -> None:
    """Reject what a job would write."""
    _decide(args, "reject")


@command
def request_changes(args: Namespace) -> None:
    """Ask the model for another revision."""
    _decide(args, "request changes")


def _decide(args: Namespace, verdict: Verdict) -> None:
    with open_ledger(args) as ledger:
        job = ledger.reviews.decide(args.job_id, verdict, digest=args.digest, person=person(), comment=args.comment)
        say(f"{job.label}: {_said(job, ledger.reviews.votes(job))}.")


def _said(job: Job, votes: list[Decision]) -> str:
    """How a job is after a decision.

    :param votes: the approvals that count, where it is still in review.
    """
    if job.state is JobState.QUEUED:
        return "queued; its approval task requests a new revision from the model"
    if job.state is not JobState.REVIEW:
        return job.state.value
    return f"{len(votes)} of {rules_of(job).approvals} approvals"


@command
def reassign(args: Namespace) -> None:
    """Let other people decide on a job."""
    check_reason(args.reason)
    with open_ledger(args) as ledger:
        seen = Reassignment.from_json(ledger.job(args.job_id).reassigned).number
        job = ledger.reassignments.reassign(args.job_id, reviewers(args), actor=actor(), reason=args.reason, seen=seen)
        say(f"{job.label}: reassigned. May decide now: {rules_of(job).approvers}.")


@command
def decide_many(args: Namespace) -> None:
    """Record one decision for each of many jobs, or none."""
    if args.approve == args.reject:
        fail("give --approve or --reject, and not both.")
    choices = _choices(_read(args.file))
    with open_ledger(args) as ledger:
        try:
            jobs = ledger.reviews.decide_many(
                choices, "approve" if args.approve else "reject", person=person(), comment=args.comment
            )
        except StaleBulkDecision as stale:
            for job_id, why in stale.stale.items():
                say(f"job {job_id}: {why}", error=True)
            raise
        votes = ledger.reviews.votes_of([job for job in jobs if job.state is JobState.REVIEW])
        for job in jobs:
            say(f"{job.label}: {_said(job, votes.get(job.job_id, []))}.")


def _choices(text: str) -> list[tuple[int, str]]:
    """The job id and the digest of each line.

    :raises ValueError: a line has something else, or names a job for the second time; or there is none.
    """
    choices: dict[int, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2 or not (words[0].isascii() and words[0].isdigit()):
            raise ValueError(f"line {number} is not a job id and a digest. No decision was recorded.")
        job_id = int(words[0])
        if job_id in choices:
            raise ValueError(f"line {number} names job {job_id} a second time. No decision was recorded.")
        choices[job_id] = words[1]
    if not choices:
        raise ValueError("no jobs were given. No decision was recorded.")
    return list(choices.items())


def _read(name: str) -> str:
    """The text of a file, or of the standard input."""
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}.") from error


@command
def edit(args: Namespace) -> None:
    """Replace the output by your version."""
    with open_ledger(args) as ledger:
        record = ledger.record(args.job_id)
    before = record.revision.output
    if args.file is not None:
        job = _edit(args, _parsed(_read(args.file), before))
    elif record.job.review_digest == args.digest:
        job = _edit_by_hand(args, before)
    else:
        raise StaleDecision(
            "it has changed since you opened it.",
            job=record.job.label,
            remedy=f"See the current version with `airflow aihandoff review show {args.job_id}`, and edit that.",
        )
    say(f"{job.label}: edited. Its plan is rendered now. Review it, and decide on the new digest.")


def _edit(args: Namespace, output: Any) -> Job:
    with open_ledger(args) as ledger:
        return ledger.reviews.edit(args.job_id, digest=args.digest, output=output, person=person())


def _edit_by_hand(args: Namespace, before: Any) -> Job:
    """Open an editor on the output. Text that is not accepted is kept in a file.

    :raises ValueError: nothing was changed, or the editor failed.
    """
    is_text = isinstance(before, str)
    text = before if is_text else json.dumps(before, indent=2, ensure_ascii=False)
    handle, name = tempfile.mkstemp(prefix=f"job-{args.job_id}-", suffix=".md" if is_text else ".json", text=True)
    os.close(handle)
    path = Path(name)
    path.write_text(text, "utf-8")
    _open_editor(path)
    typed = path.read_text("utf-8")
    if typed.removesuffix("\n") == text.removesuffix("\n"):
        path.unlink()
        raise ValueError("you changed nothing. The output stays as it is.")
    try:
        job = _edit(args, _parsed(typed, before))
    except (HandoffError, ValueError):
        say(f"Your text is kept in {path}.", error=True)
        raise
    path.unlink()
    return job


def _open_editor(path: Path) -> None:
    program = os.environ.get("VISUAL") or os.environ.get("EDITOR") or EDITOR
    try:
        ended = subprocess.run([*shlex.split(program), str(path)], check=False)  # noqa: S603 - the person's own editor
    except OSError as error:
        raise ValueError(f"{program} cannot be started. Set VISUAL or EDITOR, or give --file.") from error
    if ended.returncode != 0:
        raise ValueError(
            f"{program} exited with {ended.returncode}. The output stays as it is. Your text is kept in {path}."
        )


def _parsed(text: str, before: Any) -> Any:
    """What was typed: a text where the output is one, without the end of the last line that editors add; else JSON.

    :raises ValueError: it is not valid JSON.
    """
    if isinstance(before, str):
        return text if before.endswith("\n") else text.removesuffix("\n")
    try:
        return strict_json.loads(text)
    except strict_json.NotJson as error:
        raise ValueError(f"{error} The output stays as it is.") from None
