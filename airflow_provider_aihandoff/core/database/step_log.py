"""What the log and the metrics say of a step of a protocol, once it is committed: one line, without content.

The line names the job, its revision, the effect and the attempt. It has no reason, no name of a person and no key of a
job, which people and models may have written.
"""

from __future__ import annotations

import json
import logging
import re

from airflow_provider_aihandoff.core import signals
from airflow_provider_aihandoff.core.models import Event, Job, JobHead

log = logging.getLogger("airflow_provider_aihandoff.steps")

#: A value that needs no quotes.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")


def say_step(job: Job | JobHead, line: Event) -> None:
    """Log and count one line of a job's history.

    :param job: as it is after the step.
    """
    if log.isEnabledFor(logging.INFO):
        log.info("%s", in_fields(job, line))
    signals.count(signals.STEPS, job_type=job.job_type, step=line.event, state=line.to_state)


def in_fields(job: Job | JobHead, line: Event) -> str:
    """A step as ``name=value`` pairs on one line; a value with other characters than those of a word is in quotes."""
    fields = {
        "step": line.event,
        "job": job.job_id,
        "revision": line.detail.get("revision", job.revision),
        "effect": line.detail.get("effect"),
        "attempt": line.detail.get("attempt"),
        "state": line.to_state,
        "event": line.seq,
        "by": line.actor_kind.value,
    }
    return " ".join(f"{name}={_quoted(value)}" for name, value in fields.items() if value is not None)


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
