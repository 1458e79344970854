"""What a judge with eyes is shown: the photograph once, and a labelled panel (overlay, side view) a
hypothesis.

The label is drawn when the question is put, because it changes with every label order. Backends without eyes
get none of this, and nothing is drawn for them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from agent.types import Case
from agent.vlm.protocol import ImagePart
from hmr.render.overlay import crop_image, encode_png, overlay, panel, side_view
from hmr.types import Renderer

__all__ = ["Views", "draw_views", "hypothesis_part", "photo_part"]


@dataclass(frozen=True)
class Views:
    """One hypothesis over the photograph and from its side."""

    overlay: UInt8[np.ndarray, "size size 3"]
    side: UInt8[np.ndarray, "size size 3"]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.overlay.tobytes() + self.side.tobytes()).hexdigest()[:16]


def draw_views(case: Case, renderer: Renderer, margin: float) -> list[Views]:
    """The views of every hypothesis, at the size of the case's own view and with its margin."""
    size = case.view.width
    photo = crop_image(case.sample.image, case.sample.box.square(margin), size)
    vertices, faces = case.posed.vertices_cam_m.numpy(), case.body.faces.numpy()
    sides = side_view(vertices, faces, case.posed.joints_cam_m[:, 0].numpy(), renderer, size)
    return [Views(overlay(photo, case.frame, index=j), side) for j, side in enumerate(sides)]


def photo_part(case: Case, margin: float) -> ImagePart:
    """The photograph about the person, with nothing drawn on it."""
    photo = crop_image(case.sample.image, case.sample.box.square(margin), case.view.width)
    return ImagePart(encode_png(photo), "the photograph")


def hypothesis_part(views: Views, label: str) -> ImagePart:
    """One labelled panel."""
    return ImagePart(encode_png(panel(None, views.overlay, views.side, label)), f"hypothesis {label}")
