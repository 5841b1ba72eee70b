"""Lets threads that ask for the same at the same time be answered together, so that many share one transaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

A = TypeVar("A")
R = TypeVar("R")


@dataclass(eq=False)
class _Asked(Generic[A, R]):
    """What one thread asks, and its answer once it is there.

    :param leads: the thread is to make the next answer.
    :param goes_on: released once it leads, or has its answer; acquired again by a thread that leads.
    """

    what: A
    answers: list[R] = field(default_factory=list)
    error: BaseException | None = None
    leads: bool = False
    goes_on: threading.Lock = field(default_factory=threading.Lock)


#: Seconds for which a thread waits for others at most.
_LONGEST = 0.1


def _no_one() -> int:
    return 0


class Combiner(Generic[A, R]):
    """One answer is made at a time; those who come meanwhile wait, and are answered together in the next one.

    A thread that comes alone waits a moment for others that may come; where none may, it is answered at once.

    :param answer: answers some questions together, in their order.
    :param most: how many together.
    :param room: how many together at this moment, if fewer; at least one.
    :param others: how many threads may ask soon, those that do by now included.
    :param patience: seconds for which a thread waits for them at most; by default as long as the last answer took, so
        that no one is held up for much longer than without, and many share an answer where these are slow.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[A]], Sequence[R]],
        most: int,
        *,
        room: Callable[[], int] | None = None,
        others: Callable[[], int] = _no_one,
        patience: float | None = None,
    ) -> None:
        self._answer, self._room = answer, room or (lambda: most)
        self._others, self._patience, self._took = others, patience, 0.0
        self._waiting: list[_Asked[A, R]] = []
        self._list, self._is_led = threading.Condition(), False

    def __call__(self, what: A) -> R:
        """Ask, and wait for the answer.

        :raises Exception: what making the answer has raised; each thread whose question was in it gets it.
        """
        asked = _Asked[A, R](what)
        asked.goes_on.acquire()
        with self._list:
            self._waiting.append(asked)
            if self._is_led:
                self._list.notify()
            else:
                self._is_led = asked.leads = True
        if not asked.leads:
            asked.goes_on.acquire()
        if asked.leads:
            self._answer_next()
        if asked.error is not None:
            raise asked.error
        return asked.answers[0]

    def _answer_next(self) -> None:
        """Answer the first of those who wait, who leads, and some others. Those who are answered go on at once, also
        while the next one who leads is kept from it."""
        with self._list:
            self._list.wait_for(self._are_enough, self._took if self._patience is None else self._patience)
            some = self._waiting[: self._room()]
            del self._waiting[: len(some)]
        began = time.monotonic()
        try:
            for asked, answer in zip(some, self._answer([asked.what for asked in some]), strict=True):
                asked.answers.append(answer)
        except BaseException as error:  # noqa: BLE001 - raised in each thread that waits for it
            for asked in some:
                asked.answers, asked.error = [], error
        self._took = min(time.monotonic() - began, _LONGEST)
        for asked in some:
            asked.goes_on.release()
        with self._list:
            self._is_led = bool(self._waiting)
            if self._is_led:
                self._waiting[0].leads = True
                self._waiting[0].goes_on.release()

    def _are_enough(self) -> bool:
        return len(self._waiting) >= min(self._room(), self._others())
