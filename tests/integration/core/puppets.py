"""Tasks that run one at a time, from one crash point to the next, and that can be killed or left standing at any."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from airflow_provider_aihandoff.core.errors import HandoffError

#: Seconds after which a step that has not come to its next point counts as hanging.
HANGING = 30.0


class Killed(BaseException):
    """The process of a task ended here."""


class Puppet(threading.Thread):
    """A task, in a thread that runs only while the test lets it go on.

    It pauses after each commit, and before and after each external call. It never does before a commit,
    where it would hold a lock; but it can be made to die there.

    :param work: what the task does.
    """

    def __init__(self, name: str, work: Callable[[], Any]) -> None:
        super().__init__(name=name, daemon=True)
        self.at = "start"
        self.result: Any = None
        self.error: BaseException | None = None
        self.ended = False
        self._work = work
        self._die, self._die_before_commit = False, False
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self.start()

    def __repr__(self) -> str:
        return f"{self.name} at {self.at!r}"

    def run(self) -> None:
        self._go.acquire()
        try:
            if not self._die:
                self.result = self._work()
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001 - raised again where the test lets it go on
            self.error = error
        self.ended, self.at = True, "end"
        self._stands.release()

    def go_on(self) -> None:
        """Let it run to its next point, or its end. An error of the package ends the task; any other one is raised."""
        assert not self.ended
        self._go.release()
        assert self._stands.acquire(timeout=HANGING), f"{self} hangs"
        if self.error is not None and not isinstance(self.error, HandoffError):
            raise self.error

    def kill(self, *, before_commit: bool = False) -> None:
        """End it where it stands; or at its next commit, which is rolled back then."""
        self._die, self._die_before_commit = not before_commit, before_commit
        while not self.ended:
            self.go_on()

    def reach(self, point: str) -> None:
        """Pause here, in the thread of this task."""
        if point.endswith("before commit"):
            if self._die_before_commit:
                raise Killed
            return
        self.at = point
        self._stands.release()
        self._go.acquire()
        if self._die:
            raise Killed


def reach(point: str) -> None:
    """Pause here, if this is the thread of such a task."""
    thread = threading.current_thread()
    if isinstance(thread, Puppet):
        thread.reach(point)
