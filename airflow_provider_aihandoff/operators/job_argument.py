"""What an operator takes as its job: the operator that made it, that one's XCom, or a job id."""

from __future__ import annotations

import re
from typing import Any

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator
from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.definitions.mappedoperator import MappedOperator
from airflow.sdk.definitions.xcom_arg import PlainXComArg

#: An id of a job, as a text, and the largest one.
_JOB_ID = re.compile(r"[0-9]{1,19}")
_MAX_JOB_ID = 2**63 - 1

#: Characters of a reference in a message.
_SHOWN = 200

#: What an operator takes as its job: the operator that made it, that one's XCom, or the id.
JobReference = Any


def job_reference(job: JobReference) -> Any:
    """Turn the operator that makes a job into its XCom, which also makes it an upstream task.

    :raises ValueError: it is a mapped operator, which makes many jobs.
    """
    maker = job.operator if isinstance(job, PlainXComArg) and job.key == BaseXCom.XCOM_RETURN_KEY else job
    if isinstance(maker, MappedOperator):
        raise ValueError(
            f"job={maker.task_id!r} is a mapped task, which makes many jobs, and a task is for one. Put the draft, its "
            "approval and its effects into a task group, and map the group (docs/operators.md, Mapped task groups); or "
            "map this task as well, with .expand(job=draft.output)."
        )
    return job.output if isinstance(job, BaseOperator) else job


def source_of(reference: Any) -> Any:
    """What tells two references to the same job apart from others before either is resolved."""
    if isinstance(reference, BaseOperator):
        return reference.task_id
    return reference.operator.task_id if isinstance(reference, PlainXComArg) else reference


def set_id_of(reference: Any) -> int | None:
    """The id of the set that a rendered reference names; None where it names no set."""
    value = reference.get("set_id") if isinstance(reference, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def resolve_job_id(reference: Any, task_id: str) -> int:
    """The id of the job that a rendered reference names.

    :raises AirflowFailException: it names none.
    """
    value: Any = reference.get("job_id") if isinstance(reference, dict) else reference
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    if not _JOB_ID.fullmatch(text.strip()) or int(text) > _MAX_JOB_ID:
        raise AirflowFailException(
            f"The argument `job` of the task {task_id!r} does not name a job: {_shown(reference)}. No external write "
            "was made. Give it the operator that makes the job, or a job id."
        )
    return int(text)


def _shown(reference: Any) -> str:
    """As much of what was given instead of a job as tells its author what it is."""
    text = repr(reference)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
