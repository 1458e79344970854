"""The path of a critique through its graph as inline SVG: one box per node, with its runs and its time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree

from markupsafe import Markup

from eval.report.svg import line, markup, new_svg, text

__all__ = ["NodeRun", "graph_figure"]

WIDTH, BOX_WIDTH, BOX_HEIGHT, GAP = 360.0, 270.0, 30.0, 16.0
LANE = 15.0  # between the curves on the right, of edges that do not lead to the next box
MAX_NODES = 40  # boxes; a graph of this program has about ten nodes


@dataclass(frozen=True)
class NodeRun:
    """One run of a node."""

    node: str
    ms: float


def graph_figure(runs: Sequence[NodeRun]) -> Markup:
    """Nodes from top to bottom in the order of their first run. The bar in a box is its share of the whole time; a
    curve on the right is a step that led back or skipped nodes, with how often it was taken if more than once."""
    order = list(dict.fromkeys(run.node for run in runs))[:MAX_NODES]
    place = {node: index for index, node in enumerate(order)}
    whole = sum(run.ms for run in runs) or 1.0
    svg = new_svg(WIDTH, len(order) * (BOX_HEIGHT + GAP) - GAP + 4, "Nodes of the graph with their times")
    for node, index in place.items():
        times = [run.ms for run in runs if run.node == node]
        _box(svg, 2 + index * (BOX_HEIGHT + GAP), node, times, sum(times) / whole)
    steps = Counter((a.node, b.node) for a, b in pairwise(runs))
    curves = 0
    for (start, end), count in steps.items():
        if start not in place or end not in place:
            continue
        if place[end] == place[start] + 1:
            _straight(svg, place[start])
        else:
            curves += 1
            _curve(svg, place[start], place[end], min(curves, 5), count)
    return markup(svg)


def _box(svg: ElementTree.Element, y: float, node: str, times: Sequence[float], share: float) -> None:
    box = {"x": "1", "y": f"{y:.1f}", "rx": "7", "height": f"{BOX_HEIGHT:g}"}
    ElementTree.SubElement(svg, "rect", {**box, "width": f"{BOX_WIDTH:g}", "class": "node"})
    ElementTree.SubElement(svg, "rect", {**box, "width": f"{share * BOX_WIDTH:.1f}", "class": "share"})
    runs = f" x {len(times)}" if len(times) > 1 else ""
    text(svg, 10.0, y + 19.5, f"{node[:30]}{runs}", "label", "start")
    text(svg, BOX_WIDTH - 8, y + 19.5, f"{sum(times):,.0f} ms", "tick", "end")


def _straight(svg: ElementTree.Element, index: int) -> None:
    top = 2.0 + index * (BOX_HEIGHT + GAP) + BOX_HEIGHT
    line(svg, 24.0, top, 24.0, top + GAP, "edge")
    _arrow(svg, 24.0, top + GAP, 0, -1)


def _curve(svg: ElementTree.Element, start: int, end: int, lane: int, count: int) -> None:
    """From the right side of a box to that of another one."""
    y1, y2 = (2 + index * (BOX_HEIGHT + GAP) + BOX_HEIGHT / 2 for index in (start, end))
    y1, y2 = y1 + 5, y2 - 5  # a node has steps that start and steps that end
    x, far = BOX_WIDTH + 1, BOX_WIDTH + LANE * lane
    path = f"M{x:.1f} {y1:.1f} C{far:.1f} {y1:.1f} {far:.1f} {y2:.1f} {x:.1f} {y2:.1f}"
    ElementTree.SubElement(svg, "path", {"d": path, "class": "edge"})
    _arrow(svg, x, y2, 1, 0)
    if count > 1:
        text(svg, (x + 3 * far) / 4 + 3, (y1 + y2) / 2 + 3.5, f"x {count}", "tick", "start")


def _arrow(svg: ElementTree.Element, x: float, y: float, dx: int, dy: int) -> None:
    """A triangle whose tip is at (x, y); (dx, dy) is the direction that it comes from."""
    back_x, back_y = x + 7 * dx, y + 7 * dy
    points = [(x, y), (back_x + 3.5 * dy, back_y + 3.5 * dx), (back_x - 3.5 * dy, back_y - 3.5 * dx)]
    d = "M" + " L".join(f"{px:.1f} {py:.1f}" for px, py in points) + " Z"
    ElementTree.SubElement(svg, "path", {"d": d, "class": "arrow"})
