"""Positions of a view's pixels in the photograph."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from agent.types import Case

__all__ = ["inside_photo", "pixel_centers_px"]


def pixel_centers_px(case: Case) -> tuple[Float[Tensor, "size"], Float[Tensor, "size"]]:
    """x of the view's columns and y of its rows, in pixels of the photograph."""
    view, camera = case.view, case.hypotheses.camera
    zoom = view.focal_px / camera.focal_px
    x_px = (torch.arange(view.width) + 0.5 - view.cx_px) / zoom + camera.cx_px
    y_px = (torch.arange(view.height) + 0.5 - view.cy_px) / zoom + camera.cy_px
    return x_px, y_px


def inside_photo(case: Case) -> Bool[Tensor, "size size"]:
    """The view's pixels that are inside the photograph."""
    x_px, y_px = pixel_centers_px(case)
    height, width = case.sample.image.shape[:2]
    return ((y_px > 0) & (y_px < height))[:, None] & ((x_px > 0) & (x_px < width))
