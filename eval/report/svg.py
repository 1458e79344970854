"""SVG primitives of the figures, as an XML tree, so that text cannot become markup."""

from __future__ import annotations

import math
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

__all__ = [
    "MARGIN_BOTTOM",
    "MARGIN_LEFT",
    "MARGIN_RIGHT",
    "MARGIN_TOP",
    "Axis",
    "circle",
    "frame",
    "line",
    "markup",
    "new_svg",
    "text",
]

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 46.0, 12.0, 12.0, 38.0
TICKS = 5


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels along one axis; `high_px` may be less than `low_px`."""

    low: float
    high: float
    low_px: float
    high_px: float

    def __call__(self, value: float) -> float:
        return self.low_px + (value - self.low) / (self.high - self.low) * (self.high_px - self.low_px)

    def ticks(self) -> list[float]:
        """Round numbers on the axis; their step is 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step - 1e-9)
        return [step * index for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def new_svg(width: float, height: float, title: str) -> ElementTree.Element:
    svg = ElementTree.Element(
        "svg", {"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "class": "figure"}
    )
    svg.set("width", f"{width:g}")
    svg.set("height", f"{height:g}")
    svg.set("aria-label", title)
    return svg


def frame(svg: ElementTree.Element, across: Axis, up: Axis, x_label: str, y_label: str) -> None:
    for tick in across.ticks():
        line(svg, across(tick), up.low_px, across(tick), up.high_px, "grid")
        text(svg, across(tick), up.low_px + 14, f"{tick:g}", "tick", "middle")
    for tick in up.ticks():
        line(svg, across.low_px, up(tick), across.high_px, up(tick), "grid")
        text(svg, across.low_px - 6, up(tick) + 3.5, f"{tick:g}", "tick", "end")
    text(svg, (across.low_px + across.high_px) / 2, up.low_px + 31, x_label, "label", "middle")
    middle = (up.low_px + up.high_px) / 2
    label = text(svg, 11.0, middle, y_label, "label", "middle")
    label.set("transform", f"rotate(-90 11 {middle:.1f})")


def line(parent: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    ElementTree.SubElement(
        parent, "line", {key: f"{value:.1f}" for key, value in ends.items()} | {"class": kind}
    )


def circle(parent: ElementTree.Element, x: float, y: float, radius: float, kind: str, title: str) -> None:
    attributes = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius:g}", "class": kind}
    dot = ElementTree.SubElement(parent, "circle", attributes)
    ElementTree.SubElement(dot, "title").text = title


def text(
    parent: ElementTree.Element, x: float, y: float, content: str, kind: str, anchor: str
) -> ElementTree.Element:
    attributes = {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": kind, "text-anchor": anchor}
    element = ElementTree.SubElement(parent, "text", attributes)
    element.text = content
    return element


def markup(svg: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(svg, encoding="unicode"))
