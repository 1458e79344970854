"""The jinja environment of the pages: templates of this folder, all text escaped, unknown names refused."""

from __future__ import annotations

from pathlib import Path

import jinja2

from hmr.render.overlay import score_color

__all__ = ["new_environment", "score_css"]


def new_environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score_css"] = score_css
    return environment


def score_css(score: float | None) -> str:
    """The colour of a score's badge."""
    red, green, blue = (round(255 * channel) for channel in score_color(score))
    return f"rgb({red} {green} {blue})"
