"""Exporters of traces to other services; each is enabled by an environment variable of this project only.

| environment variable | value                                 | a case appears as                               |
|----------------------|---------------------------------------|-------------------------------------------------|
| MESHCRITIC_MLFLOW    | a tracking URI: http://127.0.0.1:5000 | a trace of the experiment `meshcritic`          |
| MESHCRITIC_LANGSMITH | a project's name                      | a trace of that project; key: LANGSMITH_API_KEY |
| MESHCRITIC_OTLP      | a collector: http://127.0.0.1:4318    | a trace of the service `meshcritic`             |

If LANGSMITH_TRACING or LANGCHAIN_TRACING_V2 is set, LangChain traces everything on its own, including messages to chat
models, which contain photographs. `langchain_tracing_disabled` prevents that, so that only the records are sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from agent.tracing.span_tree import Span

__all__ = [
    "LANGSMITH_VARIABLE",
    "MLFLOW_VARIABLE",
    "OTLP_VARIABLE",
    "Exporter",
    "enabled_exporters",
    "langchain_tracing_disabled",
]

MLFLOW_VARIABLE = "MESHCRITIC_MLFLOW"
LANGSMITH_VARIABLE = "MESHCRITIC_LANGSMITH"
OTLP_VARIABLE = "MESHCRITIC_OTLP"


@runtime_checkable
class Exporter(Protocol):
    """Receives the span tree of each finished case. It is called from one thread at a time and may raise anything."""

    name: str

    def export(self, case: Span) -> None: ...

    def close(self) -> None: ...


def enabled_exporters(environ: Mapping[str, str]) -> list[Exporter]:
    """The exporters whose environment variable is set.

    Raises ValueError for one that is not installed, has no key, or does not respond.
    """
    exporters: list[Exporter] = []
    if uri := environ.get(MLFLOW_VARIABLE, "").strip():
        from agent.tracing.mlflow import MLflowExporter

        exporters.append(MLflowExporter(uri))
    if project := environ.get(LANGSMITH_VARIABLE, "").strip():
        from agent.tracing.langsmith import LangSmithExporter

        exporters.append(LangSmithExporter(project))
    if address := environ.get(OTLP_VARIABLE, "").strip():
        from agent.tracing.otlp import OTLPExporter

        exporters.append(OTLPExporter(address))
    return exporters


def langchain_tracing_disabled() -> AbstractContextManager[Any]:
    """A context in which LangChain and LangGraph do not trace on their own, for the current thread."""
    from langsmith import tracing_context

    return tracing_context(enabled=False)
