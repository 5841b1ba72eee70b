"""Where the metrics and spans of the core go in an Airflow process: where Airflow's own go."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_aihandoff import airflow_compat
from airflow_provider_aihandoff.core import signals, spans
from airflow_provider_aihandoff.core.spans import JobContext, Tracer, Value
from airflow_provider_aihandoff.version import __version__

log = logging.getLogger(__name__)


class AirflowMetrics:
    """Airflow's own metrics.

    :param in_task: this process runs a task, and is no server.
    """

    def __init__(self, *, in_task: bool) -> None:
        self._in_task = in_task

    def count(self, name: str, value: int, labels: dict[str, str]) -> None:
        """Add to a counter."""
        airflow_compat.metrics(in_task=self._in_task).incr(name, value, tags=labels)

    def gauge(self, name: str, value: float, labels: dict[str, str]) -> None:
        """Set a gauge."""
        airflow_compat.metrics(in_task=self._in_task).gauge(name, value, tags=labels)

    def timing(self, name: str, seconds: float, labels: dict[str, str]) -> None:
        """Add a duration to a timer."""
        airflow_compat.metrics(in_task=self._in_task).timing(name, timedelta(seconds=seconds), tags=labels)


class _OpenTelemetrySpan:
    def __init__(self, span: Any, error: Any) -> None:
        self._span, self._error = span, error

    def set(self, attributes: Mapping[str, Value]) -> None:
        """Add attributes."""
        self._span.set_attributes(attributes)

    def fail(self, error: BaseException) -> None:
        """Mark it as failed."""
        self._span.set_status(self._error, type(error).__name__)
        self._span.set_attribute("error.type", type(error).__name__)


class OpenTelemetryTracer:
    """OpenTelemetry, as Airflow has set it up in this process. Spans are children of Airflow's span of the task.

    :param trace: the module ``opentelemetry.trace``.
    """

    def __init__(self, trace: Any) -> None:
        self._trace = trace
        self._tracer = trace.get_tracer("airflow_provider_aihandoff", __version__)

    @contextmanager
    def span(
        self, name: str, job: JobContext, attributes: Mapping[str, Value], *, client: bool
    ) -> Iterator[_OpenTelemetrySpan]:
        """Begin a span. An error is not recorded with its text, which may quote content."""
        with self._tracer.start_as_current_span(
            name, **self._about(job, attributes, client), record_exception=False, set_status_on_exception=False
        ) as span:
            yield _OpenTelemetrySpan(span, self._trace.StatusCode.ERROR)

    def ended(
        self,
        name: str,
        job: JobContext,
        attributes: Mapping[str, Value],
        *,
        client: bool,
        began: datetime,
        at: datetime,
    ) -> None:
        """Add a span that has ended."""
        span = self._tracer.start_span(name, **self._about(job, attributes, client), start_time=_nanoseconds(began))
        span.end(end_time=_nanoseconds(at))

    def _about(self, job: JobContext, attributes: Mapping[str, Value], client: bool) -> dict[str, Any]:
        linked = self._trace.SpanContext(
            job.trace_id,
            job.span_id,
            is_remote=True,
            trace_flags=self._trace.TraceFlags(self._trace.TraceFlags.SAMPLED),
        )
        kind = self._trace.SpanKind.CLIENT if client else self._trace.SpanKind.INTERNAL
        link = self._trace.Link(linked, {"aihandoff.link": "job"})
        return {"kind": kind, "attributes": dict(attributes), "links": [link]}


def _nanoseconds(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1_000


def _tracer() -> Tracer | None:
    """The tracer of this process; None where nothing has set up OpenTelemetry. Imports nothing."""
    sdk, api = sys.modules.get("opentelemetry.sdk.trace"), sys.modules.get("opentelemetry.trace")
    if sdk is None or api is None or not isinstance(api.get_tracer_provider(), sdk.TracerProvider):
        return None
    return OpenTelemetryTracer(api)


def observe(*, in_task: bool) -> None:
    """Send the metrics and spans of this process where Airflow's go, from the first time that it opens a ledger."""
    if not signals.is_used():
        signals.use(AirflowMetrics(in_task=in_task))
    if not spans.is_used():
        spans.use(_tracer())


def set_up_metrics() -> None:
    """Send Airflow's metrics where they are configured to go, in a process for which Airflow does not do that."""
    try:
        airflow_compat.set_up_metrics()
    except Exception as error:  # noqa: BLE001  webhooks are taken without metrics too
        log.warning("Metrics are off: %s", type(error).__name__)
