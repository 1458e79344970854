"""The learning curves of a pretraining run, one SVG file that any browser or README shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from eval.report.svg import MARGIN_BOTTOM, MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, Axis, frame, new_svg, text

__all__ = ["write_curves"]

WIDTH, HEIGHT = 420.0, 260.0
STYLE = """
.panel { fill: #fdfcf9 } .grid { stroke: #e3ded2; stroke-width: 1 }
.tick, .label, .title { font: 11px sans-serif; fill: #4a463c } .title { font-size: 12px; font-weight: 600 }
.training { stroke: #b9a67c } .held { stroke: #1f6f6b }
polyline { fill: none; stroke-width: 1.6 } polyline.held { stroke-width: 2.2 }
"""


def write_curves(run: Path) -> Path:
    """Draw `training.json` of a run (hmr.pretrain) into `curves.svg` beside it: a panel a stage, the training loss
    thin, the held-out loss thick. Raises FileNotFoundError where no run left its history."""
    if not (run / "training.json").exists():
        raise FileNotFoundError(f"{run} has no training.json: no pretraining ended there")
    history = json.loads((run / "training.json").read_text())
    stages = {name: stage["log"] for name, stage in history.items() if name != "config"}
    svg = new_svg(WIDTH * len(stages), HEIGHT, "Learning curves")
    svg.set("xmlns", "http://www.w3.org/2000/svg")
    ElementTree.SubElement(svg, "style").text = STYLE
    for place, (name, log) in enumerate(stages.items()):
        _panel(svg, place * WIDTH, name, log)
    file = run / "curves.svg"
    file.write_text(ElementTree.tostring(svg, encoding="unicode"))
    return file


def _panel(svg: ElementTree.Element, left: float, name: str, log: list[dict[str, Any]]) -> None:
    lines = {"training": _points(log, "loss"), "held": _points(log, "eval_loss")}
    training = sorted(y for _, y in lines["training"])
    held_out = [y for _, y in lines["held"]]
    last = max(x for points in lines.values() for x, _ in points)
    low = min([training[0], *held_out])
    usual = training[int(0.98 * (len(training) - 1))]  # the first steps would flatten all others
    high = max([usual, *held_out])
    across = Axis(0.0, last, MARGIN_LEFT, WIDTH - MARGIN_RIGHT)
    up = Axis(low, max(high, low + 1e-6), HEIGHT - MARGIN_BOTTOM, MARGIN_TOP + 16)
    panel = ElementTree.SubElement(svg, "g", {"transform": f"translate({left:g} 0)"})
    ElementTree.SubElement(panel, "rect", {"width": f"{WIDTH:g}", "height": f"{HEIGHT:g}", "class": "panel"})
    frame(panel, across, up, "step", "loss")
    text(panel, MARGIN_LEFT, 16.0, f"{name}: training (thin), held out (thick)", "title", "start")
    for kind, points in lines.items():
        path = " ".join(f"{across(x):.1f},{up(min(y, high)):.1f}" for x, y in points)
        ElementTree.SubElement(panel, "polyline", {"points": path, "class": kind})


def _points(log: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(float(row["step"]), float(row[key])) for row in log if key in row and "step" in row]
