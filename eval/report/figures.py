"""Figures of the report as inline SVG of a few kilobytes each, in the colours of the page, light or dark.

Left out: plotly, whose script adds 4 MB to a file that must load nothing; zooming adds little to a hundred points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from markupsafe import Markup

from eval.benchmark.intervals import Interval
from eval.report.svg import (
    MARGIN_BOTTOM,
    MARGIN_LEFT,
    MARGIN_RIGHT,
    MARGIN_TOP,
    Axis,
    circle,
    frame,
    line,
    markup,
    new_svg,
    text,
)

__all__ = ["interval_strip", "paired_scatter", "score_error_scatter", "score_strip"]


def interval_strip(
    differences: Mapping[str, Interval | None],
    low: float,
    high: float,
    width: float = 200.0,
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


def paired_scatter(
    base: Sequence[float], other: Sequence[float], label: str, name: str, size: float = 360.0
) -> Markup:
    """One point per image: base on the x axis, the other on the y axis; below the diagonal the other is better."""
    low, high = _bounds([*base, *other])
    across = Axis(low, high, MARGIN_LEFT, size - MARGIN_RIGHT)
    up = Axis(low, high, size - MARGIN_BOTTOM, MARGIN_TOP)
    svg = new_svg(size, size, f"{label}, {name} against base, one point per image")
    frame(svg, across, up, f"base, {label}", name)
    line(svg, across(low), up(low), across(high), up(high), "diagonal")
    group = ElementTree.SubElement(svg, "g", {"class": f"series {name}"})
    for x, y in zip(base, other, strict=True):
        circle(group, across(x), up(y), 3.2, "point soft", f"base {x:.1f} mm, {name} {y:.1f} mm")
    return markup(svg)


def score_error_scatter(
    scores: Sequence[float | None],
    errors_mm: Sequence[float],
    shown: Mapping[int, str],
    width: float = 300.0,
    height: float = 190.0,
) -> Markup:
    """One group: the critic's score on the x axis, the true error on the y axis. A good critic falls to the right.

    `shown`: role ("best", "worst") of the hypotheses that have pictures, by index; it becomes their CSS class.
    """
    scored = [(index, score) for index, score in enumerate(scores) if score is not None]
    low, high = _bounds(list(errors_mm))
    across = Axis(0.0, 100.0, MARGIN_LEFT, width - MARGIN_RIGHT)
    up = Axis(low, high, height - MARGIN_BOTTOM, MARGIN_TOP)
    svg = new_svg(width, height, "Critic score against true error, one point per hypothesis")
    frame(svg, across, up, "score", "MPJPE (mm)")
    for index, score in scored:
        title = f"h{index}: score {score:.0f}, error {errors_mm[index]:.1f} mm"
        circle(svg, across(score), up(errors_mm[index]), *_mark(shown.get(index)), title)
    return markup(svg)


def score_strip(
    scores: Sequence[float | None], shown: Mapping[int, str], width: float = 300.0, height: float = 52.0
) -> Markup:
    """The scores of a group without truth."""
    axis = Axis(0.0, 100.0, 12.0, width - 12.0)
    svg = new_svg(width, height, "Critic scores, one point per hypothesis")
    line(svg, axis(0.0), 16.0, axis(100.0), 16.0, "axis")
    for value in (0.0, 50.0, 100.0):
        text(svg, axis(value), height - 8, f"{value:g}", "tick", "middle")
    for index, score in enumerate(scores):
        if score is not None:
            circle(svg, axis(score), 16.0, *_mark(shown.get(index)), f"h{index}: score {score:.0f}")
    return markup(svg)


def _mark(role: str | None) -> tuple[float, str]:
    return (3.2, "point soft") if role is None else (5.2, f"point {role}")


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """The range of the values with a margin of 6 %, at least 0.5 mm, on each side; not below 0."""
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), 0.5)
    return max(0.0, low - margin), high + margin


def _difference_text(name: str, interval: Interval) -> str:
    return f"{name} - base: {interval.mean:+.1f} mm, 95 % from {interval.low:+.1f} to {interval.high:+.1f}"
