"""Looking: pose and render the group once, then let every tool measure it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from langgraph.runtime import Runtime

from agent.context import CritiqueContext, CritiqueResources
from agent.pictures.panels import draw_views, photo_part
from agent.state import CritiqueState
from agent.tracing.redaction import reason_of
from agent.types import Case, CritiqueTool, Evidence, Missing, Need
from hmr.types import Detection

__all__ = ["measure_evidence", "render_views"]


def render_views(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Pose the group, render it through the crop about the person, and ask the detector what it sees."""
    resources, settings = runtime.context.resources, runtime.context.settings
    sample, hypotheses = resources.sample, resources.hypotheses
    with torch.no_grad():
        posed = resources.body(hypotheses.params)
    view = hypotheses.camera.crop(sample.box.square(settings.view_margin), settings.view_size_px)
    frame = resources.renderer.render(posed.vertices_cam_m.numpy(), resources.body.faces.numpy(), view)
    detection, missing = _look(resources)
    case = Case(sample, hypotheses, resources.body, posed, view, frame, detection)
    key = resources.case_key()
    resources.cases[key] = case
    return {"case": key, "views": _draw(resources, case, settings.view_margin), "missing": missing}


def _draw(resources: CritiqueResources, case: Case, margin: float) -> list[str]:
    """Once a group, for a backend with eyes: photograph and views onto the resources; the views' hashes."""
    if not resources.backend.capabilities.images:
        return []
    views = draw_views(case, resources.renderer, margin)
    resources.views.update({item.sha256: item for item in views})
    resources.photo = photo_part(case, margin)
    return [item.sha256 for item in views]


def _look(resources: CritiqueResources) -> tuple[Detection | None, list[dict[str, Any]]]:
    if resources.detector is None:
        return None, [_told(Missing("detector", "no detector at hand"))]
    # A detector may be a user's own model: if it breaks, tools that need none still have something to say.
    try:
        return resources.detector.detect(resources.sample), []
    except Exception as error:  # noqa: BLE001
        return None, [_told(Missing(f"detector {resources.detector.name}", reason_of(error), broken=True))]


def _told(missing: Missing) -> dict[str, Any]:
    return dict(vars(missing))


def measure_evidence(state: CritiqueState, runtime: Runtime[CritiqueContext]) -> dict[str, Any]:
    """Run every tool; one that cannot or will not measure is marked missing, and the critique goes on."""
    resources = runtime.context.resources
    case = resources.cases[state["case"]]
    results = [_measure(tool, case) for tool in resources.tools]
    missing = [_told(item) for item in results if isinstance(item, Missing)]
    evidence = [dict(vars(item)) for item in results if isinstance(item, Evidence)]
    return {"evidence": evidence, "missing": state["missing"] + missing}


def _measure(tool: CritiqueTool, case: Case) -> Evidence | Missing:
    # Tools are plug-ins: whatever one raises or returns costs its own evidence and nothing else.
    try:
        if unmet := sorted(tool.needs - _given(case.detection)):
            return Missing(tool.name, f"needs {', '.join(unmet)}")
        return _checked(_plain(tool.measure(case)), len(case))
    except Exception as error:  # noqa: BLE001
        return Missing(tool.name, reason_of(error), broken=True)


def _given(detection: Detection | None) -> set[Need]:
    if detection is None:
        return set()
    return {"keypoints", "mask"} if detection.joints_root_m is None else {"keypoints", "mask", "joints"}


def _plain(evidence: object) -> Evidence:
    """The evidence as JSON can hold it: numpy's and torch's scalars become floats. Raises TypeError and ValueError."""
    if not isinstance(evidence, Evidence):
        raise TypeError(f"a tool gives Evidence, not {type(evidence).__name__}")
    parts = tuple(map(tuple, evidence.parts))
    words = (evidence.tool, evidence.metric, evidence.unit, *evidence.sentences, *chain.from_iterable(parts))
    if wrong := [type(word).__name__ for word in words if not isinstance(word, str)]:
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
