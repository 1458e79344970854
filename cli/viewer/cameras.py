"""Where the page looks from: views of the panels, without viser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from cli.viewer.contents import Panel

__all__ = ["UP", "View", "camera_view", "overview", "side_view"]

MARGIN = 1.06  # around what a view shows
UP = (0.0, -1.0, 0.0)
MAX_FOV = math.radians(120)
SIDE_DISTANCE_M = 4.0
OVERVIEW_FOV = math.radians(40)


@dataclass(frozen=True)
class View:
    """fov: vertical, radians, for a window of the aspect ratio (width / height) that the view was made for."""

    position_m: Float[np.ndarray, "3"]
    look_at_m: Float[np.ndarray, "3"]
    fov: float


def camera_view(panels: Sequence[Panel], person_m: Float[np.ndarray, "3"], aspect: float) -> View:
    """From the centre of the photograph's camera, towards the middle of the pictures, so that bodies and pictures lie
    over each other. The point that is looked at, about which the mouse turns the view, is as far as the person."""
    corners = np.concatenate([panel.placed_m(panel.picture.corners_m) for panel in panels])
    rays = corners / np.linalg.norm(corners, axis=1, keepdims=True)
    middle = (rays.min(axis=0) + rays.max(axis=0)) / 2
    look_at = middle / np.linalg.norm(middle) * np.linalg.norm(person_m)
    return View(np.zeros(3), look_at, _fov(corners, look_at, aspect))


def overview(panels: Sequence[Panel], aspect: float) -> View:
    """All pictures and bodies, from in front of them."""
    bounds = np.stack([panel.bounds_m() for panel in panels])
    low, high = bounds[:, 0].min(axis=0), bounds[:, 1].max(axis=0)
    width, height, _ = high - low
    distance = max(height, width / aspect) * MARGIN / 2 / math.tan(OVERVIEW_FOV / 2)
    middle = np.array([*((low + high) / 2)[:2], low[2]])
    return View(middle - [0.0, 0.0, distance], middle, OVERVIEW_FOV)


def side_view(panel: Panel, person_m: Float[np.ndarray, "3"]) -> View:
    """The person from the right side of the photograph."""
    (target,) = panel.placed_m(person_m[None])
    return View(target + np.array([SIDE_DISTANCE_M, 0.0, 0.0]), target, OVERVIEW_FOV)


def _fov(
    corners_m: Float[np.ndarray, "corners 3"], look_at_m: Float[np.ndarray, "3"], aspect: float
) -> float:
    """The vertical field of view from the origin that contains the corners."""
    forward = look_at_m / np.linalg.norm(look_at_m)
    right = np.cross(forward, UP)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(forward, right), forward])
    x, y, z = (corners_m @ axes.T).T
    half = max(float(np.abs(y / z).max()), float(np.abs(x / z).max()) / aspect)
    return min(2 * math.atan(half * MARGIN), MAX_FOV)
