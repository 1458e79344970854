"""The points that a detector reported of a person, drawn over a picture as bones."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from hmr.types import POINT_NAMES, Detection

__all__ = ["draw_skeleton"]

_TRUNK = (
    ("left_shoulder", "right_shoulder"),
    ("left_hip", "right_hip"),
    ("left_shoulder", "left_hip"),
    ("right_shoulder", "right_hip"),
)
_LIMBS = (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"), ("ankle", "big_toe"))
BONES = (*_TRUNK, *((f"{side}_{a}", f"{side}_{b}") for side in ("left", "right") for a, b in _LIMBS))
SEEN, HIDDEN = "lime", "orange"  # by the visibility of the less visible end
MIN_VISIBILITY = 0.5
WIDTH = 0.004  # of a bone, in longer sides of the picture


def draw_skeleton(
    picture: UInt8[np.ndarray, "height width 3"], detection: Detection, scale: float
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture with the bones both of whose ends were reported. scale: pixels of the picture per pixel of the
    detection."""
    drawn = Image.fromarray(picture)
    draw, width = ImageDraw.Draw(drawn), max(2, round(WIDTH * max(drawn.size)))
    points = (detection.points_px * scale).tolist()
    for names in BONES:
        first, second = (POINT_NAMES.index(name) for name in names)
        if not (detection.observed[first] and detection.observed[second]):
            continue
        visibility = float(detection.visibility[[first, second]].min())
        line = (*points[first], *points[second])
        draw.line(line, "black", width + 2)
        draw.line(line, SEEN if visibility >= MIN_VISIBILITY else HIDDEN, width)
    return np.asarray(drawn)
