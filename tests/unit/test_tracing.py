"""Traces of rounds: every part where it belongs, whatever ends a round, and nothing at all when they are off."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.unit.learn.test_coordinator import Hub

from wardround.errors import SettingsError
from wardround.learn.spans import NO_SPANS
from wardround.records import EdgeId
from wardround.settings import TracingSettings
from wardround.studies import RunningStudy
from wardround.tracing import OPEN_MAX, NoTracing, OtlpJson, Tracing, open_tracing


@pytest.fixture
def exporter():
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter):
    made = Tracing("hub-1", "1.0", exporter, batch=False)
    yield made
    made.close()


@pytest.fixture
def hub(tracing):
    made = Hub(spans=tracing.study("s"))
    made.attach("a", "b")
    made.round("a", "b")  # the statistics
    return made


def tree(exporter, number):
    """The spans of one round: (name, edge, name of what it belongs to, outcome)."""
    spans = [s for s in exporter.get_finished_spans() if s.attributes["wardround.round"] == number]
    names = {s.context.span_id: s.name for s in spans}
    assert len({s.context.trace_id for s in spans}) == 1
    facts = [
        (
            s.name,
            s.attributes.get("wardround.edge", ""),
            names[s.parent.span_id] if s.parent else "",
            s.attributes.get("wardround.outcome", ""),
        )
        for s in spans
    ]
    return sorted(facts)


def test_a_round_is_a_trace_of_its_parts(hub, exporter):
    hub.round("a", "b")
    of_edges = [(name, edge, "order", "") for name in ("train", "triage", "upload") for edge in ("a", "b")]
    orders = [("order", edge, "round", "accepted") for edge in ("a", "b")]
    of_round = [("fold", "", "round", ""), ("screen", "", "round", ""), ("round", "", "", "committed")]
    assert tree(exporter, 1) == sorted([*of_edges, *orders, *of_round])
    round_ = next(s for s in exporter.get_finished_spans() if s.name == "round" and s.attributes["wardround.round"] == 1)
    assert round_.attributes["wardround.model"] == hub.coordinator.committed()[1].model
    assert dict(round_.resource.attributes)["service.instance.id"] == "hub-1"
    for one in exporter.get_finished_spans():
        if one.attributes["wardround.round"] == 1:
            assert round_.start_time <= one.start_time <= one.end_time <= round_.end_time


def test_the_score_of_a_round_that_is_over_belongs_to_it(hub, exporter, tracing):
    hub.round("a", "b")
    running = RunningStudy.__new__(RunningStudy)
    running._scoring, running._spans, running.coordinator = threading.Lock(), tracing.study("s"), hub.coordinator
    event = next(e for e in reversed(hub.events) if e.kind == "committed")
    running._pending = {event.model: event}
    running.held_back = lambda: [1, 2, 3]
    running.score = lambda *_: SimpleNamespace(value=float("nan"))
    running.score_pending()
    assert ("score", "", "round", "") in tree(exporter, 1)


def test_whatever_ends_a_round_ends_its_spans(hub, exporter, tracing):
    hub.coordinator.fail(EdgeId("a"), 1, "no memory")  # too few are left
    assert ("order", "a", "round", "failed") in tree(exporter, 1)
    assert ("round", "", "", "abandoned") in tree(exporter, 1)
    for _ in range(100):
        if hub.coordinator.open_round is not None:
            break
        hub.clock.advance(1.0)
        hub.coordinator.tick()
    hub.coordinator.stop()
    assert not tracing._open
    assert {"abandoned", "dropped"} <= {
        s.attributes.get("wardround.outcome") for s in exporter.get_finished_spans() if s.name == "round"
    }


def test_an_update_that_is_refused_says_why(hub, exporter):
    assert not hub.upload("a", b"rubbish").accepted
    hub.coordinator.stop()
    order = next(s for s in exporter.get_finished_spans() if s.name == "order" and s.attributes["wardround.round"] == 1)
    assert order.attributes["wardround.outcome"] == "refused"
    assert order.attributes["wardround.reason"]


def test_what_is_open_is_bounded(tracing):
    spans = tracing.study("s")
    for i in range(OPEN_MAX + 10):
        spans.begin("order", i, "a")
    assert len(tracing._open) == OPEN_MAX
    spans.end("order", 10**9, "a")  # nobody knows it


class Collector:
    """A collector of OTLP over HTTP."""

    def __init__(self, status=200):
        self.got, outer = [], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer.got.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def test_a_collector_gets_them_as_otlp_json():
    collector = Collector()
    tracing = open_tracing(TracingSettings(endpoint=collector.url), "hub-1", "1.0")
    spans = tracing.study("s")
    spans.begin("round", 3, edges_asked=2)
    spans.begin("fold", 3)
    spans.end("round", 3, outcome="committed", share=0.5)
    tracing.close()
    collector.close()
    path, body = collector.got[0]
    sent = body["resourceSpans"][0]["scopeSpans"][0]["spans"]
    fold, round_ = sorted(sent, key=lambda s: s["name"])
    assert path == "/v1/traces"
    assert fold["parentSpanId"] == round_["spanId"]
    assert fold["traceId"] == round_["traceId"]
    assert "parentSpanId" not in round_
    assert {"key": "wardround.round", "value": {"intValue": "3"}} in round_["attributes"]
    assert {"key": "wardround.share", "value": {"doubleValue": 0.5}} in round_["attributes"]
    assert {"key": "wardround.outcome", "value": {"stringValue": "committed"}} in round_["attributes"]


def test_a_collector_that_refuses_or_is_gone_stops_nothing():
    collector = Collector(status=500)
    assert OtlpJson(collector.url).export([]) is SpanExportResult.FAILURE
    collector.close()
    tracing = open_tracing(TracingSettings(endpoint=collector.url), "hub-1", "1.0")
    tracing.study("s").begin("round", 1)
    tracing.study("s").end("round", 1)
    tracing.close()


def test_off_by_default_and_then_nothing_of_it_is_loaded():
    assert isinstance(open_tracing(TracingSettings(), "hub", "1"), NoTracing)
    assert open_tracing(TracingSettings(), "hub", "1").study("s") is NO_SPANS
    program = "import sys, wardround.hub; sys.exit('opentelemetry.sdk' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
    with pytest.raises(SettingsError, match=r"tracing\.endpoint"):
        open_tracing(TracingSettings(endpoint="127.0.0.1:4318"), "hub", "1")


def test_without_the_extra_the_settings_say_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(SettingsError, match="not installed") as refused:
        open_tracing(TracingSettings(endpoint="http://127.0.0.1:1/v1/traces"), "hub", "1")
    assert "wardround[otel]" in refused.value.remedy
