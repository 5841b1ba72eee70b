"""Reads a response that has ended. For a while after it did, OpenAI may not find it, or give an unusual answer."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from airflow_provider_aihandoff.core.backoff import backoff
from airflow_provider_aihandoff.core.crashpoints import reached
from airflow_provider_aihandoff.core.generation.provider import (
    NOT_FOUND,
    ModelProvider,
    ModelResponse,
    ProviderError,
    ResponseNotFound,
)

log = logging.getLogger(__name__)

#: Requests for a response that has ended but cannot be read yet, before the task fails and Airflow retries.
READ_TRIES = 8


class ResponseUnreadable(RuntimeError):
    """A response has ended and cannot be read yet; a retry reads it again."""


def read_ended(
    provider: ModelProvider, response_id: str, *, sleep: Callable[[float], None] = time.sleep
) -> ModelResponse:
    """Retrieve a response that has ended.

    :raises ResponseUnreadable: it still cannot be read; Airflow's retry attaches and reads it again.
    """
    problem = ""
    for failures in range(1, READ_TRIES + 1):
        reached("wait.retrieve", "before call")
        try:
            response = provider.retrieve(response_id)
        except ProviderError as error:
            problem = NOT_FOUND if isinstance(error, ResponseNotFound) else error.what.rstrip(".")
        else:
            # Asking again for what is there would pay twice.
            if response.readable or (response.ended and failures == READ_TRIES):
                reached("wait.retrieve", "after call")
                return response
            problem = "no answer that can be used"
        log.warning("Reading response %s: %s; trying again.", response_id, problem)
        sleep(backoff(failures, base=1.0, cap=10.0))
    raise ResponseUnreadable(
        f"The response {response_id} has ended, but cannot be read ({problem}). No external write was made "
        "and nothing is lost. A retry of this task reads it again."
    )
