"""The state machines of jobs, revisions and effects: what may follow what, and nothing else.

This is the only module that knows which transitions are valid. It is pure: it takes and returns values.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class JobState(StrEnum):
    """The state of a job."""

    QUEUED = "queued"  # the job exists; no response is known to run for it
    RUNNING = "running"  # OpenAI has accepted the current revision's request
    REVIEW = "review"  # the output is stored and waits for a decision
    APPROVED = "approved"  # a person or a policy approved; nothing was sent yet
    APPLYING = "applying"  # at least one effect was claimed, and not all are applied
    COMPLETED = "completed"  # every effect is applied
    REJECTED = "rejected"  # a person, a policy or a time-out said no
    FAILED = "failed"  # no output that could be reviewed, or no one decided in time
    CANCELLED = "cancelled"  # stopped: what was not sent by then never will be
    ROLLING_BACK = "rolling_back"  # applied effects are being undone
    ROLLED_BACK = "rolled_back"  # every applied effect was undone


TERMINAL_JOB_STATES = frozenset(
    {JobState.COMPLETED, JobState.REJECTED, JobState.FAILED, JobState.CANCELLED, JobState.ROLLED_BACK}
)


class JobEvent(StrEnum):
    """What can happen to a job; each one is a line in its history."""

    CREATED = "created"
    ATTACHED = "attached"  # a task (again) took the job as its own; nothing else changed
    REVISED = "revised"  # a new revision was opened: other input, or an earlier one failed or was rejected
    HELD = "held"  # a pause or a limit keeps a request, or an external write, from being sent now
    SUBMIT_INTENDED = "submit intended"  # written before the request goes out
    SUBMIT_UNKNOWN = "submit unknown"  # the request may have been accepted, its id is not known
    SUBMIT_REFUSED = "submit refused"  # OpenAI said no, and that trying again may help
    SUBMIT_RESOLVED = "submit resolved"  # a person said that the request may be sent again
    SUBMITTED = "submitted"  # the response id is known
    RESPONSE_REPLACED = "response replaced"  # the one whose id was lost has ended first, and is taken
    RESPONSE_ENDED = "response ended"  # OpenAI says so, by webhook or when asked; the output is still there
    OUTPUT_STORED = "output stored"  # and a person must decide
    OUTPUT_ACCEPTED = "output accepted"  # and the author said that no approval is required
    OUTPUT_LATE = "output late"  # an orphaned response ended
    FAILED = "failed"
    ACKNOWLEDGED = "acknowledged"  # a person has seen that it failed, and what is left to do about it is done
    PLANNED = "planned"  # the effects were rendered to the exact requests
    PLAN_CHANGED = "plan changed"  # an approved plan is no longer the plan: ask again
    APPROVED = "approved"
    REJECTED = "rejected"
    VOTED = "vote counted"  # a person approved, and more have to
    EDITED = "edited"  # a person changed the output: a revision of their own
    EDIT_REFUSED = "edit refused"  # the output type does not take it; the revision before is current again
    CHANGES_REQUESTED = "changes requested"  # a person asked the model for another revision
    CHANGE_FAILED = "change failed"  # there is none; the revision before is current again
    REMINDED = "reminded"
    ESCALATED = "escalated"  # others may decide as well, from now on
    REASSIGNED = "reassigned"  # others may decide instead of those whom the author named
    NOTIFIED = "notified"
    REVIEW_EXPIRED = "review expired"  # no one decided in time, and the author said: fail
    CANCEL_REQUESTED = "cancel requested"  # written before OpenAI is asked to stop
    CANCELLED = "cancelled"
    EFFECT_CLAIMED = "effect claimed"  # written before the request goes out
    EFFECT_RELEASED = "effect released"  # nothing was sent, or the target said: not now
    EFFECT_REFUSED = "effect refused"  # the target said no, and that proves that no external write was made
    EFFECT_UNKNOWN = "effect unknown"  # the request may have been applied
    EFFECT_APPLIED = "effect applied"
    EFFECT_SKIPPED = "effect skipped"  # Airflow skipped its task, as a branch does
    EFFECT_RESOLVED = "effect resolved"  # a probe or a person resolved an unknown effect
    ALL_APPLIED = "all applied"
    ROLL_BACK_STARTED = "roll back started"  # each applied effect is to be undone
    ALL_UNDONE = "all undone"


_S, _E = JobState, JobEvent

#: (state, event) → state. Every pair that is not here is refused.
JOB_TRANSITIONS: Mapping[tuple[JobState, JobEvent], JobState] = {
    (_S.QUEUED, _E.REVISED): _S.QUEUED,
    (_S.QUEUED, _E.SUBMIT_INTENDED): _S.QUEUED,
    (_S.QUEUED, _E.SUBMIT_UNKNOWN): _S.QUEUED,
    (_S.QUEUED, _E.SUBMIT_REFUSED): _S.QUEUED,
    (_S.QUEUED, _E.SUBMIT_RESOLVED): _S.QUEUED,
    (_S.QUEUED, _E.SUBMITTED): _S.RUNNING,
    # These two only where the output was found by the provider's handle, without the id of its response.
    (_S.QUEUED, _E.OUTPUT_STORED): _S.REVIEW,
    (_S.QUEUED, _E.OUTPUT_ACCEPTED): _S.APPROVED,
    (_S.QUEUED, _E.FAILED): _S.FAILED,
    (_S.QUEUED, _E.CHANGE_FAILED): _S.REVIEW,
    (_S.QUEUED, _E.CANCELLED): _S.CANCELLED,
    (_S.RUNNING, _E.REVISED): _S.QUEUED,
    # Only of a request in a batch which has ended without having run it.
    (_S.RUNNING, _E.SUBMIT_REFUSED): _S.QUEUED,
    (_S.RUNNING, _E.RESPONSE_REPLACED): _S.RUNNING,
    (_S.RUNNING, _E.RESPONSE_ENDED): _S.RUNNING,
    (_S.RUNNING, _E.OUTPUT_STORED): _S.REVIEW,
    (_S.RUNNING, _E.OUTPUT_ACCEPTED): _S.APPROVED,
    (_S.RUNNING, _E.FAILED): _S.FAILED,
    (_S.RUNNING, _E.CHANGE_FAILED): _S.REVIEW,
    (_S.RUNNING, _E.CANCEL_REQUESTED): _S.RUNNING,
    (_S.RUNNING, _E.CANCELLED): _S.CANCELLED,
    (_S.REVIEW, _E.REVISED): _S.QUEUED,
    (_S.REVIEW, _E.PLANNED): _S.REVIEW,
    (_S.REVIEW, _E.VOTED): _S.REVIEW,
    (_S.REVIEW, _E.EDITED): _S.REVIEW,
    (_S.REVIEW, _E.EDIT_REFUSED): _S.REVIEW,
    (_S.REVIEW, _E.REMINDED): _S.REVIEW,
    (_S.REVIEW, _E.ESCALATED): _S.REVIEW,
    (_S.REVIEW, _E.REASSIGNED): _S.REVIEW,
    (_S.REVIEW, _E.CHANGES_REQUESTED): _S.QUEUED,
    (_S.REVIEW, _E.APPROVED): _S.APPROVED,
    (_S.REVIEW, _E.REJECTED): _S.REJECTED,
    (_S.REVIEW, _E.REVIEW_EXPIRED): _S.FAILED,
    (_S.REVIEW, _E.CANCELLED): _S.CANCELLED,
    (_S.APPROVED, _E.REVISED): _S.QUEUED,
    (_S.APPROVED, _E.PLANNED): _S.APPROVED,
    (_S.APPROVED, _E.PLAN_CHANGED): _S.REVIEW,
    (_S.APPROVED, _E.EFFECT_CLAIMED): _S.APPLYING,
    (_S.APPROVED, _E.EFFECT_SKIPPED): _S.APPROVED,
    (_S.APPROVED, _E.ALL_APPLIED): _S.COMPLETED,
    (_S.APPROVED, _E.CANCELLED): _S.CANCELLED,
    # These three only while no effect can have been written: the target refused, or a claim was released.
    (_S.APPLYING, _E.REVISED): _S.QUEUED,
    (_S.APPLYING, _E.PLANNED): _S.APPROVED,
    (_S.APPLYING, _E.PLAN_CHANGED): _S.REVIEW,
    (_S.APPLYING, _E.EFFECT_CLAIMED): _S.APPLYING,
    (_S.APPLYING, _E.EFFECT_RELEASED): _S.APPLYING,
    (_S.APPLYING, _E.EFFECT_REFUSED): _S.APPLYING,
    (_S.APPLYING, _E.EFFECT_UNKNOWN): _S.APPLYING,
    (_S.APPLYING, _E.EFFECT_APPLIED): _S.APPLYING,
    (_S.APPLYING, _E.EFFECT_RESOLVED): _S.APPLYING,
    (_S.APPLYING, _E.EFFECT_SKIPPED): _S.APPLYING,
    (_S.APPLYING, _E.ALL_APPLIED): _S.COMPLETED,
    # A cancelled job goes on applying until the outcome of each effect that was under way is known.
    (_S.APPLYING, _E.CANCEL_REQUESTED): _S.APPLYING,
    (_S.APPLYING, _E.CANCELLED): _S.CANCELLED,
    # From the second and the third only where something is applied, and nothing is under way or unknown.
    (_S.COMPLETED, _E.ROLL_BACK_STARTED): _S.ROLLING_BACK,
    (_S.CANCELLED, _E.ROLL_BACK_STARTED): _S.ROLLING_BACK,
    (_S.APPLYING, _E.ROLL_BACK_STARTED): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, _E.EFFECT_CLAIMED): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, _E.EFFECT_RELEASED): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, _E.EFFECT_REFUSED): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, _E.EFFECT_UNKNOWN): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, _E.EFFECT_APPLIED): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, _E.EFFECT_RESOLVED): _S.ROLLING_BACK,
    (_S.ROLLING_BACK, _E.ALL_UNDONE): _S.ROLLED_BACK,
    (_S.REJECTED, _E.REVISED): _S.QUEUED,
    (_S.FAILED, _E.REVISED): _S.QUEUED,
    (_S.FAILED, _E.ACKNOWLEDGED): _S.FAILED,
    # These three only where a person asks for it explicitly, and nothing is applied that was not undone.
    (_S.COMPLETED, _E.REVISED): _S.QUEUED,
    (_S.CANCELLED, _E.REVISED): _S.QUEUED,
    (_S.ROLLED_BACK, _E.REVISED): _S.QUEUED,
    **{(state, _E.ATTACHED): state for state in _S},
    # People are notified of what happened to a job, in any state that it has reached by then.
    **{(state, _E.NOTIFIED): state for state in _S},
    # What is about to be sent is held, and nothing else changes.
    **{(state, _E.HELD): state for state in (_S.QUEUED, _S.APPROVED, _S.APPLYING)},
    # A response that ends after its revision was given up is recorded in any state of the job.
    **{(state, _E.OUTPUT_LATE): state for state in _S},
}


#: The events that may end a task's wait for a response, for a decision, or for the outcome of an unknown effect.
WAKING_JOB_EVENTS = frozenset(
    {
        JobEvent.REVISED,
        JobEvent.SUBMIT_RESOLVED,
        JobEvent.RESPONSE_ENDED,
        JobEvent.OUTPUT_STORED,
        JobEvent.OUTPUT_ACCEPTED,
        JobEvent.FAILED,
        JobEvent.PLANNED,
        JobEvent.PLAN_CHANGED,
        JobEvent.APPROVED,
        JobEvent.REJECTED,
        JobEvent.EDITED,
        JobEvent.REASSIGNED,
        JobEvent.CHANGES_REQUESTED,
        JobEvent.CHANGE_FAILED,
        JobEvent.REVIEW_EXPIRED,
        JobEvent.CANCELLED,
        JobEvent.EFFECT_RESOLVED,
    }
)


def next_job_state(state: JobState, event: JobEvent) -> JobState | None:
    """The state that ``event`` leads to from ``state``, or None where the pair is not valid."""
    return JOB_TRANSITIONS.get((state, event))


class RevisionState(StrEnum):
    """The state of one version of the output."""

    QUEUED = "queued"  # no request was sent
    SUBMITTING = "submitting"  # a request may have been sent, its response id is not known yet
    RUNNING = "running"  # the response id is known, or the batch that it is in runs
    COMPLETED = "completed"  # the output is stored
    FAILED = "failed"  # ended without an output that can be used; what there is, is kept in `error`
    CANCELLED = "cancelled"  # given up: the job was cancelled, or a newer revision took its place


class ResponseStatus(StrEnum):
    """The state of a response at the model provider, in our words for every provider."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INCOMPLETE = "incomplete"  # it stopped early, at a limit or a filter


#: The statuses of a response that has ended.
ENDED_RESPONSE_STATUSES = frozenset(
    {ResponseStatus.COMPLETED, ResponseStatus.FAILED, ResponseStatus.CANCELLED, ResponseStatus.INCOMPLETE}
)


class Disposition(StrEnum):
    """The result of a webhook that was accepted. Each has exactly one; none is dropped."""

    APPLIED = "applied"  # it said that a response which a job waits for has ended
    DUPLICATE = "duplicate"  # the same was known already: by another webhook, or by a poll
    LATE = "late"  # its response had been given up before
    QUARANTINED = "quarantined"  # no revision has its response id, not yet or not at all
    IGNORED = "ignored"  # of a type that is not about the end of a response
    FOREIGN = "foreign"  # its response belongs to another application, or another ledger
    DISCARDED = "discarded"  # a person said that it means nothing


class EffectState(StrEnum):
    """The state of one intended write."""

    PLANNED = "planned"  # rendered; nothing was sent
    CLAIMED = "claimed"  # one attempt may be sending it right now
    APPLIED = "applied"  # the target confirmed it
    REFUSED = "refused"  # the target refused it, and that proves that no external write was made
    UNKNOWN = "unknown"  # it may have been applied: a probe or a person must resolve it
    SKIPPED = "skipped"  # its author's condition leaves it out of the plan, or Airflow skipped its task; never sent
    VOID = "void"  # its revision was replaced, or its job cancelled, before anything was sent


#: An effect in one of these needs nothing more for its job to complete.
SETTLED_EFFECT_STATES = frozenset({EffectState.APPLIED, EffectState.SKIPPED})

#: An effect in one of these may have made an external write.
TOUCHED_EFFECT_STATES = frozenset({EffectState.CLAIMED, EffectState.APPLIED, EffectState.UNKNOWN})


class EffectEvent(StrEnum):
    """What can happen to an effect."""

    CLAIM = "claim"
    RELEASE = "release"
    REFUSE = "refuse"
    LOSE = "lose"  # the outcome is not known
    CONFIRM = "confirm"
    RESOLVE_APPLIED = "resolve as applied"
    RESOLVE_NOT_APPLIED = "resolve as not applied"
    SKIP = "skip"
    VOID = "void"


_ES, _EE = EffectState, EffectEvent

#: (state, event) → state. Every pair that is not here is refused.
EFFECT_TRANSITIONS: Mapping[tuple[EffectState, EffectEvent], EffectState] = {
    (_ES.PLANNED, _EE.CLAIM): _ES.CLAIMED,
    (_ES.PLANNED, _EE.SKIP): _ES.SKIPPED,
    (_ES.PLANNED, _EE.VOID): _ES.VOID,
    (_ES.SKIPPED, _EE.CLAIM): _ES.CLAIMED,  # only one that was planned, and whose task runs after all
    (_ES.REFUSED, _EE.CLAIM): _ES.CLAIMED,
    (_ES.REFUSED, _EE.VOID): _ES.VOID,
    (_ES.REFUSED, _EE.RESOLVE_APPLIED): _ES.APPLIED,  # a person saw the write in the target, whatever it answered
    (_ES.CLAIMED, _EE.RELEASE): _ES.PLANNED,
    (_ES.CLAIMED, _EE.REFUSE): _ES.REFUSED,
    (_ES.CLAIMED, _EE.LOSE): _ES.UNKNOWN,
    (_ES.CLAIMED, _EE.CONFIRM): _ES.APPLIED,
    (_ES.UNKNOWN, _EE.CLAIM): _ES.CLAIMED,  # only where the target takes the same key again without writing twice
    (_ES.UNKNOWN, _EE.RESOLVE_APPLIED): _ES.APPLIED,
    (_ES.UNKNOWN, _EE.RESOLVE_NOT_APPLIED): _ES.PLANNED,
}


def next_effect_state(state: EffectState, event: EffectEvent) -> EffectState | None:
    """The state that ``event`` leads to from ``state``, or None where the pair is not valid."""
    return EFFECT_TRANSITIONS.get((state, event))
