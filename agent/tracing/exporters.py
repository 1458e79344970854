"""Where a trace is also shown, each by a switch of ours and by nothing else.

| environment variable | value                                 | a case appears as                               |
|----------------------|---------------------------------------|-------------------------------------------------|
| MESHCRITIC_MLFLOW    | a tracking URI: http://127.0.0.1:5000 | a trace of the experiment `meshcritic`          |
| MESHCRITIC_LANGSMITH | a project's name                      | a trace of that project; key: LANGSMITH_API_KEY |

LangChain traces on its own, whatever goes through it, as soon as LANGSMITH_TRACING or LANGCHAIN_TRACING_V2 says so, and
a message to a chat model holds photographs. `unwatched` keeps it from that: what is sent is what the records hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from agent.tracing.span_tree import Span

__all__ = ["LANGSMITH_SWITCH", "MLFLOW_SWITCH", "Exporter", "switched_on", "unwatched"]

MLFLOW_SWITCH = "MESHCRITIC_MLFLOW"
LANGSMITH_SWITCH = "MESHCRITIC_LANGSMITH"


@runtime_checkable
class Exporter(Protocol):
    """Takes a case's tree once the case is over; called from one thread at a time, and may raise anything."""

    name: str

    def export(self, case: Span) -> None: ...

    def close(self) -> None: ...


def switched_on(environ: Mapping[str, str]) -> list[Exporter]:
    """The exporters that the switches name.

    Raises ValueError for one that is not installed, has no key, or does not answer.
    """
    found: list[Exporter] = []
    if uri := environ.get(MLFLOW_SWITCH, "").strip():
        from agent.tracing.mlflow import MLflowExporter

        found.append(MLflowExporter(uri))
    if project := environ.get(LANGSMITH_SWITCH, "").strip():
        from agent.tracing.langsmith import LangSmithExporter

        found.append(LangSmithExporter(project))
    return found


def unwatched() -> AbstractContextManager[Any]:
    """Within it, in this thread, LangChain and LangGraph trace nothing of their own accord."""
    from langsmith import tracing_context

    return tracing_context(enabled=False)
