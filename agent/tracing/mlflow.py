"""Exports cases as traces of MLflow's experiment `meshcritic`, to a tracking server (`mlflow server`).

`mlflow-tracing` (extra `mlflow`) is MLflow's tracing client, which needs a server; with the full `mlflow` package any
tracking URI works. Credentials come from MLflow's own variables: MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN.

Left out: the file store (`mlruns`), which MLflow has deprecated. MLflow's telemetry is switched off.
"""

# `mlflow-tracing` is an extra whose namespace is filled at import
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from typing import Any

from agent.tracing.span_tree import Span, SpanKind
from common.redaction import first_line, redact

__all__ = ["MLflowExporter"]

EXPERIMENT = "meshcritic"
SPAN_TYPES: dict[SpanKind, str] = {"case": "AGENT", "node": "CHAIN", "call": "LLM"}
# MLflow reads these at import or later. The short timeout avoids minutes of retries if there is no server.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",  # `agent.tracing.records` exports in its own thread
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MLflowExporter:
    """Exports to one tracking server. Raises ValueError if MLflow is not installed or the server does not respond."""

    name = "MLflow"

    def __init__(self, uri: str) -> None:
        for variable, value in SETTINGS.items():
            os.environ.setdefault(variable, value)
        try:
            import mlflow
        except ImportError as error:
            raise ValueError("MESHCRITIC_MLFLOW needs MLflow: pip install 'meshcritic[mlflow]'") from error
        mlflow.set_tracking_uri(uri)
        # A server, a database or a plug-in's store: each raises its own error if it is not available.
        try:
            self._experiment_id = mlflow.set_experiment(EXPERIMENT).experiment_id
        except Exception as error:
            reason = redact(f"no tracking server at {uri}: {first_line(error)}")
            raise ValueError(f"MESHCRITIC_MLFLOW: {reason}"[:300]) from error
        self._mlflow = mlflow

    def export(self, case: Span) -> None:
        self._export(case, None)

    def close(self) -> None:
        """Nothing is open between exports."""

    def _export(self, span: Span, parent: Any) -> None:
        """Start and end the span and its descendants; the end of the root sends the trace."""
        started = self._mlflow.start_span_no_context(
            span.name,
            span_type=SPAN_TYPES[span.kind],
            parent_span=parent,
            inputs=span.inputs,
            experiment_id=self._experiment_id if parent is None else None,
            start_time_ns=round(span.started_s * 1e9),
        )
        for child in span.children:
            self._export(child, started)
        started.end(
            outputs=span.outputs,
            attributes=_attributes(span),
            status="ERROR" if span.error else "OK",
            end_time_ns=round(span.ended_s * 1e9),
        )


def _attributes(span: Span) -> dict[str, Any]:
    """The error, and a call's tokens in MLflow's format."""
    attributes: dict[str, Any] = {"error": span.error} if span.error else {}
    if "tokens" in span.outputs:
        read, written = span.outputs["tokens"]
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        attributes["mlflow.chat.tokenUsage"] = usage
    return attributes
