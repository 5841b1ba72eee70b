"""Threads that ask at the same time are answered together."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest

from airflow_provider_aihandoff.core.sets.combiner import Combiner


class Answers:
    """Answers with the double of each; the first answer waits until it may be given."""

    def __init__(self) -> None:
        self.groups: list[int] = []
        self.may_answer = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.groups.append(len(numbers))
        assert self.may_answer.wait(10)
        return [2 * number for number in numbers]


def ask_while_one_is_answered(answers: Answers, others: int, most: int) -> list[int]:
    """Ask once, and while that is answered, by as many threads as there are others."""
    combiner: Combiner[int, int] = Combiner(answers, most)
    with ThreadPoolExecutor(others + 1) as threads:
        first = threads.submit(combiner, 0)
        while not answers.groups:
            pass
        asked = [threads.submit(combiner, number) for number in range(1, others + 1)]
        while len(combiner._waiting) < others:
            pass
        answers.may_answer.set()
        return [each.result(10) for each in (first, *asked)]


def test_each_gets_its_own_answer_and_those_who_come_meanwhile_share_one() -> None:
    answers = Answers()
    assert ask_while_one_is_answered(answers, others=5, most=8) == [0, 2, 4, 6, 8, 10]
    assert answers.groups == [1, 5]


def test_no_more_are_answered_together_than_is_wanted() -> None:
    answers = Answers()
    assert ask_while_one_is_answered(answers, others=5, most=2) == [0, 2, 4, 6, 8, 10]
    assert max(answers.groups) == 2


def test_an_error_is_raised_for_those_whose_questions_it_is_about_and_no_later_one() -> None:
    calls: list[int] = []

    def fails_first(numbers: Sequence[int]) -> list[int]:
        calls.append(len(numbers))
        if len(calls) == 1:
            raise ValueError("no answer")
        return list(numbers)

    combiner: Combiner[int, int] = Combiner(fails_first, 4)
    with pytest.raises(ValueError, match="no answer"):
        combiner(1)
    assert combiner(2) == 2


def test_a_thread_waits_for_others_that_may_come() -> None:
    groups = list[int]()

    def answer(numbers: Sequence[int]) -> list[int]:
        groups.append(len(numbers))
        return list(numbers)

    combiner: Combiner[int, int] = Combiner(answer, 4, others=lambda: 3, patience=10)
    with ThreadPoolExecutor(3) as threads:
        assert sorted(threads.map(combiner, range(3))) == [0, 1, 2]
    assert groups == [3]


def test_who_has_an_answer_goes_on_while_the_next_one_is_kept_waiting() -> None:
    others_ask, first_has_gone_on = threading.Event(), threading.Event()
    groups = list[int]()

    def answer(numbers: Sequence[int]) -> list[int]:
        groups.append(len(numbers))
        assert (others_ask if len(groups) < 3 else first_has_gone_on).wait(10)
        return list(numbers)

    combiner: Combiner[int, int] = Combiner(answer, 2)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(combiner, 0)
        while not groups:
            pass
        others = [threads.submit(combiner, number) for number in (1, 2, 3)]
        while len(combiner._waiting) < 3:
            pass
        others_ask.set()
        assert first.result(10) == 0
        done, kept = wait(others, timeout=10, return_when=FIRST_COMPLETED)
        first_has_gone_on.set()
        assert done
        assert sorted(each.result(10) for each in (*done, *kept)) == [1, 2, 3]
    assert groups == [1, 2, 1]
