"""The texts of the page's panel, as HTML. Comments and file names are untrusted and are escaped."""

from __future__ import annotations

from html import escape

from cli.viewer.contents import ShownPerson, ShownPhoto
from hmr.render.overlay import Color, score_color

__all__ = ["about_hypothesis", "about_photo", "css", "score_legend"]

STYLE = "padding: 0 0.75em; font-size: 0.8em; line-height: 1.45"


def css(color: Color) -> str:
    return "#" + "".join(f"{round(channel * 255):02x}" for channel in color)


def about_photo(name: str, shown: ShownPhoto) -> str:
    width, height = shown.photo.file_size
    focal_px = shown.camera.resize(width, height).focal_px
    people = f"{len(shown.people)} people" if len(shown.people) > 1 else "1 person"
    return _block(f"<b>{escape(name)}</b><br>{width} x {height} px, focal length {focal_px:.0f} px, {people}")


def about_hypothesis(person: ShownPerson, hypothesis: int) -> str:
    """The score of a hypothesis in its colour, and the critic's comment."""
    if not person.scores:
        return _block("These bodies have no scores.")
    score = person.scores[hypothesis]
    chip = f"background:{css(score_color(score))};color:white;border-radius:3px;padding:0.05em 0.4em"
    text = "no score" if score is None else f"{score:.1f}"
    comment = person.comments[hypothesis] if person.comments else ""
    return _block(f'<span style="{chip}">{text}</span> {escape(comment)}')


def score_legend() -> str:
    """The colours of scores, and the grey of a missing one."""
    stops = ", ".join(css(score_color(score)) for score in (0.0, 25.0, 50.0, 75.0, 100.0))
    bar = f"display:inline-block;width:7em;height:0.8em;vertical-align:middle;background:linear-gradient(90deg,{stops})"
    grey = f"display:inline-block;width:0.8em;height:0.8em;vertical-align:middle;background:{css(score_color(None))}"
    return _block(f'score 0 <span style="{bar}"></span> 100 &nbsp; <span style="{grey}"></span> none')


def _block(content: str) -> str:
    return f'<div style="{STYLE}">{content}</div>'
