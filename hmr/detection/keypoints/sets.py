"""Published sets of keypoints as detections: the keypoints that are points of `POINT_NAMES`, and nothing else.

| set            | keypoints | reported points                                                              |
|----------------|-----------|------------------------------------------------------------------------------|
| `COCO`         | 17        | 12 joints of the limbs, nose, eyes, ears                                     |
| `WHOLE_BODY`   | 133       | COCO's; heels and toes; knuckles of thumb, index and little finger; no face  |
| `OPENPOSE_25`  | 25        | COCO's; heels and toes                                                       |
| `OPENPOSE_COCO` | 18       | COCO's                                                                       |

OpenPose's neck and middle of the hips are midpoints of its shoulders and hips; SMPL's neck and pelvis lie elsewhere, so
they are left out. COCO's annotators mark the joints of the limbs on the surface, some centimetres from SMPL's; the
policy is trained with such differences (`hmr.synthetic.detector_noise`).

A keypoint's deviation is COCO's sigma_i: the root mean square distance between annotators, in roots of the person's
area (cocodataset.org, "Keypoint Evaluation"; COCO-WholeBody, arXiv 2007.11858). Detectors are about as far off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.body.keypoint_orders import BODY_25, COCO_17, COCO_FEET, OPENPOSE_18
from hmr.types import POINT_NAMES, Box, Detection

__all__ = [
    "COCO",
    "OPENPOSE_25",
    "OPENPOSE_COCO",
    "WHOLE_BODY",
    "KeypointSet",
    "deviations_px",
]

NUM_FACE, NUM_HAND = 68, 21
KNUCKLES = {2: "thumb_knuckle", 5: "index_knuckle", 17: "pinky_knuckle"}  # of a hand's 21 keypoints
MIDPOINTS = ("neck", "mid_hip")
# sigma_i by the kind of point; of feet the larger one of both sides. The kinds of the last line are in no published
# set: they have the value of a neighbour.
OKS_SIGMA = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062, "hip": 0.107,
    "knee": 0.087, "ankle": 0.089, "big_toe": 0.092, "small_toe": 0.094, "heel": 0.094, "thumb_knuckle": 0.035,
    "index_knuckle": 0.026, "pinky_knuckle": 0.020,
    "pelvis": 0.107, "spine1": 0.107, "spine2": 0.107, "spine3": 0.107, "neck": 0.079, "collar": 0.079,
    "head": 0.035, "foot": 0.092, "hand": 0.062,
}  # fmt: skip
PERSON_SHARE = 0.53  # of the box that is the person: what COCO's tools assume where there is no outline
HIDDEN_FACTOR = (
    2.5  # deviation of a hidden point relative to that of a visible one, as in the policy's training
)


@dataclass(frozen=True)
class KeypointSet:
    """A format's keypoints in their order. Those that are none of `POINT_NAMES` are not reported."""

    name: str
    order: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.order)

    def reported(self, confidence: Float[Tensor, "keypoints"]) -> list[int]:
        """Rows of the keypoints that are points of the body and have been seen: their confidence is not zero."""
        return [
            row
            for row, name in enumerate(self.order)
            if name in POINT_NAMES and name not in MIDPOINTS and confidence[row] > 0
        ]

    def detection(
        self,
        points_px: Float[Tensor, "keypoints 2"],
        confidence: Float[Tensor, "keypoints"],
        box: Box,
        *,
        mask: Float[np.ndarray, "size size"] | None = None,
        mask_box: Box | None = None,
        person_confidence: float = 1.0,
    ) -> Detection:
        """The detection of the person in a box. Confidences are 0 to 1; they are taken as visibilities."""
        rows = self.reported(confidence)
        names, visibility = [self.order[row] for row in rows], confidence[rows]
        return Detection.from_points(
            names, points_px[rows], deviations_px(names, visibility, box), visibility,
            mask=mask, mask_box=mask_box, confidence=person_confidence,
        )  # fmt: skip


def _hand(side: str) -> tuple[str, ...]:
    return tuple(f"{side}_{KNUCKLES.get(number, f'hand_{number}')}" for number in range(NUM_HAND))


COCO = KeypointSet("COCO", COCO_17)
WHOLE_BODY = KeypointSet(
    "COCO-WholeBody",
    (
        *COCO_17,
        *COCO_FEET,
        *(f"face_{number}" for number in range(NUM_FACE)),
        *_hand("left"),
        *_hand("right"),
    ),
)
OPENPOSE_25 = KeypointSet("BODY_25", BODY_25)
OPENPOSE_COCO = KeypointSet("OpenPose's COCO", OPENPOSE_18)


def deviations_px(
    names: Sequence[str], visibility: Float[Tensor, "points"], box: Box
) -> Float[Tensor, "points"]:
    """Standard deviation per coordinate of points of a person in a box. Hidden points have a larger one."""
    area_px = PERSON_SHARE * (box.x1 - box.x0) * (box.y1 - box.y0)
    kinds = [name.removeprefix("left_").removeprefix("right_") for name in names]
    sigmas = torch.tensor([OKS_SIGMA[kind] for kind in kinds])
    # a distance in the image has two coordinates, hence the half
    return sigmas * (area_px / 2) ** 0.5 * (1 + (HIDDEN_FACTOR - 1) * (1 - visibility.cpu()))
