"""The last node: an absolute estimate beside the scores, which only rank within the group."""

from __future__ import annotations

from typing import Any

from langgraph.runtime import Runtime

from agent.context import CritiqueContext
from agent.expected_error.error_model import detection_features
from agent.state import CritiqueState

__all__ = ["estimate_errors"]


def estimate_errors(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Estimate the error of every hypothesis in millimetres from the evidence, and note the detector's confidence."""
    resources = runtime.context.resources
    case, model = resources.case, resources.error_model
    estimate, unmeasured = None, []
    if model is not None:
        values = {item["metric"]: item["values"] for item in state["evidence"]}
        unmeasured = model.unmeasured(values)
        detection = detection_features(case.detection, case.sample.box)
        estimate = model.estimate(values, detection, len(case))
    return {
        "error_estimate": estimate.to_json() if estimate else None,
        "unmeasured": unmeasured,
        "detector_confidence": case.detection.confidence if case.detection else None,
    }
