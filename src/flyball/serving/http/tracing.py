"""W3C trace context, and spans by OpenTelemetry where the environment asks for them.

The surprise: spans are made when a request has ended, from the times that the log keeps anyway (parse, features, wait,
model). So nothing is measured twice, and without OTEL_* variables nothing of this runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flyball.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

__all__ = ["Parent", "Tracer", "parent_of"]

_FORM = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STEPS = ("parse", "features", "wait", "model")


@dataclass(frozen=True, slots=True)
class Parent:
    """Whose request this is a part of: ids in hexadecimal, and whether the caller records it."""

    trace: str
    span: str
    sampled: bool


def parent_of(header: bytes) -> Parent | None:
    """Read a `traceparent` header (W3C Trace Context, level 1); None for one that must be ignored.

    A version above 00 may carry more after the flags; ids of zeros only and version ff are not valid.
    """
    found = _FORM.fullmatch(header)
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == b"ff" or (version == b"00" and more) or not int(trace, 16) or not int(span, 16):
        return None
    return Parent(trace.decode(), span.decode(), bool(int(flags, 16) & 1))


class Tracer:
    """Export one span per request, with one below it per step."""

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        """Begin a provider that sends what the environment says; `processor` takes its place in tests.

        Raises:
            MissingExtra: OpenTelemetry is not installed.
        """
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
        except ImportError as error:
            raise MissingExtra.of("exporting traces", "otel") from error
        named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "flyball"}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(_exporting() if processor is None else processor)
        self._tracer = self._provider.get_tracer("flyball")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Tracer | None:
        """Return a tracer when the standard variables name a place for traces, else None."""
        disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
        exporter = environment.get("OTEL_TRACES_EXPORTER", "")
        place = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT") or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        if disabled or exporter == "none" or not (place or exporter == "otlp"):
            return None
        return cls()

    def record(
        self,
        parent: Parent | None,
        name: str,
        *,
        ended: int,
        took: int,
        stages: tuple[int, ...] = (),
        attributes: Mapping[str, Any] | None = None,
        failed: bool = False,
    ) -> None:
        """Record a request that has ended.

        Args:
            parent: What the caller sent.
            name: Method and path template.
            ended: When it ended, ns since 1970.
            took: How long it took, ns.
            stages: µs of parse, features, wait and model, which follow each other.
            attributes: Of the request's span.
            failed: Whether the server failed.
        """
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        begun = ended - took
        span = self._tracer.start_span(
            name, _context(parent), SpanKind.SERVER, attributes=dict(attributes or {}), start_time=begun
        )
        within, at = set_span_in_context(span), begun
        for step, micros in zip(_STEPS, stages, strict=False):
            part = self._tracer.start_span(step, within, start_time=at)
            at += micros * 1000
            part.end(at)
        if failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(ended)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()


def _context(parent: Parent | None) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    if parent is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if parent.sampled else TraceFlags.DEFAULT)
    context = SpanContext(int(parent.trace, 16), int(parent.span, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(context), Context())


def _exporting() -> SpanProcessor:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingExtra.of("exporting traces", "otel") from error
    return BatchSpanProcessor(OTLPSpanExporter())
