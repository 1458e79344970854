"""BlazePose's landmark model: 33 landmarks of one person in a crop, with a mask and a reading in space.

Outputs for a crop of 256 x 256 pixels: 39 landmarks (x, y, z, visibility, presence), of which 33 are landmarks and two
place the next crop; a score of the whole; the mask; heatmaps of 64 x 64; 39 positions in metres about the hips. As in
MediaPipe, a landmark with a clear peak in its heatmap moves to the centre of that peak.

The axes of the world landmarks are the camera's (x right, y down, z away from it), seen from the middle of the crop:
the roll of the crop is undone, the direction in which a person stands off the picture's centre is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hmr.detection.blazepose.network import Network
from hmr.detection.blazepose.regions import ImagePyramid, Region, region_of_keypoints
from hmr.types import Box

__all__ = ["BATCH", "LANDMARK_NAMES", "LandmarkModel", "Landmarks"]

LANDMARK_NAMES = (
    "nose", "left_eye_inner", "left_eye", "left_eye_outer", "right_eye_inner", "right_eye", "right_eye_outer",
    "left_ear", "right_ear", "mouth_left", "mouth_right", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_pinky_knuckle", "right_pinky_knuckle",
    "left_index_knuckle", "right_index_knuckle", "left_thumb_knuckle", "right_thumb_knuckle", "left_hip",
    "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "left_heel", "right_heel",
    "left_big_toe", "right_big_toe",
)  # fmt: skip
NUM_LANDMARKS = len(LANDMARK_NAMES)
HIPS, TOP = 33, 34  # the two that place the next crop
BATCH = 8
PEAK_CELLS = 7  # side of the part of a heatmap about a landmark
MIN_PEAK = 0.5


@dataclass(frozen=True)
class Landmarks:
    """What the model reports of one crop; positions are in pixels of the photograph."""

    region: Region
    next_region: Region  # the crop for a second reading, or for the next frame of a video
    points_px: Float[Tensor, "33 2"]
    peak: Float[Tensor, "33"]  # largest value of the heatmap about the landmark, 0 to 1
    visibility: Float[Tensor, "33"]  # 0 to 1
    presence: Float[Tensor, "33"]  # that it is inside the crop, 0 to 1
    world_m: Float[Tensor, "33 3"]  # about the middle of the hips, along the camera's axes
    mask: Float[Tensor, "size size"]  # probability, over `region`
    score: float  # that there is a person, 0 to 1

    def mask_at(self, points_px: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
        """Values of the mask at positions of the photograph; 0 outside of the crop."""
        grid = self.region.from_image(points_px).reshape(1, 1, -1, 2) * 2 - 1
        values = F.grid_sample(self.mask[None, None], grid, "bilinear", "zeros", align_corners=False)
        return values.reshape(points_px.shape[:-1])

    def upright_mask(self, square: Box, size: int) -> Float[np.ndarray, "{size} {size}"]:
        """The mask resampled to an upright square of the photograph."""
        centers = (torch.arange(size) + 0.5) / size
        grid = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), dim=-1) * square.side
        return self.mask_at(grid + torch.tensor([square.x0, square.y0], dtype=torch.float32)).numpy()


class LandmarkModel:
    def __init__(self, network: Network) -> None:
        self.network = network

    def read(self, pyramid: ImagePyramid, regions: Sequence[Region]) -> list[Landmarks]:
        found = []
        for start in range(0, len(regions), BATCH):
            batch = regions[start : start + BATCH]
            output = self.network(pyramid.sample(batch, self.network.size))
            output = {name: values.cpu() for name, values in output.items()}
            for row, region in enumerate(batch):
                found.append(
                    _decode(region, {name: values[row] for name, values in output.items()}, self.network.size)
                )
        return found


def _decode(region: Region, output: dict[str, Tensor], size: int) -> Landmarks:
    rows = output["landmarks"].reshape(-1, 5)
    heatmaps = output["heatmaps"].permute(2, 0, 1).sigmoid()
    points, peak = _refine(rows[:, :2] / size, heatmaps)
    points_px = region.to_image(points)
    world_m = output["world"].reshape(-1, 3)[:NUM_LANDMARKS].clone()
    world_m[:, :2] = world_m[:, :2] @ region.rotation.mT
    hips_px, top_px = points_px[HIPS].tolist(), points_px[TOP].tolist()
    return Landmarks(
        region=region,
        next_region=region_of_keypoints(hips_px, top_px),
        points_px=points_px[:NUM_LANDMARKS],
        peak=peak[:NUM_LANDMARKS],
        visibility=rows[:NUM_LANDMARKS, 3].sigmoid(),
        presence=rows[:NUM_LANDMARKS, 4].sigmoid(),
        world_m=world_m,
        mask=output["mask"][..., 0].sigmoid(),
        score=float(output["score"]),
    )


def _refine(
    points: Float[Tensor, "landmarks 2"], heatmaps: Float[Tensor, "landmarks cells cells"]
) -> tuple[Float[Tensor, "landmarks 2"], Float[Tensor, "landmarks"]]:
    """Positions (0 to 1) and peaks from the heatmaps about the landmarks."""
    count, cells = heatmaps.shape[:2]
    reach = PEAK_CELLS // 2
    columns, rows = (points * cells).floor().long().clamp(-reach - 1, cells + reach).unbind(-1)
    offsets = torch.arange(-reach, reach + 1)
    columns, rows = columns[:, None] + offsets, rows[:, None] + offsets
    padded = F.pad(heatmaps, (2 * reach + 1,) * 4)
    pick = torch.arange(count)[:, None, None]
    windows = padded[pick, rows[:, :, None] + 2 * reach + 1, columns[:, None, :] + 2 * reach + 1]
    total = windows.sum(dim=(1, 2)).clamp_min(1e-6)
    x = (windows.sum(dim=1) * columns).sum(dim=1) / total
    y = (windows.sum(dim=2) * rows).sum(dim=1) / total
    centers = torch.stack([x, y], dim=-1)
    peak = windows.amax(dim=(1, 2))
    return torch.where(peak[:, None] >= MIN_PEAK, centers / cells, points), peak
