"""What was found, with the next step. At most so many of each kind in one run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

#: Findings of one kind in one run; the others are left to the next.
LIMIT = 500

#: Seconds for the steps of one kind of webhooks or reviews in one run: OpenAI may let each request time out.
PATIENCE = 120.0

#: The result of a step that came too late.
MOVED_ON = "nothing: it has moved on meanwhile"


@dataclass(frozen=True)
class Finding:
    """One orphan: something that no task waits for.

    :param kind: what kind of thing it is, in a word or two.
    :param found: what was found, as text.
    :param step: the one next step, as text.
    :param done: the result of the step; None where a person has to take it, or none was to be taken.
    :param failed: the step failed, and the next run takes it again.
    """

    kind: str
    found: str
    step: str
    job_id: int | None = None
    webhook_id: str | None = None
    done: str | None = None
    failed: bool = False

    def __str__(self) -> str:
        about = [f"webhook {self.webhook_id}"] if self.webhook_id else [f"job {self.job_id}"] if self.job_id else []
        done = "" if self.done is None else f": {self.done}"
        return f"{self.kind}: {'; '.join([*about, self.found, self.step])}{done}"


#: A finding, and what takes its step and returns the result; None where a person has to take it.
Planned = tuple[Finding, Callable[[], str] | None]


def first_of(found: Iterable[Planned], limit: int) -> Iterator[Planned]:
    """The first findings of one kind, and that there are more."""
    until = time.monotonic() + PATIENCE
    for number, (finding, step) in enumerate(found):
        if number >= limit or time.monotonic() > until:
            yield more(finding.kind), None
            return
        yield finding, step


def first_of_each(found: Iterable[tuple[str, Callable[[], Planned]]], limit: int) -> Iterator[Planned]:
    """The first findings of each kind, and of which there are more.

    :param found: the kind of each, and what makes the finding.
    """
    counts: Counter[str] = Counter()
    for kind, plan in found:
        counts[kind] += 1
        if counts[kind] <= limit:
            yield plan()
    yield from ((more(kind), None) for kind, count in counts.items() if count > limit)


def more(kind: str) -> Finding:
    """That not all of a kind were checked."""
    return Finding(kind, "there are more of these", "left to the next run")
