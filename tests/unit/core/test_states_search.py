"""The state machines as a whole: what can be reached, by which events only, and what is left again.

`test_states.py` says where each pair of state and event leads. Here every path is followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import Any

import pytest

from airflow_provider_aihandoff.core.jobs.attach import Step, decide_attachment
from airflow_provider_aihandoff.core.states import (
    EFFECT_TRANSITIONS,
    JOB_TRANSITIONS,
    TERMINAL_JOB_STATES,
    TOUCHED_EFFECT_STATES,
    EffectEvent,
    EffectState,
    JobEvent,
    JobState,
    next_effect_state,
    next_job_state,
)
from tests.unit.core.test_states import ALWAYS, EFFECT_MOVES, MOVES, STAYS

S, E = JobState, JobEvent
ES, EE = EffectState, EffectEvent

Table = Mapping[tuple[Any, Any], Any]

#: The states of an effect in which no one will ever send it (again).
TERMINAL_EFFECT_STATES = frozenset({ES.APPLIED, ES.VOID})

#: The only ways out of the states in which a job has ended.
WAYS_OUT = {
    (S.REJECTED, E.REVISED): S.QUEUED,
    (S.FAILED, E.REVISED): S.QUEUED,
    (S.COMPLETED, E.REVISED): S.QUEUED,
    (S.CANCELLED, E.REVISED): S.QUEUED,
    (S.ROLLED_BACK, E.REVISED): S.QUEUED,
    (S.COMPLETED, E.ROLL_BACK_STARTED): S.ROLLING_BACK,
    (S.CANCELLED, E.ROLL_BACK_STARTED): S.ROLLING_BACK,
}


def reachable(table: Table, start: Any, *, without: Iterable[Any] = (), avoiding: Iterable[Any] = ()) -> set[Any]:
    """Every state that some chain of events leads to, the first included.

    :param without: events, or pairs of state and event, that do not happen.
    :param avoiding: states that are not entered.
    """
    without, avoiding = set(without), set(avoiding)
    seen, new = {start}, [start]
    while new:
        state = new.pop()
        for (left, event), to in table.items():
            if left is state and not {event, (left, event)} & without and to not in seen | avoiding:
                seen.add(to)
                new.append(to)
    return seen


NAMED_JOBS = {(state, event): to for state, moves in MOVES.items() for event, to in moves.items()}
NAMED_JOBS |= {(state, event): state for state in S for event in STAYS.get(state, set()) | ALWAYS}
NAMED_EFFECTS = {(state, event): to for state, moves in EFFECT_MOVES.items() for event, to in moves.items()}


def problems(jobs: Table, effects: Table) -> Iterator[str]:
    """What is wrong with two tables, in words. What costs least to find comes first."""
    for name, table, named, states, start, ends, ways_out in (
        ("job", jobs, NAMED_JOBS, S, S.QUEUED, TERMINAL_JOB_STATES, WAYS_OUT),
        ("effect", effects, NAMED_EFFECTS, ES, ES.PLANNED, TERMINAL_EFFECT_STATES, {}),
    ):
        yield from (f"{name}: {pair} is not named" for pair in table.items() - named.items())
        yield from (f"{name}: {pair} is missing" for pair in named.items() - table.items())
        yield from (f"{name}: {state} is never reached" for state in set(states) - reachable(table, start))
        yield from (f"{name}: {state} has no end" for state in states if not reachable(table, state) & ends)
        leaving = {(left, event): to for (left, event), to in table.items() if left in ends and to is not left}
        yield from (f"{name}: {pair} is no way out of an end" for pair in leaving.items() - ways_out.items())


def test_both_tables_are_as_they_are_named_complete_and_without_dead_ends() -> None:
    assert list(problems(JOB_TRANSITIONS, EFFECT_TRANSITIONS)) == []


def test_an_undeclared_transition_is_found_in_every_place() -> None:
    unnoticed: list[tuple[Any, ...]] = [
        (*pair, to)
        for pair, to in product(product(S, E), S)
        if JOB_TRANSITIONS.get(pair) is not to and not any(problems({**JOB_TRANSITIONS, pair: to}, EFFECT_TRANSITIONS))
    ]
    unnoticed += [
        (*pair, to)
        for pair, to in product(product(ES, EE), ES)
        if EFFECT_TRANSITIONS.get(pair) is not to
        and not any(problems(JOB_TRANSITIONS, {**EFFECT_TRANSITIONS, pair: to}))
    ]
    assert unnoticed == []


def test_a_transition_that_is_taken_out_is_found() -> None:
    for pair in JOB_TRANSITIONS:
        assert any(problems({other: to for other, to in JOB_TRANSITIONS.items() if other != pair}, EFFECT_TRANSITIONS))
    for effect_pair in EFFECT_TRANSITIONS:
        rest = {other: to for other, to in EFFECT_TRANSITIONS.items() if other != effect_pair}
        assert any(problems(JOB_TRANSITIONS, rest))


def test_the_tables_are_all_that_decides() -> None:
    jobs = {(state, event): next_job_state(state, event) for state in S for event in E}
    assert {pair: to for pair, to in jobs.items() if to} == JOB_TRANSITIONS
    effects = {(state, event): next_effect_state(state, event) for state in ES for event in EE}
    assert {pair: to for pair, to in effects.items() if to} == EFFECT_TRANSITIONS


class TestJobs:
    def test_no_effect_is_applied_on_any_path_without_an_approval(self) -> None:
        without_approval = reachable(JOB_TRANSITIONS, S.QUEUED, without={E.APPROVED, E.OUTPUT_ACCEPTED})
        assert without_approval == {S.QUEUED, S.RUNNING, S.REVIEW, S.REJECTED, S.FAILED, S.CANCELLED} | {
            S.ROLLING_BACK,  # of a cancelled job: the ledger starts no roll-back where nothing is applied
            S.ROLLED_BACK,
        }

    def test_every_path_to_an_effect_leads_through_its_claim(self) -> None:
        assert S.APPLYING not in reachable(JOB_TRANSITIONS, S.QUEUED, without={E.EFFECT_CLAIMED})

    def test_a_roll_back_begins_by_one_event_and_ends_by_one(self) -> None:
        assert S.ROLLING_BACK not in reachable(JOB_TRANSITIONS, S.QUEUED, without={E.ROLL_BACK_STARTED})
        assert reachable(JOB_TRANSITIONS, S.ROLLING_BACK, without={E.ALL_UNDONE}) == {S.ROLLING_BACK}

    def test_a_rolled_back_job_is_applied_again_only_after_a_new_approval(self) -> None:
        for state in (S.ROLLING_BACK, S.ROLLED_BACK):
            again = reachable(JOB_TRANSITIONS, state, without={E.APPROVED, E.OUTPUT_ACCEPTED})
            assert not again & {S.APPROVED, S.APPLYING, S.COMPLETED}

    @pytest.mark.parametrize("state", sorted(TERMINAL_JOB_STATES))
    def test_an_end_is_left_only_by_a_new_revision_or_a_roll_back(self, state: JobState) -> None:
        stuck = reachable(JOB_TRANSITIONS, state, without={E.REVISED, E.ROLL_BACK_STARTED})
        assert stuck == {state}

    @pytest.mark.parametrize("state", sorted(set(S) - TERMINAL_JOB_STATES))
    def test_every_open_job_can_end_without_starting_again(self, state: JobState) -> None:
        assert reachable(JOB_TRANSITIONS, state, without={E.REVISED}) & TERMINAL_JOB_STATES

    @pytest.mark.parametrize("state", sorted(set(S) - TERMINAL_JOB_STATES - {S.ROLLING_BACK}))
    def test_every_open_job_can_be_cancelled_on_the_spot_but_not_while_it_is_rolled_back(self, state: JobState) -> None:
        assert next_job_state(state, E.CANCELLED) is S.CANCELLED
        assert next_job_state(S.ROLLING_BACK, E.CANCELLED) is None

    def test_a_revision_goes_forward_except_where_its_plan_is_replaced_or_its_batch_has_not_run_it(self) -> None:
        """Without a new revision or another plan, no state is ever entered twice; but a request that its batch has not
        run is queued again."""
        back = {E.REVISED, E.CHANGES_REQUESTED, E.CHANGE_FAILED, E.PLANNED, E.PLAN_CHANGED, E.SUBMIT_REFUSED}
        for state in S:
            onward = {
                to
                for (left, event), to in JOB_TRANSITIONS.items()
                if left is state and to is not state and event not in back
            }
            for to in onward:
                assert state not in reachable(JOB_TRANSITIONS, to, without=back)

    @pytest.mark.parametrize(("same_input", "same_run", "regenerate"), list(product([True, False], repeat=3)))
    @pytest.mark.parametrize("state", S)
    def test_an_attaching_task_never_starts_a_job_again_that_has_writes_in_place(
        self, state: JobState, same_input: bool, same_run: bool, regenerate: bool
    ) -> None:
        step = decide_attachment(state, same_input=same_input, same_run=same_run, touched=True, regenerate=regenerate)
        # A job that failed or was rejected has nothing applied: an effect is claimed only once it is approved.
        assert step is not Step.REVISE or state in (S.FAILED, S.REJECTED)

    @pytest.mark.parametrize(
        ("same_input", "same_run", "touched", "regenerate"), list(product([True, False], repeat=4))
    )
    @pytest.mark.parametrize("state", S)
    def test_whatever_a_task_that_comes_is_to_do_the_table_permits(
        self, state: JobState, same_input: bool, same_run: bool, touched: bool, regenerate: bool
    ) -> None:
        step = decide_attachment(
            state, same_input=same_input, same_run=same_run, touched=touched, regenerate=regenerate
        )
        if step is Step.REVISE:
            assert next_job_state(state, E.REVISED) is S.QUEUED
        elif step in (Step.SUBMIT, Step.WAIT, Step.DONE):
            assert next_job_state(state, E.ATTACHED) is state


class TestEffects:
    def test_nothing_is_sent_without_a_claim(self) -> None:
        assert reachable(EFFECT_TRANSITIONS, ES.PLANNED, without={EE.CLAIM}) == {ES.PLANNED, ES.SKIPPED, ES.VOID}

    def test_applied_is_what_its_holder_confirms_or_what_was_found(self) -> None:
        unconfirmed = reachable(EFFECT_TRANSITIONS, ES.PLANNED, without={EE.CONFIRM, EE.RESOLVE_APPLIED})
        assert unconfirmed == set(ES) - {ES.APPLIED}

    def test_a_second_claim_needs_proof_that_the_first_wrote_nothing_or_a_target_that_can_repeat(self) -> None:
        proof = {EE.RELEASE, EE.REFUSE, EE.RESOLVE_NOT_APPLIED}
        repeat = (ES.UNKNOWN, EE.CLAIM)
        after = reachable(EFFECT_TRANSITIONS, ES.CLAIMED, without=proof | {repeat})
        assert after == {ES.CLAIMED, ES.UNKNOWN, ES.APPLIED}
        assert all((state, EE.CLAIM) not in EFFECT_TRANSITIONS for state in after - {ES.UNKNOWN})

    def test_no_event_takes_an_effect_out_of_sight_that_may_be_written(self) -> None:
        into_void = {state for (state, _), to in EFFECT_TRANSITIONS.items() if to is ES.VOID}
        assert into_void.isdisjoint(TOUCHED_EFFECT_STATES)

    def test_an_unknown_outcome_is_never_guessed(self) -> None:
        """Out of `unknown` lead only what a probe or a person found, and the same key again."""
        assert {event for (state, event) in EFFECT_TRANSITIONS if state is ES.UNKNOWN} == {
            EE.RESOLVE_APPLIED,
            EE.RESOLVE_NOT_APPLIED,
            EE.CLAIM,
        }
