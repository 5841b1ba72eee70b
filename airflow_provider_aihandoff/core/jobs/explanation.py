"""Says of one job what is going on, what happens next, whether a retry is safe, and what you can do. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from airflow_provider_aihandoff.core.effects.plan_store import progress
from airflow_provider_aihandoff.core.generation.lost import WEBHOOKS_WITHIN, LostWait, wait_of
from airflow_provider_aihandoff.core.jobs.cases import ACKNOWLEDGE, CASES, Case, Step, Words
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import Decision, Effect, Event, Revision
from airflow_provider_aihandoff.core.moments import both
from airflow_provider_aihandoff.core.review.rules import approvals_of, rules_of
from airflow_provider_aihandoff.core.states import (
    ENDED_RESPONSE_STATUSES,
    TOUCHED_EFFECT_STATES,
    EffectState,
    JobEvent,
    JobState,
    RevisionState,
)

#: Characters of a reason, an error or a name in an explanation. The job's page shows all of it.
_SHOWN = 300

#: The events that change nothing of what is going on.
_SILENT = frozenset(
    {
        JobEvent.ACKNOWLEDGED,
        JobEvent.ATTACHED,
        JobEvent.NOTIFIED,
        JobEvent.REMINDED,
        JobEvent.REASSIGNED,
        JobEvent.OUTPUT_LATE,
    }
)

_LOST_CASES: Mapping[LostWait, Case] = {
    LostWait.HANDLE: Case.LOST_HANDLE,
    LostWait.ASKS: Case.LOST_ASKS,
    LostWait.FAILS: Case.LOST_FAILS,
    LostWait.RESENDS: Case.LOST_RESENDS,
}

_HELD_CASES: Mapping[str, Case] = {
    "pause": Case.PAUSED,
    "spending limit": Case.SPENT,
    "budget": Case.OVER_BUDGET,
    "rate": Case.RATE,
}
_HELD_EFFECT_CASES: Mapping[str, Case] = {"pause": Case.EFFECT_PAUSED, "rate": Case.EFFECT_RATE}

#: Which effect of a job is spoken of, the first of these.
_URGENCY = (EffectState.UNKNOWN, EffectState.CLAIMED, EffectState.REFUSED, EffectState.PLANNED)


def explain(record: JobRecord) -> Words:
    """What there is to say of a job, as of the moment at which its record was read."""
    facts = _facts(record)

    def fill(text: str) -> str:
        return text.format_map(facts)

    words = CASES[case_of(record)]
    steps = (
        Step(fill(step.goal), step.buttons, None if step.command is None else fill(step.command))
        for step in words.steps
        if step is not ACKNOWLEDGE or record.job.acknowledged_at is None
    )
    return replace(words, now=fill(words.now), then=fill(words.then), would=fill(words.would), steps=tuple(steps))


def case_of(record: JobRecord) -> Case:
    """The case that a job is in."""
    return _CASE_OF[record.job.state](record)


def _queued(record: JobRecord) -> Case:
    revision = record.revision
    if record.at >= revision.deadline:
        return Case.NOT_SENT_IN_TIME
    wait = wait_of(revision)
    last = _last(record)
    if revision.is_held:
        return _HELD_CASES[str(revision.held_kind)]
    if last is not None and last.event == JobEvent.SUBMIT_RESOLVED:
        return Case.SEND_AGAIN
    if wait is not None:
        return _LOST_CASES[wait]
    if revision.state is RevisionState.SUBMITTING:
        lease = revision.submit_lease_until
        return Case.SENDING if lease is not None and lease > record.at else Case.SENDER_DIED
    return Case.NOT_ACCEPTED if last is not None and last.event == JobEvent.SUBMIT_REFUSED else Case.NOT_SENT


def _running(record: JobRecord) -> Case:
    revision = record.revision
    if record.job.cancelling is not None:
        return Case.RUNNING_CANCELLED
    if revision.is_in_batch:
        return Case.RUNNING_BATCH
    if revision.response_status in ENDED_RESPONSE_STATUSES:
        return Case.RUNNING_ENDED
    if record.at >= revision.deadline:
        return Case.RUNNING_OVERDUE
    newest = record.newest_webhook
    arrive = newest is not None and record.at - newest < WEBHOOKS_WITHIN
    return Case.RUNNING_WEBHOOKS if arrive else Case.RUNNING_POLLED


def _review(record: JobRecord) -> Case:
    job = record.job
    if job.review_digest is None:
        return Case.NO_PLAN
    if job.review_deadline is not None and record.at >= job.review_deadline:
        return Case.REVIEW_OVERDUE
    return Case.REVIEW_VOTED if approvals_of(job, record.decisions) else Case.REVIEW


def _applying(record: JobRecord) -> Case:
    effects, effect = record.current_effects, _spoken_of(record)
    state = None if effect is None else effect.state
    if effect is None or state not in _URGENCY:
        return Case.APPLYING
    if state is EffectState.UNKNOWN:
        if record.job.cancelling is not None:
            return Case.CANCELLING_UNKNOWN
        if effect.result is not None:
            return Case.EFFECT_CONFIRMED
        return Case.EFFECT_HELD if _held(record, effect) else Case.EFFECT_UNKNOWN
    if state is EffectState.CLAIMED:
        if record.job.cancelling is not None:
            return Case.CANCELLING_SENDING
        return Case.EFFECT_EXPIRED if _has_expired(record, effect) else Case.EFFECT_SENDING
    if (held := _held_effect(record)) is not None:
        return _HELD_EFFECT_CASES[str(held.held_kind)]
    if state is EffectState.REFUSED:
        touched = any(each.state in TOUCHED_EFFECT_STATES for each in effects)
        return Case.EFFECT_REFUSED_PARTLY if touched else Case.EFFECT_REFUSED
    return Case.EFFECT_NOT_NOW if effect.error is not None else Case.APPLYING


def _failed(record: JobRecord) -> Case:
    revision, last = record.revision, _last(record)
    error = revision.error or {}
    if _made(record.revisions) >= record.job.max_revisions:
        return Case.FAILED_EXHAUSTED
    if last is not None and last.event == JobEvent.REVIEW_EXPIRED:
        return Case.FAILED_REVIEW
    if revision.unknown_submissions and revision.response_id is None:
        return Case.FAILED_LOST
    if error.get("kind") == "deadline":
        return Case.FAILED_DEADLINE
    # Of an output that was too long, its author may want another revision: `retry_incomplete`.
    final = error.get("final") and error.get("code") != "max_output_tokens"
    return Case.FAILED_FINAL if final or error.get("kind") == "refused request" else Case.FAILED


def _approved(record: JobRecord) -> Case:
    if (held := _held_effect(record)) is not None:
        return _HELD_EFFECT_CASES[str(held.held_kind)]
    return Case.APPROVED if record.job.review_digest else Case.APPROVED_NO_PLAN


def _completed(record: JobRecord) -> Case:
    return Case.COMPLETED if _applied(record.current_effects) else Case.COMPLETED_EMPTY


def _rejected(record: JobRecord) -> Case:
    found = _decision(record)
    in_time = found is None or found.decided_by_kind != "timeout"
    return Case.REJECTED if in_time else Case.REJECTED_TIMEOUT


def _cancelled(record: JobRecord) -> Case:
    return Case.CANCELLED_PARTLY if _applied(record.current_effects) else Case.CANCELLED


def _undoing(record: JobRecord) -> Case:
    undo = _spoken_of(record)
    if undo is None:
        return Case.UNDOING
    if undo.state is EffectState.CLAIMED:
        return Case.UNDO_EXPIRED if _has_expired(record, undo) else Case.UNDO_SENDING
    if undo.state is EffectState.PLANNED:
        return Case.UNDOING if undo.error is None else Case.UNDO_NOT_NOW
    return Case.UNDO_UNKNOWN if undo.state is EffectState.UNKNOWN else Case.UNDO_REFUSED


_CASE_OF: Mapping[JobState, Callable[[JobRecord], Case]] = {
    JobState.QUEUED: _queued,
    JobState.RUNNING: _running,
    JobState.REVIEW: _review,
    JobState.APPROVED: _approved,
    JobState.APPLYING: _applying,
    JobState.COMPLETED: _completed,
    JobState.REJECTED: _rejected,
    JobState.FAILED: _failed,
    JobState.CANCELLED: _cancelled,
    JobState.ROLLING_BACK: _undoing,
    JobState.ROLLED_BACK: lambda record: Case.ROLLED_BACK,
}


def _spoken_of(record: JobRecord) -> Effect | None:
    """The effect that the job waits for: of a roll-back the first undo that is not applied."""
    if record.job.state is JobState.ROLLING_BACK:
        return next((undo for undo in record.undos if undo.state is not EffectState.APPLIED), None)
    effects = [effect for effect in record.current_effects if effect.state in _URGENCY]
    # One that was released comes before those that were never sent.
    return min(effects, key=lambda each: (_URGENCY.index(each.state), each.error is None), default=None)


def _facts(record: JobRecord) -> dict[str, Any]:
    """What the words of a case may name."""
    return {**_job_facts(record), **_review_facts(record), **_effect_facts(record), **_hold_facts(record)}


def _job_facts(record: JobRecord) -> dict[str, str]:
    job, revision, last = record.job, record.revision, _last(record)
    at, draft = record.at, f"the task `{job.task_id}`"
    task = draft if revision.changes is None else "the approval task"  # which sends what a reviewer asked for
    return {
        "job": str(job.job_id),
        "draft": draft,
        "task": task,
        "Task": _sentence(task),
        "since": both(job.updated_at if last is None else last.at, at),
        "acknowledged": _acknowledged(record),
        "reason": _short(job.state_reason or (last.reason if last else None) or "no reason is recorded"),
        "deadline": both(revision.deadline, at),
        "until": _moment(revision.submit_lease_until, at),
        "response": revision.response_id or "",
        "batch": str(revision.batch_id),
        "status": str(revision.response_status),
        "conn": revision.conn_id,
        "webhook": _moment(record.newest_webhook, at),
        "days": str(WEBHOOKS_WITHIN.days),
        "made": str(_made(record.revisions)),
        "max": str(job.max_revisions),
    }


def _review_facts(record: JobRecord) -> dict[str, str]:
    job, rules, at = record.job, rules_of(record.job), record.at
    votes = approvals_of(job, record.decisions)
    escalated = f", and since {both(job.escalated_at, at)} {rules.escalate_to}" if job.escalated_at else ""
    fails = job.review_on_timeout == "fail"
    return {
        "asked": _moment(job.review_asked_at or job.updated_at, at),
        "review_deadline": _moment(job.review_deadline, at),
        "timeout": "the job fails" if fails else "the job is rejected (or as a policy of its author says)",
        "approvers": f"{_short(str(rules.approvers))}{_short(escalated)}",
        "votes": str(len(votes)),
        "needed": str(rules.approvals),
        "voters": _short(", ".join(vote.decider.label for vote in votes)),
        "decider": _short(_decider(record)),
    }


def _effect_facts(record: JobRecord) -> dict[str, str]:
    effects, undos, at = record.current_effects, record.undos, record.at
    waiting = [_short(each.name) for each in effects if each.state is EffectState.PLANNED]
    done = sum(undo.state is EffectState.APPLIED for undo in undos)
    left_undos = [_short(undo.name) for undo in undos if undo.state is EffectState.PLANNED]
    facts = {
        "progress": _sentence(progress(effects)),
        "waiting": _short(", ".join(waiting)) or "nothing",
        "undone": f"{done} of {len(undos)} {'effect' if len(undos) == 1 else 'effects'} undone",
        "undo_waiting": _short(", ".join(left_undos)) or "nothing",
        "undone_all": _undone(effects, undos),
        "effect_task": next((each.task_id or each.name for each in effects if each.state is EffectState.PLANNED), ""),
    }
    effect = _spoken_of(record)
    if effect is None or effect.attempt == 0:
        return facts
    changed = effect.claimed_at if effect.state is EffectState.CLAIMED else effect.updated_at
    return {
        **facts,
        "effect": _short(effect.name),
        "effect_id": str(effect.effect_id),
        "effect_task": effect.task_id or effect.name,
        "key": effect.effect_key,
        "attempt": str(effect.attempt),
        "by": _short(effect.claimed_by or "an attempt"),
        "since": _moment(effect.unknown_since if effect.state is EffectState.UNKNOWN else changed, at),
        "until": _moment(effect.claim_until, at),
        "error": f" {_sentence(_short(effect.error))}." if effect.error else "",
        "refusal": _short(effect.error or "it gave no reason"),
        "probe": f" {_sentence(_short(f'probe: {effect.probe_note}'))}." if effect.probe_note else "",
        "held": _moment(_held(record, effect), at),
    }


def _hold_facts(record: JobRecord) -> dict[str, str]:
    """What holds the request, or else an effect, back; nothing where nothing does."""
    held: Revision | Effect | None = record.revision if record.revision.is_held else _held_effect(record)
    if held is None:
        return {}
    facts = {
        "held_by": _short(held.held_name or ""),
        "held_why": f"{_short(held.held_why or 'no reason is recorded')}.",
        "held_since": _moment(held.held_since, record.at),
    }
    if isinstance(held, Effect):
        facts |= {"held_effect": _short(held.name), "effect_task": held.task_id or held.name}
    return facts


def _held_effect(record: JobRecord) -> Effect | None:
    return next((effect for effect in record.current_effects if effect.held_kind is not None), None)


def _acknowledged(record: JobRecord) -> str:
    """Who has acknowledged that the job failed, as a sentence with a space before it; empty where no one has."""
    at = record.job.acknowledged_at
    said = (each for each in record.events if each.event == JobEvent.ACKNOWLEDGED and each.at == at)
    event = next(said, None)
    if event is None:
        return ""
    why = _short(event.reason or "no reason is recorded")
    return f" Acknowledged by {_short(event.by.label)} at {both(event.at, record.at)}: {why}."


def _undone(effects: Sequence[Effect], undos: Sequence[Effect]) -> str:
    undone = {undo.undoes for undo in undos}
    left = [each.name for each in effects if each.state is EffectState.APPLIED and each.effect_id not in undone]
    if left:
        return f"The applied effects were undone, except {_short(', '.join(left))}."
    return "All applied effects were undone."


def _last(record: JobRecord) -> Event | None:
    """The newest line of the history that changed what is going on."""
    return next((event for event in reversed(record.events) if event.event not in _SILENT), None)


def _held(record: JobRecord, effect: Effect) -> datetime | None:
    """When people were notified that this attempt of an effect waits for one of them; None where they were not."""
    attempt = {"notice": "held", "effect_id": effect.effect_id, "attempt": effect.attempt}
    found = (event.at for event in reversed(record.events) if attempt.items() <= event.detail.items())
    return next(found, None)


def _has_expired(record: JobRecord, effect: Effect) -> bool:
    return effect.claim_until is None or record.at >= effect.claim_until


def _decision(record: JobRecord) -> Decision | None:
    return next((item for item in record.decisions if item.decision_id == record.job.decision_id), None)


def _decider(record: JobRecord) -> str:
    """Who decided on the job, as pages name them."""
    found = _decision(record)
    if found is None:
        return "its author, without a review"
    return f"the policy {found.decider.label}" if found.decided_by_kind == "policy" else found.decider.label


def _made(revisions: Sequence[Revision]) -> int:
    """How many revisions count towards ``max_revisions``: not one whose request was never taken."""
    return sum(
        each.author_kind == "model" and not (each.state is RevisionState.FAILED and each.submissions == 0)
        for each in revisions
    )


def _applied(effects: Sequence[Effect]) -> bool:
    return any(effect.state is EffectState.APPLIED for effect in effects)


def _moment(at: datetime | None, now: datetime) -> str:
    return "an unknown time" if at is None else both(at, now)


def _short(text: str) -> str:
    """A text of others within a sentence: on one line, without its full stop."""
    line = " ".join(text.split()).rstrip(".")
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}"
