"""Changes of an output in review: a person's edit, and another revision that a person asks the model for.

Each is a step within a transaction that has locked the job, and has checked who asks, and about what.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from airflow_provider_aihandoff.core.database import history
from airflow_provider_aihandoff.core.database.connection import LedgerConnection
from airflow_provider_aihandoff.core.database.history import as_json
from airflow_provider_aihandoff.core.digests import digest
from airflow_provider_aihandoff.core.effects.plan_store import void_plans
from airflow_provider_aihandoff.core.errors import CannotChange
from airflow_provider_aihandoff.core.generation.revision_store import COUNTED, next_number, read_revision
from airflow_provider_aihandoff.core.models import Actor, Job
from airflow_provider_aihandoff.core.states import JobEvent, JobState

_INSERT_EDIT = """
    INSERT INTO aihandoff.revisions (job_id, number, author, author_id, author_kind, state, conn_id, request,
        request_digest, deadline, output, output_digest, based_on, created_at, completed_at)
    SELECT job_id, %(number)s, %(author)s, %(author_id)s, %(author_kind)s, 'completed', conn_id, request,
        request_digest, deadline, %(output)s, %(output_digest)s, number, clock_timestamp(), clock_timestamp()
    FROM aihandoff.revisions WHERE revision_id = %(based_on)s"""
#: The request is the one that the model was asked by first; what continues it is put in when it is sent. A person waits
#: for it.
_INSERT_CHANGE = """
    INSERT INTO aihandoff.revisions (job_id, number, author, author_kind, state, conn_id, request, request_digest,
        deadline, based_on, changes, created_at, priority, rate_key, max_wait, expected_output_tokens, unpriced_usd,
        model)
    SELECT job_id, %(number)s, 'model', 'model', 'queued', conn_id, request, request_digest,
        clock_timestamp() + (deadline - created_at), %(based_on)s, %(changes)s, clock_timestamp(),
        'interactive', rate_key, max_wait, expected_output_tokens, unpriced_usd, model
    FROM aihandoff.revisions
    WHERE job_id = %(job_id)s AND author_kind = 'model' AND based_on IS NULL AND number <= %(based_on)s
    ORDER BY number DESC LIMIT 1"""
_FAIL_EDIT = """
    UPDATE aihandoff.revisions SET state = 'failed', output = NULL, output_digest = NULL, error = %s
    WHERE revision_id = %s"""
_BILLED = f"""
    SELECT count(*) FILTER (WHERE {COUNTED}) AS revisions, coalesce(sum(cost_usd), 0) AS cost_usd,
        count(*) FILTER (WHERE cost_usd IS NULL AND response_id IS NOT NULL) AS unpriced
    FROM aihandoff.revisions WHERE job_id = %s AND author_kind = 'model'"""

_NOTHING = "Nothing was recorded. No external write was made."


def is_edit(connection: LedgerConnection, job: Job, output: Any, *, by: Actor) -> bool:
    """Whether this exact edit is the current revision, and no plan was rendered for it yet."""
    if job.state is not JobState.REVIEW or job.review_digest is not None:
        return False
    revision = read_revision(connection, job.job_id, job.revision)
    return revision.editor == by and revision.output_digest == digest(output)


def begin_edit(connection: LedgerConnection, job: Job, output: Any, *, by: Actor) -> Job:
    """Store a person's version of the output as the current revision; its plan is to be rendered.

    :raises CannotChange: it is the output that there is.
    """
    old = read_revision(connection, job.job_id, job.revision)
    output_digest = digest(output)
    if output_digest == old.output_digest:
        raise CannotChange(
            "your edit is the same as the current output.", job=job.label, written=_NOTHING, remedy="Change something."
        )
    number = next_number(connection, job.job_id)
    values = {
        "number": number,
        "author": by.name,
        "author_id": by.user_id,
        "author_kind": by.kind,
        "output": as_json(output),
        "output_digest": output_digest,
        "based_on": old.revision_id,
    }
    void_plans(connection, job)
    connection.execute(_INSERT_EDIT, values)
    return history.move(
        connection,
        job,
        JobEvent.EDITED,
        actor=by,
        detail={"revision": number, "based_on": old.number, "output_digest": output_digest},
        revision=number,
        review_digest=None,
    )


def refuse_edit(connection: LedgerConnection, job: Job, *, error: dict[str, Any], reason: str, actor: Actor) -> Job:
    """Make the revision that was edited the current one again; what was typed is kept as the edit's error.

    One by the model is left as it is.
    """
    edit = read_revision(connection, job.job_id, job.revision)
    if edit.editor is None:
        return job
    connection.execute(_FAIL_EDIT, [as_json({**error, "output": edit.output}), edit.revision_id])
    return history.move(
        connection,
        job,
        JobEvent.EDIT_REFUSED,
        actor=actor,
        reason=reason,
        detail={"revision": edit.number, "based_on": edit.based_on},
        revision=edit.based_on,
    )


def begin_change(connection: LedgerConnection, job: Job, changes: str | None, *, by: Actor) -> Job:
    """Open a revision by the model that follows a reviewer's words.

    :raises CannotChange: there are no words, or a bound is reached: of revisions, or of what they may cost.
    """
    _check_bounds(connection, job, changes)
    number = next_number(connection, job.job_id)
    void_plans(connection, job)
    values = {"number": number, "job_id": job.job_id, "based_on": job.revision, "changes": changes}
    connection.execute(_INSERT_CHANGE, values)
    return history.move(
        connection,
        job,
        JobEvent.CHANGES_REQUESTED,
        actor=by,
        reason=changes,
        detail={"revision": number, "based_on": job.revision, "digest": job.review_digest},
        revision=number,
        review_digest=None,
        review_deadline=None,
        decision_id=None,
    )


def _check_bounds(connection: LedgerConnection, job: Job, changes: str | None) -> None:
    if not (changes or "").strip():
        raise CannotChange(
            "a request for changes needs a comment: the model reads it.",
            job=job.label,
            written=_NOTHING,
            remedy="Write a comment.",
        )
    row = connection.execute(_BILLED, [job.job_id]).fetchone()
    assert row is not None
    instead = "Edit the output yourself, approve or reject it."
    if row["revisions"] >= job.max_revisions:
        raise CannotChange(
            f"the model has made {row['revisions']} of {job.max_revisions} revisions.",
            job=job.label,
            written=_NOTHING,
            remedy=f"{instead} The author of the Dag can raise max_revisions.",
        )
    limit: Decimal | None = job.max_cost_usd
    if limit is not None and (row["unpriced"] or row["cost_usd"] >= limit):
        spent = "an amount that is not known" if row["unpriced"] else f"{row['cost_usd']} USD"
        raise CannotChange(
            f"its revisions have cost {spent}, and the limit for further revisions is {limit} USD.",
            job=job.label,
            written=_NOTHING,
            remedy=f"{instead} The author of the Dag can raise max_cost_usd.",
        )
