"""Draws a graph of LangGraph as an SVG image, so that the site shows it without a script.

The nodes are in one column, in the order in which they were added. Edges to the next node are straight, edges that
skip nodes curve on the left, and edges back curve on the right. Dashed edges are conditional.
"""

from xml.etree import ElementTree

from langchain_core.runnables.graph import Graph

from eval.report.svg import new_svg, text

WIDTH, HEIGHT = 180, 30  # of a node, in pixels
STEP = 56  # from one node to the next
LANE = 30  # how much further each curve on one side reaches
MARGIN = 8
HEAD = 7  # length of an arrow's head
NAMES = {"__start__": "START", "__end__": "END"}


def state_diagram(graph: Graph, title: str) -> str:
    """The SVG element, in the colour of the text around it."""
    places = {
        name: place for place, name in enumerate([n for n in graph.nodes if n != "__end__"] + ["__end__"])
    }
    edges = [(places[edge.source], places[edge.target], edge.conditional) for edge in graph.edges]
    skips = sorted((edge for edge in edges if edge[1] > edge[0] + 1), key=_span)
    loops = sorted((edge for edge in edges if edge[1] <= edge[0]), key=_span)
    left = MARGIN + LANE * (len(skips) + 1)
    right = left + WIDTH
    svg = new_svg(
        right + LANE * (len(loops) + 1) + MARGIN, STEP * (len(places) - 1) + HEIGHT + 2 * MARGIN, title
    )
    svg.set("style", "max-width: 100%; height: auto")
    for name, place in places.items():
        _node(svg, NAMES.get(name, name), left, _middle(place) - HEIGHT / 2, pill=name in NAMES)
    for source, target, conditional in edges:
        if target == source + 1:
            x, end = left + WIDTH / 2, _middle(target) - HEIGHT / 2
            _arrow(svg, f"M {x} {_middle(source) + HEIGHT / 2} V {end - HEAD}", (x, end), (0, 1), conditional)
    for side, x, curves in ((-1, left, skips), (1, right, loops)):
        for lane, (source, target, conditional) in enumerate(curves, start=1):
            down = HEIGHT / 5 if target > source else -HEIGHT / 5  # leaving and arriving edges stay apart
            start, end, far = _middle(source) + down, _middle(target) - down, x + side * LANE * (lane + 0.8)
            path = f"M {x} {start} C {far} {start} {far} {end} {x + side * HEAD} {end}"
            _arrow(svg, path, (x, end), (-side, 0), conditional)
    return ElementTree.tostring(svg, encoding="unicode")


def _span(edge: tuple[int, int, bool]) -> int:
    return abs(edge[1] - edge[0])


def _middle(place: int) -> float:
    return MARGIN + HEIGHT / 2 + STEP * place


def _node(svg: ElementTree.Element, name: str, x: float, y: float, pill: bool) -> None:
    box = {"x": x, "y": y, "width": WIDTH, "height": HEIGHT, "rx": HEIGHT / 2 if pill else 4}
    style = {"fill": "none", "stroke": "currentColor"}
    ElementTree.SubElement(svg, "rect", {key: f"{value:g}" for key, value in box.items()} | style)
    label = text(svg, x + WIDTH / 2, y + HEIGHT / 2 + 4.5, name, "label", "middle")
    label.attrib |= {"fill": "currentColor", "font-size": "13", "font-family": "monospace"}


def _arrow(
    svg: ElementTree.Element, path: str, tip: tuple[float, float], along: tuple[int, int], dashed: bool
) -> None:
    """A line, and a head that ends at `tip` and points along an axis."""
    line = {"d": path, "fill": "none", "stroke": "currentColor"}
    ElementTree.SubElement(svg, "path", line | ({"stroke-dasharray": "4 3"} if dashed else {}))
    (x, y), (dx, dy) = tip, along
    back_x, back_y, half = x - HEAD * dx, y - HEAD * dy, HEAD / 2
    corners = [(x, y), (back_x + half * dy, back_y + half * dx), (back_x - half * dy, back_y - half * dx)]
    points = " ".join(f"{px:g},{py:g}" for px, py in corners)
    ElementTree.SubElement(svg, "polygon", {"points": points, "fill": "currentColor"})
