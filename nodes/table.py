"""The table of a run: a row for each fault."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nodes.verdict import Verdict


@dataclass(frozen=True)
class Result:
    """What came of one fault.

    :param went_on: seconds until the last task that the node had in hand was in other hands or had ended; None where
        it had none.
    :param pause: the longest time in seconds without a line in the ledger's history, after the fault.
    :param seconds: from the fault until the last run had ended.
    :param held: jobs of which a person had to resolve a write or a lost request.
    :param cleared: how often a person cleared a run that had failed, or whose retry was late.
    :param unfinished: runs that have not succeeded in time.
    :param unreadable: tasks whose log the API server cannot show.
    :param revived: what ended by itself, a node or a service.
    """

    name: str
    verdict: Verdict
    went_on: float | None
    pause: float
    seconds: float
    held: int
    cleared: int
    unfinished: Sequence[str] = ()
    unreadable: Sequence[str] = ()
    revived: Sequence[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """What is no 0 and has to be one."""
        return [f"{self.name}: {each}" for each in (*self.verdict.differences, *self.unfinished, *self.unreadable)]


_COLUMNS = (
    ("jobs", 5),
    ("writes", 7),
    ("twice", 6),
    ("lost", 5),
    ("off record", 11),
    ("unwarned bills", 15),
    ("unknown subm.", 14),
    ("open", 5),
    ("held", 5),
    ("cleared", 8),
    ("went on", 9),
    ("pause", 8),
    ("all done", 9),
)


def head() -> str:
    """The heading of the table."""
    return f"{'':<{_WIDTH}}" + "".join(f"{name:>{width}}" for name, width in _COLUMNS)


def line(result: Result) -> str:
    """One row."""
    verdict = result.verdict
    cells = [
        verdict.jobs,
        verdict.writes,
        verdict.twice,
        verdict.lost,
        verdict.unrecorded,
        verdict.unwarned,
        verdict.unknown_submissions,
        verdict.open_jobs,
        result.held,
        result.cleared,
        "-" if result.went_on is None else f"{result.went_on:.0f} s",
        f"{result.pause:.0f} s",
        f"{result.seconds:.0f} s",
    ]
    shown = "".join(f"{cell!s:>{width}}" for cell, (_, width) in zip(cells, _COLUMNS, strict=True))
    return f"{result.name:<{_WIDTH}}{shown}"


def not_played(name: str, error: Exception) -> str:
    """The row of a fault that was not played to its end."""
    return f"{name:<{_WIDTH}}  not played to its end: {error}"


_WIDTH = 52
