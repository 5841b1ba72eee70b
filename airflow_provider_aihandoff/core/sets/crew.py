"""Does many small pieces of work at the same time, a bounded number of them, in threads of this process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

#: Pieces of work that are handed over before they are begun, for each thread: enough to keep them busy, so that what
#: produces the work needs no more memory the more of it there is.
_HANDED_OVER = 2


@contextmanager
def frozen() -> Iterator[None]:
    """For as long as many small pieces of work are done: keep what is there by now out of each search for garbage.

    It is mostly what Airflow has imported, and to go through it takes half a second.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class Crew(Generic[T]):
    """Threads that work on what they are given. Used as a context manager, which waits for all of it.

    An error of one piece of work is raised by the next call, after the pieces that are under way have ended, and what
    was not begun is dropped: errors of a single job are for the work itself to handle.

    :param number: how many at the same time.
    :param done: called in the thread of the owner with each result, in the order in which they come.
    """

    def __init__(self, number: int, done: Callable[[T], None]) -> None:
        self._number, self._done = number, done
        self._pool = ThreadPoolExecutor(max_workers=number, thread_name_prefix="aihandoff-set")
        self._pending = 0
        self._ended: SimpleQueue[Future[T]] = SimpleQueue()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.finish()
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def give(self, work: Callable[..., T], *arguments: Any) -> None:
        """Hand over a piece of work; waits while there is enough for every thread.

        :raises Exception: a piece of work that was given before has raised it.
        """
        while self._pending >= self._number * _HANDED_OVER:
            self._collect()
        self._pending += 1
        self._pool.submit(work, *arguments).add_done_callback(self._ended.put)

    def finish(self) -> None:
        """Wait for everything that was given.

        :raises Exception: a piece of work has raised it.
        """
        while self._pending:
            self._collect()

    def __len__(self) -> int:
        """How many pieces of work have not ended, as far as was taken in."""
        return self._pending

    def collect(self, seconds: float) -> None:
        """Take in what has ended, or ends within so many seconds.

        :raises Exception: a piece of work has raised it.
        """
        if self._pending:
            self._collect(seconds)
        else:
            time.sleep(seconds)

    def _collect(self, seconds: float | None = None) -> None:
        """Take in what has ended by now; where nothing has, wait for the next one."""
        try:
            future = self._ended.get(timeout=seconds)
            while True:
                self._pending -= 1
                self._done(future.result())
                future = self._ended.get_nowait()
        except Empty:
            return
