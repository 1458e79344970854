"""Exports cases as OpenTelemetry spans over OTLP/HTTP, with the attributes of the semantic conventions for GenAI.

| span | name             | attributes                                                                               |
|------|------------------|------------------------------------------------------------------------------------------|
| case | invoke_agent ... | gen_ai.operation.name, gen_ai.agent.name; meshcritic.case, .trace, .run, .scores         |
| node | the node         | meshcritic.node, meshcritic.outputs                                                      |
| call | chat MODEL       | gen_ai.operation.name, .provider.name, .request.model, .request.seed, .usage.*_tokens,   |
|      |                  | .response.finish_reasons, .output.messages; server.address; meshcritic.task, .prompt ... |

The SDK and the exporter of OpenTelemetry are the extra `otel`. Credentials come from OpenTelemetry's own variable
OTEL_EXPORTER_OTLP_HEADERS. The names of the conventions are written out, because their module is a private one of
`opentelemetry-semantic-conventions`.

Left out: input messages, which a trace has by hash only, and the SDK's global provider: other libraries' spans are not
exported, and a provider of the user's program is not replaced.
"""

# `opentelemetry` is an extra
# pyright: reportMissingImports=false

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from agent.tracing.span_tree import Span
from common.redaction import first_line, redact

__all__ = ["OTLPExporter"]

PATH = "/v1/traces"
TIMEOUT_S = 10.0  # for all attempts of one case
MAX_VALUE_CHARS = 20_000  # of an attribute
MAX_REPLY_CHARS = 8_000  # of a reply, and of thinking: both stay whole JSON within an attribute
AGENT = "meshcritic"
LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

Attributes = dict[str, Any]


class OTLPExporter:
    """Exports to one collector. Raises ValueError if the SDK is not installed or the address is none.

    A collector that is down is noticed at the first export.
    """

    name = "OpenTelemetry"

    def __init__(self, address: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import SpanLimits, TracerProvider
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor
            from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        except ImportError as error:
            raise ValueError(
                "MESHCRITIC_OTLP needs OpenTelemetry's SDK: pip install 'meshcritic[otel]'"
            ) from error
        self._endpoint = _endpoint(address)
        self._reasons = _Reasons()
        self._exporter = OTLPSpanExporter(endpoint=self._endpoint, timeout=TIMEOUT_S)
        self._finished = InMemorySpanExporter()
        provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create({"service.name": AGENT}),
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_span_attribute_length=MAX_VALUE_CHARS),
        )
        provider.add_span_processor(SimpleSpanProcessor(self._finished))
        self._tracer = provider.get_tracer(AGENT)

    def export(self, case: Span) -> None:
        """Raises ConnectionError, with the reason, if the collector does not take the spans."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._record(case, None)
        spans = self._finished.get_finished_spans()
        self._finished.clear()
        with self._reasons:
            result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            raise ConnectionError(redact(f"{self._endpoint}: {self._reasons.last}"))

    def close(self) -> None:
        self._exporter.shutdown()

    def _record(self, span: Span, parent: Any) -> None:
        """The span and its descendants, with their own times."""
        from opentelemetry import trace

        started = self._tracer.start_span(
            _name(span),
            # an empty context: a span of the user's program is not the parent
            context=trace.set_span_in_context(parent or trace.INVALID_SPAN),
            kind=trace.SpanKind.CLIENT if span.kind == "call" else trace.SpanKind.INTERNAL,
            attributes=_attributes(span),
            start_time=round(span.started_s * 1e9),
        )
        for child in span.children:
            self._record(child, started)
        if span.error:
            started.set_status(trace.StatusCode.ERROR, span.error)
        started.end(end_time=round(max(span.started_s, span.ended_s) * 1e9))


class _Reasons(logging.Handler):
    """Takes the messages of OpenTelemetry's exporter during an export, so that the one warning about it has the reason
    and no other is printed."""

    def __init__(self) -> None:
        super().__init__()
        self.last = "no reason known"
        self._logger = logging.getLogger(LOGGER)

    def __enter__(self) -> None:
        self._propagates = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagates

    def emit(self, record: logging.LogRecord) -> None:
        self.last = first_line(Exception(record.getMessage()))


def _endpoint(address: str) -> str:
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        is_address = False
    if not is_address:
        raise ValueError(
            f"MESHCRITIC_OTLP takes the address of a collector, such as http://127.0.0.1:4318, not {redact(address)!r}"
        )
    base = address.rstrip("/")
    return base if base.endswith(PATH) else base + PATH


def _name(span: Span) -> str:
    if span.kind == "case":
        return f"invoke_agent {AGENT}"
    return f"chat {_model(span)[1]}" if span.kind == "call" else span.name


def _attributes(span: Span) -> Attributes:
    kinds = {"case": _case_attributes, "node": _node_attributes, "call": _call_attributes}
    found = dict(kinds[span.kind](span))
    if span.error:
        # the conventions have "_OTHER" for an error without a type
        found["error.type"] = "malformed_reply" if "text" in span.outputs else "_OTHER"
    return {name: value for name, value in found.items() if value not in (None, "")}


def _case_attributes(span: Span) -> Iterator[tuple[str, Any]]:
    yield "gen_ai.operation.name", "invoke_agent"
    yield "gen_ai.provider.name", AGENT
    yield "gen_ai.agent.name", AGENT
    for name in ("case", "trace", "run"):
        yield f"meshcritic.{name}", span.inputs[name]
    yield "meshcritic.scores", _json(span.outputs["scores"])


def _node_attributes(span: Span) -> Iterator[tuple[str, Any]]:
    yield "meshcritic.node", span.name
    yield "meshcritic.outputs", _json(span.outputs)


def _call_attributes(span: Span) -> Iterator[tuple[str, Any]]:
    provider, model, address = _model(span)
    yield "gen_ai.operation.name", "chat"
    yield "gen_ai.provider.name", provider
    yield "gen_ai.request.model", model
    yield "gen_ai.request.seed", span.inputs["seed"]
    yield "gen_ai.output.type", "json"
    if address:
        yield "server.address", address.hostname
        yield "server.port", address.port
    if "tokens" in span.outputs:
        yield "gen_ai.usage.input_tokens", span.outputs["tokens"][0]
        yield "gen_ai.usage.output_tokens", span.outputs["tokens"][1]
    if "text" in span.outputs:
        yield "gen_ai.response.finish_reasons", [_finish(span)]
        yield "gen_ai.output.messages", _json([_message(span)])
    yield "meshcritic.task", span.name
    yield "meshcritic.prompt", span.inputs["prompt"]
    yield "meshcritic.backend", span.inputs["backend"]
    for name in ("retries", "cached", "warning"):
        yield f"meshcritic.{name}", span.outputs.get(name)


def _finish(span: Span) -> str:
    return span.outputs.get("finish") or "stop"


def _message(span: Span) -> dict[str, Any]:
    """The reply in the conventions' format."""
    parts = [
        {"type": kind, "content": span.outputs[name][:MAX_REPLY_CHARS]}
        for kind, name in (("reasoning", "thinking"), ("text", "text"))
        if span.outputs.get(name)
    ]
    return {"role": "assistant", "parts": parts, "finish_reason": _finish(span)}


def _model(span: Span) -> tuple[str, str, Any]:
    """Provider, model and address of a call, from the name of its backend: "openai:NAME@URL", "local:NAME",
    "langchain:PROVIDER:NAME" or "embedded", each followed by its revision. The address is None without a URL."""
    backend = span.inputs["backend"]
    name = backend.rpartition(" ")[0] or backend
    provider, _, model = name.partition(":")
    if provider == "langchain":
        provider, _, model = model.partition(":")
    model, _, url = model.partition("@http")
    return provider, model or provider, urlsplit(f"http{url}") if url else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
