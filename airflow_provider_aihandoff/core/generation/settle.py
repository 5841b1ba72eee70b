"""Reads a response that has ended. For a while after it did, OpenAI may not find it, or answer oddly."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.generation.openai.outcome import terminal_status

if TYPE_CHECKING:
    from openai import OpenAI

log = logging.getLogger(__name__)

#: Looks at a response that has ended but cannot be read yet, before the task fails and Airflow retries.
READ_TRIES = 8


class ResponseUnreadable(RuntimeError):
    """A response has ended and cannot be read yet; a retry reads it again."""


def read_ended(client: OpenAI, response_id: str, *, sleep: Callable[[float], None] = time.sleep) -> Any:
    """Retrieve a response that has ended.

    :raises ResponseUnreadable: it still cannot be read; Airflow's retry attaches and reads it again.
    """
    problem = ""
    for failures in range(1, READ_TRIES + 1):
        reached("wait.retrieve", "before call")
        try:
            response: Any = client.responses.retrieve(response_id)
            status = terminal_status(response, response_id)
            # For a moment, a response that completed can come without its output; asking anew would pay twice.
            has_output = status != "completed" or response.output is not None
            if status and (has_output or failures == READ_TRIES):
                reached("wait.retrieve", "after call")
                return response
            problem = "no answer that can be used"
        except Exception as error:  # noqa: BLE001 - a transient error must not end a paid job
            problem = type(error).__name__
        log.warning("Reading response %s: %s; trying again.", response_id, problem)
        sleep(backoff(failures, base=1.0, cap=10.0))
    raise ResponseUnreadable(
        f"The response {response_id} has ended, but cannot be read ({problem}). Nothing was written outside and "
        "nothing is lost: a retry of this task reads it again."
    )
