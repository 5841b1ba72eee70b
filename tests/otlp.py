"""A receiver of OTLP over HTTP, which decodes what it gets with OpenTelemetry's own protobufs."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor


@dataclass(frozen=True)
class Received:
    """One span, as it arrived."""

    name: str
    kind: int
    trace_id: bytes
    span_id: bytes
    parent: bytes
    attributes: dict[str, Any]
    links: list[tuple[bytes, bytes]]
    seconds: float
    failed: bool
    raw: bytes


class Otlp:
    """What has arrived."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        self.port = 0

    @property
    def endpoint(self) -> str:
        """Where traces are sent."""
        return f"http://127.0.0.1:{self.port}/v1/traces"

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += [_received(span) for span in scope.spans]

    def named(self, name: str) -> Received:
        """The only span of this name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found


def _value(value: Any) -> Any:
    which = value.WhichOneof("value")
    if which == "array_value":
        return [_value(part) for part in value.array_value.values]
    return getattr(value, which)


def _received(span: Any) -> Received:
    return Received(
        name=span.name,
        kind=span.kind,
        trace_id=span.trace_id,
        span_id=span.span_id,
        parent=span.parent_span_id,
        attributes={pair.key: _value(pair.value) for pair in span.attributes},
        links=[(link.trace_id, link.span_id) for link in span.links],
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        raw=span.SerializeToString(),
    )


@contextmanager
def serving() -> Iterator[Otlp]:
    """Receive what is exported, by whichever process."""
    otlp = Otlp()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            otlp.take(gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    otlp.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield otlp
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def receiving(monkeypatch: Any) -> Iterator[Otlp]:
    """Set up OpenTelemetry for this process as Airflow does, and receive what it exports."""
    with serving() as otlp:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=otlp.endpoint)))
        monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        try:
            yield otlp
        finally:
            provider.shutdown()
