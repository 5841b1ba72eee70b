"""What a person decides in the terminal: what became of a write or of a request whose answer was lost."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from airflow_provider_aihandoff.core.errors import NothingLost
from airflow_provider_aihandoff.core.jobs.job_filter import JobFilter, Need
from airflow_provider_aihandoff.core.ledger import JobRecord, Ledger
from airflow_provider_aihandoff.core.models import Actor
from airflow_provider_aihandoff.core.states import EffectState

Log = Callable[[], Iterable[Mapping[str, Any]]]
"""Reads the log of a system outside."""
REVIEWER = "alice"
_ACTOR = Actor.user(REVIEWER)


def resolve_writes(ledger: Ledger, requests: Log) -> set[int]:
    """Resolve every write whose outcome is unknown, from the log of the target; return the jobs.

    :param requests: what the target has received.
    """
    resolved = set[int]()
    if not (waiting := _that_need(ledger, Need.UNKNOWN_EFFECT)):
        return resolved
    applied = {each["idempotency_key"]: each["record_id"] for each in requests() if each["outcome"] == "APPLIED"}
    for record in waiting:
        for effect in record.effects:
            if effect.state is EffectState.UNKNOWN:
                ledger.effects.resolve(
                    effect.effect_id,
                    applied=effect.effect_key in applied,
                    external_id=applied.get(effect.effect_key),
                    actor=_ACTOR,
                    why="searched the target's log",
                    attempt=effect.attempt,
                )
                resolved.add(record.job.job_id)
    return resolved


def send_lost_requests_again(ledger: Ledger, responses: Log) -> set[int]:
    """Have every lost request sent again that OpenAI's log has no response to; return the jobs.

    Where there is one, its webhook brings it.

    :param responses: what OpenAI has made.
    """
    resolved = set[int]()
    if not (waiting := _that_need(ledger, Need.HELD)):
        return resolved
    metadata = [each["response"]["metadata"] for each in responses()]
    made = {(each.get("aihandoff_job"), each.get("aihandoff_revision")) for each in metadata}
    for revision in (record.revision for record in waiting):
        if (str(revision.job_id), str(revision.number)) in made:
            continue
        with suppress(NothingLost):  # a webhook was sooner
            ledger.submission.resolve(
                revision.job_id,
                send_again=True,
                seen=revision.unknown_submissions,
                actor=_ACTOR,
                why="searched OpenAI's log",
            )
            resolved.add(revision.job_id)
    return resolved


def _that_need(ledger: Ledger, need: Need) -> list[JobRecord]:
    return [ledger.record(job.job_id) for job in ledger.search.page(JobFilter(need=need))]
