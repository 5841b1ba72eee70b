"""A set as the ledger has it: many jobs of one task, what is left out of it, and what its jobs add up to. Pure.

**The protocol.** A set is a row that its jobs name; each job keeps the protocol of a single one, step by step, so that
what is promised of a job holds for each job of a set. Only what costs round trips is done for many together.

1. *Check*: the items are read once, rendered, and compared: a key that occurs twice, an item that does not render, or
   no item at all, is said with its numbers before anything is written or paid.
2. *Open*: the row of the set, then its jobs, some hundreds in one transaction (``set.open jobs``). A kill in between
   leaves jobs that were not sent; the next attempt opens the rest, and attaches to these by their keys.
3. *Send*: concurrently, each with the intent, the request and the record of a single job; so limits, budgets and pauses
   decide about each, and a kill at any point submits nothing twice. The intents of those that are sent at the same
   time are committed together, and so are their ids (``set.intend``, ``set.submitted``), where nothing has to be
   weighed; a kill in between leaves an unknown submission for each.
4. *Take*: while answers come, they are read and stored (``set.store``), and as many requests are sent.
5. *Wait*: one trigger for the set. It ends when half of what it waits for has ended, so that a task has few legs
   whatever the number of items; what has ended meanwhile is recorded together (``set.ended``). Then it takes and sends
   again.
6. *Ask*: the plans of what is there are stored in groups, with what the policy decides (``set.ask``).
7. *Write*: concurrently, each with the claim, the call and the confirmation of a single effect. Those that happen at
   the same time are committed together (``set.claim``, ``set.confirm``), where nothing has to be weighed; a kill in
   between leaves a claim of each, which expires, and each outcome is found out by itself.

What failed gets new revisions within its own bounds, and holds up nothing. Nothing is added up in the row: every count
is read from the jobs, so that no process can die between a job and its total.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any

from airflow_provider_aihandoff.core.invisible import escape
from airflow_provider_aihandoff.core.sets.transport import Transport
from airflow_provider_aihandoff.core.states import JobState

#: How many of the items that are left out the ledger names; all of them are counted.
NAMED = 100


class LeftOutReason(StrEnum):
    """Why an item has no job in its set."""

    DUPLICATE = "duplicate"  # its key was another item's before
    NOT_RENDERED = "not rendered"  # its templates give no text, or no request
    REFUSED = "refused"  # its key belongs to other work, or to a job that ended for good


@dataclass(frozen=True)
class LeftOutItem:
    """An item without a job in its set.

    :param number: its place among the items, from 1.
    :param why: a sentence, or a part of one, for people.
    """

    number: int
    reason: LeftOutReason
    why: str

    def __str__(self) -> str:
        return escape(f"item {self.number}: {self.why}")


@dataclass
class LeftOut:
    """The items that are left out: all of them counted, and the first ones named. It grows while items are read."""

    counts: dict[str, int] = field(default_factory=dict)
    first: list[LeftOutItem] = field(default_factory=list)

    def add(self, item: LeftOutItem) -> None:
        """Count one more."""
        self.counts[item.reason.value] = self.counts.get(item.reason.value, 0) + 1
        if len(self.first) < NAMED:
            self.first.append(item)

    @property
    def number(self) -> int:
        """How many there are."""
        return sum(self.counts.values())

    def as_json(self) -> dict[str, Any]:
        """As the ledger keeps it."""
        return {"counts": self.counts, "first": [[item.number, item.reason.value, item.why] for item in self.first]}

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> LeftOut:
        """What :meth:`as_json` has made."""
        first = [LeftOutItem(number, LeftOutReason(reason), why) for number, reason, why in kept["first"]]
        return cls(dict(kept["counts"]), first)


@dataclass(frozen=True)
class JobSet:
    """A set, as the ledger has it at one moment.

    :param deadline: of the revisions that are made for it.
    :param items: how many it has; None while not all of them were made jobs.
    :param transport: how its requests are sent now.
    :param transport_why: why that was chosen, as a sentence; None where its author has named it.
    :param complete_by: when its author wants its outputs; None: as they come.
    """

    set_id: int
    set_type: str
    set_key: str
    requested_by: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    deadline: datetime
    items: int | None
    left_out: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    notified_at: datetime | None
    transport: Transport
    transport_why: str | None
    complete_by: datetime | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "transport", Transport(self.transport))

    @property
    def label(self) -> str:
        """How messages name the set."""
        return escape(f"set {self.set_id} ({self.set_type} {self.set_key})")

    @property
    def without_job(self) -> LeftOut:
        """The items that are left out."""
        return LeftOut.from_json(self.left_out)


class SetPhase(StrEnum):
    """What most of a set still waits for: the first of these that any of its jobs does."""

    OPENING = "opening"  # not all of its items are jobs yet
    DRAFTING = "drafting"
    DECIDING = "deciding"
    WRITING = "writing"
    ENDED = "ended"


#: The jobs that a set waits for, by its phase.
_PHASES: Mapping[SetPhase, tuple[JobState, ...]] = {
    SetPhase.DRAFTING: (JobState.QUEUED, JobState.RUNNING),
    SetPhase.DECIDING: (JobState.REVIEW,),
    SetPhase.WRITING: (JobState.APPROVED, JobState.APPLYING, JobState.ROLLING_BACK),
}


@dataclass(frozen=True)
class SetTotals:
    """What the jobs of a set add up to at one moment.

    :param states: how many jobs there are in each state; without those that have none.
    :param written: how many jobs are completed, and have written something.
    :param unknown: how many jobs have a write that may have been made.
    :param held: how many requests and writes a pause or a limit keeps from being sent now.
    :param failures: how many jobs failed, by the kind of the error.
    :param cost_usd: of all revisions, as far as their price is known.
    :param unpriced: how many jobs have a revision that was billed at a price that is not known.
    :param drafted: how many responses have ended.
    :param first_sent: when the first request was sent; None: none was.
    :param newest_output: when the newest response ended; None: none has.
    """

    states: Mapping[JobState, int]
    written: int
    unknown: int
    held: int
    failures: Mapping[str, int]
    cost_usd: Decimal
    unpriced: int
    drafted: int
    first_sent: datetime | None
    newest_output: datetime | None

    @property
    def jobs(self) -> int:
        """How many there are."""
        return sum(self.states.values())

    def in_states(self, *states: JobState) -> int:
        """How many are in any of these."""
        return sum(self.states.get(state, 0) for state in states)

    def phase(self, found: JobSet) -> SetPhase:
        """What most of the set waits for."""
        if found.items is None:
            return SetPhase.OPENING
        return next((phase for phase, states in _PHASES.items() if self.in_states(*states)), SetPhase.ENDED)

    @property
    def per_minute(self) -> float | None:
        """How many responses have ended in a minute, from the first request to the newest output; None: too few."""
        if self.first_sent is None or self.newest_output is None or not self.drafted:
            return None
        seconds = (self.newest_output - self.first_sent).total_seconds()
        return None if seconds <= 0 else self.drafted * 60 / seconds

    @property
    def expected_usd(self) -> Decimal | None:
        """What the jobs will have cost, if what is not answered yet costs as much as what is; None: none is."""
        waiting = self.in_states(JobState.QUEUED, JobState.RUNNING)
        return self.cost_usd * (self.drafted + waiting) / self.drafted if self.drafted else None

    @property
    def minutes_to_answers(self) -> float | None:
        """In how many minutes the model will have answered, at the rate so far; None: no one knows, or it has."""
        waiting = self.in_states(JobState.QUEUED, JobState.RUNNING)
        return None if not waiting or self.per_minute is None else waiting / self.per_minute

    def in_words(self, left_out: int = 0) -> str:
        """As one line: ``9,912 applied, 61 rejected, 27 unknown``.

        :param left_out: how many items have no job.
        """
        unknown = min(self.unknown, self.states.get(JobState.APPLYING, 0))
        parts = [
            (self.written, "applied"),
            (self.states.get(JobState.COMPLETED, 0) - self.written, "completed"),
            (self.states.get(JobState.REJECTED, 0), "rejected"),
            (unknown, "unknown"),
            (self.states.get(JobState.APPLYING, 0) - unknown, "applying"),
            *((self.states.get(state, 0), _WORDS[state]) for state in _WORDS),
            (left_out, "left out"),
        ]
        return ", ".join(f"{number:,} {word}" for number, word in parts if number) or "no job"


@dataclass(frozen=True)
class SetWrites:
    """How far the writes of a set have come.

    :param applied: how many effects are applied.
    :param left: how many of approved jobs are not, and wait for their task.
    :param first: when the first one was claimed, and ``newest``: when the newest was applied; None: none was.
    """

    applied: int
    left: int
    first: datetime | None
    newest: datetime | None

    @property
    def minutes_left(self) -> float | None:
        """In how many minutes they will be applied, at the rate so far; None: no one knows, or they are."""
        if self.first is None or self.newest is None or not self.applied or not self.left:
            return None
        return self.left * (self.newest - self.first).total_seconds() / 60 / self.applied


@dataclass(frozen=True)
class SlowJob:
    """A job of a set whose response runs.

    :param since: when its request was sent.
    """

    job_id: int
    job_key: str
    since: datetime


_WORDS: Mapping[JobState, str] = {
    JobState.QUEUED: "queued",
    JobState.RUNNING: "running",
    JobState.REVIEW: "in review",
    JobState.APPROVED: "approved",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.ROLLING_BACK: "rolling back",
    JobState.ROLLED_BACK: "rolled back",
}
