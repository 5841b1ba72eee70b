"""Records of jobs as the ledger would give them, with no ledger."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from airflow_provider_aihandoff.core.ledger import JobRecord
from airflow_provider_aihandoff.core.models import ActorKind, Decision, Effect, Event, Job, Revision
from airflow_provider_aihandoff.core.states import EffectState, JobState, RevisionState

NOW = datetime(2026, 7, 20, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=3)
BEFORE = NOW - timedelta(minutes=5)
DIGEST = "d" * 64


def _empty(record: type) -> dict[str, Any]:
    return dict.fromkeys(record.__dataclass_fields__)  # type: ignore[attr-defined]


def revision(state: RevisionState = RevisionState.COMPLETED, number: int = 1, **changes: Any) -> Revision:
    known = {
        "job_id": 7,
        "number": number,
        "author": "model",
        "author_kind": "model",
        "state": state,
        "conn_id": "openai_default",
        "deadline": LATER,
        "submissions": 1,
        "unknown_submissions": 0,
        "created_at": BEFORE,
    }
    return Revision(**{**_empty(Revision), **known, **changes})


def lost(**changes: Any) -> Revision:
    known = {"unknown_submissions": 1, "submit_lease_until": NOW + timedelta(minutes=2)}
    return revision(RevisionState.SUBMITTING, **{**known, **changes})


def running(**changes: Any) -> Revision:
    known = {"response_id": "resp_1", "response_status": "running"}
    return revision(RevisionState.RUNNING, **{**known, **changes})


def failed(kind: str, **changes: Any) -> Revision:
    final = changes.pop("final", False)
    return revision(RevisionState.FAILED, error={"kind": kind, "final": final}, **changes)


def effect(state: EffectState, name: str = "publish", number: int = 1, **changes: Any) -> Effect:
    known = {
        "effect_id": number,
        "job_id": 7,
        "revision": 1,
        "name": name,
        "effect_key": f"aih-7-r1-{name}",
        "state": state,
        "attempt": 0 if state in (EffectState.PLANNED, EffectState.SKIPPED, EffectState.VOID) else 1,
        "claimed_by": "task:d/r/publish#1",
        "claimed_at": BEFORE,
        "claim_until": NOW + timedelta(minutes=2),
        "unknown_since": BEFORE,
        "created_at": BEFORE,
        "updated_at": BEFORE,
        "plan": {},
        "after_effects": [],
        "resends": 0,
        "not_now": False,
        "find_counts": True,
        "own": True,
        "task_id": name,
    }
    return Effect(**{**_empty(Effect), **known, **changes})


def event(name: str, reason: str | None = None, **detail: Any) -> Event:
    known = {"at": BEFORE, "event": name, "reason": reason, "detail": detail, "actor_kind": ActorKind.OTHER}
    return Event(**{**_empty(Event), **known})


def decision(verdict: str = "approve", kind: str = "user", by: str = "bob") -> Decision:
    known = {"decision_id": 1, "verdict": verdict, "digest": DIGEST, "decided_by": by, "decided_by_kind": kind}
    return Decision(**{**_empty(Decision), **known, "created_at": BEFORE})


def record(
    state: JobState,
    *effects: Effect,
    of: Revision | None = None,
    events: tuple[Event, ...] = (),
    decisions: tuple[Decision, ...] = (),
    webhook: datetime | None = None,
    **changes: Any,
) -> JobRecord:
    """A job in a state.

    :param of: its revision.
    :param webhook: the newest one on its connection.
    """
    known = {
        "job_id": 7,
        "job_type": "publishing",
        "job_key": "post:kettle",
        "state": state,
        "requested_by": "alice",
        "approval": "required",
        "max_revisions": 3,
        "revision": 1,
        "review_digest": DIGEST,
        "decision_id": 1 if decisions else None,
        "dag_id": "publishing",
        "run_id": "manual__1",
        "task_id": "draft",
        "map_index": -1,
        "created_at": BEFORE,
        "updated_at": BEFORE,
    }
    return JobRecord(
        job=Job(**{**_empty(Job), **known, **changes}),
        revisions=[of or revision()],
        decisions=list(decisions),
        effects=list(effects),
        events=list(events),
        altered_undos={},
        at=NOW,
        newest_webhook=webhook,
    )


TOKEN = UUID(int=1)
