"""What a doubt buys a judge with eyes: a close-up of the part in dispute, and the body from its other side.

| tile            | what it shows                                                                                |
|-----------------|----------------------------------------------------------------------------------------------|
| photograph      | the crop about the part in dispute, with nothing drawn on it                                 |
| overlay         | the same crop with the hypothesis over it                                                    |
| the other side  | the whole body, seen from the side that the panel's side view hides                          |

The part is the one that the doubt or the comment names, else the one that the tools blame most. Its crop holds the
hypothesis' joints and the keypoints that a detector is sure of: a limb that lies elsewhere shows where. A hypothesis
that nothing is known against is shown from its other side alone.

One picture a hypothesis, for the most uncertain first, as many as settings and the backend's image limit allow. Left
out: whether they help. That takes a real model to say, and none has been run here.
"""

from __future__ import annotations

import hashlib
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

__all__ = ["CloseUp", "close_up_part", "disputed_part", "draw_close_ups", "part_box"]

MARGIN = 1.5  # side of the crop over the extent of the joints in it
FARTHEST = 2.0  # times the person's box: a body may lie far off the photograph, or at the camera
SMALLEST_SHARE = 0.3  # of the person's box: a hand without its forearm is hard to make out
CLEARLY_SEEN = 0.5  # confidence of a keypoint
NAMED_IN_DOUBT, NAMED_IN_COMMENT = (
    3.0,
    1.0,
)  # votes for a part; a tool casts 1, 1/2 and 1/3 for those it blames


@dataclass(frozen=True)
class CloseUp:
    """One hypothesis looked at again; without a part there is only its other side."""

    hypothesis: int
    part: str | None
    tiles: UInt8[np.ndarray, "height width 3"]

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.tiles.tobytes()).hexdigest()[:16]

    @property
    def looked_at(self) -> str:
        """What the trace says."""
        close = f"close-up of the {self.part}, " if self.part else ""
        return f"h{self.hypothesis}: {close}other side"


def disputed_part(evidence: Sequence[Mapping[str, Any]], index: int, doubt: str, comment: str) -> str | None:
    """The part of hypothesis `index` that most speaks against; evidence as in the state of the graph."""
    votes = dict.fromkeys(PART_NAMES, 0.0)
    for item in evidence:
        for place, part in enumerate(item["parts"][index]):
            if part in votes:  # a plug-in's tool may blame what no joint moves
                votes[part] += 1 / (1 + place)
    for text, weight in ((doubt, NAMED_IN_DOUBT), (comment, NAMED_IN_COMMENT)):
        for part in votes:
            votes[part] += weight * bool(re.search(rf"\b{part}\b", text, re.IGNORECASE))
    best = max(votes, key=lambda part: votes[part])
    return best if votes[best] else None


def draw_close_ups(case: Case, parts: Mapping[int, str | None], renderer: Renderer) -> list[CloseUp]:
    """The tiles of each hypothesis in a row; where the part is None, its other side alone."""
    chosen = list(parts.items())
    others = _other_sides(case, list(parts), renderer)

    def draw(place: int) -> CloseUp:
        index, part = chosen[place]
        crops = [] if part is None else _crops(case, index, part, renderer)
        tiles = [*crops, others[place]]
        return CloseUp(index, part, montage(tiles, columns=len(tiles)))

    return parallel_map(draw, len(chosen))


def close_up_part(close_up: CloseUp, label: str) -> ImagePart:
    """The picture under its label, with words for its tiles."""
    shown = f"the {close_up.part} close up (photograph, overlay), and " if close_up.part else ""
    caption = f"hypothesis {label} again: {shown}the whole body from its other side (camera at right)"
    return ImagePart(stored_png(with_badge(close_up.tiles, label, PANEL_PX)), caption)


def part_box(case: Case, index: int, part: str) -> Box:
    """The square about a part: its joints and those that hang from them, as posed and as clearly seen."""
    chosen = [j for j, name in enumerate(PART_NAMES) if name == part]
    joints = sorted({*chosen, *(j for j, parent in enumerate(PARENTS) if parent in chosen)})
    points_px = case.hypotheses.camera.project(case.posed.joints_cam_m[index])[joints]
    if case.detection is not None:
        seen = [j for j in joints if case.detection.confidence[j] > CLEARLY_SEEN]
        points_px = torch.cat([points_px, case.detection.keypoints_px[seen].to(points_px)])
    around = case.sample.box.square(FARTHEST)
    low, high = (
        torch.tensor(corner).to(points_px) for corner in ((around.x0, around.y0), (around.x1, around.y1))
    )
    return _square(points_px.clamp(low, high), SMALLEST_SHARE * case.sample.box.side)


def _square(points_px: Float[Tensor, "points 2"], least_px: float) -> Box:
    (x0, y0), (x1, y1) = points_px.amin(dim=0).tolist(), points_px.amax(dim=0).tolist()
    half = max(MARGIN * max(x1 - x0, y1 - y0), least_px) / 2
    cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
    return Box(cx - half, cy - half, cx + half, cy + half)


def _crops(case: Case, index: int, part: str, renderer: Renderer) -> list[UInt8[np.ndarray, "size size 3"]]:
    box = part_box(case, index, part)
    photo = crop_image(case.sample.image, box, PANEL_PX)
    vertices = case.posed.vertices_cam_m[index : index + 1].numpy()
    frame = renderer.render(vertices, case.body.faces.numpy(), case.hypotheses.camera.crop(box, PANEL_PX))
    return [photo, overlay(photo, frame, alpha=OPACITY)]


def _other_sides(
    case: Case, indices: Sequence[int], renderer: Renderer
) -> UInt8[np.ndarray, "chosen size size 3"]:
    """The side views of the bodies turned by half a turn about their pelvis' vertical."""
    chosen = list(indices)
    pelvis = case.posed.joints_cam_m[chosen, 0].numpy()
    from_pelvis = case.posed.vertices_cam_m[chosen].numpy() - pelvis[:, None]
    turned = pelvis[:, None] + from_pelvis * np.array([-1, 1, -1], np.float32)
    return side_view(turned, case.body.faces.numpy(), pelvis, renderer, PANEL_PX, supersampling=1)
