"""Runs one tool on a case: its evidence is checked, and a failure becomes the reason why there is none."""

from __future__ import annotations

import inspect
import math
import sys
from dataclasses import replace
from itertools import chain

from agent.types import Case, CritiqueTool, Evidence, Missing, Need
from common.redaction import reason_of
from common.storage.fingerprint import digest
from hmr.types import Detection

__all__ = ["metric_of", "run_tool", "tool_source_digest"]


def run_tool(tool: CritiqueTool, case: Case) -> Evidence | Missing:
    """The evidence of a tool, or why there is none."""
    # Tools may be plug-ins: an exception or an invalid return value affects only the tool's own evidence.
    try:
        if unmet := sorted(tool.needs - _available(case.detection)):
            return Missing(tool.name, f"needs {', '.join(unmet)}")
        return _checked(_normalized(tool.measure(case)), len(case))
    except Exception as error:  # noqa: BLE001
        return Missing(tool.name, reason_of(error), broken=True)


def metric_of(tool: CritiqueTool) -> str | None:
    """The metric that a tool measures, if it says so, as the built-in ones do."""
    metric = getattr(tool, "metric", None)
    return metric if isinstance(metric, str) else None


def tool_source_digest(tool: CritiqueTool) -> str:
    """Changes with the module of a tool, or is what a tool that wraps another one says in `source_digest`; empty if
    there is no source, as for a class of an interactive session."""
    if isinstance(known := getattr(tool, "source_digest", None), str):
        return known
    try:
        return digest(inspect.getsource(sys.modules[type(tool).__module__]))
    except (OSError, TypeError):
        return ""


def _available(detection: Detection | None) -> set[Need]:
    if detection is None:
        return set()
    needs: set[Need] = {"keypoints"}
    if detection.mask is not None:
        needs.add("mask")
    if detection.joints_root_m is not None:
        needs.add("joints")
    return needs


def _normalized(evidence: object) -> Evidence:
    """The evidence with NumPy's and torch's scalars as floats, for JSON. Raises TypeError and ValueError."""
    if not isinstance(evidence, Evidence):
        raise TypeError(f"a tool gives Evidence, not {type(evidence).__name__}")
    parts = tuple(map(tuple, evidence.parts))
    texts = (evidence.tool, evidence.metric, evidence.unit, *evidence.sentences, *chain.from_iterable(parts))
    if wrong := [type(text).__name__ for text in texts if not isinstance(text, str)]:
        raise TypeError(f"names, units, parts and sentences are text, not {wrong[0]}")
    values = tuple(None if value is None else float(value) for value in evidence.values)
    return replace(evidence, values=values, parts=parts, sentences=tuple(evidence.sentences))


def _checked(evidence: Evidence, count: int) -> Evidence | Missing:
    lengths = {len(evidence.values), len(evidence.parts), len(evidence.sentences)}
    if lengths != {count}:
        reason = f"gave {len(evidence.values)} values for {count} hypotheses"
        return Missing(evidence.tool, reason, broken=True)
    if any(value is not None and not math.isfinite(value) for value in evidence.values):
        return Missing(evidence.tool, "gave a value that is not a finite number", broken=True)
    if all(value is None for value in evidence.values):
        return Missing(evidence.tool, evidence.sentences[0])
    return evidence
