"""The time of a job as a picture: its phases, and each attempt, webhook and decision on them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import accumulate

from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import ActorKind, Event
from airflow_provider_aihandoff.core.moments import lasting
from airflow_provider_aihandoff.core.states import JobEvent, JobState

#: Units from the left end of the picture to the right one.
WIDTH = 1000.0

#: The newest phases and marks that a picture has room for.
MAX_PHASES = 40
MAX_MARKS = 300

#: A shorter phase is drawn this wide, so that it can be seen.
_LEAST = 40.0


class Phase(StrEnum):
    """What a job is doing for a while."""

    QUEUED = "queued"
    MODEL = "model"
    REVIEW = "review"
    WRITING = "writing"
    UNDOING = "undoing"


class MarkKind(StrEnum):
    """What happens at one moment."""

    ATTEMPT = "attempt"  # a request to the model or to a target is about to be sent
    WEBHOOK = "webhook"
    DECISION = "decision"


_PHASE_OF: Mapping[str, Phase] = {
    JobState.QUEUED: Phase.QUEUED,
    JobState.RUNNING: Phase.MODEL,
    JobState.REVIEW: Phase.REVIEW,
    JobState.APPROVED: Phase.WRITING,
    JobState.APPLYING: Phase.WRITING,
    JobState.ROLLING_BACK: Phase.UNDOING,
}

_ATTEMPTS = frozenset({JobEvent.SUBMIT_INTENDED, JobEvent.EFFECT_CLAIMED})
_DECISIONS = frozenset(
    {
        JobEvent.APPROVED,
        JobEvent.REJECTED,
        JobEvent.VOTED,
        JobEvent.EDITED,
        JobEvent.CHANGES_REQUESTED,
        JobEvent.EFFECT_RESOLVED,
        JobEvent.SUBMIT_RESOLVED,
        JobEvent.CANCEL_REQUESTED,
        JobEvent.CANCELLED,
        JobEvent.ROLL_BACK_STARTED,
    }
)


@dataclass(frozen=True)
class Bar:
    """One phase.

    :param x: where it begins in the picture, and ``width``: how far it goes.
    :param goes_on: it has not ended.
    """

    phase: Phase
    begin: datetime
    end: datetime
    goes_on: bool
    x: float
    width: float

    @property
    def lasted(self) -> str:
        """For how long, in words."""
        return f"{lasting(self.end - self.begin)}{' so far' if self.goes_on else ''}"


@dataclass(frozen=True)
class Mark:
    """One attempt, webhook or decision.

    :param x: where in the picture.
    :param what: in words.
    :param who: as the history has them.
    """

    kind: MarkKind
    at: datetime
    x: float
    what: str
    who: str


@dataclass(frozen=True)
class JobTime:
    """The picture, and the table behind it.

    :param rows: phases and marks, in the order in which they began.
    """

    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]

    @property
    def rows(self) -> list[Bar | Mark]:
        """Everything in the picture, the oldest first; a phase before what happens in it."""
        rows: list[Bar | Mark] = [*self.bars, *self.marks]
        return sorted(rows, key=lambda row: row.begin if isinstance(row, Bar) else row.at)

    @property
    def summary(self) -> str:
        """The phases in one line: ``queued 2 s, model 40 s, review 3 h so far``."""
        return ", ".join(f"{bar.phase} {bar.lasted}" for bar in self.bars)


def job_time(record: JobRecord) -> JobTime:
    """Lay out the time of a job: phases in proportion to how long they lasted, but none too narrow to be seen."""
    phases = list(_phases(record))[-MAX_PHASES:]
    spans = [end - begin for _, begin, end, _ in phases]
    widths = _widths(spans)
    places = [0.0, *accumulate(widths)]
    bars = tuple(
        Bar(phase, begin, end, goes_on, places[number], widths[number])
        for number, (phase, begin, end, goes_on) in enumerate(phases)
    )
    marks = [
        Mark(kind, event.at, _place(bars, event.at), _what(event), event.actor)
        for event in record.events
        if (kind := _kind(event)) is not None and bars and event.at >= bars[0].begin
    ]
    return JobTime(bars, tuple(marks[-MAX_MARKS:]))


def _phases(record: JobRecord) -> Iterator[tuple[Phase, datetime, datetime, bool]]:
    """Each phase with its begin and its end, and whether it goes on."""
    phase: Phase | None = None
    begin = record.at
    for event in record.events:
        now = _PHASE_OF.get(event.to_state)
        if now is phase:
            continue
        if phase is not None:
            yield phase, begin, event.at, False
        phase, begin = now, event.at
    if phase is not None:
        yield phase, begin, max(begin, record.at), True


def _widths(spans: Sequence[timedelta]) -> list[float]:
    """How wide each phase is drawn; together :data:`WIDTH`."""
    if not spans:
        return []
    least = min(_LEAST, WIDTH / len(spans))
    total = sum(spans, timedelta()) or timedelta(seconds=1)
    room = WIDTH - least * len(spans)
    return [least + room * (span / total) for span in spans] if any(spans) else [WIDTH / len(spans)] * len(spans)


def _place(bars: Sequence[Bar], at: datetime) -> float:
    """Where a moment is: in the last phase that has begun by then, or at its end."""
    bar = [each for each in bars if each.begin <= at][-1]
    span = bar.end - bar.begin
    return bar.x + bar.width * min(1.0, (at - bar.begin) / span if span else 0.0)


def _kind(event: Event) -> MarkKind | None:
    if event.event in _ATTEMPTS:
        return MarkKind.ATTEMPT
    if event.actor_kind == ActorKind.WEBHOOK:  # as the row has it
        return MarkKind.WEBHOOK
    return MarkKind.DECISION if event.event in _DECISIONS else None


def _what(event: Event) -> str:
    effect = event.detail.get("effect")
    return f"{event.event}: {effect}" if effect else event.event
