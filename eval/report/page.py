"""Writes the report of a run: one HTML file with its pictures, figures and style inside, and no script.

Everything the page shows comes in as `ReportData`; nothing is computed here but layout. The page forbids
itself any request by its own content policy, and every word of a model passes through jinja's autoescape.

Left out: raw replies of a remote VLM, which belong to the trace (`trace_id` stands beside each case).
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jinja2
import numpy as np
from jaxtyping import Float, UInt8

from agent.types import GroupCritique
from eval.benchmark.tables import Row, label
from eval.critics.agreement import CriticAgreement
from eval.report import figures
from hmr.images.crops import encode_jpeg
from hmr.render.overlay import score_color
from memory.rules import Rule

__all__ = ["ReportCase", "ReportData", "ShownHypothesis", "write_report"]

JPEG_QUALITY = 86


@dataclass(frozen=True)
class ShownHypothesis:
    """Pictures of one member of a group; its score and comment stand in the case's critique."""

    index: int
    role: str  # "best" or "worst", by the critic
    overlay: UInt8[np.ndarray, "height width 3"]
    side: UInt8[np.ndarray, "side_height side_width 3"]


@dataclass(frozen=True)
class ReportCase:
    """One judged group. `errors_mm` is the truth that the critic did not see, or None for a photograph."""

    title: str
    photo: UInt8[np.ndarray, "height width 3"]
    critique: GroupCritique
    shown: tuple[ShownHypothesis, ...]
    errors_mm: tuple[float, ...] | None = None

    @property
    def roles(self) -> dict[int, str]:
        return {hypothesis.index: hypothesis.role for hypothesis in self.shown}


@dataclass(frozen=True)
class ReportData:
    """What a run found. Empty fields leave their sections out: a critique of photographs has no table."""

    title: str
    facts: Mapping[str, str]  # seeds, hashes, wall time, peak memory, in the order to show
    versions: Mapping[str, str]
    rows: tuple[Row, ...] = ()  # eval.benchmark.tables.compare
    by_image: Mapping[str, Float[np.ndarray, " images"]] | None = None  # variant -> mean_m MPJPE(h_m), mm
    critic: CriticAgreement | None = None
    cases: tuple[ReportCase, ...] = ()
    rules: tuple[Rule, ...] = ()
    protocol: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()  # what a reader must know to read the numbers rightly


def write_report(path: Path, data: ReportData) -> None:
    """Writes the page whole or not at all."""
    scatters = {
        name: figures.paired_scatter(
            data.by_image["base"].tolist(), values.tolist(), label("mpjpe_mm", "mean") + " (mm)", name
        )
        for name, values in (data.by_image or {}).items()
        if data.by_image is not None and name != "base"
    }
    html = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            data=data,
            headline=next(
                (row for row in data.rows if (row.metric, row.reduction) == ("mpjpe_mm", "mean")), None
            ),
            strips=_strips(data.rows),
            scatters=scatters,
        )
    )
    partial = path.with_name(path.name + ".part")
    partial.write_text(html, encoding="utf-8")
    partial.replace(path)


def _strips(rows: tuple[Row, ...]) -> list[str]:
    """A figure for each row, all on one axis that holds every interval and a millimetre about zero."""
    intervals = [interval for row in rows for interval in row.differences.values() if interval is not None]
    low = min([-1.0, *(interval.low for interval in intervals)])
    high = max([1.0, *(interval.high for interval in intervals)])
    return [figures.interval_strip(row.differences, low, high) for row in rows]


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "score_css": _score_css, "signed": _signed}
    environment.globals |= {
        "score_error_scatter": figures.score_error_scatter,
        "score_strip": figures.score_strip,
    }
    return environment


def _data_uri(image: UInt8[np.ndarray, "height width 3"]) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, JPEG_QUALITY)).decode()


def _score_css(score: float | None) -> str:
    red, green, blue = (round(255 * channel) for channel in score_color(score))
    return f"rgb({red} {green} {blue})"


def _signed(value: float) -> str:
    """+1.2, with a true minus sign and no negative zero."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")
