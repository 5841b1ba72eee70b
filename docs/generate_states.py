"""Writes into the docs what they take from the code: the state diagrams, the attach rules, and what is said of a job.

`python docs/generate_states.py` brings the pages up to date. With `--check` it writes nothing, and exits with 1 when
one is stale.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import TypeVar

from airflow_provider_aihandoff.core.generation.lost import WEBHOOKS_WITHIN
from airflow_provider_aihandoff.core.jobs.attach import Step, decide_attachment
from airflow_provider_aihandoff.core.jobs.cases import CASES
from airflow_provider_aihandoff.core.states import (
    EFFECT_TRANSITIONS,
    JOB_TRANSITIONS,
    TERMINAL_JOB_STATES,
    EffectState,
    JobEvent,
    JobState,
)

CONCEPTS, OPERATIONS = (Path(__file__).parent / name for name in ("concepts.md", "operations.md"))

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


#: What stands in the table of cases in the place of a fact of the job.
_FACTS: Mapping[str, str] = {
    **dict.fromkeys(("since", "deadline", "until", "webhook", "asked", "review_deadline", "held"), "*time*"),
    "task": "the draft task",
    "Task": "The draft task",
    "draft": "the draft task",
    "job": "JOB_ID",
    "effect": "EFFECT",
    "effect_id": "EFFECT_ID",
    "effect_task": "EFFECT_TASK",
    "key": "EFFECT_KEY",
    "conn": "CONN_ID",
    "response": "RESPONSE_ID",
    "batch": "BATCH_ID",
    "reason": "*the reason*",
    "refusal": "*its answer*",
    "acknowledged": "",
    "error": "",
    "probe": "",
    "status": "*status*",
    "days": str(WEBHOOKS_WITHIN.days),
    "by": "*the attempt*",
    "attempt": "*n*",
    "made": "*n*",
    "max": "*m*",
    "votes": "*n*",
    "needed": "*m*",
    "voters": "*users*",
    "approvers": "*the approvers*",
    "decider": "*the user or the policy*",
    "timeout": "the job is rejected, or fails (as its author has said)",
    "waiting": "*effects*",
    "undo_waiting": "*undos*",
    "progress": "*n* of *m* effects applied",
    "undone": "*n* of *m* effects undone",
    "held_by": "*its id*",
    "held_since": "*time*",
    "held_why": "*who, what and why.*",
    "held_effect": "*effect*",
    "undone_all": "All applied effects were undone.",
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
    ended: set[str] = (reached - left).union(state.value for state in ends)
    lines += [f"{state} --> [*]" for state in sorted(ended)]
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


def case_table() -> str:
    """What is said of a job in each case: the same text as on its page."""
    rows = ["| the job is | what its page says, and what happens by itself | a retry or a clear, and what you can do |"]
    rows.append("| --- | --- | --- |")
    for case, words in CASES.items():
        now, then, retry = (text.format_map(_FACTS) for text in (words.now, words.then, words.retry))
        steps = " ".join(str(step).format_map(_FACTS) for step in words.steps)
        rows.append(f"| **{case.value}** | {now} {then} | {' '.join(filter(None, (retry, steps)))} |")
    return "\n".join(rows)


def blocks() -> dict[Path, dict[str, str]]:
    """What stands between the markers of each page, by the markers' names."""
    return {
        CONCEPTS: {
            "job states": diagram(JOB_TRANSITIONS, (JobEvent.CREATED.value, JobState.QUEUED), TERMINAL_JOB_STATES),
            "attach rules": attach_rules(),
            "effect states": diagram(EFFECT_TRANSITIONS, ("plan", EffectState.PLANNED)),
        },
        OPERATIONS: {"cases": case_table()},
    }


def rendered(path: Path, page: str) -> str:
    """The text of a page with every block up to date.

    :raises ValueError: the page lacks the markers of a block.
    """
    for name, block in blocks()[path].items():
        begin, end = f"<!-- generated: {name} -->\n", "<!-- end -->"
        before, opened, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise ValueError(f"{path.name} lacks {begin.strip()!r}, or {end!r} after it.")
        page = f"{before}{begin}{block}\n{end}{after}"
    return page


def main() -> None:
    """Bring the pages up to date, or say which is not."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when a page is stale")
    check = parser.parse_args().check
    for path in blocks():
        page = path.read_text("utf-8")
        fresh = rendered(path, page)
        if check and fresh != page:
            sys.exit(f"{path.name} is stale: run `python docs/generate_states.py`.")
        if not check:
            path.write_text(fresh, "utf-8")


if __name__ == "__main__":
    main()
