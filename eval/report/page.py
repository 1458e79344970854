"""Writes the report of a run: one HTML file with its pictures, figures and style inside, and no script.

`ReportData` holds everything that the page shows. The page's content security policy forbids any request, and jinja
escapes all text that a model wrote.

Left out: raw replies of a remote VLM. They are in the trace, whose `trace_id` is printed with each case.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cache

import jinja2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from agent.types import GroupCritique
from common.files import PathLike, write_text
from eval.benchmark.tables import Row, label
from eval.critics.agreement import CriticAgreement
from eval.report import figures
from eval.report.environment import new_environment
from eval.report.people import Change, PersonPictures
from hmr.body.model import Body
from hmr.images.crops import crop_image, encode_jpeg
from hmr.render.overlay import overlay, side_view, zoom
from hmr.types import Hypotheses, Renderer, Sample
from memory.rule import Rule

__all__ = ["ReportCase", "ReportData", "ShownHypothesis", "best_and_worst", "draw_case", "write_report"]

JPEG_QUALITY = 86
HEADLINE = ("mpjpe_mm", "hyp0")  # narrowing alone does not lower it
VARIANT_NAMES = {
    "narrowed": "Base at the same spread",
    "shuffled": "Shuffled scores",
    "labels": "Labels, the bound",
}
CROP_SCALE = 1.35  # margin about the person, so that a misplaced limb stays in the picture


@dataclass(frozen=True)
class ShownHypothesis:
    """Pictures of one hypothesis; its score and comment are in the case's critique."""

    index: int
    role: str  # "best" or "worst", by the critic
    overlay: UInt8[np.ndarray, "height width 3"]
    side: UInt8[np.ndarray, "side_height side_width 3"]


@dataclass(frozen=True)
class ReportCase:
    """One scored group. `errors_mm`: true errors by hypothesis, which the critic did not see; None without truth."""

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
    """The content of a report. The page has no section for an empty field."""

    title: str
    facts: Mapping[str, str]  # seeds, hashes, wall time, peak memory, in the order to show
    versions: Mapping[str, str]
    _: KW_ONLY
    rows: tuple[Row, ...] = ()  # eval.benchmark.tables.compare
    by_image: Mapping[str, Float[np.ndarray, " images"]] | None = None  # variant -> MPJPE(h_0), mm
    critic: CriticAgreement | None = None
    changes: tuple[Change, ...] = ()  # of measures without truth, before and after alignment
    people: tuple[PersonPictures, ...] = ()
    cases: tuple[ReportCase, ...] = ()
    rules: tuple[Rule, ...] = ()
    protocol: Mapping[str, str] | None = None
    notes: tuple[str, ...] = ()  # what a reader must know to interpret the numbers


def write_report(path: PathLike, data: ReportData) -> None:
    """Render the page and replace the file at `path` in one step."""
    scatters = {
        name: figures.paired_scatter(
            data.by_image["base"].tolist(), values.tolist(), label("mpjpe_mm", "hyp0") + " (mm)", name
        )
        for name, values in (data.by_image or {}).items()
        if data.by_image is not None and name != "base"
    }
    template = _environment().get_template("page.html.jinja")
    headline = next((row for row in data.rows if (row.metric, row.reduction) == HEADLINE), None)
    write_text(
        path, template.render(data=data, headline=headline, strips=_strips(data.rows), scatters=scatters)
    )


@torch.no_grad()
def draw_case(
    title: str,
    sample: Sample,
    hypotheses: Hypotheses,
    critique: GroupCritique,
    *,
    body: Body,
    renderer: Renderer,
    errors_mm: Sequence[float] | None = None,
    size: int = 288,
) -> ReportCase:
    """Draw a case of the report: the photograph's crop, and overlay and side view of the best and the worst hypothesis
    by score. A group without any score has its photograph alone. `size`: side of each picture in pixels."""
    square = sample.box.square(CROP_SCALE)
    photo = crop_image(sample.image, square, size)
    roles = best_and_worst(critique.scores)
    errors = None if errors_mm is None else tuple(errors_mm)
    if not roles:
        return ReportCase(title, photo, critique, (), errors)
    posed = body(hypotheses.params[torch.tensor(list(roles))])
    vertices, pelvis = posed.vertices_cam_m.cpu().numpy(), posed.joints_cam_m[:, 0].cpu().numpy()
    faces = body.faces.cpu().numpy()
    frame = renderer.render(vertices, faces, zoom(sample.camera.crop(square, size)))
    sides = side_view(vertices, faces, pelvis, renderer, size)
    shown = [
        ShownHypothesis(hypothesis, role, overlay(photo, frame, index=row), sides[row])
        for row, (hypothesis, role) in enumerate(roles.items())
    ]
    return ReportCase(title, photo, critique, tuple(shown), errors)


def best_and_worst(scores: Sequence[float | None]) -> dict[int, str]:
    """Role of the hypotheses to show, by index; ties go to the lower index, a single score is the best."""
    known = [(score, index) for index, score in enumerate(scores) if score is not None]
    if not known:
        return {}
    order = np.argsort([-score for score, _ in known], kind="stable")
    ends = {known[order[-1]][1]: "worst", known[order[0]][1]: "best"}
    return {index: ends[index] for index in sorted(ends, key=lambda index: ends[index])}


def _strips(rows: tuple[Row, ...]) -> list[str]:
    """One figure per row, all on one axis that covers every interval and 1 mm on both sides of zero."""
    intervals = [interval for row in rows for interval in row.differences.values() if interval is not None]
    low = min([-1.0, *(interval.low for interval in intervals)])
    high = max([1.0, *(interval.high for interval in intervals)])
    return [figures.interval_strip(row.differences, low, high) for row in rows]


@cache
def _environment() -> jinja2.Environment:
    environment = new_environment()
    environment.filters |= {"data_uri": _data_uri, "signed": _signed}
    environment.globals |= {
        "variant_name": lambda name: VARIANT_NAMES.get(name, name.capitalize()),
        "score_error_scatter": figures.score_error_scatter,
        "score_strip": figures.score_strip,
    }
    return environment


def _data_uri(image: UInt8[np.ndarray, "height width 3"]) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(encode_jpeg(image, JPEG_QUALITY)).decode()


def _signed(value: float) -> str:
    """+1.2, with a true minus sign and no negative zero."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")
