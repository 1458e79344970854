"""Images for a vision-capable backend: the photograph once, and a labelled panel (overlay, side view) per hypothesis.

A panel is a separate image, or part of a sheet of up to six (`montage`). Separate images are the default, because a
model uses its full resolution for each, and each caption is next to its image. Sheets are for servers that accept few
images or charge per image.

Panels are larger than the view in which tools measure, and have the same crop as the photograph, so that both can be
superimposed. They are drawn once per group. Only the badge changes between label orders; it is added when a question is
built. For text-only backends nothing is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import UInt8

from agent.pictures.badges import StoredRows, below_badge, framed, joined_png, stored_png, with_badge
from agent.types import Case
from agent.vlm.protocol import ImagePart
from hmr.images.crops import crop_image
from hmr.render.overlay import montage, overlay, side_view
from hmr.render.threads import parallel_map
from hmr.types import Renderer

__all__ = [
    "OPACITY",
    "PANEL_PX",
    "PICTURES",
    "Views",
    "draw_views",
    "hypothesis_parts",
    "photo_part",
    "sheets",
    "shown_at_once",
]

PICTURES = ("separate", "montage")

PANEL_PX = 224  # side of one view: seven patches of 32 pixels, the patch size of Qwen3-VL
OPACITY = 0.75  # of the body over the photograph; the limb under it stays visible
SHEET_PANELS = 6
SHEET_COLUMNS = 2


@dataclass(frozen=True)
class Views:
    """One hypothesis over the photograph and from the side."""

    overlay: UInt8[np.ndarray, "size size 3"]
    side: UInt8[np.ndarray, "size size 3"]

    @cached_property
    def panel(self) -> UInt8[np.ndarray, "height width 3"]:
        """Both views side by side, without a label."""
        return framed(self.overlay, self.side)

    def labelled(self, label: str) -> UInt8[np.ndarray, "height width 3"]:
        """The panel with its badge."""
        return with_badge(self.panel, label, len(self.overlay))

    def part(self, label: str) -> ImagePart:
        """The labelled panel as a separate image; cached, because reflection and revision show it again."""
        if label not in self._parts:
            size = len(self.overlay)
            top = with_badge(self.panel[: below_badge(size)], label, size)
            png = joined_png([StoredRows.of(top), self._below_badge])
            self._parts[label] = ImagePart(png, f"hypothesis {label}")
        return self._parts[label]

    @cached_property
    def _below_badge(self) -> StoredRows:
        return StoredRows.of(self.panel[below_badge(len(self.overlay)) :])

    @cached_property
    def _parts(self) -> dict[str, ImagePart]:
        return {}

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.overlay.tobytes() + self.side.tobytes()).hexdigest()[:16]


def draw_views(case: Case, renderer: Renderer, margin: float) -> list[Views]:
    """The views of every hypothesis, in the crop around the person's box; `margin` is its side relative to the box."""
    vertices, faces = case.posed.vertices_cam_m.numpy(), case.body.faces.numpy()
    square = case.sample.box.square(margin)
    photo, camera = (
        crop_image(case.sample.image, square, PANEL_PX),
        case.hypotheses.camera.crop(square, PANEL_PX),
    )
    frame = renderer.render(vertices, faces, camera)
    pelvis = case.posed.joints_cam_m[:, 0].numpy()
    sides = side_view(vertices, faces, pelvis, renderer, PANEL_PX, supersampling=1)
    return parallel_map(lambda j: Views(overlay(photo, frame, alpha=OPACITY, index=j), sides[j]), len(case))


def photo_part(case: Case, margin: float) -> ImagePart:
    """The photograph, cropped around the person, with nothing drawn on it."""
    photo = crop_image(case.sample.image, case.sample.box.square(margin), PANEL_PX)
    return ImagePart(stored_png(photo), "the photograph")


def hypothesis_parts(views: Mapping[str, Views], pictures: str = "separate") -> list[ImagePart]:
    """The images of the hypotheses: one each, or sheets of six."""
    if pictures == "separate":
        return [view.part(label) for label, view in views.items()]
    panels = {label: view.labelled(label) for label, view in views.items()}
    labels = list(panels)
    return [
        _sheet({label: panels[label] for label in labels[start : start + SHEET_PANELS]})
        for start in range(0, len(labels), SHEET_PANELS)
    ]


def sheets(hypotheses: int, pictures: str) -> int:
    """The number of images that show this many hypotheses."""
    return -(-hypotheses // SHEET_PANELS) if pictures == "montage" else hypotheses


def shown_at_once(max_images: int | None, pictures: str = "separate") -> int | None:
    """The number of hypotheses in one question of at most `max_images` images, one of them the photograph; None if
    there is no limit."""
    if max_images is None:
        return None
    return max(0, max_images - 1) * (SHEET_PANELS if pictures == "montage" else 1)


def _sheet(panels: dict[str, UInt8[np.ndarray, "height width 3"]]) -> ImagePart:
    labels = list(panels)
    columns = min(SHEET_COLUMNS, len(labels))
    caption = f"hypotheses {', '.join(labels)}" if len(labels) > 1 else f"hypothesis {labels[0]}"
    return ImagePart(stored_png(montage(list(panels.values()), columns)), caption)
