"""Small figures as inline SVG: they take the page's colours, light or dark, and weigh a few kilobytes each.

Everything is built as an XML tree, so no text of a case can become markup. Left out: plotly, whose script
alone is 4 MB in a file that must load nothing; its zooming adds little to a hundred points.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from eval.intervals import Interval

__all__ = ["Axis", "interval_strip", "paired_scatter", "score_error_scatter", "score_strip"]

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46.0, 12.0, 12.0, 38.0
TICKS = 5


@dataclass(frozen=True)
class Axis:
    """Maps values to one direction of the picture; `high_px` may be the smaller number."""

    low: float
    high: float
    low_px: float
    high_px: float

    def __call__(self, value: float) -> float:
        return self.low_px + (value - self.low) / (self.high - self.low) * (self.high_px - self.low_px)

    def ticks(self) -> list[float]:
        """Round numbers (1, 2 or 5 times a power of ten apart) that lie on the axis."""
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [step * index for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def interval_strip(
    differences: Mapping[str, Interval | None],
    low: float,
    high: float,
    width: float = 200.0,
    height: float = 30.0,
) -> Markup:
    """One table row's paired differences, in mm, on an axis that all rows share; zero is a dotted line."""
    axis = Axis(low, high, 6.0, width - 6.0)
    svg = _svg(width, height, "Paired differences to base with their 95 % intervals")
    _line(svg, axis(0.0), 0.0, axis(0.0), height, "zero")
    known = {name: interval for name, interval in differences.items() if interval is not None}
    for rank, (name, interval) in enumerate(known.items(), start=1):
        y = height * rank / (len(known) + 1)
        group = ElementTree.SubElement(svg, "g", {"class": f"series {name}"})
        _line(group, axis(interval.low), y, axis(interval.high), y, "whisker")
        _circle(group, axis(interval.mean), y, 3.6, "point", _difference_text(name, interval))
    return _markup(svg)


def paired_scatter(
    base: Sequence[float], other: Sequence[float], label: str, name: str, size: float = 360.0
) -> Markup:
    """One point an image: base across, the other up; below the diagonal the other is better."""
    low, high = _bounds([*base, *other])
    across = Axis(low, high, MARGIN_LEFT, size - MARGIN_RIGHT)
    up = Axis(low, high, size - MARGIN_BOTTOM, MARGIN_TOP)
    svg = _svg(size, size, f"{label}, {name} against base, one point an image")
    _frame(svg, across, up, f"base, {label}", name)
    _line(svg, across(low), up(low), across(high), up(high), "diagonal")
    group = ElementTree.SubElement(svg, "g", {"class": f"series {name}"})
    for x, y in zip(base, other, strict=True):
        _circle(group, across(x), up(y), 3.2, "point soft", f"base {x:.1f} mm, {name} {y:.1f} mm")
    return _markup(svg)


def score_error_scatter(
    scores: Sequence[float | None],
    errors_mm: Sequence[float],
    shown: Mapping[int, str],
    width: float = 300.0,
    height: float = 190.0,
) -> Markup:
    """One group: the critic's score across, the true error up. A good critic falls to the right.

    `shown` names the role of the hypotheses that the case shows, by index; it becomes their class.
    """
    scored = [(index, score) for index, score in enumerate(scores) if score is not None]
    low, high = _bounds(list(errors_mm))
    across = Axis(0.0, 100.0, MARGIN_LEFT, width - MARGIN_RIGHT)
    up = Axis(low, high, height - MARGIN_BOTTOM, MARGIN_TOP)
    svg = _svg(width, height, "Critic score against true error, one point a hypothesis")
    _frame(svg, across, up, "score", "MPJPE (mm)")
    for index, score in scored:
        text = f"h{index}: score {score:.0f}, error {errors_mm[index]:.1f} mm"
        _circle(svg, across(score), up(errors_mm[index]), *_mark(shown.get(index)), text)
    return _markup(svg)


def score_strip(
    scores: Sequence[float | None], shown: Mapping[int, str], width: float = 300.0, height: float = 52.0
) -> Markup:
    """One group without truth: the scores alone."""
    axis = Axis(0.0, 100.0, 12.0, width - 12.0)
    svg = _svg(width, height, "Critic scores, one point a hypothesis")
    _line(svg, axis(0.0), 16.0, axis(100.0), 16.0, "axis")
    for value in (0.0, 50.0, 100.0):
        _text(svg, axis(value), height - 8, f"{value:g}", "tick", "middle")
    for index, score in enumerate(scores):
        if score is not None:
            _circle(svg, axis(score), 16.0, *_mark(shown.get(index)), f"h{index}: score {score:.0f}")
    return _markup(svg)


def _mark(role: str | None) -> tuple[float, str]:
    return (3.2, "point soft") if role is None else (5.2, f"point {role}")


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """Both ends with a little air; a single value gets a millimetre of room."""
    low, high = min(values), max(values)
    air = max(0.06 * (high - low), 0.5)
    return max(0.0, low - air), high + air


def _difference_text(name: str, interval: Interval) -> str:
    return f"{name} - base: {interval.mean:+.1f} mm, 95 % from {interval.low:+.1f} to {interval.high:+.1f}"


def _svg(width: float, height: float, title: str) -> ElementTree.Element:
    svg = ElementTree.Element(
        "svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "class": "figure"}
    )
    svg.set("width", f"{width:g}")
    svg.set("height", f"{height:g}")
    svg.set("aria-label", title)
    return svg


def _frame(svg: ElementTree.Element, across: Axis, up: Axis, x_label: str, y_label: str) -> None:
    for tick in across.ticks():
        _line(svg, across(tick), up.low_px, across(tick), up.high_px, "grid")
        _text(svg, across(tick), up.low_px + 14, f"{tick:g}", "tick", "middle")
    for tick in up.ticks():
        _line(svg, across.low_px, up(tick), across.high_px, up(tick), "grid")
        _text(svg, across.low_px - 6, up(tick) + 3.5, f"{tick:g}", "tick", "end")
    _text(svg, (across.low_px + across.high_px) / 2, up.low_px + 31, x_label, "label", "middle")
    middle = (up.low_px + up.high_px) / 2
    label = _text(svg, 11.0, middle, y_label, "label", "middle")
    label.set("transform", f"rotate(-90 11 {middle:.1f})")


def _line(parent: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    ElementTree.SubElement(
        parent, "line", {key: f"{value:.1f}" for key, value in ends.items()} | {"class": kind}
    )


def _circle(parent: ElementTree.Element, x: float, y: float, radius: float, kind: str, title: str) -> None:
    attributes = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}", "class": kind}
    circle = ElementTree.SubElement(parent, "circle", attributes)
    ElementTree.SubElement(circle, "title").text = title


def _text(
    parent: ElementTree.Element, x: float, y: float, text: str, kind: str, anchor: str
) -> ElementTree.Element:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind, "text-anchor": anchor}
    element = ElementTree.SubElement(parent, "text", attributes)
    element.text = text
    return element


def _markup(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
