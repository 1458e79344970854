"""What a judge with eyes is shown: the photograph once, and a labelled panel (overlay, side view) a hypothesis.

A panel is a picture of its own, or stands on a sheet with five others (`montage`). Separate pictures are the
default: a model spends its resolution on each, and its words come next to the picture they are about. Sheets
are for servers that take few pictures, or charge by the picture.

Panels are drawn larger than the view that tools measure in, and through the same crop as the photograph, so that
the three can be laid over each other. They are drawn once a group; only the badge with the label, which changes with
every label order, is laid on when the question is put. Backends without eyes get none of this, and nothing is drawn
for them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from agent.pictures import framed, stored_png, with_badge
from agent.types import Case
from agent.vlm.protocol import ImagePart
from hmr.render.overlay import crop_image, montage, overlay, side_view
from hmr.types import Renderer

__all__ = [
    "OPACITY",
    "PANEL_PX",
    "PICTURES",
    "SIDE_PX",
    "Views",
    "draw_views",
    "enlarged",
    "hypothesis_parts",
    "photo_part",
    "sheets",
    "shown_at_once",
]

PICTURES = ("separate", "montage")

PANEL_PX = 224  # side of one view: seven patches of 32 pixels, as Qwen3-VL's are
SIDE_PX = (
    PANEL_PX // 2
)  # side views are drawn at half the size and enlarged: they show a posture, not an outline
OPACITY = 0.75  # of the body over the photograph: the limb under it stays visible
SHEET_PANELS = 6
SHEET_COLUMNS = 2


@dataclass(frozen=True)
class Views:
    """One hypothesis over the photograph and from its side."""

    overlay: UInt8[np.ndarray, "size size 3"]
    side: UInt8[np.ndarray, "size size 3"]

    @cached_property
    def panel(self) -> UInt8[np.ndarray, "height width 3"]:
        """Both beside each other, without a label."""
        return framed(self.overlay, self.side)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.overlay.tobytes() + self.side.tobytes()).hexdigest()[:16]


def draw_views(case: Case, renderer: Renderer, margin: float) -> list[Views]:
    """The views of every hypothesis, in the crop about the person's box with this margin."""
    vertices, faces = case.posed.vertices_cam_m.numpy(), case.body.faces.numpy()
    square = case.sample.box.square(margin)
    photo, camera = (
        crop_image(case.sample.image, square, PANEL_PX),
        case.hypotheses.camera.crop(square, PANEL_PX),
    )
    frame = renderer.render(vertices, faces, camera)
    sides = side_view(vertices, faces, case.posed.joints_cam_m[:, 0].numpy(), renderer, SIDE_PX)
    return [
        Views(overlay(photo, frame, alpha=OPACITY, index=j), enlarged(side)) for j, side in enumerate(sides)
    ]


def photo_part(case: Case, margin: float) -> ImagePart:
    """The photograph about the person, with nothing drawn on it."""
    photo = crop_image(case.sample.image, case.sample.box.square(margin), PANEL_PX)
    return ImagePart(stored_png(photo), "the photograph")


def hypothesis_parts(views: Mapping[str, Views], pictures: str = "separate") -> list[ImagePart]:
    """The pictures of the hypotheses by label: one each, or sheets of six."""
    panels = {label: with_badge(view.panel, label, len(view.overlay)) for label, view in views.items()}
    if pictures == "separate":
        return [ImagePart(stored_png(drawn), f"hypothesis {label}") for label, drawn in panels.items()]
    labels = list(panels)
    return [
        _sheet({label: panels[label] for label in labels[start : start + SHEET_PANELS]})
        for start in range(0, len(labels), SHEET_PANELS)
    ]


def sheets(hypotheses: int, pictures: str) -> int:
    """How many pictures show this many hypotheses."""
    return -(-hypotheses // SHEET_PANELS) if pictures == "montage" else hypotheses


def shown_at_once(max_images: int | None, pictures: str = "separate") -> int | None:
    """How many hypotheses fit in one question of at most `max_images` pictures, the photograph taking one."""
    if max_images is None:
        return None
    return max(0, max_images - 1) * (SHEET_PANELS if pictures == "montage" else 1)


def enlarged(side: UInt8[np.ndarray, "half half 3"]) -> UInt8[np.ndarray, "size size 3"]:
    """A side view as large as an overlay."""
    return np.asarray(Image.fromarray(side).resize((PANEL_PX, PANEL_PX), Image.Resampling.BICUBIC))


def _sheet(panels: dict[str, UInt8[np.ndarray, "height width 3"]]) -> ImagePart:
    labels = list(panels)
    columns = min(SHEET_COLUMNS, len(labels))
    caption = f"hypotheses {', '.join(labels)}" if len(labels) > 1 else f"hypothesis {labels[0]}"
    return ImagePart(stored_png(montage(list(panels.values()), columns)), caption)
