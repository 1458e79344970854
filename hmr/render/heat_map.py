"""Bodies coloured by a value of each vertex, such as the error of the joints that move it.

The colours go from light to dark and differ in lightness all along, so that they can be told apart without colour
vision and in print.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8

from hmr.types import Camera, Renderer

__all__ = ["HEAT_STOPS", "heat_view"]

# sRGB bytes at equal distances from the lowest to the highest value
HEAT_STOPS = ((250, 240, 200), (246, 196, 120), (226, 122, 88), (166, 54, 96), (82, 20, 92))
PAPER, UNKNOWN = (244, 244, 241), (178, 182, 188)
DISTANCE_M, EXTENT_M = 8.0, 2.1  # of the camera from the body, and the height that it shows
SUPERSAMPLING = 3
SHADE = 0.22  # how much darker a surface is that is seen from its side


def heat_view(
    vertices_m: Float[np.ndarray, "batch vertices 3"],
    faces: Int[np.ndarray, "faces 3"],
    values: Float[np.ndarray, " vertices"],
    limits: tuple[float, float],
    renderer: Renderer,
    height: int,
) -> UInt8[np.ndarray, "batch {height} width 3"]:
    """Each body in the middle of a picture on a light background.

    Vertices are coloured from `limits[0]` to `limits[1]`, grey where the value is NaN. The camera looks along z, 8 m
    from the origin; width: 0.6 of the height.
    """
    width = round(0.6 * height)
    zoom = SUPERSAMPLING
    camera = Camera(
        zoom * height * DISTANCE_M / EXTENT_M,
        zoom * width / 2,
        zoom * height / 2,
        zoom * width,
        zoom * height,
    )
    middle = (vertices_m.min(axis=1) + vertices_m.max(axis=1)) / 2
    placed = vertices_m - middle[:, None] + np.array([0.0, 0.0, DISTANCE_M])
    frame = renderer.render(placed.astype(np.float32), faces, camera)
    colors = _colors(values[faces].mean(axis=1), limits)
    shade = 1 - SHADE * (1 + frame.normals_cam[..., 2:])  # normals face the camera: z <= 0
    pixels = np.where(frame.mask[..., None], colors[frame.face_ids] * shade, np.array(PAPER, np.float64))
    blocks = pixels.reshape(len(pixels), height, zoom, width, zoom, 3).mean(axis=(2, 4))
    return np.round(blocks).astype(np.uint8)


def _colors(values: Float[np.ndarray, " faces"], limits: tuple[float, float]) -> Float[np.ndarray, "faces 3"]:
    low, high = limits
    shares = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    stops = np.linspace(0, 1, len(HEAT_STOPS))
    colors = np.stack([np.interp(shares, stops, channel) for channel in np.array(HEAT_STOPS).T], axis=-1)
    return np.where(np.isnan(shares)[:, None], np.array(UNKNOWN, np.float64), colors)
