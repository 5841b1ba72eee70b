"""How our operators retry and fail: how often by default, which errors a retry cannot fix, and how an error ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException, AirflowSkipException

from airflow_provider_aihandoff.core.errors import (
    BatchRefused,
    CannotRegenerate,
    CannotRollBack,
    EffectRefused,
    InputChanged,
    JobCancelled,
    JobFailed,
    JobNotApproved,
    JobNotFound,
    JobRolledBack,
    LedgerSchemaError,
    LedgerUnavailable,
    PlanError,
    PlanNotApproved,
    RequestError,
    RevisionsExhausted,
    SetNotFound,
    SetRefused,
    TemplateError,
)
from airflow_provider_aihandoff.core.invisible import escape

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

#: Retries of our operators where the author sets none: executing one again is free, since it attaches to what exists.
#: They stand in the signatures: Airflow reads them there before it applies a Dag's `default_args` or maps a task.
RETRIES = 3
RETRY_DELAY = timedelta(seconds=10)

#: A retry cannot help here; a person has to do something first.
_FINAL_ERRORS = (
    BatchRefused,
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
    SetNotFound,
    SetRefused,
    TemplateError,
)


log = logging.getLogger(__name__)


def is_retry(context: Context, retries: int | None) -> bool:
    """Whether Airflow tries a task again by itself: an attempt since it was made, or cleared, came before this one.

    :param retries: of the task.
    """
    ti: Any = context["ti"]
    return bool(ti.try_number > ti.max_tries - (retries or 0) + 1)


#: What an error that has its explanation is marked with.
_EXPLAINED = "_aihandoff_explained"


@dataclass
class Subject:
    """The job that a task is about, as far as it is known when the task fails.

    :param key: type and key, where the id is not known.
    """

    job_id: int | None = None
    key: tuple[str, str] | None = None


@contextmanager
def final_errors(ledger_conn_id: str | None = None, job_id: int | None = None) -> Iterator[Subject]:
    """Fail the task without a retry where a retry cannot help; leave other errors to Airflow's retries.

    An error ends with what there is to say of the job, where the ledger can be read.

    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    :param job_id: the job, where it is known from the beginning.
    """
    subject = Subject(job_id)
    try:
        yield subject
    except AirflowSkipException:
        raise
    except Exception as error:
        if not hasattr(error, _EXPLAINED) and (said := _explanation(error, ledger_conn_id, subject)):
            _add(error, said)
        if not isinstance(error, _FINAL_ERRORS):
            raise
        final = AirflowFailException(str(error))
        if hasattr(error, _EXPLAINED):
            setattr(final, _EXPLAINED, True)
        raise final from error


def _explanation(error: Exception, ledger_conn_id: str | None, subject: Subject) -> str | None:
    """What there is to say of the job; None where it is not known, or the ledger cannot be read. Raises nothing."""
    from airflow_provider_aihandoff.core.jobs.explanation import explain
    from airflow_provider_aihandoff.hooks.ledger import LedgerHook

    if isinstance(error, (LedgerUnavailable, LedgerSchemaError)) or (subject.job_id or subject.key) is None:
        return None
    try:
        with LedgerHook(ledger_conn_id).get_conn() as ledger:
            job_id = subject.job_id or ledger.job_id_of(*(subject.key or ("", "")))
            return None if job_id is None else escape(str(explain(ledger.record(job_id))))
    except Exception as unread:  # noqa: BLE001 - it must not stand before the error itself
        log.warning("What is known of the job cannot be added to the error: %s.", type(unread).__name__)
        return None


def _add(error: Exception, said: str) -> None:
    """Have the text of an error end with an explanation."""
    setattr(error, _EXPLAINED, True)
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (f"{error.args[0]}\n{said}",)
    else:
        error.add_note(said)
