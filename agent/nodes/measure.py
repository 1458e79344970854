"""Measurement nodes: pose, render and detect once, then run every tool on the group."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from langgraph.runtime import Runtime

from agent.context import CritiqueContext, CritiqueResources, CritiqueSettings
from agent.pictures.panels import draw_views, photo_part
from agent.state import CritiqueState
from agent.tools.running import run_tool
from agent.types import Case, Evidence, Missing
from common.redaction import reason_of
from hmr.policy.joints_3d import WithJoints3D
from hmr.types import Detection, Detector, Sample

__all__ = ["build_case", "draw_case", "measure_evidence", "render_views"]


def render_views(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Pose the group, render it through the crop around the person, and run the detector."""
    resources, settings = runtime.context.resources, runtime.context.settings
    resources.case, missing = build_case(resources, settings)
    return {
        "case": resources.case_key(),
        "views": draw_case(resources, settings.view_margin),
        "missing": [asdict(item) for item in missing],
    }


def build_case(resources: CritiqueResources, settings: CritiqueSettings) -> tuple[Case, list[Missing]]:
    """The posed, rendered and detected group; the detector is missing if it fails."""
    sample, hypotheses = resources.sample, resources.hypotheses
    view = hypotheses.camera.crop(sample.box.square(settings.view_margin), settings.view_size_px)
    detection, missing = _detect(resources)
    return Case.of(sample, hypotheses, resources.body, resources.renderer, view, detection), missing


def _detect(resources: CritiqueResources) -> tuple[Detection | None, list[Missing]]:
    if resources.detector is None:
        return None, [Missing("detector", "the agent has no detector")]
    # A detector may be a user's own model: if it fails, tools that need no detection still run.
    try:
        if resources.detection is not None:
            return _completed(resources.detector, resources.sample, resources.detection), []
        return resources.detector.detect(resources.sample), []
    except Exception as error:  # noqa: BLE001
        return None, [Missing(f"detector {resources.detector.name}", reason_of(error), broken=True)]


def _completed(detector: Detector, sample: Sample, detection: Detection) -> Detection:
    """With what the agent's detector adds to a detection."""
    return detector.with_joints([sample], [detection])[0] if isinstance(detector, WithJoints3D) else detection


def draw_case(resources: CritiqueResources, margin: float) -> list[str]:
    """Draw photograph and views for a vision-capable backend; returns the views' hashes."""
    if not resources.backend.capabilities.images:
        return []
    views = draw_views(resources.case, resources.renderer, margin)
    resources.views.update({item.sha256: item for item in views})
    resources.photo = photo_part(resources.case, margin)
    return [item.sha256 for item in views]


def measure_evidence(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Run every tool. A tool that fails or cannot measure is recorded as missing, and the critique continues."""
    resources = runtime.context.resources
    results = [run_tool(tool, resources.case) for tool in resources.tools]
    missing = [asdict(item) for item in results if isinstance(item, Missing)]
    evidence = [item.to_json() for item in results if isinstance(item, Evidence)]
    return {"evidence": evidence, "missing": state["missing"] + missing}
