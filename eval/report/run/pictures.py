"""Draws the pictures of a report as WebP files: the photograph once, and each body as a transparent layer over it.

A layer of 304 pixels takes 2.6 kB, an overlay with the photograph in it twice as much. The page puts them together, so
that a reader can fade the body out.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image

from agent.types import GroupCritique
from eval.report.run.data import HypothesisPictures, PersonPictures, ReportCase
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.render.overlay import body_layer, side_view, zoom
from hmr.types import BodyParams, Hypotheses, Renderer, Sample

__all__ = ["PictureSize", "draw_case", "draw_person", "picture_size"]

CROP_SCALE = 1.35  # margin about the person, so that a misplaced limb stays in the picture


@dataclass(frozen=True)
class PictureSize:
    """Sides of the square pictures in pixels, and the quality of the WebP files from 0 to 100."""

    overlay: int
    side: int
    quality: int


LARGE = PictureSize(512, 384, 70)  # 12 kB per hypothesis
SMALL = PictureSize(304, 216, 50)  # 3.7 kB: 300 groups of 20 fit into 40 MB (benchmarks/report_size.py)
MANY = 1000  # hypotheses


def picture_size(hypotheses: int) -> PictureSize:
    """The size for a report with so many hypotheses."""
    return LARGE if hypotheses <= MANY else SMALL


def draw_case(
    title: str,
    sample: Sample,
    hypotheses: Hypotheses,
    critique: GroupCritique,
    *,
    body: Body,
    renderer: Renderer,
    errors_mm: Sequence[float] | None = None,
    size: PictureSize = LARGE,
) -> ReportCase:
    """Draw a case of the report: the photograph's crop, and each hypothesis over it and from the side."""
    photo, pictures = _draw(sample, hypotheses.params, body, renderer, size)
    return ReportCase(title, critique, photo, pictures, None if errors_mm is None else tuple(errors_mm))


def draw_person(
    title: str,
    sample: Sample,
    bodies: BodyParams,
    body: Body,
    renderer: Renderer,
    captions: tuple[str, str] = ("", ""),
    size: PictureSize = LARGE,
) -> PersonPictures:
    """bodies: the one before and the one after, batch shape (2,), in the camera of the sample."""
    photo, (before, after) = _draw(sample, bodies, body, renderer, size)
    return PersonPictures(title, photo, before, after, captions)


@torch.no_grad()
def _draw(
    sample: Sample, bodies: BodyParams, body: Body, renderer: Renderer, size: PictureSize
) -> tuple[bytes, tuple[HypothesisPictures, ...]]:
    """The photograph, and the pictures of each body."""
    square = sample.box.square(CROP_SCALE)
    photo = crop_image(sample.image, square, size.overlay)
    posed = body(bodies)
    vertices, pelvis = posed.vertices_cam_m.cpu().numpy(), posed.joints_cam_m[:, 0].cpu().numpy()
    faces = body.faces.cpu().numpy()
    frame = renderer.render(vertices, faces, zoom(sample.camera.crop(square, size.overlay)))
    sides = side_view(vertices, faces, pelvis, renderer, size.side)
    pictures = tuple(
        HypothesisPictures(
            _webp(body_layer(frame, size.overlay, index=row), size.quality), _webp(side, size.quality)
        )
        for row, side in enumerate(sides)
    )
    return _webp(photo, size.quality), pictures


def _webp(image: UInt8[np.ndarray, "height width channels"], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=quality, method=6)
    return buffer.getvalue()
