"""Colour consistency of body parts: whether each part of the projected hypothesis has one colour in the photograph.

Shirt, trousers, skin and hair each have about one colour in all views. If a hypothesis puts an arm in front of the
chest that is behind it in the photograph, or an outline beside the true one, a part covers pixels of two colours. All
hypotheses of a group explain the same pixels, those that any of them covers and a rim around them:

    log colour of a pixel = mean of its part, or for the background a quadric in x and y      (least squares)
    value                 = the share of the variance that this leaves unexplained

This is the piecewise constant model of region segmentation (Chan and Vese, IEEE TIP 10, 2001), with the regions given
by the hypothesis, including its depth order. It needs no detection. In logarithms, shading is an offset instead of a
factor. Left out: patterned cloth and hard shadows, which affect all hypotheses of a group equally; shading by surface
normals, which explained more variance but did not improve the ranking on wild groups.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_dilation
from torch import Tensor

from agent.tools.parts import worst_parts
from agent.tools.silhouette import inside_photo, pixel_centers_px
from agent.types import Case, Evidence, Need
from hmr.body.model import REGIONS
from hmr.images.crops import crop_image
from hmr.types import Box

__all__ = ["Appearance"]

RIM_SHARE = 0.05  # width of the background rim, relative to the view
DARKEST = 0.05  # added to colours before the logarithm
RIDGE = 1e-2  # keeps a part of a few pixels from explaining them exactly
MIN_PIXELS = 100
MIN_VARIANCE = 1e-4  # of the logarithms, summed over colours; less is one colour and noise
OUTLIER = (
    0.5  # times the mean variance: squared distance from its part's colour from which a pixel is an outlier
)
FAULT_SHARE = 0.25  # of a part's pixels
WORDS = ("the face", "the hair", "the torso", "upper arms", "forearms", "hands", "thighs", "shins", "feet")


class Appearance:
    """The share of the colours' variance that the hypothesis' parts leave unexplained, 0 to 1."""

    name = "appearance"
    metric = "colour_unexplained"
    needs: frozenset[Need] = frozenset()

    def measure(self, case: Case) -> Evidence:
        counted = _counted(case)
        if counted.sum() < MIN_PIXELS:
            return self._unmeasured(case, "Too few of the bodies' pixels lie inside the photograph.")
        photo = crop_image(case.sample.image, _view_box(case), case.view.width)
        colours = np.log(photo[counted] / 255 + DARKEST)
        colours -= colours.mean(axis=0)
        total, background = (colours**2).sum(axis=1), _quadric(counted)
        if total.mean() < MIN_VARIANCE:
            return self._unmeasured(case, "The photograph is of one colour there.")
        values, outliers = [], []
        region_of_face = case.body.regions[case.body.faces[:, 0].cpu().numpy()].astype(np.int64)
        for face_ids in case.frame.face_ids:
            part = _part_of_pixel(region_of_face, face_ids[counted])
            left = _unexplained(colours, part, background)
            values.append(float(left.sum() / total.sum()))
            outliers.append(_outlier_shares(left, part, OUTLIER * float(total.mean())))
        shares = torch.from_numpy(np.stack(outliers))
        sentences = tuple(_sentence(value, row) for value, row in zip(values, shares, strict=True))
        parts = worst_parts(shares, FAULT_SHARE, WORDS)
        return Evidence(self.name, self.metric, "1", tuple(values), parts, sentences)

    def _unmeasured(self, case: Case, sentence: str) -> Evidence:
        return Evidence.unmeasured(self.name, self.metric, "1", len(case), sentence)


def _view_box(case: Case) -> Box:
    """The square of the photograph that the case's view shows."""
    zoom = case.view.focal_px / case.hypotheses.camera.focal_px
    left, top = (
        float(centers[0]) - 0.5 / zoom for centers in pixel_centers_px(case.view, case.hypotheses.camera)
    )
    return Box(left, top, left + case.view.width / zoom, top + case.view.height / zoom)


def _counted(case: Case) -> Bool[np.ndarray, "size size"]:
    """Pixels inside the photograph that any hypothesis covers, and a rim around them."""
    rim = max(1, round(RIM_SHARE * case.view.width))
    return inside_photo(case).numpy() & binary_dilation(case.frame.mask.any(axis=0), iterations=rim)


def _quadric(counted: Bool[np.ndarray, "size size"]) -> Float[np.ndarray, "pixels 6"]:
    rows, columns = np.nonzero(counted)
    y, x = rows / len(counted) - 0.5, columns / len(counted) - 0.5
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)


def _part_of_pixel(
    region_of_face: Int[np.ndarray, "faces"], face_ids: Int[np.ndarray, "pixels"]
) -> Int[np.ndarray, "pixels"]:
    """The index into `REGIONS` of each pixel, -1 for the background."""
    return np.where(face_ids >= 0, region_of_face[np.maximum(face_ids, 0)], -1)


def _unexplained(
    colours: Float[np.ndarray, "pixels 3"],
    part: Int[np.ndarray, "pixels"],
    background: Float[np.ndarray, "pixels 6"],
) -> Float[np.ndarray, "pixels"]:
    """Squared residuals, summed over the three colours."""
    count = np.bincount(part + 1) + RIDGE  # of the background, then of each part
    means = [np.bincount(part + 1, colour) / count for colour in colours.T]
    left = colours - np.stack(means, axis=1)[part + 1]
    behind = part < 0
    columns = background[behind]
    gram = columns.T @ columns + RIDGE * np.eye(columns.shape[1])
    left[behind] = colours[behind] - columns @ np.linalg.solve(gram, columns.T @ colours[behind])
    return (left**2).sum(axis=1)


def _outlier_shares(
    left: Float[np.ndarray, "pixels"], part: Int[np.ndarray, "pixels"], limit: float
) -> Float[np.ndarray, "regions"]:
    """The share of each part's pixels that are far from its colour."""
    on_body = part >= 0
    count = np.bincount(part[on_body], minlength=len(REGIONS))
    outliers = np.bincount(part[on_body], left[on_body] > limit, minlength=len(REGIONS))
    return outliers / np.maximum(count, 1)


def _sentence(value: float, shares: Float[Tensor, "regions"]) -> str:
    region = int(shares.argmax())
    if shares[region] <= FAULT_SHARE:
        return f"One colour a part explains {100 * (1 - value):.0f} % of what the photograph shows there."
    share = 100 * float(shares[region])
    word = WORDS[region].removeprefix("the ")
    return f"Under its {word}, {share:.0f} % of the pixels differ in colour from that part of the person."
