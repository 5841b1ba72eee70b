"""Waits without a worker slot until it is known what became of an effect, or it may be tried again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_aihandoff.triggers.hub import hub_for
from airflow_provider_aihandoff.triggers.waits import EffectWait


class EffectTrigger(BaseTrigger):
    """Fire once when an effect is no longer as it was, or a time has come.

    A triggerer that restarts runs it again with the same absolute time. Killing the task changes nothing: what became
    of the effect is still to be found out, and the task does so when it is cleared.

    :param state: the effect's state when the task deferred.
    :param attempt: the number of its newest attempt then.
    :param until: absolute, ISO 8601; None waits for a change alone.
    :param not_before: absolute, ISO 8601; it does not fire before it.
    :param not_now: how many times in a row the target has asked to come back later; handed back in the event.
    :param held: a pause or a limit holds it; it fires when that has ended.
    """

    def __init__(
        self,
        *,
        job_id: int,
        effect_id: int,
        state: str,
        attempt: int,
        ledger_conn_id: str,
        until: str | None,
        not_before: str,
        not_now: int = 0,
        held: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.job_id = job_id
        self.effect_id = effect_id
        self.state = state
        self.attempt = attempt
        self.ledger_conn_id = ledger_conn_id
        self.until = until
        self.not_before = not_before
        self.not_now = not_now
        self.held = held

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class path and the arguments: ids and times, no content and no secret."""
        names = ("job_id", "effect_id", "state", "attempt", "ledger_conn_id", "until", "not_before", "not_now", "held")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, fire once, and end."""
        hub = hub_for(self.ledger_conn_id)
        wait = EffectWait(self.job_id, self.effect_id, self.state, self.attempt, held=self.held)
        await hub.wait_for(wait, self.until)
        await hub.sleep_until(self.not_before)
        yield TriggerEvent({"job_id": self.job_id, "not_now": self.not_now})
