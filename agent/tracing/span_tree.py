"""A trace as a tree of spans, case > node > call, as MLflow, LangSmith and OpenTelemetry show it.

The tree is built from the redacted records that the JSONL file also holds (`agent.tracing.records.traced`), each with
the calls of its node (`replies`, from `agent.scoring.ask`). Nothing else can be exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Span", "case_span"]

Json = dict[str, Any]
SpanKind = Literal["case", "node", "call"]


@dataclass(frozen=True)
class Span:
    """One step and its substeps; times in seconds since the epoch, inputs and outputs as JSON."""

    kind: SpanKind
    name: str
    started_s: float
    ended_s: float
    inputs: Json
    outputs: Json
    error: str = ""
    children: tuple[Span, ...] = ()


def case_span(records: Sequence[Mapping[str, Any]], error: str = "") -> Span:
    """The tree of at least one record. Its outputs are the final scores."""
    nodes = [_node_span(record) for record in records]
    first = records[0]
    return Span(
        kind="case",
        name=first["case"],
        started_s=nodes[0].started_s,
        ended_s=max(node.ended_s for node in nodes),
        inputs={"case": first["case"], "trace": first["trace"], "run": first["run"]},
        outputs={"scores": _last_scores(records)},
        error=error,
        children=tuple(nodes),
    )


def _last_scores(records: Sequence[Mapping[str, Any]]) -> Json:
    """Merged as by the state's reducer: a revision replaces its scores."""
    scores: Json = {}
    for record in records:
        scores |= record["outputs"].get("scores", {})
    return scores


def _node_span(record: Mapping[str, Any]) -> Span:
    outputs = dict(record["outputs"])
    calls = outputs.pop("replies", [])
    return Span(
        kind="node",
        name=record["node"],
        started_s=record["started"],
        ended_s=record["started"] + record["ms"] / 1e3,
        inputs=dict(record["inputs"]),
        outputs=outputs,
        children=tuple(_call_span(call) for call in calls),
    )


def _call_span(call: Mapping[str, Any]) -> Span:
    inputs = ("backend", "prompt", "seed", "parts")
    outputs = ("text", "thinking", "finish", "tokens", "retries", "cached", "warning")
    return Span(
        kind="call",
        name=call["task"],
        started_s=call["started"],
        ended_s=call["started"] + call.get("ms", 0.0) / 1e3,
        inputs={key: call[key] for key in inputs},
        outputs={key: call[key] for key in outputs if key in call},
        error=call.get("error", call.get("malformed", "")),
    )
