"""BlazePose's finder of people, on windows of several sizes over a photograph.

The network was trained for one or two people who fill much of a picture, so a crowd is searched window by window. For
each of 2,254 anchors it gives a score, a box (not used) and four keypoints, as offsets in pixels from the anchor's
centre. Keypoint 0 is the middle of the hips; keypoint 1 gives the size and the direction of the person.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hmr.detection.blazepose.network import Network
from hmr.detection.blazepose.regions import ImagePyramid, Region, region_of_keypoints

__all__ = ["Candidate", "Finder", "remove_near", "sliding_windows"]

WINDOW_FRACTIONS = (1.0, 0.6, 0.4, 0.28)  # of the longer side of the photograph
# Ratio of its sides, above which windows are smaller than those fractions: people in a panorama are as large as it is
# high. In pictures that are longer still there would be too many windows.
MAX_ASPECT, LONGEST_ASPECT = 1.5, 12.0
STEP = 0.4  # of a window
BATCH = 8
MIN_SCORE = 0.5
# (stride, anchors per cell) of the network's three grids
GRIDS = ((8, 2), (16, 2), (32, 6))
SAME_PERSON = 0.25  # distance of two candidates, in distances from the hips to keypoint 1
SAME_SIZE = 1.6


@dataclass(frozen=True)
class Candidate:
    region: Region  # the crop for the landmark model
    score: float  # 0 to 1


class Finder:
    def __init__(self, network: Network) -> None:
        self.network = network
        self._anchors = _anchors(network.size).to(network.device)

    def find(self, pyramid: ImagePyramid, windows: Sequence[Region]) -> list[list[Candidate]]:
        """The candidates of each window, by decreasing score; one person has one candidate per window."""
        size, found = self.network.size, []
        for start in range(0, len(windows), BATCH):
            batch = windows[start : start + BATCH]
            output = self.network(pyramid.sample(batch, size) * 2 - 1)
            scores = output["scores"][..., 0].sigmoid()
            offsets = output["boxes"][..., 4:8].unflatten(-1, (2, 2))
            keypoints = ((offsets + self._anchors[:, None]) / size).cpu()
            for window, row, points in zip(batch, scores.cpu(), keypoints, strict=True):
                found.append(_candidates(window, row, points))
        return found


def _anchors(size: int) -> Float[Tensor, "anchors 2"]:
    """Centres in pixels of the network's input, in the order of its outputs."""
    grids = []
    for stride, count in GRIDS:
        centers = (torch.arange(size // stride) + 0.5) * stride
        cells = torch.stack(torch.meshgrid(centers, centers, indexing="xy"), dim=-1).reshape(-1, 2)
        grids.append(cells.repeat_interleave(count, dim=0))
    return torch.cat(grids)


def _candidates(
    window: Region, scores: Float[Tensor, "anchors"], keypoints: Float[Tensor, "anchors 2 2"]
) -> list[Candidate]:
    rows = (scores >= MIN_SCORE).nonzero()[:, 0]
    points_px = window.to_image(keypoints[rows]).tolist()
    found = [
        Candidate(region_of_keypoints(hips, top), float(score))
        for (hips, top), score in zip(points_px, scores[rows], strict=True)
    ]
    return remove_near(found)


def remove_near(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Greedy, by decreasing score: candidates at the place of a better one, and of about its size, are left out."""
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda item: -item.score):
        if not any(_is_near(candidate.region, other.region) for other in kept):
            kept.append(candidate)
    return kept


def _is_near(a: Region, b: Region) -> bool:
    small, large = sorted((a.side, b.side))
    distance = math.hypot(a.cx - b.cx, a.cy - b.cy)
    return distance < SAME_PERSON * small / 2.5 and large < SAME_SIZE * small


def sliding_windows(width: int, height: int, fractions: Sequence[float] | None = None) -> list[Region]:
    """Squares that cover a picture at each size, in fractions of its longer side (default: WINDOW_FRACTIONS); a window
    larger than the picture is centred on it. In a long picture only the window of the whole, fraction 1, is that large;
    the others are fractions of MAX_ASPECT times the shorter side."""
    windows = []
    longer, shorter = max(width, height), min(width, height)
    base = min(longer, MAX_ASPECT * max(shorter, longer / LONGEST_ASPECT))
    for fraction in WINDOW_FRACTIONS if fractions is None else fractions:
        side = fraction * (longer if fraction == 1 else base)
        rows, columns = (_positions(length, side) for length in (float(height), float(width)))
        windows += [Region(x + side / 2, y + side / 2, side) for y in rows for x in columns]
    return windows


def _positions(length: float, side: float) -> list[float]:
    if length <= side:
        return [(length - side) / 2]
    count = math.ceil((length - side) / (STEP * side)) + 1
    return np.linspace(0, length - side, count).tolist()
