"""How a task waits for the response that runs for its job, and stores what it leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseOperator

from airflow_provider_aihandoff import settings

if TYPE_CHECKING:
    from openai import OpenAI
    from pydantic import BaseModel

    from airflow_provider_aihandoff.core.ledger import Ledger
    from airflow_provider_aihandoff.core.models import Actor, Job, Revision

#: Seconds between two looks while the worker itself waits.
_INLINE_POLL = 0.5

#: Seconds that one look at a response may take.
RETRIEVE_TIMEOUT = 30.0


def openai_client(conn_id: str) -> OpenAI:
    """A client for the connection that a revision was, or is, submitted over."""
    from airflow.providers.openai.hooks.openai import OpenAIHook

    return OpenAIHook(conn_id).conn.with_options(timeout=RETRIEVE_TIMEOUT)


def wait_inline(task: BaseOperator, revision: Revision, *, patience: timedelta | None) -> bool:
    """Look for a short while whether the response ends. True when there is something to finish.

    :param patience: how long; by default ``[aihandoff] inline_wait``.
    """
    from airflow_provider_aihandoff.core.generation.openai.outcome import terminal_status
    from airflow_provider_aihandoff.core.states import RevisionState

    if revision.state is not RevisionState.RUNNING or revision.response_id is None:
        return True
    until = time.monotonic() + (settings.seconds("inline_wait") if patience is None else patience).total_seconds()
    client = openai_client(revision.conn_id)
    while time.monotonic() < until:
        try:
            response = client.responses.retrieve(revision.response_id)
        except Exception as error:  # noqa: BLE001 - the trigger waits it out
            task.log.info("Looking at %s: %s", revision.response_id, type(error).__name__)
        else:
            if terminal_status(response, revision.response_id):
                return True
        time.sleep(_INLINE_POLL)
    return False


def defer_until_ended(
    task: BaseOperator, ledger: Ledger, revision: Revision, *, ledger_conn_id: str | None, method_name: str
) -> None:
    """Defer until the response of a revision has ended, or its deadline has passed.

    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    :param method_name: the method of the task that is called with the event.
    :raises TaskDeferred: always.
    """
    from airflow_provider_aihandoff.hooks.ledger import LedgerHook
    from airflow_provider_aihandoff.triggers.response import OpenAIBackgroundResponseTrigger

    assert revision.response_id is not None
    ledger.close()
    not_before = datetime.now(UTC) + settings.seconds("min_deferral")
    task.defer(
        trigger=OpenAIBackgroundResponseTrigger(
            job_id=revision.job_id,
            revision=revision.number,
            response_id=revision.response_id,
            openai_conn_id=revision.conn_id,
            ledger_conn_id=LedgerHook(ledger_conn_id).ledger_conn_id,
            deadline=revision.deadline.isoformat(),
            not_before=not_before.isoformat(),
            poll_interval=settings.number("poll_interval"),
        ),
        method_name=method_name,
    )


def store_ended(
    ledger: Ledger, job: Job, revision: Revision, *, output_type: type[BaseModel] | None, actor: Actor
) -> Job:
    """Store what the response of a revision has left, if nobody has."""
    from airflow_provider_aihandoff.core.generation.openai.outcome import read_output
    from airflow_provider_aihandoff.core.generation.settle import read_ended
    from airflow_provider_aihandoff.core.states import JobState

    if job.state is not JobState.RUNNING or revision.response_id is None:
        return job
    response = read_ended(openai_client(revision.conn_id), revision.response_id)
    output, why = read_output(response, output_type, revision.request)
    return ledger.outputs.store(job.job_id, revision.number, output, actor=actor, reason=why or None)


def give_up_if_over(ledger: Ledger, event: Mapping[str, Any], *, actor: Actor) -> None:
    """End a revision whose deadline passed, or whose response is gone, as the trigger says; unless it ended after all.

    :param event: the trigger's.
    """
    from airflow_provider_aihandoff.core.generation.stop import give_up

    if event["status"] not in ("deadline", "gone"):
        return
    job_id, number = int(event["job_id"]), int(event["revision"])
    client = openai_client(ledger.revision(job_id, number).conn_id)
    give_up(ledger, client, job_id, number, why=event["status"], actor=actor)
