"""Lets threads that ask for the same at the same time be answered together, so that many share one transaction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


@dataclass(eq=False)
class _Asked(Generic[A, R]):
    """What one thread asks, and its answer once it is there."""

    what: A
    answers: list[R] = field(default_factory=list)
    error: BaseException | None = None

    @property
    def is_answered(self) -> bool:
        return bool(self.answers) or self.error is not None


class Combiner(Generic[A, R]):
    """One answer is made at a time; those who come meanwhile wait, and are answered together in the next one.

    No thread waits for company: one that comes alone is answered alone, at once.

    :param answer: answers some questions together, in their order.
    :param most: how many together.
    """

    def __init__(self, answer: Callable[[Sequence[A]], Sequence[R]], most: int) -> None:
        self._answer, self._most = answer, most
        self._waiting: list[_Asked[A, R]] = []
        self._list, self._turn = threading.Lock(), threading.Lock()

    def __call__(self, what: A) -> R:
        """Ask, and wait for the answer.

        :raises Exception: what making the answer has raised; each thread whose question was in it gets it.
        """
        asked = _Asked[A, R](what)
        with self._list:
            self._waiting.append(asked)
        while not asked.is_answered:
            with self._turn:
                if not asked.is_answered:
                    self._answer_next()
        if asked.error is not None:
            raise asked.error
        return asked.answers[0]

    def _answer_next(self) -> None:
        with self._list:
            some, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        try:
            for asked, answer in zip(some, self._answer([asked.what for asked in some]), strict=True):
                asked.answers.append(answer)
        except BaseException as error:  # noqa: BLE001 - raised in each thread that waits for it
            for asked in some:
                asked.answers, asked.error = [], error
