"""How a task waits for an effect: a short while by itself, and for longer without a worker slot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowFailException, BaseOperator

from airflow_provider_aihandoff import settings

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.effects.apply import Wait
    from airflow_provider_aihandoff.core.ledger import Ledger

#: For how many seconds after an outcome was lost notifiers are called again, where all have failed.
NOTICE_FOR = 86_400.0

#: Seconds for which a worker waits by itself; for longer, the task defers.
INLINE_SECONDS = 5.0


def wait_or_defer(
    task: BaseOperator,
    context: Context,
    ledger: Ledger,
    wait: Wait,
    *,
    notifiers: Sequence[BaseNotifier],
    hold_timeout: timedelta | None,
    max_wait: timedelta | None = None,
    ledger_conn_id: str | None,
) -> None:
    """Wait a short while and return; or defer the task, whose ``execute`` is called again with ``not_now``.

    :param notifiers: called once where a person has to resolve the effect.
    :param hold_timeout: how long a person has to resolve the effect; None: without limit.
    :param max_wait: how long a pause or a limit may hold the effect; None: without limit.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    :raises AirflowFailException: no one has resolved it within that time, or it was held for longer.
    :raises TaskDeferred: the task is to wait in the triggerer.
    """
    from airflow_provider_aihandoff.hooks.ledger import LedgerHook
    from airflow_provider_aihandoff.operators import notices
    from airflow_provider_aihandoff.triggers.effect import EffectTrigger

    seconds = wait.seconds
    if wait.held and max_wait is not None and wait.effect.held_since is not None:
        left = (wait.effect.held_since + max_wait - ledger.now()).total_seconds()
        if left <= 0:
            raise AirflowFailException(f"{wait.why} It has waited for as long as its author allows (max_wait).")
        seconds = left if seconds is None else min(seconds, left)
    if seconds is None and not wait.held:
        sent = notices.notify_wait(notifiers, context, ledger, wait.effect)
        held_for = ledger.effects.seconds_unknown(wait.effect.effect_id)
        if hold_timeout is not None:
            seconds = hold_timeout.total_seconds() - held_for
            if seconds <= 0:
                raise AirflowFailException(wait.why)
        if not sent and held_for < NOTICE_FOR:  # it is tried again when the task resumes
            seconds = min(notices.NOTICE_RETRY if seconds is None else seconds, notices.NOTICE_RETRY)
    if seconds is not None and seconds <= INLINE_SECONDS:
        task.log.info("%s Trying again in %.1f s.", wait.why, seconds)
        time.sleep(seconds)
        return
    whom = "until that ends" if wait.held else "for a person"
    task.log.warning("%s Waiting %s.", wait.why, whom if seconds is None else f"{seconds:.0f} s")
    now = ledger.now()
    ledger.close()
    task.defer(
        trigger=EffectTrigger(
            job_id=wait.effect.job_id,
            effect_id=wait.effect.effect_id,
            state=wait.effect.state.value,
            attempt=wait.effect.attempt,
            ledger_conn_id=LedgerHook(ledger_conn_id).ledger_conn_id,
            until=None if seconds is None else (now + timedelta(seconds=seconds)).isoformat(),
            not_before=(now + settings.seconds("min_deferral")).isoformat(),
            not_now=wait.not_now,
            held=wait.held,
        ),
        method_name="execute",
    )
