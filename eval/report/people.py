"""The people of a report without truth: measures before and after alignment, and hypothesis 0 in pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8

from eval.benchmark.intervals import Interval
from hmr.body.model import Body
from hmr.images.crops import crop_image
from hmr.render.overlay import overlay, side_view, zoom
from hmr.types import BodyParams, Renderer, Sample

__all__ = ["Change", "PersonPictures", "draw_person"]

CROP_SCALE = 1.35  # margin about the person, so that a misplaced limb stays in the picture


@dataclass(frozen=True)
class Change:
    """Means of one measure over people, before and after alignment, and the paired difference."""

    part: str  # which people
    measure: str
    people: int
    before: float
    after: float
    difference: Interval | None  # None for one person


@dataclass(frozen=True)
class PersonPictures:
    """Overlay and side view of one body before and after alignment."""

    title: str
    photo: UInt8[np.ndarray, "height width 3"]
    before: tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width 3"]]
    after: tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width 3"]]
    captions: tuple[str, str] = ("", "")


@torch.no_grad()
def draw_person(
    title: str,
    sample: Sample,
    bodies: BodyParams,
    body: Body,
    renderer: Renderer,
    captions: tuple[str, str] = ("", ""),
    size: int = 288,
) -> PersonPictures:
    """bodies: the one before and the one after, batch shape (2,), in the camera of the sample. size: side of each
    picture in pixels."""
    square = sample.box.square(CROP_SCALE)
    photo = crop_image(sample.image, square, size)
    posed = body(bodies)
    vertices, pelvis = posed.vertices_cam_m.cpu().numpy(), posed.joints_cam_m[:, 0].cpu().numpy()
    faces = body.faces.cpu().numpy()
    frame = renderer.render(vertices, faces, zoom(sample.camera.crop(square, size)))
    sides = side_view(vertices, faces, pelvis, renderer, size)
    before, after = ((overlay(photo, frame, index=row), sides[row]) for row in (0, 1))
    return PersonPictures(title, photo, before, after, captions)
