"""Cases as traces of MLflow's experiment `meshcritic`, on a server of one's own (`mlflow server`).

`mlflow-tracing` (extra `mlflow`) is MLflow's client without the rest, and speaks to servers; where all of `mlflow` is
installed, any of its tracking URIs will do. Credentials are MLflow's own: MLFLOW_TRACKING_USERNAME, _PASSWORD, _TOKEN.

Left out: its folder of files (`mlruns`), which MLflow has put out of use, and its own telemetry, which is switched off.
"""

# `mlflow-tracing` is an extra, and its namespace is filled at import.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
from typing import Any

from agent.tracing.redaction import first_line
from agent.tracing.span_tree import Span, SpanKind

__all__ = ["MLflowExporter"]

EXPERIMENT = "meshcritic"
SPAN_TYPES: dict[SpanKind, str] = {"case": "AGENT", "node": "CHAIN", "call": "LLM"}
# MLflow reads these when it is imported or asked. A server that is not there is given up on in seconds, not minutes.
SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING": "false",  # `agent.tracing.records` has a thread for it
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


class MLflowExporter:
    """Sends to one tracking server. Raises ValueError where MLflow is not installed or the server does not answer."""

    name = "MLflow"

    def __init__(self, uri: str) -> None:
        for variable, value in SETTINGS.items():
            os.environ.setdefault(variable, value)
        try:
            import mlflow
        except ImportError as error:
            raise ValueError("MESHCRITIC_MLFLOW needs MLflow: pip install 'meshcritic[mlflow]'") from error
        mlflow.set_tracking_uri(uri)
        # A server, a database or a plug-in's store: each has errors of its own for not being there.
        try:
            self._experiment_id = mlflow.set_experiment(EXPERIMENT).experiment_id
        except Exception as error:
            reason = f"no tracking server at {uri}: {first_line(error)}"
            raise ValueError(f"MESHCRITIC_MLFLOW: {reason}"[:300]) from error
        self._mlflow = mlflow

    def export(self, case: Span) -> None:
        self._start(case, None)

    def close(self) -> None:
        """Nothing is held open."""

    def _start(self, span: Span, parent: Any) -> None:
        """The span with all below it, ended; a root's end sends the trace."""
        begun = self._mlflow.start_span_no_context(
            span.name,
            span_type=SPAN_TYPES[span.kind],
            parent_span=parent,
            inputs=span.inputs,
            experiment_id=self._experiment_id if parent is None else None,
            start_time_ns=round(span.started_s * 1e9),
        )
        for child in span.children:
            self._start(child, begun)
        begun.end(
            outputs=span.outputs,
            attributes=_attributes(span),
            status="ERROR" if span.error else "OK",
            end_time_ns=round(span.ended_s * 1e9),
        )


def _attributes(span: Span) -> dict[str, Any]:
    """The error, and a call's tokens where MLflow looks for them."""
    attributes: dict[str, Any] = {"error": span.error} if span.error else {}
    if "tokens" in span.outputs:
        read, written = span.outputs["tokens"]
        usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
        attributes["mlflow.chat.tokenUsage"] = usage
    return attributes
