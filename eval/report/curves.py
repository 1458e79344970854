"""Draws the learning curves of pretraining and alignment runs: rows of small charts in one SVG file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from common.storage.files import PathLike, write_text
from eval.report.svg import MARGIN_BOTTOM, MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, Axis, frame, new_svg, text

__all__ = ["write_alignment_curves", "write_curves"]

CHARTS_PER_ROW = 3  # of a pretraining run
PRETRAINING_SIZE_PX = (420.0, 260.0)  # width and height of a chart
ALIGNMENT_SIZE_PX = (270.0, 190.0)
ALIGNMENT_CHARTS = (  # title, metrics of rl.monitoring.metrics for the thin and the thick line
    ("error: worse (thin), better (thick)", "denoise_loss/neg", "denoise_loss/pos"),
    ("kl", "", "kl"),
    ("clip_ratio/region_mean", "", "clip_ratio/region_mean"),
    ("spread, mm: occluded (thin), visible (thick)", "spread_occluded_mm", "spread_visible_mm"),
)
POLICY_GRADIENT_CHARTS = (
    ("reward", "", "reward"),
    ("kl", "", "kl"),
    ("ratio/std (thin), clip_ratio/region_mean (thick)", "ratio/std", "clip_ratio/region_mean"),
    ALIGNMENT_CHARTS[-1],
)
TITLE_PX = 16.0  # space for a chart's title
STYLE = """
.panel { fill: #fdfcf9 } .grid { stroke: #e3ded2; stroke-width: 1 }
.tick, .label, .title { font: 11px sans-serif; fill: #4a463c } .title { font-size: 12px; font-weight: 600 }
.thin { stroke: #b9a67c } .thick { stroke: #1f6f6b }
polyline { fill: none; stroke-width: 1.6 } polyline.thick { stroke-width: 2.2 }
"""
Log = Sequence[Mapping[str, Any]]
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class _Chart:
    """Two lines, either of which may be empty; values above `high` are drawn at `high`."""

    title: str
    thin: Points
    thick: Points
    y_label: str = ""
    high: float | None = None

    @property
    def lines(self) -> dict[str, Points]:
        return {"thin": self.thin, "thick": self.thick}


def write_curves(run: PathLike) -> Path:
    """Draw `training.json` of a run (hmr.pretraining) into `curves.svg` beside it: one chart per stage, the
    training loss as a thin line, the held-out loss as a thick one. Raises FileNotFoundError without `training.json`."""
    run = Path(run)
    if not (run / "training.json").exists():
        raise FileNotFoundError(f"{run} has no training.json: no pretraining run ended in this folder")
    history = json.loads((run / "training.json").read_text())
    stages = [_stage_chart(name, stage["log"]) for name, stage in history.items() if name != "recipe"]
    rows = [stages[start : start + CHARTS_PER_ROW] for start in range(0, len(stages), CHARTS_PER_ROW)]
    return _write_charts(run / "curves.svg", rows, "Learning curves", PRETRAINING_SIZE_PX)


def write_alignment_curves(file: PathLike, logs: Mapping[str, Log]) -> Path:
    """Draw the logs of `rl.monitoring.training_log.read_logs`, one row per log; its name labels the first chart. A log
    of likelihood ratios is that of a policy gradient."""
    rows = [
        [
            _Chart(title, _points(log, thin), _points(log, thick), name if column == 0 else "")
            for column, (title, thin, thick) in enumerate(_alignment_charts(log))
        ]
        for name, log in logs.items()
    ]
    return _write_charts(Path(file), rows, "Curves of alignment", ALIGNMENT_SIZE_PX)


def _alignment_charts(log: Log) -> tuple[tuple[str, str, str], ...]:
    return POLICY_GRADIENT_CHARTS if any("ratio/std" in line for line in log) else ALIGNMENT_CHARTS


def _stage_chart(name: str, log: Log) -> _Chart:
    training, held_out = _points(log, "loss"), _points(log, "eval_loss")
    values = sorted(y for _, y in training)
    usual = values[: int(0.98 * (len(values) - 1)) + 1][-1:]  # the first steps would flatten all others
    high = max([*usual, *(y for _, y in held_out)], default=None)  # a short run may have logged none
    return _Chart(f"{name}: training (thin), held out (thick)", training, held_out, "loss", high)


def _points(log: Log, key: str) -> list[tuple[float, float]]:
    """(step, value) of every log line that has `key`; values that are not finite are left out."""
    points = [(float(row["step"]), float(row[key])) for row in log if key in row and "step" in row]
    return [(step, value) for step, value in points if math.isfinite(value)]


def _write_charts(
    file: Path, rows: Sequence[Sequence[_Chart]], title: str, size_px: tuple[float, float]
) -> Path:
    width, height = size_px
    svg = new_svg(width * max(map(len, rows), default=1), height * max(len(rows), 1), title)
    svg.set("xmlns", "http://www.w3.org/2000/svg")
    ElementTree.SubElement(svg, "style").text = STYLE
    for row_index, row in enumerate(rows):
        for column, chart in enumerate(row):
            place = {"transform": f"translate({column * width:g} {row_index * height:g})"}
            _draw(ElementTree.SubElement(svg, "g", place), chart, width, height)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, ElementTree.tostring(svg, encoding="unicode"))
    return file


def _draw(panel: ElementTree.Element, chart: _Chart, width: float, height: float) -> None:
    ElementTree.SubElement(panel, "rect", {"width": f"{width:g}", "height": f"{height:g}", "class": "panel"})
    text(panel, MARGIN_LEFT, TITLE_PX, chart.title, "title", "start")
    points = [point for line in chart.lines.values() for point in line]
    if not points:
        return
    last, low = max(max(x for x, _ in points), 1.0), min(y for _, y in points)
    high = max(y for _, y in points) if chart.high is None else chart.high
    extent = max(high - low, 1e-3 * abs(high), 1e-9)  # a constant line needs an axis too
    across = Axis(0.0, last, MARGIN_LEFT, width - MARGIN_RIGHT)
    up = Axis(low, low + extent, height - MARGIN_BOTTOM, MARGIN_TOP + TITLE_PX)
    frame(panel, across, up, "step", chart.y_label)
    for kind, line in chart.lines.items():
        path = " ".join(f"{across(x):.1f},{up(min(y, low + extent)):.1f}" for x, y in line)
        ElementTree.SubElement(panel, "polyline", {"points": path, "class": kind})
