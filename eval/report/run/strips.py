"""The paired differences of a table's row as inline SVG, in the colours of the page, light or dark."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree import ElementTree

from markupsafe import Markup

from eval.benchmark.intervals import Interval
from eval.report.svg import Axis, circle, line, markup, new_svg

__all__ = ["interval_strip"]


def interval_strip(
    differences: Mapping[str, Interval | None],
    low: float,
    high: float,
    width: float = 150.0,
    height: float = 30.0,
) -> Markup:
    """The paired differences of a table row in mm, on an axis that all rows share; zero is a dotted line."""
    axis = Axis(low, high, 6.0, width - 6.0)
    svg = new_svg(width, height, "Paired differences to base with their 95 % intervals")
    line(svg, axis(0.0), 0.0, axis(0.0), height, "zero")
    known = {name: interval for name, interval in differences.items() if interval is not None}
    for rank, (name, interval) in enumerate(known.items(), start=1):
        y = height * rank / (len(known) + 1)
        group = ElementTree.SubElement(svg, "g", {"class": f"series {name}"})
        line(group, axis(interval.low), y, axis(interval.high), y, "whisker")
        circle(group, axis(interval.mean), y, 3.6, "point", _difference_text(name, interval))
    return markup(svg)


def _difference_text(name: str, interval: Interval) -> str:
    return f"{name} - base: {interval.mean:+.1f} mm, 95 % from {interval.low:+.1f} to {interval.high:+.1f}"
