"""Exports cases as LangSmith traces, with one request per case to LangSmith's batch endpoint.

Address and key come from LangSmith's own variables, LANGSMITH_ENDPOINT and LANGSMITH_API_KEY. Only the content of the
records is sent, nothing about this machine. `dotted_order` holds start time and id of a run and its ancestors, from
which LangSmith builds the tree.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from langsmith import Client
from langsmith.utils import get_env_var

from agent.tracing.span_tree import Span, SpanKind

__all__ = ["LangSmithExporter"]

RUN_TYPES: dict[SpanKind, str] = {"case": "chain", "node": "chain", "call": "llm"}
TIMEOUT_MS = (5_000, 20_000)  # to connect, to read


class LangSmithExporter:
    """Exports to one project. Raises ValueError without a key, unless the endpoint is set (a self-hosted server)."""

    name = "LangSmith"

    def __init__(self, project: str) -> None:
        if not get_env_var("API_KEY") and not get_env_var("ENDPOINT"):
            raise ValueError("MESHCRITIC_LANGSMITH is set, and LANGSMITH_API_KEY is not")
        logging.getLogger("langsmith").setLevel(logging.ERROR)  # `export` raises these errors
        self._project = project
        self._failures: list[Exception] = []
        self._client = Client(
            auto_batch_tracing=False,
            omit_traced_runtime_info=True,
            timeout_ms=TIMEOUT_MS,
            tracing_error_callback=self._failures.append,
            tracing_sampling_rate=1.0,
        )

    def export(self, case: Span) -> None:
        """Raises the error of the request."""
        self._client.batch_ingest_runs(create=list(self._runs(case, uuid.uuid4(), None)))
        if self._failures:
            raise self._failures.pop()

    def close(self) -> None:
        self._client.close(timeout=0)

    def _runs(self, span: Span, trace: uuid.UUID, parent: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
        """The span and its descendants; the root's id is the trace's."""
        run_id = trace if parent is None else uuid.uuid4()
        started, ended = _utc(span.started_s), _utc(span.ended_s)
        order = f"{started:%Y%m%dT%H%M%S%f}Z{run_id}"
        run = {
            "id": str(run_id),
            "trace_id": str(trace),
            "parent_run_id": parent and parent["id"],
            "dotted_order": f"{parent['dotted_order']}.{order}" if parent else order,
            "session_name": self._project,
            "name": span.name,
            "run_type": RUN_TYPES[span.kind],
            "start_time": started.isoformat(),
            "end_time": ended.isoformat(),
            "inputs": span.inputs,
            "outputs": {**span.outputs, **_usage(span)},
            "error": span.error or None,
        }
        yield run
        for child in span.children:
            yield from self._runs(child, trace, run)


def _usage(span: Span) -> dict[str, Any]:
    """A call's tokens in LangSmith's format."""
    if "tokens" not in span.outputs:
        return {}
    read, written = span.outputs["tokens"]
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    return {"usage_metadata": usage}


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
