"""Images of uncertain hypotheses for a vision-capable backend: a close-up of the disputed part, and the other side.

| tile            | content                                                                                      |
|-----------------|----------------------------------------------------------------------------------------------|
| photograph      | the crop around the disputed part, with nothing drawn on it                                  |
| overlay         | the same crop with the hypothesis over it                                                    |
| the other side  | the whole body from the side that the panel's side view hides                                |

The disputed part is the one named in the reason why the score is uncertain or in the comment, otherwise the one that
most tools report. Its crop contains the hypothesis' joints and the confident keypoints, so that a misplaced limb is
visible in both places. A hypothesis without a disputed part is shown from its other side only.

There is one image per hypothesis, for the most uncertain ones, as many as the settings and the backend's image limit
allow. Left out: an evaluation of their effect, which needs a real model.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from agent.pictures.badges import stored_png, with_badge
from agent.pictures.panels import OPACITY, PANEL_PX
from agent.tools.parts import PART_NAMES
from agent.types import Case
from agent.vlm.protocol import ImagePart
from hmr.images.crops import crop_image
from hmr.render.overlay import montage, overlay, side_view
from hmr.render.threads import parallel_map
from hmr.types import PARENTS, Box, Renderer

__all__ = [
    "CloseUp",
    "close_up_part",
    "disputed_part",
    "draw_close_ups",
    "part_box",
    "part_crops",
    "turned_views",
]

MARGIN = 1.5  # side of the crop, relative to the extent of the joints in it
MAX_EXTENT = 2.0  # side, relative to the person's box, to which joints are clipped: a body may be far outside the photo
MIN_SIDE = 0.3  # of the crop, relative to the person's box: a hand without its forearm is hard to recognise
MIN_CONFIDENCE = 0.5  # of a keypoint
OTHER_SIDE_DEG = 180.0  # from a side view to the side that it hides
REASON_VOTES, COMMENT_VOTES = (
    3.0,
    1.0,
)  # for a part named there; a tool gives 1, 1/2 and 1/3 to the parts at fault


@dataclass(frozen=True)
class CloseUp:
    """The tiles of one hypothesis; without a part only its other side."""

    hypothesis: int
    part: str | None
    tiles: UInt8[np.ndarray, "height width 3"]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.tiles.tobytes()).hexdigest()[:16]

    @property
    def description(self) -> str:
        """The description in the trace."""
        close = f"close-up of the {self.part}, " if self.part else ""
        return f"h{self.hypothesis}: {close}other side"


def disputed_part(evidence: Sequence[Mapping[str, Any]], index: int, reason: str, comment: str) -> str | None:
    """The part of hypothesis `index` with the most votes, or None; evidence as in the state of the graph."""
    votes = dict.fromkeys(PART_NAMES, 0.0)
    for item in evidence:
        for rank, part in enumerate(item["parts"][index]):
            if part in votes:  # a plug-in's tool may name other parts
                votes[part] += 1 / (1 + rank)
    for text, weight in ((reason, REASON_VOTES), (comment, COMMENT_VOTES)):
        for part in votes:
            votes[part] += weight * bool(re.search(rf"\b{part}\b", text, re.IGNORECASE))
    best = max(votes, key=lambda part: votes[part])
    return best if votes[best] else None


def draw_close_ups(case: Case, parts: Mapping[int, str | None], renderer: Renderer) -> list[CloseUp]:
    """The tiles of each hypothesis in a row; its other side only if the part is None."""
    chosen = list(parts.items())
    others = turned_views(case, list(parts), OTHER_SIDE_DEG, renderer)

    def draw(position: int) -> CloseUp:
        index, part = chosen[position]
        crops = [] if part is None else part_crops(case, index, part, renderer)
        tiles = [*crops, others[position]]
        return CloseUp(index, part, montage(tiles, columns=len(tiles)))

    return parallel_map(draw, len(chosen))


def close_up_part(close_up: CloseUp, label: str) -> ImagePart:
    """The image with its label, and a caption that describes the tiles."""
    shown = f"the {close_up.part} close up (photograph, overlay), and " if close_up.part else ""
    caption = f"hypothesis {label} again: {shown}the whole body from its other side (camera at right)"
    return ImagePart(stored_png(with_badge(close_up.tiles, label, PANEL_PX)), caption)


def part_box(case: Case, index: int, part: str) -> Box:
    """The square around a part: its joints and their children, as posed and as confidently detected."""
    chosen = [j for j, name in enumerate(PART_NAMES) if name == part]
    joints = sorted({*chosen, *(j for j, parent in enumerate(PARENTS) if parent in chosen)})
    points_px = case.hypotheses.camera.project(case.posed.joints_cam_m[index])[joints]
    if case.detection is not None:
        detected = [j for j in joints if case.detection.keypoint_visibility[j] > MIN_CONFIDENCE]
        points_px = torch.cat([points_px, case.detection.keypoints_px[detected].to(points_px)])
    around = case.sample.box.square(MAX_EXTENT)
    low, high = (
        torch.tensor(corner).to(points_px) for corner in ((around.x0, around.y0), (around.x1, around.y1))
    )
    return _square(points_px.clamp(low, high), MIN_SIDE * case.sample.box.side)


def _square(points_px: Float[Tensor, "points 2"], min_side_px: float) -> Box:
    (x0, y0), (x1, y1) = points_px.amin(dim=0).tolist(), points_px.amax(dim=0).tolist()
    half = max(MARGIN * max(x1 - x0, y1 - y0), min_side_px) / 2
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    return Box(cx - half, cy - half, cx + half, cy + half)


def part_crops(
    case: Case, index: int, part: str, renderer: Renderer
) -> list[UInt8[np.ndarray, "size size 3"]]:
    """The photograph around a part of a hypothesis, and the same with the hypothesis over it."""
    box = part_box(case, index, part)
    photo = crop_image(case.sample.image, box, PANEL_PX)
    vertices = case.posed.vertices_cam_m[index : index + 1].numpy()
    frame = renderer.render(vertices, case.body.faces.numpy(), case.hypotheses.camera.crop(box, PANEL_PX))
    return [photo, overlay(photo, frame, alpha=OPACITY)]


def turned_views(
    case: Case, indices: Sequence[int], turn_deg: float, renderer: Renderer
) -> UInt8[np.ndarray, "chosen size size 3"]:
    """The side views of the bodies, rotated by `turn_deg` around the vertical through the pelvis."""
    chosen = list(indices)
    turn = math.radians(turn_deg)
    # rounded, so that a quarter turn is exact
    cos, sin = np.float32(round(math.cos(turn), 9)), np.float32(round(math.sin(turn), 9))
    pelvis = case.posed.joints_cam_m[chosen, 0].numpy()
    x, y, z = np.moveaxis(case.posed.vertices_cam_m[chosen].numpy() - pelvis[:, None], -1, 0)
    turned = pelvis[:, None] + np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=-1)
    return side_view(turned, case.body.faces.numpy(), pelvis, renderer, PANEL_PX, supersampling=1)
