"""Compares what the witnesses have seen with what the ledger says. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.states import (
    SETTLED_EFFECT_STATES,
    TERMINAL_JOB_STATES,
    EffectState,
    JobEvent,
    JobState,
)
from chaos.effects import COLLECTIONS
from chaos.target import Change


@dataclass(frozen=True)
class Row:
    """One row of ``chaos_rows``: a write of the database effect, or of its undo."""

    row_id: int
    name: str
    undoes: int | None


@dataclass(frozen=True)
class Witness:
    """What was really done, as those say to whom it was done.

    :param responses: for each job key, how many responses were made.
    :param cancelled: how many of them were cancelled before they ended, so that the stand-in bills nothing for them.
    """

    changes: Sequence[Change]
    rows: Sequence[Row]
    responses: Mapping[str, int]
    cancelled: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Count:
    """What came of a run. Each problem is a sentence."""

    jobs: int = 0
    writes: int = 0
    duplicates: list[str] = field(default_factory=list)
    """Writes that happened more than once."""
    lost: list[str] = field(default_factory=list)
    """Writes that the ledger counts as applied, and that never happened."""
    unrecorded: list[str] = field(default_factory=list)
    """Writes that happened, and are not on the record."""
    misdirected: list[str] = field(default_factory=list)
    """Writes that name another record than the one of their job."""
    broken: list[str] = field(default_factory=list)
    """Histories in which a line does not follow from the one before."""
    extra_responses: int = 0
    """Responses beyond one for each revision."""
    cancelled_extra: int = 0
    """Of these, how many were cancelled before they ended."""
    unwarned: list[str] = field(default_factory=list)
    """Extra responses of which the ledger has not warned."""
    states: Counter[str] = field(default_factory=Counter)
    open: int = 0
    """Jobs that have not come to an end."""
    histories: dict[str, list[str]] = field(default_factory=dict)
    """What happened to each job that is open or has a problem, line by line."""

    @property
    def problems(self) -> list[str]:
        """All of them."""
        return [
            *self.duplicates,
            *self.lost,
            *self.unrecorded,
            *self.misdirected,
            *self.broken,
            *self.unwarned,
        ]


def duplicates(witness: Witness) -> dict[str, str]:
    """Writes that happened more than once, by any attempt: each as a sentence, with the key of its work."""
    names = [
        (f"created: {each.variant} {each.collection}", each.name) for each in witness.changes if each.do == "create"
    ]
    names += [(f"removed: {each.record}", each.name) for each in witness.changes if each.do == "remove"]
    names += [("inserted", row.name) for row in witness.rows if row.undoes is None]
    names += [(f"undone: row {row.undoes}", row.name) for row in witness.rows if row.undoes is not None]
    return {f"{times} times {what} of {name}": name for (what, name), times in Counter(names).items() if times > 1}


def misdirected(witness: Witness) -> list[str]:
    """The links that do not name the record of the same work, each as a sentence."""
    made = [change for change in witness.changes if change.do == "create"]
    records = {(each.variant, each.name, each.record) for each in made if each.collection == COLLECTIONS["create"]}
    links = (each for each in made if each.collection == COLLECTIONS["link"])
    return [
        f"the link of {each.name} names {each.about}"
        for each in links
        if (each.variant, each.name, each.about) not in records
    ]


def compare(records: Collection[JobRecord], witness: Witness) -> Count:
    """Compare the ledger with its witnesses."""
    made = {change.key: change for change in witness.changes if change.key}
    rows = {f"row {row.row_id}": row for row in witness.rows}
    doubled = duplicates(witness)
    count = Count(jobs=len(records), duplicates=list(doubled), misdirected=misdirected(witness))
    doubled_jobs = {name.partition(".")[0] for name in doubled.values()}  # an element's name begins with its job's
    recorded: set[str] = set()
    owner: dict[str, JobRecord] = {}
    for record in records:
        before = len(count.problems) + count.open
        count.states[record.job.state.value] += 1
        count.open += record.job.state not in TERMINAL_JOB_STATES
        if (line := first_break(record.events, record.job)) is not None:
            count.broken.append(f"{record.job.label}: line {line} does not follow")
        owner |= {effect.effect_key: record for effect in record.effects}
        recorded |= _compare_effects(record, {*made, *rows}, count)
        _compare_responses(record, witness, count)
        if len(count.problems) + count.open > before or record.job.job_key in doubled_jobs:
            count.histories[record.job.label] = _history(record)
    for key, write in (*made.items(), *rows.items()):
        if key not in recorded:
            count.unrecorded.append(f"{key}: {write}")
            if key in owner:
                count.histories[owner[key].job.label] = _history(owner[key])
    return count


def _compare_effects(record: JobRecord, there: Collection[str], count: Count) -> set[str]:
    """Check that each write that the ledger counts as applied exists; return where each is, as the ledger has it."""
    recorded = set()
    for effect in record.effects:
        if effect.state is not EffectState.APPLIED:
            continue
        count.writes += 1
        where = f"row {effect.external_id}" if effect.kind == "postgres" else effect.effect_key
        recorded.add(where)
        if where not in there and not _was_gone(effect.name, effect.result):
            count.lost.append(f"{record.job.label}: {effect.name} counts as applied, and is not there")
    if record.job.state is JobState.COMPLETED and any(
        effect.state not in SETTLED_EFFECT_STATES for effect in record.current_effects
    ):
        count.lost.append(f"{record.job.label} is completed without all of its effects")
    return recorded


def _compare_responses(record: JobRecord, witness: Witness, count: Count) -> None:
    key = record.job.job_key
    extra = witness.responses.get(key, 0) - len(record.revisions)
    if extra > 0:
        count.extra_responses += extra
        count.cancelled_extra += min(extra, witness.cancelled.get(key, 0))
        if extra > sum(revision.unknown_submissions for revision in record.revisions) + len(_known_extra(record)):
            count.unwarned.append(f"{record.job.label} had {extra} responses of which the ledger did not warn")


def _known_extra(record: JobRecord) -> set[str]:
    """The responses that the history names beside those that the revisions have."""
    named = {event.detail.get("surplus") for event in record.events}
    named |= {event.detail.get("response_id") for event in record.events if event.event == JobEvent.OUTPUT_LATE}
    return {str(each) for each in named if each} - {str(revision.response_id) for revision in record.revisions}


def _history(record: JobRecord) -> list[str]:
    lines = [
        f"{event.at:%H:%M:%S.%f} {event.event}, {event.actor}: {event.reason or event.detail}"
        for event in record.events
    ]
    return [*lines, *(f"{effect.name} is {effect.state.value}: {effect.result}" for effect in record.effects)]


def _was_gone(name: str, result: Mapping[str, object] | None) -> bool:
    """An undo that found the record gone, so that there was nothing to remove."""
    return name.startswith("undo:") and (result or {}).get("status") in (404, 410)
