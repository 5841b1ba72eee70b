"""Jobs in every state, made by one release and continued by another one, on the same ledger.

Run as a program, it does either part with the package and the tests of the checkout that stands first on the path: that
of an earlier release.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace

from airflow_provider_aihandoff.core.database.history import first_break
from airflow_provider_aihandoff.core.generation.outcome import Output
from airflow_provider_aihandoff.core.ledger import Ledger
from airflow_provider_aihandoff.core.models import Actor, EffectPlan, Job
from airflow_provider_aihandoff.core.review.rules import Person
from airflow_provider_aihandoff.core.states import JobState, ResponseStatus
from tests.factories import LEASE, OWNER, TEST, approve, ask, draft, effect_plan, job_spec, submit

EVE = Actor.user("eve")
UNDO = {"kind": "http", "plan": {"method": "DELETE", "url": "http://cms/posts/{external_id}"}}


def plan() -> EffectPlan:
    return replace(effect_plan(), undo=UNDO)


def make(ledger: Ledger, mark: str) -> None:
    """Bring a job into each state; each key is the mark and the state."""
    for state in JobState:
        _MAKE[state](ledger, f"{mark}:{state.value}")
    states = {job.job_key: job.state.value for job in ledger.jobs(limit=1000) if job.job_key.startswith(mark)}
    assert states == {f"{mark}:{state.value}": state.value for state in JobState}, states


def go_on(ledger: Ledger, mark: str) -> None:
    """Take the next step of each job with a mark, and check its history."""
    jobs = {job.job_key: job for job in ledger.jobs(limit=1000) if job.job_key.startswith(mark)}
    for state in JobState:
        job = jobs[f"{mark}:{state.value}"]
        assert job.state is state
        _GO_ON[state](ledger, job)
        record = ledger.record(job.job_id)
        assert record.job.state is AFTER[state], (state, record.job.state)
        assert first_break(record.events, record.job) is None


def _queued(ledger: Ledger, key: str) -> None:
    ledger.submission.open(job_spec(job_key=key))


def _running(ledger: Ledger, key: str) -> None:
    submit(ledger, job_spec(job_key=key), f"resp {key}")


def _review(ledger: Ledger, key: str) -> Job:
    return ask(ledger, draft(ledger, job_spec(job_key=key), response_id=f"resp {key}"), plan())


def _approved(ledger: Ledger, key: str) -> Job:
    return approve(ledger, _review(ledger, key))


def _applying(ledger: Ledger, key: str) -> Job:
    job = _approved(ledger, key)
    claim = ledger.effects.claim(job.job_id, plan(), lease=LEASE, actor=TEST)
    ledger.effects.lose(claim, error="cut off", actor=TEST)
    return job


def _completed(ledger: Ledger, key: str) -> Job:
    job = _approved(ledger, key)
    _write(ledger, job, plan())
    return job


def _rejected(ledger: Ledger, key: str) -> None:
    job = _review(ledger, key)
    assert job.review_digest is not None
    ledger.reviews.decide(job.job_id, "reject", digest=job.review_digest, person=Person("bob"))


def _failed(ledger: Ledger, key: str) -> None:
    revision = submit(ledger, job_spec(job_key=key), f"resp {key}")
    ledger.outputs.store(revision.job_id, 1, Output(ResponseStatus.FAILED, None, error={"message": "no"}), actor=TEST)


def _cancelled(ledger: Ledger, key: str) -> None:
    ledger.cancels.cancel(_review(ledger, key).job_id, actor=EVE, reason="enough")


def _rolling_back(ledger: Ledger, key: str) -> Job:
    job = _completed(ledger, key)
    ledger.roll_backs.start(job.job_id, actor=EVE, reason="wrong")
    return job


def _rolled_back(ledger: Ledger, key: str) -> None:
    _undo(ledger, _rolling_back(ledger, key))


def _write(ledger: Ledger, job: Job, planned: EffectPlan) -> None:
    claim = ledger.effects.claim(job.job_id, planned, lease=LEASE, actor=TEST)
    ledger.effects.confirm(claim, external_id="7", result=None, actor=TEST)


def _undo(ledger: Ledger, job: Job) -> None:
    for undo in ledger.record(job.job_id).undos:
        _write(ledger, job, undo.as_plan)


def _store(ledger: Ledger, job: Job) -> None:
    ledger.outputs.store(job.job_id, job.revision, Output(ResponseStatus.COMPLETED, "A kettle."), actor=TEST)


def _submit(ledger: Ledger, job: Job) -> None:
    another_run = replace(OWNER, run_id="manual__2", ti_id="ti-2")
    submit(ledger, job_spec(job_key=job.job_key, owner=another_run), f"resp again {job.job_key}")


def _resolve(ledger: Ledger, job: Job) -> None:
    (effect,) = ledger.record(job.job_id).effects
    ledger.effects.resolve(effect.effect_id, applied=True, external_id="7", actor=EVE, why="it is there")


def _roll_back(ledger: Ledger, job: Job) -> None:
    ledger.roll_backs.start(job.job_id, actor=EVE, reason="wrong")
    _undo(ledger, job)


_MAKE: dict[JobState, Callable[[Ledger, str], object]] = {
    JobState.QUEUED: _queued,
    JobState.RUNNING: _running,
    JobState.REVIEW: _review,
    JobState.APPROVED: _approved,
    JobState.APPLYING: _applying,
    JobState.COMPLETED: _completed,
    JobState.REJECTED: _rejected,
    JobState.FAILED: _failed,
    JobState.CANCELLED: _cancelled,
    JobState.ROLLING_BACK: _rolling_back,
    JobState.ROLLED_BACK: _rolled_back,
}
_GO_ON: dict[JobState, Callable[[Ledger, Job], object]] = {
    JobState.QUEUED: _submit,
    JobState.RUNNING: _store,
    JobState.REVIEW: approve,
    JobState.APPROVED: lambda ledger, job: _write(ledger, job, plan()),
    JobState.APPLYING: _resolve,
    JobState.COMPLETED: _roll_back,
    JobState.REJECTED: _submit,
    JobState.FAILED: _submit,
    JobState.CANCELLED: lambda _ledger, _job: None,
    JobState.ROLLING_BACK: _undo,
    JobState.ROLLED_BACK: lambda _ledger, _job: None,
}
#: In which state the job is after that.
AFTER = {
    JobState.QUEUED: JobState.RUNNING,
    JobState.RUNNING: JobState.REVIEW,
    JobState.REVIEW: JobState.APPROVED,
    JobState.APPROVED: JobState.COMPLETED,
    JobState.APPLYING: JobState.COMPLETED,
    JobState.COMPLETED: JobState.ROLLED_BACK,
    JobState.REJECTED: JobState.RUNNING,
    JobState.FAILED: JobState.RUNNING,
    JobState.CANCELLED: JobState.CANCELLED,
    JobState.ROLLING_BACK: JobState.ROLLED_BACK,
    JobState.ROLLED_BACK: JobState.ROLLED_BACK,
}


def main() -> None:
    part, mark, conninfo = sys.argv[1:]
    with Ledger(json.loads(conninfo)) as ledger:
        {"make": make, "go_on": go_on}[part](ledger, mark)


if __name__ == "__main__":
    main()
