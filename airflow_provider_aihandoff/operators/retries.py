"""How our operators retry: how often by default, and which errors a retry cannot fix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aihandoff.core.errors import (
    CannotRegenerate,
    CannotRollBack,
    EffectRefused,
    InputChanged,
    JobCancelled,
    JobFailed,
    JobNotApproved,
    JobNotFound,
    JobRolledBack,
    PlanError,
    PlanNotApproved,
    RequestError,
    RevisionsExhausted,
    TemplateError,
)

#: Retries of our operators where the author sets none: executing one again is free, since it attaches to what exists.
#: They stand in the signatures: Airflow reads them there before it applies a Dag's `default_args` or maps a task.
RETRIES = 3
RETRY_DELAY = timedelta(seconds=10)

#: A retry cannot help here; a person has to do something first.
_FINAL_ERRORS = (
    CannotRegenerate,
    CannotRollBack,
    EffectRefused,
    InputChanged,
    JobCancelled,
    JobFailed,
    JobNotApproved,
    JobNotFound,
    JobRolledBack,
    PlanError,
    PlanNotApproved,
    RequestError,
    RevisionsExhausted,
    TemplateError,
)


@contextmanager
def final_errors() -> Iterator[None]:
    """Fail the task without a retry where a retry cannot help; leave other errors to Airflow's retries."""
    try:
        yield
    except _FINAL_ERRORS as error:
        raise AirflowFailException(str(error)) from error
