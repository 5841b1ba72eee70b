"""The state machines, pair by pair: what is not in a table here must be refused."""

from __future__ import annotations

import pytest

from airflow_provider_aihandoff.core.states import (
    EFFECT_TRANSITIONS,
    JOB_TRANSITIONS,
    TERMINAL_JOB_STATES,
    TOUCHED_EFFECT_STATES,
    WAKING_JOB_EVENTS,
    EffectEvent,
    EffectState,
    JobEvent,
    JobState,
    next_effect_state,
    next_job_state,
)

S, E = JobState, JobEvent

#: The events that change the state, written down a second time on purpose: a change has to be made in both places.
MOVES = {
    S.QUEUED: {
        E.SUBMITTED: S.RUNNING,
        E.OUTPUT_STORED: S.REVIEW,
        E.OUTPUT_ACCEPTED: S.APPROVED,
        E.FAILED: S.FAILED,
        E.CANCELLED: S.CANCELLED,
        E.CHANGE_FAILED: S.REVIEW,
    },
    S.RUNNING: {
        E.REVISED: S.QUEUED,
        E.SUBMIT_REFUSED: S.QUEUED,
        E.OUTPUT_STORED: S.REVIEW,
        E.OUTPUT_ACCEPTED: S.APPROVED,
        E.FAILED: S.FAILED,
        E.CANCELLED: S.CANCELLED,
        E.CHANGE_FAILED: S.REVIEW,
    },
    S.REVIEW: {
        E.REVISED: S.QUEUED,
        E.CHANGES_REQUESTED: S.QUEUED,
        E.APPROVED: S.APPROVED,
        E.REJECTED: S.REJECTED,
        E.REVIEW_EXPIRED: S.FAILED,
        E.CANCELLED: S.CANCELLED,
    },
    S.APPROVED: {
        E.REVISED: S.QUEUED,
        E.PLAN_CHANGED: S.REVIEW,
        E.EFFECT_CLAIMED: S.APPLYING,
        E.ALL_APPLIED: S.COMPLETED,
        E.CANCELLED: S.CANCELLED,
    },
    S.APPLYING: {
        E.REVISED: S.QUEUED,
        E.PLANNED: S.APPROVED,
        E.PLAN_CHANGED: S.REVIEW,
        E.ALL_APPLIED: S.COMPLETED,
        E.CANCELLED: S.CANCELLED,
        E.ROLL_BACK_STARTED: S.ROLLING_BACK,
    },
    S.REJECTED: {E.REVISED: S.QUEUED},
    S.FAILED: {E.REVISED: S.QUEUED},
    S.COMPLETED: {E.REVISED: S.QUEUED, E.ROLL_BACK_STARTED: S.ROLLING_BACK},
    S.CANCELLED: {E.REVISED: S.QUEUED, E.ROLL_BACK_STARTED: S.ROLLING_BACK},
    S.ROLLING_BACK: {E.ALL_UNDONE: S.ROLLED_BACK},
    S.ROLLED_BACK: {E.REVISED: S.QUEUED},
}

EFFECT_EVENTS = {
    E.EFFECT_CLAIMED,
    E.EFFECT_RELEASED,
    E.EFFECT_REFUSED,
    E.EFFECT_UNKNOWN,
    E.EFFECT_APPLIED,
    E.EFFECT_RESOLVED,
}

#: The events that are recorded without a change of state.
STAYS = {
    S.QUEUED: {E.REVISED, E.HELD, E.SUBMIT_INTENDED, E.SUBMIT_UNKNOWN, E.SUBMIT_REFUSED, E.SUBMIT_RESOLVED},
    S.RUNNING: {E.CANCEL_REQUESTED, E.RESPONSE_ENDED, E.RESPONSE_REPLACED},
    S.REVIEW: {E.PLANNED, E.VOTED, E.EDITED, E.EDIT_REFUSED, E.REMINDED, E.ESCALATED, E.REASSIGNED},
    S.APPROVED: {E.PLANNED, E.EFFECT_SKIPPED, E.HELD},
    S.APPLYING: EFFECT_EVENTS | {E.CANCEL_REQUESTED, E.EFFECT_SKIPPED, E.HELD},
    S.FAILED: {E.ACKNOWLEDGED},
    S.ROLLING_BACK: EFFECT_EVENTS,
}
ALWAYS = {E.ATTACHED, E.OUTPUT_LATE, E.NOTIFIED}


@pytest.mark.parametrize("event", JobEvent)
@pytest.mark.parametrize("state", JobState)
def test_every_pair_of_job_state_and_event_leads_where_it_should_or_is_refused(
    state: JobState, event: JobEvent
) -> None:
    stays = state if event in STAYS.get(state, set()) | ALWAYS else None
    assert next_job_state(state, event) == MOVES[state].get(event, stays)


def reachable(start: JobState) -> set[JobState]:
    """Every state that some chain of events leads to, the first included."""
    seen, new = {start}, {start}
    while new:
        new = {target for (state, _), target in JOB_TRANSITIONS.items() if state in new} - seen
        seen |= new
    return seen


def test_every_state_can_be_reached_from_queued_and_none_is_a_dead_end_before_the_end() -> None:
    assert reachable(S.QUEUED) == set(JobState)
    assert all(reachable(state) & TERMINAL_JOB_STATES for state in JobState)


@pytest.mark.parametrize("state", [S.REJECTED, S.FAILED])
def test_a_job_that_is_rejected_or_failed_is_left_only_as_a_new_revision(state: JobState) -> None:
    assert {event for (left, event), to in JOB_TRANSITIONS.items() if left is state and to is not state} == {
        JobEvent.REVISED
    }


def test_terminal_states_are_left_only_by_a_new_revision_or_a_roll_back() -> None:
    leaving = {(state, event) for (state, event), to in JOB_TRANSITIONS.items() if to is not state}
    assert {pair for pair in leaving if pair[0] in TERMINAL_JOB_STATES} == {
        (S.REJECTED, E.REVISED),
        (S.FAILED, E.REVISED),
        (S.COMPLETED, E.REVISED),
        (S.COMPLETED, E.ROLL_BACK_STARTED),
        (S.CANCELLED, E.REVISED),
        (S.CANCELLED, E.ROLL_BACK_STARTED),
        (S.ROLLED_BACK, E.REVISED),
    }


def test_nothing_is_claimed_before_it_is_approved() -> None:
    assert {state for (state, event) in JOB_TRANSITIONS if event is E.EFFECT_CLAIMED} == {
        S.APPROVED,
        S.APPLYING,
        S.ROLLING_BACK,
    }


def test_only_a_stored_output_a_decision_or_a_replaced_plan_leads_to_approved() -> None:
    into = {(state, event) for (state, event), to in JOB_TRANSITIONS.items() if to is S.APPROVED and state is not to}
    assert into == {
        (S.QUEUED, E.OUTPUT_ACCEPTED),
        (S.RUNNING, E.OUTPUT_ACCEPTED),
        (S.REVIEW, E.APPROVED),
        (S.APPLYING, E.PLANNED),
    }


def test_a_task_that_waits_is_woken_by_every_event_that_may_end_its_wait() -> None:
    moves = {event for state in (S.RUNNING, S.REVIEW) for event, to in MOVES[state].items() if to is not state}
    # A request that its batch has not run is noticed with its batch.
    assert moves - {E.SUBMIT_REFUSED} | {E.RESPONSE_ENDED, E.EFFECT_RESOLVED} <= WAKING_JOB_EVENTS
    # What is written while a request is sent, or an effect, comes often, and ends no wait.
    assert WAKING_JOB_EVENTS.isdisjoint({E.CREATED, E.ATTACHED, E.SUBMITTED, E.OUTPUT_LATE})
    assert {E.EFFECT_RESOLVED} == WAKING_JOB_EVENTS & EFFECT_EVENTS
    assert WAKING_JOB_EVENTS.isdisjoint(STAYS[S.QUEUED] - {E.REVISED, E.SUBMIT_RESOLVED})


def test_every_event_is_valid_somewhere_except_the_first() -> None:
    assert set(JobEvent) - {event for _, event in JOB_TRANSITIONS} == {E.CREATED}


ES, EE = EffectState, EffectEvent

EFFECT_MOVES = {
    ES.PLANNED: {EE.CLAIM: ES.CLAIMED, EE.SKIP: ES.SKIPPED, EE.VOID: ES.VOID},
    ES.SKIPPED: {EE.CLAIM: ES.CLAIMED},
    ES.REFUSED: {EE.CLAIM: ES.CLAIMED, EE.VOID: ES.VOID, EE.RESOLVE_APPLIED: ES.APPLIED},
    ES.CLAIMED: {
        EE.RELEASE: ES.PLANNED,
        EE.REFUSE: ES.REFUSED,
        EE.LOSE: ES.UNKNOWN,
        EE.CONFIRM: ES.APPLIED,
    },
    ES.UNKNOWN: {EE.CLAIM: ES.CLAIMED, EE.RESOLVE_APPLIED: ES.APPLIED, EE.RESOLVE_NOT_APPLIED: ES.PLANNED},
    ES.APPLIED: {},
    ES.VOID: {},
}


@pytest.mark.parametrize("event", EffectEvent)
@pytest.mark.parametrize("state", EffectState)
def test_every_pair_of_effect_state_and_event_leads_where_it_should_or_is_refused(
    state: EffectState, event: EffectEvent
) -> None:
    assert next_effect_state(state, event) == EFFECT_MOVES[state].get(event)


def test_an_applied_effect_is_never_sent_again() -> None:
    assert not {event for (state, event) in EFFECT_TRANSITIONS if state is ES.APPLIED}


def test_an_effect_becomes_applied_only_by_its_claim_or_by_a_person() -> None:
    into = {(state, event) for (state, event), to in EFFECT_TRANSITIONS.items() if to is ES.APPLIED}
    resolved = {(ES.UNKNOWN, EE.RESOLVE_APPLIED), (ES.REFUSED, EE.RESOLVE_APPLIED)}
    assert into == {(ES.CLAIMED, EE.CONFIRM), *resolved}


def test_an_effect_that_may_have_been_written_is_never_voided() -> None:
    assert not {state for (state, event) in EFFECT_TRANSITIONS if event is EE.VOID} & TOUCHED_EFFECT_STATES
