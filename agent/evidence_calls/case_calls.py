"""Calls about one posed group: a measurement, a view from another side, a close-up of a part.

Hypotheses are named by labels: letters in a critique, where pictures show them, and numbers in the MCP server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import UInt8
from pydantic import Field, create_model

from agent.evidence_calls.calls import Arguments, CallResult, EvidenceCall
from agent.pictures.badges import stored_png, with_badge
from agent.pictures.close_ups import part_crops, turned_views
from agent.pictures.panels import PANEL_PX
from agent.prompts.prompt_format import format_metrics
from agent.prompts.question import labelled_metrics
from agent.tools.parts import PART_NAMES
from agent.tools.running import run_tool
from agent.types import Case, CritiqueTool, Missing
from agent.vlm.protocol import ImagePart
from hmr.render.overlay import montage
from hmr.types import Renderer

__all__ = ["CaseSource", "case_calls"]

SIDE_VIEW_DEG = 90.0  # the azimuth from which `hmr.render.overlay.side_view` shows a body
Part = Literal[tuple(sorted(set(PART_NAMES)))]  # pyright: ignore[reportInvalidTypeForm]
Label = Annotated[str, Field(description="Label of the hypothesis.", max_length=8)]


@dataclass(frozen=True)
class CaseSource:
    """One group, and the labels by which calls name its hypotheses (label -> index)."""

    case: Case
    tools: Sequence[CritiqueTool]
    renderer: Renderer
    labels: Mapping[str, int]

    def index(self, label: str) -> int:
        """Raises ValueError for an unknown label."""
        if label not in self.labels:
            raise ValueError(f"hypothesis must be one of {', '.join(self.labels)}, not {label!r}")
        return self.labels[label]


class RenderArguments(Arguments):
    """Of the call render."""

    hypothesis: Label
    azimuth_deg: Annotated[
        float,
        Field(
            ge=-180,
            le=180,
            description="Where the camera stands around the person: 0 where the photograph was taken, 90 at the right "
            "of the photograph, 180 behind the person, -90 at the left.",
        ),
    ]


class ZoomArguments(Arguments):
    """Of the call zoom."""

    hypothesis: Label
    part: Annotated[Part, Field(description="Body part to show.")]


def case_calls(tools: Sequence[CritiqueTool], pictures: bool) -> list[EvidenceCall[CaseSource]]:
    """The calls on groups that these tools measure; `pictures`: also those that answer with a picture."""
    calls = [_measure_call(tools)] if tools else []
    return [*calls, *(_PICTURE_CALLS if pictures else ())]


def _measure_call(tools: Sequence[CritiqueTool]) -> EvidenceCall[CaseSource]:
    names = tuple(tool.name for tool in tools)
    allowed = Annotated[Literal[names], Field(description="What to measure.")]  # pyright: ignore[reportInvalidTypeForm]
    fields: dict[str, Any] = {"measurement": (allowed, ...)}
    return EvidenceCall(
        "measure",
        "Take one measurement of every hypothesis of the group. Lower values are always better.",
        create_model("MeasureArguments", __base__=Arguments, **fields),
        _measure,
    )


def _measure(source: CaseSource, arguments: Any) -> CallResult:
    tool = next(tool for tool in source.tools if tool.name == arguments.measurement)
    found = run_tool(tool, source.case)
    if isinstance(found, Missing):
        text = f"there is no measurement of {tool.name}: {found.reason}"
        return CallResult({"measurement": tool.name, "missing": found.reason}, text, missing=found)
    metrics = labelled_metrics([found.to_json()], source.labels)
    data = {"measurement": tool.name, "metric": found.metric, **metrics[found.metric]}
    return CallResult(data, format_metrics(metrics), evidence=found)


def _render(source: CaseSource, arguments: RenderArguments) -> CallResult:
    label, azimuth = arguments.hypothesis, arguments.azimuth_deg
    (view,) = turned_views(source.case, [source.index(label)], azimuth - SIDE_VIEW_DEG, source.renderer)
    return _shown(view, label, f"hypothesis {label} seen from {azimuth:g} degrees", arguments)


def _zoom(source: CaseSource, arguments: ZoomArguments) -> CallResult:
    label, part = arguments.hypothesis, arguments.part
    tiles = part_crops(source.case, source.index(label), part, source.renderer)
    caption = f"the {part} of hypothesis {label}: photograph and overlay"
    return _shown(montage(tiles, columns=len(tiles)), label, caption, arguments)


def _shown(
    picture: UInt8[np.ndarray, "height width 3"], label: str, caption: str, arguments: Arguments
) -> CallResult:
    part = ImagePart(stored_png(with_badge(picture, label, PANEL_PX)), caption)
    return CallResult({**arguments.model_dump(), "picture": part.sha256[:16]}, f"shown: {caption}", part)


_PICTURE_CALLS: tuple[EvidenceCall[CaseSource], ...] = (
    EvidenceCall(
        "render",
        "Show one hypothesis alone, seen from any side. The photograph's camera cannot see errors of depth.",
        RenderArguments,
        _render,
    ),
    EvidenceCall(
        "zoom",
        "Show one body part close up, in the photograph alone and with the hypothesis drawn over it.",
        ZoomArguments,
        _zoom,
    ),
)
