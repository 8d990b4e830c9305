"""Rounds as OpenTelemetry traces: one trace a round, sent as OTLP/JSON over HTTP to any collector. Off unless hub.toml names one.

The one door of `opentelemetry`, an extra (`pip install 'wardround[otel]'`). Spans hold names of studies and edges, numbers and
reasons; never a patient. What a collector does not take is dropped and counted in the log: a trace is no record.
"""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import structlog

from wardround.errors import SettingsError
from wardround.learn.spans import NO_SPANS, Spans
from wardround.settings import TracingSettings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span

log = structlog.get_logger(__name__)
OF_AN_ORDER = ("train", "upload", "triage")  # the rest are of a round
OPEN_MAX = 20_000  # parts that have begun and not ended; the oldest are let go
ROUNDS_KEPT = 64  # whose scores may still come
POST_S = 10.0
Key = tuple[str, str, int, str]  # study, name, round, edge


class Tracing:
    """The traces of one hub. Safe to use from several threads."""

    def __init__(self, hub: str, version: str, exporter: SpanExporter, *, batch: bool = True) -> None:
        """`exporter` gets spans that have ended; in batches, on a thread of its own, unless told otherwise."""
        from opentelemetry.context import Context  # noqa: PLC0415
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor  # noqa: PLC0415
        from opentelemetry.trace import set_span_in_context  # noqa: PLC0415

        self._nothing = Context()
        self._below: Callable[[Span], Context] = lambda span: set_span_in_context(span, self._nothing)
        resource = Resource({"service.name": "wardround-hub", "service.instance.id": hub, "service.version": version})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter) if batch else SimpleSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("wardround")
        self._lock = threading.Lock()
        self._open: OrderedDict[Key, Span] = OrderedDict()
        self._rounds: OrderedDict[tuple[str, int], Context] = OrderedDict()

    def study(self, name: str) -> Spans:
        """The spans of one study."""
        return _StudySpans(self, name)

    def close(self) -> None:
        """Send what is waiting, within the exporter's own deadline."""
        self._provider.shutdown()

    def begin(self, key: Key, facts: Mapping[str, str | int | float]) -> None:
        study, name, number, edge = key
        with self._lock:
            if key in self._open:
                return
            above = self._above(key)
            about: dict[str, str | int | float] = {"wardround.study": study, "wardround.round": number}
            about |= {"wardround.edge": edge} if edge else {}
            opened = self._tracer.start_span(name, above, attributes=about | _named(facts))
            self._open[key] = opened
            if name == "round":
                self._rounds[study, number] = self._below(opened)
                while len(self._rounds) > ROUNDS_KEPT:
                    self._rounds.popitem(last=False)
            while len(self._open) > OPEN_MAX:
                self._open.popitem(last=False)[1].end()

    def _above(self, key: Key) -> Context:
        """What a part belongs to: its order while that is open, else its round, which may be over."""
        study, name, number, edge = key
        order = self._open.get((study, "order", number, edge)) if name in OF_AN_ORDER else None
        if order is not None:
            return self._below(order)
        return self._rounds.get((study, number), self._nothing) if name != "round" else self._nothing

    def end(self, key: Key, facts: Mapping[str, str | int | float]) -> None:
        study, name, number, edge = key
        with self._lock:
            ended = self._open.pop(key, None)
            if ended is None:
                return
            below = [
                k
                for k in self._open
                if k[0] == study and k[2] == number and (name == "round" or (name == "order" and k[3] == edge))
            ]
            for other in below:
                self._open.pop(other).end()
            ended.set_attributes(_named(facts))
            ended.end()


class _StudySpans:
    def __init__(self, tracing: Tracing, study: str) -> None:
        self._tracing, self._study = tracing, study

    def begin(self, name: str, round_number: int, edge: str = "", **facts: str | int | float) -> None:
        self._tracing.begin((self._study, name, round_number, edge), facts)

    def end(self, name: str, round_number: int, edge: str = "", **facts: str | int | float) -> None:
        self._tracing.end((self._study, name, round_number, edge), facts)


class NoTracing:
    """What a hub has that names no collector: nothing of OpenTelemetry is loaded."""

    def study(self, _name: str) -> Spans:
        """Nothing."""
        return NO_SPANS

    def close(self) -> None:
        """Nothing."""


def open_tracing(settings: TracingSettings, hub: str, version: str) -> Tracing | NoTracing:
    """As hub.toml says.

    Raises:
        SettingsError: a collector is named, and the extra is not installed, or the address is none.
    """
    if not settings.endpoint:
        return NoTracing()
    if not settings.endpoint.startswith(("http://", "https://")):
        raise SettingsError(f"tracing.endpoint is {settings.endpoint[:60]!r}", remedy="such as http://127.0.0.1:4318/v1/traces")
    try:
        return Tracing(hub, version, cast("SpanExporter", OtlpJson(settings.endpoint)))
    except ModuleNotFoundError as exc:
        remedy = "pip install 'wardround[otel]', or leave tracing.endpoint empty"
        raise SettingsError("tracing.endpoint is set, and OpenTelemetry is not installed", remedy=remedy) from exc


def otlp(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Spans as an ExportTraceServiceRequest in OTLP's JSON encoding (opentelemetry-proto 1.x, JSON Protobuf Encoding)."""
    by_resource: dict[Any, list[ReadableSpan]] = {}
    for one in spans:
        by_resource.setdefault(one.resource, []).append(one)
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(resource.attributes)},
                "scopeSpans": [{"scope": {"name": "wardround"}, "spans": [_span(s) for s in group]}],
            }
            for resource, group in by_resource.items()
        ]
    }


class OtlpJson:
    """Posts spans to a collector. A SpanExporter, by its methods."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> Any:
        """Send them; what is not taken is gone."""
        from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415

        data, headers = json.dumps(otlp(spans)).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(self._endpoint, data, headers, method="POST")  # noqa: S310 - http or https: checked
        try:
            with urllib.request.urlopen(request, timeout=POST_S) as answer:  # noqa: S310
                answer.read(1_000)
        except (OSError, urllib.error.URLError) as error:
            if not self._failing:
                log.warning("traces are not taken", endpoint=self._endpoint, reason=str(error), spans=len(spans))
            self._failing = True
            return SpanExportResult.FAILURE
        self._failing = False
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is kept."""

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002 - the interface's
        """Nothing is kept."""
        return True


def _span(one: ReadableSpan) -> dict[str, Any]:
    context = one.get_span_context()
    assert context is not None  # noqa: S101 - of a span that was made here
    found = {
        "traceId": f"{context.trace_id:032x}",
        "spanId": f"{context.span_id:016x}",
        "name": one.name,
        "kind": 1,  # internal
        "startTimeUnixNano": str(one.start_time or 0),
        "endTimeUnixNano": str(one.end_time or 0),
        "attributes": _attributes(one.attributes or {}),
    }
    return found | ({"parentSpanId": f"{one.parent.span_id:016x}"} if one.parent is not None else {})


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    def value(v: Any) -> dict[str, Any]:
        if isinstance(v, bool):
            return {"boolValue": v}
        if isinstance(v, int):
            return {"intValue": str(v)}
        return {"doubleValue": v} if isinstance(v, float) else {"stringValue": str(v)}

    return [{"key": k, "value": value(v)} for k, v in sorted(attributes.items())]


def _named(facts: Mapping[str, str | int | float]) -> dict[str, str | int | float]:
    return {f"wardround.{name}": value for name, value in facts.items()}
