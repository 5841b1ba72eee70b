"""The metrics: what each is called, and the seam through which they leave the core. Imports nothing.

Nothing is sent until a process has set a sink: see :mod:`hooks.observability`. A sink that fails keeps no job from
going on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

#: Values of one label in one process; every further one is sent as :data:`OTHERS`. Types of jobs and models come from
#: Dags, which may make one for each run.
MAX_VALUES = 100

#: Stands for the values of a label beyond :data:`MAX_VALUES`.
OTHERS = "others"

#: Characters of a label's value. The others mean something to StatsD or to InfluxDB's form of it.
_FOREIGN = re.compile(r"[^A-Za-z0-9_.@/-]")
_LENGTH = 64


class Kind(StrEnum):
    """What can be done with a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    TIMER = "timer"


@dataclass(frozen=True)
class Metric:
    """One metric.

    :param name: as this package gives it to Airflow, which puts ``[metrics] statsd_prefix`` or ``otel_prefix`` and a
        dot before it.
    :param labels: the names of its labels. No value of one names a job, a person or a record.
    :param about: what it counts or measures, with the unit.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    about: str


STEPS = Metric(
    "aihandoff.steps",
    Kind.COUNTER,
    ("job_type", "step", "state"),
    "Lines of the history of jobs: each step of a protocol, and the state that the job has after it",
)
RESPONSES = Metric(
    "aihandoff.responses", Kind.COUNTER, ("job_type", "model", "status"), "Responses whose end was recorded"
)
RESPONSE_TIME = Metric(
    "aihandoff.response_time", Kind.TIMER, ("job_type", "model"), "From a request until its output was recorded"
)
TOKENS = Metric("aihandoff.tokens", Kind.COUNTER, ("job_type", "model", "direction"), "Tokens, `input` or `output`")
COST = Metric("aihandoff.cost_micro_usd", Kind.COUNTER, ("job_type", "model"), "Cost in millionths of a US dollar")
UNPRICED = Metric(
    "aihandoff.responses_unpriced", Kind.COUNTER, ("job_type", "model"), "Responses with usage, whose price is unknown"
)
UNKNOWN_SUBMISSIONS = Metric(
    "aihandoff.unknown_submissions", Kind.COUNTER, ("job_type", "model"), "Requests whose answer was lost"
)
RETRIES = Metric("aihandoff.retries", Kind.COUNTER, ("what",), "Further tries of a `request` or of an `effect`")
DECISIONS = Metric("aihandoff.decisions", Kind.COUNTER, ("job_type", "verdict", "by"), "Decisions, by kind of decider")
DECISION_TIME = Metric(
    "aihandoff.decision_time", Kind.TIMER, ("job_type", "by"), "From asking for a decision until the job had it"
)
EFFECTS = Metric("aihandoff.effects", Kind.COUNTER, ("target", "step"), "Steps of effects, by kind of target")
EFFECT_TIME = Metric("aihandoff.effect_time", Kind.TIMER, ("target",), "Duration of a call that writes")
CLAIMS_EXPIRED = Metric(
    "aihandoff.claims_expired", Kind.COUNTER, ("target",), "Claims that expired without an outcome of their attempt"
)
PROBES = Metric("aihandoff.probes", Kind.COUNTER, ("target", "outcome"), "Answers of probes")
PROBE_TRIALS = Metric(
    "aihandoff.probe_trials",
    Kind.COUNTER,
    ("target", "moment", "proves"),
    "Trials of a probe `before` and `after` a write, and whether the probe proves something (`yes` or `no`)",
)
WEBHOOKS = Metric("aihandoff.webhooks", Kind.COUNTER, ("conn_id", "outcome"), "Webhooks")
WEBHOOK_DELAY = Metric(
    "aihandoff.webhook_delay", Kind.TIMER, ("conn_id",), "From the event at OpenAI until its webhook was recorded"
)
POLLS = Metric("aihandoff.polls", Kind.COUNTER, ("conn_id", "outcome"), "Polls of responses by triggerers")
EVENTS = Metric(
    "aihandoff.events",
    Kind.COUNTER,
    ("outcome",),
    "Tries to send an event to a subscriber: `delivered`, `failed`, or `dead` where it was given up",
)
FINDINGS = Metric(
    "aihandoff.findings",
    Kind.COUNTER,
    ("kind", "result"),
    "Findings of the maintenance Dag: `done`, `failed`, or `left` to a person or the next run",
)
JOBS = Metric("aihandoff.jobs", Kind.GAUGE, ("job_type", "state"), "Jobs that have not ended")
OLDEST_WAIT = Metric("aihandoff.oldest_wait_seconds", Kind.GAUGE, ("cause",), "Age of the oldest wait; 0 without one")
UNKNOWN_EFFECTS = Metric(
    "aihandoff.unknown_effects",
    Kind.GAUGE,
    (),
    "Jobs with an effect that may have been written, and waits for a probe or a person",
)
FAILED_JOBS = Metric(
    "aihandoff.jobs_failed", Kind.GAUGE, (), "Jobs that failed within 14 days, and that no one has acknowledged"
)
LOST_REQUESTS = Metric(
    "aihandoff.lost_requests", Kind.GAUGE, (), "Jobs whose request was lost, and whose response is not known yet"
)
BUDGET_WAITS = Metric("aihandoff.budget_waits", Kind.GAUGE, (), "Jobs that wait for room in a budget")
QUARANTINED = Metric("aihandoff.webhooks_quarantined", Kind.GAUGE, (), "Webhooks in quarantine")
SILENT = Metric(
    "aihandoff.webhooks_silent",
    Kind.GAUGE,
    ("conn_id",),
    "1 where the webhooks of a connection fell silent while its responses ended, else 0",
)
DEAD_EVENTS = Metric(
    "aihandoff.events_dead", Kind.GAUGE, (), "Events for subscribers that were given up, and not replayed"
)
OVERDUE_REVIEWS = Metric("aihandoff.reviews_overdue", Kind.GAUGE, (), "Jobs whose review is past its deadline")
OVERDUE_RESPONSES = Metric("aihandoff.responses_overdue", Kind.GAUGE, (), "Jobs whose response is past its deadline")
SLOW_RESPONSES = Metric(
    "aihandoff.responses_slow",
    Kind.GAUGE,
    (),
    "Jobs whose response runs far longer than those of its type usually do",
)
STALE_CLAIMS = Metric("aihandoff.claims_stale", Kind.GAUGE, (), "Jobs with a claim that has expired without an outcome")
WEBHOOK_AGE = Metric(
    "aihandoff.webhook_age_seconds",
    Kind.GAUGE,
    ("conn_id",),
    "Age of the newest webhook of a connection whose responses run; 0 where none runs",
)
BILL_DIFFERENCE = Metric(
    "aihandoff.bill_difference_usd",
    Kind.GAUGE,
    ("project_id",),
    "What OpenAI has billed in 7 days beyond what the ledger knows of, in US dollars",
)
LAST_RECONCILED = Metric(
    "aihandoff.reconciled_at", Kind.GAUGE, (), "When the maintenance Dag ran last, in seconds since 1970"
)

METRICS = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


class Sink(Protocol):
    """Where metrics go."""

    def count(self, name: str, value: int, labels: dict[str, str], /) -> None:
        """Add to a counter."""

    def gauge(self, name: str, value: float, labels: dict[str, str], /) -> None:
        """Set a gauge."""

    def timing(self, name: str, seconds: float, labels: dict[str, str], /) -> None:
        """Add a duration to a timer."""


_sink: Sink | None = None
_seen: defaultdict[str, set[str]] = defaultdict(set)


def use(sink: Sink | None) -> None:
    """Send the metrics of this process there from now on; None: nowhere."""
    global _sink
    _sink = sink
    _seen.clear()


def is_used() -> bool:
    """Whether the metrics of this process go anywhere."""
    return _sink is not None


def count(metric: Metric, value: int = 1, /, **labels: object) -> None:
    """Add to a counter; 0 is not sent.

    :raises TypeError: these are not its labels.
    """
    _check(metric, Kind.COUNTER, labels)
    if _sink is not None and value:
        with suppress(Exception):
            _sink.count(metric.name, value, _bounded(labels))


def gauge(metric: Metric, value: float, /, **labels: object) -> None:
    """Set a gauge.

    :raises TypeError: these are not its labels.
    """
    _check(metric, Kind.GAUGE, labels)
    if _sink is not None:
        with suppress(Exception):
            _sink.gauge(metric.name, value, _bounded(labels))


def timing(metric: Metric, seconds: float, /, **labels: object) -> None:
    """Add a duration to a timer. One that is negative, by two clocks, counts as 0.

    :raises TypeError: these are not its labels.
    """
    _check(metric, Kind.TIMER, labels)
    if _sink is not None:
        with suppress(Exception):
            _sink.timing(metric.name, max(seconds, 0.0), _bounded(labels))


def _check(metric: Metric, kind: Kind, labels: dict[str, object]) -> None:
    if metric.kind is not kind or set(labels) != set(metric.labels):
        raise TypeError(f"{metric.name} is a {metric.kind} with the labels {metric.labels}")


def _bounded(labels: dict[str, object]) -> dict[str, str]:
    return {name: label_value(name, value) for name, value in labels.items()}


def label_value(name: str, value: object) -> str:
    """What is sent as the value of a label."""
    text = _FOREIGN.sub("_", str(value))[:_LENGTH] or "none"
    seen = _seen[name]
    if text not in seen and len(seen) >= MAX_VALUES:
        return OTHERS
    seen.add(text)
    return text
