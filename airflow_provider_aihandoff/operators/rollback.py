"""The operator that rolls back what a job has written."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_aihandoff.core import strict_json
from airflow_provider_aihandoff.operators.job_argument import JobReference, job_reference, resolve_job_id
from airflow_provider_aihandoff.operators.rendering import RendersText
from airflow_provider_aihandoff.operators.retries import RETRIES, RETRY_DELAY, final_errors
from airflow_provider_aihandoff.operators.task_links import ReviewLink
from airflow_provider_aihandoff.task_states import owner_of

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseNotifier, Context

    from airflow_provider_aihandoff.core.ledger import JobRecord
    from airflow_provider_aihandoff.core.models import Owner


class RollbackOperator(RendersText):
    """Undo each applied effect of a job, the last one first, each at most once.

    Each undo is an effect of its own: claimed, sent with a key, and probed or left to a person where its outcome is
    unknown. The task waits for that without a worker slot, and continues by itself.

    Before it sends anything, it fails without a retry where the job does not exist, where none of its effects is
    applied, where one is under way or unknown, and where one that is not in ``leave`` cannot be undone, or has an undo
    in the ledger that is not the approved one. Only this task calls functions that undo: no page and no command does.

    **Retry, clear, kill, two at once**: safe. What is undone stays undone and is not sent again; the task continues
    with the rest. A task that is cleared after the job was written again leaves the new write as it is, unless the
    task that makes the job was cleared too and names it.

    **Refused**: a target that refuses an undo fails the task without a retry, and the job stays ``rolling_back``. Once
    the cause is fixed, clear the task: it sends that undo again, and those after it.

    The XCom is ``{"job_id", "state", "undone"}``, with the names of the effects that were undone, in that order.

    :param job: the operator that makes the job, its XCom, or a job id (templated).
    :param reason: why, for the record (templated).
    :param leave: names of effects that are to stay as they are: a list, or a text that is the JSON of one (templated).
        A roll-back that has begun continues with the names that it began with.
    :param hold_timeout: how long the task waits for a person to resolve an undo, before it fails; None waits without
        limit.
    :param notifiers: Airflow's notifiers, called in the worker once for each undo that waits for a person; as those of
        an ``ApprovalSensor``.
    :param ledger_conn_id: connection of the ledger; by default ``[aihandoff] ledger_conn_id``.
    """

    template_fields: Sequence[str] = ("job", "reason", "leave")
    ui_color = "#f5dcd2"
    operator_extra_links = (ReviewLink(),)

    def __init__(
        self,
        *,
        job: JobReference,
        reason: str,
        leave: Sequence[str] | str = (),
        hold_timeout: timedelta | None = None,
        notifiers: Sequence[BaseNotifier] = (),
        ledger_conn_id: str | None = None,
        retries: int | None = RETRIES,
        retry_delay: timedelta | float = RETRY_DELAY,
        **kwargs: Any,
    ) -> None:
        super().__init__(retries=retries, retry_delay=retry_delay, **kwargs)
        self.job = job_reference(job)
        self.reason = reason
        self.leave = leave
        self.hold_timeout = hold_timeout
        self.notifiers = list(notifiers)
        self.ledger_conn_id = ledger_conn_id

    def execute(self, context: Context, event: dict[str, Any] | None = None) -> dict[str, Any]:
        """Begin or continue; or wait until the outcome of an undo is known."""
        from airflow_provider_aihandoff.core.effects.apply import Wait
        from airflow_provider_aihandoff.core.effects.roll_back import roll_back
        from airflow_provider_aihandoff.hooks.ledger import LedgerHook
        from airflow_provider_aihandoff.operators.waiting import wait_or_defer
        from airflow_provider_aihandoff.task_memory import memory_of

        job_id, reason, leave = resolve_job_id(self.job, self.task_id), self._reason(), self._leave()
        owner, ti = owner_of(context), context["ti"]
        not_now = (event or {}).get("not_now", 0)
        with final_errors(self.ledger_conn_id, job_id), LedgerHook(self.ledger_conn_id).get_conn() as ledger:
            record = ledger.record(job_id)
            if before := _rolled_back_before(record, owner, self.job):
                self.log.warning(
                    "%s: this task has rolled back revision %d. A newer one stays as it is; a new run rolls it back.",
                    record.job.label,
                    before,
                )
                return _result(record, before)
            while True:
                done = roll_back(
                    ledger,
                    job_id,
                    actor=owner.actor,
                    reason=reason,
                    leave=leave,
                    not_now=not_now,
                    last_try=ti.try_number > ti.max_tries,
                    in_worker=True,
                    memory=memory_of(context),
                )
                if not isinstance(done, Wait):
                    return _result(ledger.record(job_id), done.revision)
                not_now = done.not_now
                wait_or_defer(
                    self,
                    context,
                    ledger,
                    done,
                    notifiers=self.notifiers,
                    hold_timeout=self.hold_timeout,
                    ledger_conn_id=self.ledger_conn_id,
                )

    def _reason(self) -> str:
        if not str(self.reason or "").strip():
            raise self._unusable("reason", "must say why")
        return str(self.reason)

    def _leave(self) -> list[str]:
        """The names, without the blank ones that a form leaves."""
        try:
            given: Any = self.leave
            names = strict_json.loads(given, unique_keys=True) if isinstance(given, str) else list(given or ())
        except ValueError:
            names = self.leave
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise self._unusable("leave", f"is not a list of names: {self.leave!r}")
        return [name.strip() for name in names or () if name.strip()]

    def _unusable(self, argument: str, what: str) -> AirflowFailException:
        return AirflowFailException(
            f"The argument `{argument}` of the task {self.task_id!r} {what}. Nothing was undone. This step made no "
            "external write. Fix the argument, then clear this task."
        )


def _rolled_back_before(record: JobRecord, owner: Owner, reference: Any) -> int | None:
    """The earlier revision that this task has rolled back, unless it was asked to roll back a newer one.

    It has, where an attempt of this task instance has claimed one of its undos.
    """
    from airflow_provider_aihandoff.core.states import JobEvent

    asked = reference.get("revision") if isinstance(reference, dict) else None
    claimed = {
        event.detail["effect_key"]
        for event in record.events
        if event.event == JobEvent.EFFECT_CLAIMED and event.by.instance == owner.actor.instance
    }
    undone = [
        effect.revision
        for effect in record.effects
        if effect.undoes is not None and effect.revision < record.job.revision and effect.effect_key in claimed
    ]
    before = max(undone, default=None)
    return None if before is None or (asked is not None and asked > before) else before


def _result(record: JobRecord, revision: int) -> dict[str, Any]:
    """What became of one revision, whose undos are all applied."""
    from airflow_provider_aihandoff.core.states import JobState

    names = {effect.effect_id: effect.name for effect in record.effects}
    undone = [
        names[effect.undoes] for effect in record.effects if effect.undoes is not None and effect.revision == revision
    ]
    return {"job_id": record.job.job_id, "state": JobState.ROLLED_BACK.value, "undone": undone}
