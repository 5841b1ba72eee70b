"""Writes into `concepts.md` what that page takes from the code: the state diagrams and the attach rules.

`python docs/generate_states.py` brings the page up to date. With `--check` it writes nothing, and exits with 1 when
the page is stale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TypeVar

from airflow_provider_aihandoff.core.jobs.attach import Step, decide_attachment
from airflow_provider_aihandoff.core.states import (
    EFFECT_TRANSITIONS,
    JOB_TRANSITIONS,
    TERMINAL_JOB_STATES,
    EffectState,
    JobEvent,
    JobState,
)

PAGE = Path(__file__).parent / "concepts.md"

State = TypeVar("State", bound=StrEnum)
Event = TypeVar("Event", bound=StrEnum)

_STEPS: Mapping[Step, str] = {
    Step.SUBMIT: "send the request, unless it was sent",
    Step.WAIT: "wait for its response",
    Step.DONE: "return what is stored",
    Step.REVISE: "**new revision**",
    Step.REFUSE_CANCELLED: "error: cancelled",
    Step.REFUSE_CHANGED: "error: other work",
}


def diagram(
    transitions: Mapping[tuple[State, Event], State], born: tuple[str, State], ends: Iterable[State] = ()
) -> str:
    """A state machine as Mermaid text. Events that leave the state as it is are left out.

    :param born: the event that makes a row, and the state that it has then.
    :param ends: states in which nothing is left to do, although something leads out of them. One that nothing leads
        out of is an end in any case.
    """
    event, first = born
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, cause), to in transitions.items():
        if to is not state:
            arrows.setdefault((state.value, to.value), []).append(cause.value)
    left, reached = ({arrow[end] for arrow in arrows} for end in (0, 1))
    lines = [f"[*] --> {first.value}: {event}"]
    lines += [f"{state} --> {to}: {' / '.join(causes)}" for (state, to), causes in arrows.items()]
    lines += [f"{state} --> [*]" for state in sorted({*(reached - left), *ends})]
    return "\n".join(["```mermaid", "stateDiagram-v2", *(f"    {line}" for line in lines), "```"])


def attach_rules() -> str:
    """What a task does with a job that exists, as a table of state by input and run."""
    head = ("the job is", "same input, same Dag run", "same input, another run", "other input, nothing written")
    rows: list[tuple[str, ...]] = [(*head, "other input, something may be written"), ("---",) * 5]
    for state in (state for state in JobState if state in _reachable()):
        same = (_steps(state, same_input=True, same_run=run) for run in (True, False))
        other = (_steps(state, same_input=False, touched=touched) for touched in (False, True))
        rows.append((f"`{state.value}`", *same, *other))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _steps(state: JobState, *, same_input: bool, same_run: bool | None = None, touched: bool | None = None) -> str:
    """What happens, in words; a fact that is None may be so or not."""
    runs, touches = ((True, False) if fact is None else (fact,) for fact in (same_run, touched))
    steps = {
        decide_attachment(state, same_input=same_input, same_run=run, touched=touch)
        for run, touch in product(runs, touches)
    }
    return " or ".join(sorted(_STEPS[step] for step in steps))


def _reachable() -> set[JobState]:
    return {JobState.QUEUED, *(to for (state, _), to in JOB_TRANSITIONS.items() if to is not state)}


def blocks() -> dict[str, str]:
    """What stands between the markers of the page, by the markers' names."""
    return {
        "job states": diagram(JOB_TRANSITIONS, (JobEvent.CREATED.value, JobState.QUEUED), TERMINAL_JOB_STATES),
        "attach rules": attach_rules(),
        "effect states": diagram(EFFECT_TRANSITIONS, ("plan", EffectState.PLANNED)),
    }


def rendered(page: str) -> str:
    """The text of the page with every block up to date.

    :raises ValueError: the page lacks the markers of a block.
    """
    for name, block in blocks().items():
        begin, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"{PAGE.name} lacks {begin.strip()!r}, or {end!r} after it.")
        page = f"{before}{begin}{block}\n{end}{after}"
    return page


def main() -> None:
    """Bring the page up to date, or say that it is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the page is stale")
    check = parser.parse_args().check
    page = PAGE.read_text("utf-8")
    fresh = rendered(page)
    if check and fresh != page:
        sys.exit(f"{PAGE.name} is stale: run `python docs/generate_states.py`.")
    if not check:
        PAGE.write_text(fresh, "utf-8")


if __name__ == "__main__":
    main()
