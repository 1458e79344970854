"""Shades a mesh as matte clay and composites it onto a photograph: loops over pixels, compiled by numba.

Use it through `overlay.py`, which defines the light. A pixel is darker the farther it is behind the mean depth of the
body around it, a Gaussian mean. That mean is smooth, so it is computed on a coarse grid and interpolated; its cost does
not depend on the size of the image.

The caller checks every array; bounds are not checked here.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from hmr.render.kernels import compiled

__all__ = ["composite", "mean_depth"]

SIGMA_CELLS = 2.8  # of the Gaussian, on the coarse grid
REACH_CELLS = 7  # the radius of the Gaussian kernel


@compiled
@no_type_check
def mean_depth(depth: np.ndarray, mask: np.ndarray, step: int, mean: np.ndarray) -> None:
    """The mean depth of the body around each cell of `step` x `step` pixels; 0 if no body is near."""
    rows, columns = mean.shape
    weight, total = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    low, high, left, right = rows, -1, columns, -1
    for row in range(rows):
        for y in range(row * step, min((row + 1) * step, mask.shape[0])):
            for column in range(columns):
                for x in range(column * step, min((column + 1) * step, mask.shape[1])):
                    if mask[y, x]:
                        weight[row, column] += 1
                        total[row, column] += depth[y, x]
                        low, high = min(low, row), max(high, row)
                        left, right = min(left, column), max(right, column)
    mean[:] = 0.0
    if high < 0:
        return
    weight = _blurred(weight[low : high + 1, left : right + 1])
    total = _blurred(total[low : high + 1, left : right + 1])
    for row in range(weight.shape[0]):
        for column in range(weight.shape[1]):
            if weight[row, column] > 0:
                mean[low + row, left + column] = total[row, column] / weight[row, column]


@compiled
@no_type_check
def _blurred(field: np.ndarray) -> np.ndarray:
    """Convolution with a Gaussian that is not normalised; the caller divides two such fields.

    The padding avoids negative indices, so that the loops over columns are vectorised.
    """
    rows, columns = field.shape
    across = np.zeros((rows, columns + 2 * REACH_CELLS), np.float32)
    across[:, REACH_CELLS : REACH_CELLS + columns] = field
    down = np.zeros((rows + 2 * REACH_CELLS, columns), np.float32)
    blurred = np.zeros((rows, columns), np.float32)
    for row in range(rows):
        for offset in range(2 * REACH_CELLS + 1):
            weight = np.float32(math.exp(-0.5 * ((offset - REACH_CELLS) / SIGMA_CELLS) ** 2))
            for column in range(columns):
                down[row + REACH_CELLS, column] += weight * across[row, column + offset]
    for row in range(rows):
        for offset in range(2 * REACH_CELLS + 1):
            weight = np.float32(math.exp(-0.5 * ((offset - REACH_CELLS) / SIGMA_CELLS) ** 2))
            for column in range(columns):
                blurred[row, column] += weight * down[row + offset, column]
    return blurred


@compiled
@no_type_check
def _interpolated(mean: np.ndarray, y: float, x: float) -> float:
    """The mean depth at a point of the grid, interpolated between the centres of cells. Cells without a body do not
    count."""
    top, left = math.floor(y - 0.5), math.floor(x - 0.5)
    down, along = y - 0.5 - top, x - 0.5 - left
    total, shares = 0.0, 0.0
    for row in range(2):
        for column in range(2):
            at_row = min(max(top + row, 0), mean.shape[0] - 1)
            at_column = min(max(left + column, 0), mean.shape[1] - 1)
            value = mean[at_row, at_column]
            if value > 0.0:
                share = (down if row else 1 - down) * (along if column else 1 - along)
                total += share * value
                shares += share
    return total / shares if shares > 0.0 else 0.0


@compiled
@no_type_check
def composite(
    depth: np.ndarray,
    normals: np.ndarray,
    mask: np.ndarray,
    mean: np.ndarray,
    step: int,
    light: np.ndarray,
    material: np.ndarray,
    image: np.ndarray,
) -> None:
    """Composites onto each pixel of the image the mean of the pixels of the frame in it.

    `light` is the direction to the key light and the depth of the halo (metres), `material` the colour and the opacity.
    """
    factor = mask.shape[0] // image.shape[0]
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            covered, diffuse, rim = 0, 0.0, 0.0
            for y in range(row * factor, (row + 1) * factor):
                for x in range(column * factor, (column + 1) * factor):
                    if mask[y, x]:
                        covered += 1
                        behind_m = depth[y, x] - _interpolated(mean, (y + 0.5) / step, (x + 0.5) / step)
                        dark = 0.45 * min(max(behind_m / light[3], 0.0), 1.0)
                        shade, edge = _light(normals[y, x, 0], normals[y, x, 1], normals[y, x, 2], light)
                        diffuse += shade * (1 - dark)
                        rim += edge
            if covered:
                opacity = material[3] * covered / factor**2
                for channel in range(3):
                    clay = 255 * (material[channel] * diffuse + rim) / covered
                    value = image[row, column, channel] * (1 - opacity) + clay * opacity
                    image[row, column, channel] = np.uint8(np.rint(min(max(value, 0.0), 255.0)))


@compiled
@no_type_check
def _light(right: float, down: float, away: float, light: np.ndarray) -> tuple[float, float]:
    """The light on a surface of this normal from key light, sky and floor, and the rim light from behind."""
    towards_key = right * light[0] + down * light[1] + away * light[2]
    key = min(max(0.5 + 0.5 * towards_key, 0.0), 1.0)
    sky = 0.5 - 0.5 * down
    grazing = 1 - min(max(-away, 0.0), 1.0)
    return 0.32 + 0.72 * key * math.sqrt(key) + 0.24 * sky, 0.30 * grazing**4 * sky
