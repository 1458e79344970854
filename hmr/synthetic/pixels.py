"""The inner loops of `hmr.synthetic.painting`, compiled by numba.

Pictures are float32 [height, width, 3], linear RGB from 0 to 1; masks are bool [height, width]. Bounds are not checked
here; the caller checks the shapes.
"""

from __future__ import annotations

import math
from typing import no_type_check

import numpy as np

from hmr.render.kernels import compiled

__all__ = ["convolve", "expose", "fill", "fill_convex", "quantise", "shade"]


@compiled
@no_type_check
def fill(
    picture: np.ndarray, mask: np.ndarray, field: np.ndarray, colour: np.ndarray, contrast: np.ndarray
) -> None:
    """colour + field * contrast where the mask is set, clipped; `field` is as large as the picture."""
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            if mask[row, column]:
                height = field[row, column]
                for channel in range(3):
                    value = colour[channel] + height * contrast[channel]
                    picture[row, column, channel] = min(max(value, np.float32(0)), np.float32(1))


@compiled
@no_type_check
def fill_convex(mask: np.ndarray, points: np.ndarray) -> None:
    """Set the pixels whose centres are inside a convex polygon; `points` are its corners (x, y) in order."""
    count = len(points)
    for row in range(mask.shape[0]):
        y = row + 0.5
        low, high = math.inf, -math.inf
        for i in range(count):
            x0, y0 = points[i, 0], points[i, 1]
            x1, y1 = points[(i + 1) % count, 0], points[(i + 1) % count, 1]
            if (y0 <= y) != (y1 <= y):
                x = x0 + (y - y0) * (x1 - x0) / (y1 - y0)
                low, high = min(low, x), max(high, x)
        if low < high:
            first = int(min(max(math.ceil(low - 0.5), 0), mask.shape[1]))
            last = int(min(max(math.floor(high - 0.5), -1), mask.shape[1] - 1))
            for column in range(first, last + 1):
                mask[row, column] = True


@compiled
@no_type_check
def shade(
    picture: np.ndarray,
    mask: np.ndarray,
    normals: np.ndarray,
    albedo: np.ndarray,
    ambient: float,
    directions: np.ndarray,
    lights: np.ndarray,
) -> None:
    """Lambert's law: albedo * (ambient, a little stronger from above, + sum over lights of light * (n . direction)+).

    `directions` [lights, 3]: unit vectors towards the lights; `lights` [lights, 3]: their colour times strength.
    """
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            if mask[row, column]:
                normal = normals[row, column]
                sky = ambient * (0.85 - 0.15 * normal[1])  # y points down
                for channel in range(3):
                    received = sky
                    for k in range(len(directions)):
                        toward = (
                            normal[0] * directions[k, 0]
                            + normal[1] * directions[k, 1]
                            + normal[2] * directions[k, 2]
                        )
                        if toward > 0:
                            received += toward * lights[k, channel]
                    value = albedo[row, column, channel] * received
                    picture[row, column, channel] = min(max(value, 0.0), 1.0)


@compiled
@no_type_check
def expose(picture: np.ndarray, response: np.ndarray) -> None:
    """Apply the sensor's response curve in place; `response`: its values at evenly spaced intensities from 0 to 1."""
    steps = len(response) - 1
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            for channel in range(3):
                picture[row, column, channel] = response[
                    int(picture[row, column, channel] * steps + np.float32(0.5))
                ]


@compiled
@no_type_check
def convolve(padded: np.ndarray, offsets: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """out = sum over k of weights[k] * the picture shifted by offsets[k] (rows, columns, not negative).

    `padded`: the picture, padded by the largest offset.
    """
    height, width = out.shape[0], out.shape[1] * 3
    source = padded.reshape(padded.shape[0], padded.shape[1] * 3)
    target = out.reshape(height, width)
    target[:] = 0
    for row in range(height):
        for k in range(len(weights)):
            line = source[row + offsets[k, 0], 3 * offsets[k, 1] :]
            weight = weights[k]
            for i in range(width):
                target[row, i] += weight * line[i]


@compiled
@no_type_check
def quantise(picture: np.ndarray, grain: np.ndarray, out: np.ndarray) -> None:
    """Write picture + grain to `out` as clipped bytes."""
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            for channel in range(3):
                value = (picture[row, column, channel] + grain[row, column, channel]) * np.float32(255)
                out[row, column, channel] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))
