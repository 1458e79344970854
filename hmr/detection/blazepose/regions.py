"""Square regions of a photograph, at any angle: the crops that BlazePose's networks read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from hmr.images.crops import OUTSIDE
from hmr.types import Box

__all__ = ["ImagePyramid", "Region", "region_of_box", "region_of_keypoints"]

CROP_SCALE = 2.5  # side of a crop, in distances from the hips to the keypoint that gives a person's size


@dataclass(frozen=True)
class Region:
    """A square with centre (`cx`, `cy`) in pixels of the photograph, turned clockwise by `roll` (radians)."""

    cx: float
    cy: float
    side: float
    roll: float = 0.0

    @property
    def rotation(self) -> Float[Tensor, "2 2"]:
        """Turns directions of the crop into directions of the photograph."""
        cos, sin = math.cos(self.roll), math.sin(self.roll)
        return torch.tensor([[cos, -sin], [sin, cos]])

    def to_image(self, points: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """Pixels of the photograph, for positions in the crop (0 to 1)."""
        center = torch.tensor([self.cx, self.cy], dtype=torch.float32)
        return (points - 0.5) * self.side @ self.rotation.mT + center

    def from_image(self, points_px: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
        """The inverse of `to_image`."""
        center = torch.tensor([self.cx, self.cy], dtype=torch.float32)
        return (points_px - center) @ self.rotation / self.side + 0.5

    @property
    def bounds(self) -> Box:
        """The smallest upright square that contains the region."""
        half = self.side / 2 * (abs(math.cos(self.roll)) + abs(math.sin(self.roll)))
        return Box(self.cx - half, self.cy - half, self.cx + half, self.cy + half)


def region_of_keypoints(hips_px: Sequence[float], top_px: Sequence[float]) -> Region:
    """The crop of a person: centred on the middle of the hips, turned so that the keypoint for the person's size and
    direction is above it."""
    dx, dy = top_px[0] - hips_px[0], top_px[1] - hips_px[1]
    side = max(CROP_SCALE * math.hypot(dx, dy), 1.0)
    return Region(float(hips_px[0]), float(hips_px[1]), side, math.atan2(dx, -dy))


def region_of_box(box: Box, scale: float = 1.0) -> Region:
    square = box.square(scale)
    return Region(*square.center, square.side)


class ImagePyramid:
    """A photograph from which regions of any size are sampled, each from a level that is reduced by a power of two so
    that a sampling step is one to two pixels."""

    def __init__(self, image: UInt8[np.ndarray, "height width 3"]) -> None:
        self.height, self.width = image.shape[:2]
        self._levels = {0: image}

    def sample(self, regions: Sequence[Region], size: int) -> Float[Tensor, "regions 3 {size} {size}"]:
        """Values from 0 to 1; grey beyond the border of the photograph."""
        return torch.stack([self._sample(region, size) for region in regions])

    def _level(self, number: int) -> np.ndarray:
        if number not in self._levels:
            self._levels[number] = np.asarray(Image.fromarray(self._levels[0]).reduce(2**number))
        return self._levels[number]

    def _sample(self, region: Region, size: int) -> Float[Tensor, "3 {size} {size}"]:
        number = max(int(math.log2(max(region.side / size, 1.0))), 0)
        level, scale = self._level(number), 2.0**-number
        window, left, top = _window(level, region.bounds, scale)
        centers = (torch.arange(size) + 0.5) / size
        grid = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), dim=-1)
        points = region.to_image(grid) * scale - torch.tensor([float(left), float(top)])
        extent = torch.tensor([window.shape[1], window.shape[0]])
        pixels = torch.from_numpy(window).permute(2, 0, 1)[None].float() - OUTSIDE
        values = F.grid_sample(
            pixels, (2 * points / extent - 1)[None], "bilinear", "zeros", align_corners=False
        )
        return (values[0] + OUTSIDE) / 255


def _window(level: np.ndarray, bounds: Box, scale: float) -> tuple[np.ndarray, int, int]:
    """The part of a level inside `bounds`, at least one pixel, and its left and top edge."""
    height, width = level.shape[:2]
    left, top = (
        min(max(math.floor(v * scale) - 1, 0), size - 1)
        for v, size in ((bounds.x0, width), (bounds.y0, height))
    )
    right, bottom = math.ceil(bounds.x1 * scale) + 1, math.ceil(bounds.y1 * scale) + 1
    window = level[top : max(bottom, top + 1), left : max(right, left + 1)]
    return window.copy(), left, top  # torch wants a writable array
