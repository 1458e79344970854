"""Matte clay under a studio's light, laid over a photograph: the loops over pixels, compiled by numba.

`overlay.py` is what the rest of the house calls, and says how the light falls. A pixel is darker the farther it lies
behind the mean depth of the body about it, a Gaussian's mean. That mean is smooth, so it is taken over the cells of a
coarse grid and read between them: its cost does not grow with the picture.

Every array is checked by the caller: nothing here looks at bounds.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from hmr.render.compiled import compiled

__all__ = ["lay_over", "mean_depth"]

SIGMA_CELLS = 2.8  # of the Gaussian, on the coarse grid
REACH_CELLS = 7  # beyond it a weight is nothing


@compiled
@no_type_check
def mean_depth(depth: np.ndarray, mask: np.ndarray, step: int, mean: np.ndarray) -> None:
    """The mean depth of the body about each cell of `step` x `step` pixels; 0 where no body is near."""
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
    """Under the Gaussian, which is not normalised: two fields so blurred are divided by each other.

    Borders are wide enough that no index is negative: the loops over columns become vector instructions.
    """
    rows, columns = field.shape
    across = np.zeros((rows, columns + 2 * REACH_CELLS), np.float32)
    across[:, REACH_CELLS : REACH_CELLS + columns] = field
    down = np.zeros((rows + 2 * REACH_CELLS, columns), np.float32)
    blurred = np.zeros((rows, columns), np.float32)
    for row in range(rows):
        for place in range(2 * REACH_CELLS + 1):
            share = np.float32(math.exp(-0.5 * ((place - REACH_CELLS) / SIGMA_CELLS) ** 2))
            for column in range(columns):
                down[row + REACH_CELLS, column] += share * across[row, column + place]
    for row in range(rows):
        for place in range(2 * REACH_CELLS + 1):
            share = np.float32(math.exp(-0.5 * ((place - REACH_CELLS) / SIGMA_CELLS) ** 2))
            for column in range(columns):
                blurred[row, column] += share * down[row + place, column]
    return blurred


@compiled
@no_type_check
def _between(mean: np.ndarray, y: float, x: float) -> float:
    """The mean depth at a place of the grid, read between the middles of cells; those without a body do not count."""
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
def lay_over(
    depth: np.ndarray,
    normals: np.ndarray,
    mask: np.ndarray,
    mean: np.ndarray,
    step: int,
    studio: np.ndarray,
    look: np.ndarray,
    image: np.ndarray,
) -> None:
    """Onto each pixel of the image the mean of the frame's pixels in it.

    `studio` is the direction to the key light and the halo's depth in metres, `look` the clay's colour and its opacity.
    """
    factor = mask.shape[0] // image.shape[0]
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            covered, diffuse, rim = 0, 0.0, 0.0
            for y in range(row * factor, (row + 1) * factor):
                for x in range(column * factor, (column + 1) * factor):
                    if mask[y, x]:
                        covered += 1
                        behind_m = depth[y, x] - _between(mean, (y + 0.5) / step, (x + 0.5) / step)
                        dark = 0.45 * min(max(behind_m / studio[3], 0.0), 1.0)
                        light, edge = _light(normals[y, x, 0], normals[y, x, 1], normals[y, x, 2], studio)
                        diffuse += light * (1 - dark)
                        rim += edge
            if covered:
                opacity = look[3] * covered / factor**2
                for channel in range(3):
                    shade = 255 * (look[channel] * diffuse + rim) / covered
                    value = image[row, column, channel] * (1 - opacity) + shade * opacity
                    image[row, column, channel] = np.uint8(np.rint(min(max(value, 0.0), 255.0)))


@compiled
@no_type_check
def _light(right: float, down: float, away: float, studio: np.ndarray) -> tuple[float, float]:
    """What falls on a surface of this normal from lamp, sky and floor, and along its rim from behind."""
    towards_key = right * studio[0] + down * studio[1] + away * studio[2]
    key = min(max(0.5 + 0.5 * towards_key, 0.0), 1.0)
    sky = 0.5 - 0.5 * down
    grazing = 1 - min(max(-away, 0.0), 1.0)
    return 0.32 + 0.72 * key * math.sqrt(key) + 0.24 * sky, 0.30 * grazing**4 * sky
