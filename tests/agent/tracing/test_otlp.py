"""Cases as OpenTelemetry spans, decoded from what a collector on loopback receives."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from agent.tracing.exporters import OTLP_VARIABLE, enabled_exporters
from agent.tracing.otlp import OTLPExporter
from agent.tracing.records import Trace
from agent.tracing.span_tree import Span, case_span
from tests.agent.tracing.test_traces import KEY, NODES, PICTURE, LeakingBackend, critiqued, record
from tests.agent.tracing.trace_services import TraceServices, trace_services

REPLY: dict[str, Any] = {
    "task": "score", "backend": "openai:a-model@http://10.0.0.5:8000/v1 rev:1", "prompt": "9201abc1f14e", "seed": 7,
    "parts": ["p"], "started": 1000.25, "ms": 500.0, "text": '{"A": 1}', "thinking": "first the arm",
    "finish": "length", "tokens": [1530, 211], "retries": 2, "cached": False,
}  # fmt: skip


@pytest.fixture
def collector(monkeypatch) -> Iterator[TraceServices]:
    with trace_services() as running:
        monkeypatch.setenv(OTLP_VARIABLE, running.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield running


def case_of(*replies: dict[str, Any], error: str = "") -> Span:
    about = {
        "run": "r",
        "trace": "t",
        "case": "c",
        "node": "score",
        "started": 1000.0,
        "ms": 1500.0,
        "inputs": {},
    }
    return case_span([{**about, "outputs": {"scores": {"0": 80.0}, "replies": list(replies)}}], error)


def exported(collector: TraceServices, case: Span) -> list[Any]:
    exporter = OTLPExporter(collector.url)
    exporter.export(case)
    exporter.close()
    return collector.otlp_spans()


def attributes(span: Any) -> dict[str, Any]:
    def value(found: Any) -> Any:
        kind = found.WhichOneof("value")
        return (
            [value(item) for item in found.array_value.values]
            if kind == "array_value"
            else getattr(found, kind)
        )

    return {item.key: value(item.value) for item in span.attributes}


def named(spans: list[Any], name: str) -> Any:
    (found,) = [span for span in spans if span.name == name]
    return found


def test_a_critique_is_one_tree_without_secrets_and_pictures(collector, tmp_path):
    with Trace(tmp_path / "trace.jsonl") as trace:
        critiqued(trace, LeakingBackend())
    spans = collector.otlp_spans()
    root = named(spans, "invoke_agent meshcritic")
    assert root.parent_span_id == b""
    assert {span.trace_id for span in spans} == {root.trace_id}
    nodes = {span.span_id: span.name for span in spans if span.parent_span_id == root.span_id}
    assert sorted(nodes.values()) == sorted(NODES)
    calls = [span for span in spans if span.name == "chat embedded"]
    assert [nodes[span.parent_span_id] for span in calls] == [
        "retrieve_rules",
        *["score"] * 3,
        "self_reflect",
    ]
    assert attributes(root)["meshcritic.case"] == "a-case"
    assert set(json.loads(attributes(root)["meshcritic.scores"])) == {"0", "1", "2"}
    failed = [span for span in calls if span.status.code == 2]
    assert len(failed) == 1
    assert "[key]" in failed[0].status.message
    for secret in (KEY, PICTURE[:60], "iVBORw0KGgo"):
        assert secret not in collector.bodies.decode(errors="replace")
    assert b"\x89PNG" not in collector.bodies


def test_a_request_has_the_attributes_of_the_conventions(collector):
    spans = exported(collector, case_of(REPLY))
    call = named(spans, "chat a-model")
    found = attributes(call)
    assert found.items() >= {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "a-model",
        "gen_ai.request.seed": 7, "gen_ai.output.type": "json", "gen_ai.usage.input_tokens": 1530,
        "gen_ai.usage.output_tokens": 211, "server.address": "10.0.0.5", "server.port": 8000,
        "meshcritic.task": "score", "meshcritic.prompt": "9201abc1f14e", "meshcritic.retries": 2,
        "meshcritic.cached": False,
    }.items()  # fmt: skip
    assert found["gen_ai.response.finish_reasons"] == ["length"]
    assert json.loads(found["gen_ai.output.messages"]) == [
        {
            "role": "assistant",
            "parts": [
                {"type": "reasoning", "content": "first the arm"},
                {"type": "text", "content": '{"A": 1}'},
            ],
            "finish_reason": "length",
        }
    ]
    assert call.kind == 3  # CLIENT
    assert call.status.code == 0
    root = attributes(named(spans, "invoke_agent meshcritic"))
    assert (root["gen_ai.operation.name"], root["gen_ai.agent.name"]) == ("invoke_agent", "meshcritic")


def test_spans_have_the_times_of_the_records(collector):
    spans = exported(collector, case_of(REPLY))
    times = {span.name: (span.start_time_unix_nano, span.end_time_unix_nano) for span in spans}
    assert times["chat a-model"] == (1_000_250_000_000, 1_000_750_000_000)
    assert times["score"] == times["invoke_agent meshcritic"] == (1_000_000_000_000, 1_001_500_000_000)


def test_errors_are_the_status(collector):
    asked = {name: REPLY[name] for name in ("task", "backend", "prompt", "seed", "parts", "started")}
    spans = exported(
        collector,
        case_of(
            {**asked, "error": "HTTP 500"}, {**REPLY, "malformed": "no choice"}, error="ValueError: gone"
        ),
    )
    failed, malformed = [span for span in spans if span.name == "chat a-model"]
    assert (failed.status.code, failed.status.message) == (2, "HTTP 500")
    assert attributes(failed)["error.type"] == "_OTHER"
    assert "gen_ai.usage.input_tokens" not in attributes(failed)
    assert "gen_ai.response.finish_reasons" not in attributes(failed)
    assert (malformed.status.code, attributes(malformed)["error.type"]) == (2, "malformed_reply")
    assert named(spans, "invoke_agent meshcritic").status.message == "ValueError: gone"
    assert named(spans, "score").status.code == 0


@pytest.mark.parametrize(
    ("backend", "provider", "model"),
    [
        ("embedded 2", "embedded", "embedded"),
        ("local:Qwen/Qwen3-VL-2B abc", "local", "Qwen/Qwen3-VL-2B"),
        ("langchain:anthropic:claude-x 1", "anthropic", "claude-x"),
        ("openai:org/m@x@https://api.example/v1 1", "openai", "org/m@x"),
    ],
)
def test_provider_and_model_come_from_the_backends_name(collector, backend, provider, model):
    spans = exported(collector, case_of({**REPLY, "backend": backend, "finish": ""}))
    found = attributes(named(spans, f"chat {model}"))
    assert (found["gen_ai.provider.name"], found["gen_ai.request.model"]) == (provider, model)
    assert found["gen_ai.response.finish_reasons"] == ["stop"]


def test_long_values_are_cut(collector):
    spans = exported(collector, case_of({**REPLY, "text": "y" * 50_000, "warning": "z" * 50_000}))
    found = attributes(named(spans, "chat a-model"))
    [message] = json.loads(found["gen_ai.output.messages"])
    assert message["parts"][1]["content"] == "y" * 8_000
    assert found["meshcritic.warning"] == "z" * 20_000


def test_each_case_is_a_trace_of_its_own(collector, tmp_path):
    with Trace(tmp_path / "trace.jsonl") as trace:
        for _ in range(2):
            with trace.case():
                trace.write({**record("")})
    roots = [span for span in collector.otlp_spans() if not span.parent_span_id]
    assert len({span.trace_id for span in roots}) == len(roots) == 2


@pytest.mark.parametrize("down", ["refused", "status"])
def test_a_collector_that_is_down_gives_one_warning(collector, tmp_path, caplog, monkeypatch, down):
    monkeypatch.setattr(
        "agent.tracing.otlp.TIMEOUT_S", 0.5
    )  # no second attempt, which would wait for a second
    if down == "refused":
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            monkeypatch.setenv(OTLP_VARIABLE, f"http://127.0.0.1:{free.getsockname()[1]}")
    collector.status = 503
    caplog.set_level(logging.WARNING)
    with Trace(tmp_path / "trace.jsonl") as trace:
        for _ in range(3):
            with trace.case():
                trace.write(record("said"))
    [warning] = caplog.messages
    assert warning.startswith("the export to OpenTelemetry stopped: ConnectionError: http://127.0.0.1:")
    assert "Failed to export spans" in warning
    assert len((tmp_path / "trace.jsonl").read_text().splitlines()) == 3


def test_an_address_that_is_none_and_a_missing_package_are_refused(monkeypatch):
    for address in ("127.0.0.1:4318", "ftp://x", "http://", "http://x:y"):
        with pytest.raises(ValueError, match=r"MESHCRITIC_OTLP takes the address of a collector"):
            enabled_exporters({OTLP_VARIABLE: address})
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ValueError, match=r"pip install 'meshcritic\[otel\]'"):
        enabled_exporters({OTLP_VARIABLE: "http://127.0.0.1:4318"})


def test_a_path_and_credentials_are_the_users(collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-token=abc")
    for address in (f"{collector.url}/", f"{collector.url}/v1/traces"):
        OTLPExporter(address).export(case_of(REPLY))
    assert [request.path for request in collector.requests] == ["/v1/traces"] * 2
    assert collector.requests[0].headers["x-token"] == "abc"
