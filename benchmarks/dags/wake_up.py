"""Responses that end one after the other, some waited for by the hub and some by plain polling. For `wake_up`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NoReturn

from airflow.sdk import Context, dag

from airflow_provider_aihandoff.operators.response import OpenAIBackgroundResponseOperator
from benchmarks.waiting_triggers import POLL_INTERVAL, PollingResponseTrigger

WHAT: dict[str, Any] = {
    "model": "gpt-5.2",
    "inline_wait": timedelta(0),
    "approval": "not required",
    "approval_reason": "it is measured, and writes nothing",
}


class PolledResponseOperator(OpenAIBackgroundResponseOperator):
    """Waits by plain polling."""

    def defer(self, *, trigger: Any, method_name: str, **_: Any) -> NoReturn:
        """Defer to a trigger that polls by itself, in the place of the one that registers with the hub."""
        deadline = datetime.fromisoformat(trigger.deadline).timestamp()
        polling = PollingResponseTrigger(trigger.openai_conn_id, trigger.response_id, POLL_INTERVAL, deadline)
        super().defer(trigger=polling, method_name="resume", kwargs={"job_id": trigger.job_id})

    def resume(self, context: Context, event: dict[str, Any], job_id: int) -> dict[str, Any]:
        """Go on after the wait."""
        return self.execute_complete(context, {"job_id": job_id, "status": event["status"]})


def _requests(words: str) -> list[dict[str, str]]:
    """They end one after the other, when all are submitted, so that none queues for the two cores."""
    return [
        {"job_key": f"{words}:{number}", "input": f"[[standin: delay={75 + 4 * number} {words}]] Write."}
        for number in range(15)
    ]


@dag(schedule=None)
def wake_up() -> None:
    """Fifteen of each."""
    OpenAIBackgroundResponseOperator.partial(task_id="webhook", job_type="webhook", **WHAT).expand_kwargs(_requests(""))
    PolledResponseOperator.partial(task_id="polling", job_type="polling", **WHAT).expand_kwargs(
        _requests("webhook=none")
    )


wake_up()
