"""Curves over steps: small charts in rows, one SVG file that any browser or README shows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from eval.report.svg import MARGIN_BOTTOM, MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, Axis, frame, new_svg, text

__all__ = ["Chart", "points_of", "write_charts"]

TITLE_PX = 16.0  # above the panel of a chart
STYLE = """
.panel { fill: #fdfcf9 } .grid { stroke: #e3ded2; stroke-width: 1 }
.tick, .label, .title { font: 11px sans-serif; fill: #4a463c } .title { font-size: 12px; font-weight: 600 }
.thin { stroke: #b9a67c } .thick { stroke: #1f6f6b }
polyline { fill: none; stroke-width: 1.6 } polyline.thick { stroke-width: 2.2 }
"""
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """`thin` and `thick` are its two lines, either of which may be empty; what lies above `high` is drawn there."""

    title: str
    thin: Points
    thick: Points
    y_label: str = ""
    high: float | None = None

    @property
    def lines(self) -> dict[str, Points]:
        return {"thin": self.thin, "thick": self.thick}


def points_of(log: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, value) of every line of a trainer's log that tells of `key`; what is not finite has no place."""
    told = [(float(row["step"]), float(row[key])) for row in log if key in row and "step" in row]
    return [(step, value) for step, value in told if math.isfinite(value)]


def write_charts(
    file: Path, rows: Sequence[Sequence[Chart]], title: str, size: tuple[float, float] = (420.0, 260.0)
) -> Path:
    """`size` is a chart's width and height in pixels."""
    width, height = size
    svg = new_svg(width * max(map(len, rows), default=1), height * max(len(rows), 1), title)
    svg.set("xmlns", "http://www.w3.org/2000/svg")
    ElementTree.SubElement(svg, "style").text = STYLE
    for down, row in enumerate(rows):
        for along, chart in enumerate(row):
            place = {"transform": f"translate({along * width:g} {down * height:g})"}
            _draw(ElementTree.SubElement(svg, "g", place), chart, width, height)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    partial.write_text(ElementTree.tostring(svg, encoding="unicode"))
    partial.replace(file)
    return file


def _draw(panel: ElementTree.Element, chart: Chart, width: float, height: float) -> None:
    ElementTree.SubElement(panel, "rect", {"width": f"{width:g}", "height": f"{height:g}", "class": "panel"})
    text(panel, MARGIN_LEFT, TITLE_PX, chart.title, "title", "start")
    points = [point for line in chart.lines.values() for point in line]
    if not points:
        return
    last, low = max(max(x for x, _ in points), 1.0), min(y for _, y in points)
    high = max(y for _, y in points) if chart.high is None else chart.high
    margin = max(high - low, 1e-3 * abs(high), 1e-9)  # a line that never moves has an axis too
    across = Axis(0.0, last, MARGIN_LEFT, width - MARGIN_RIGHT)
    up = Axis(low, low + margin, height - MARGIN_BOTTOM, MARGIN_TOP + TITLE_PX)
    frame(panel, across, up, "step", chart.y_label)
    for kind, line in chart.lines.items():
        path = " ".join(f"{across(x):.1f},{up(min(y, low + margin)):.1f}" for x, y in line)
        ElementTree.SubElement(panel, "polyline", {"points": path, "class": kind})
