"""The error of each joint, where it is visible and where an occluder hides it, from the reports of a policy."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from eval.benchmark.protocol import Report
from hmr.types import JOINT_NAMES

__all__ = ["JointErrors", "joint_errors"]

SHOWN = JOINT_NAMES[1:]  # the pelvis is the origin


@dataclass(frozen=True)
class JointErrors:
    """How far the mean of the hypotheses is off, in mm, pelvis-aligned: means over the images and seeds in which the
    joint is visible, hidden by an occluder, or either. NaN without such an image; 0 for the pelvis."""

    visible_mm: Float[np.ndarray, "24"]
    hidden_mm: Float[np.ndarray, "24"]
    all_mm: Float[np.ndarray, "24"]


def joint_errors(reports: Sequence[Report]) -> JointErrors:
    """Of the reports of one policy, one per seed."""
    visible, hidden = (_by_joint(reports, f"error_{where}_mm") for where in ("visible", "hidden"))
    return JointErrors(*map(_means, (visible, hidden, np.where(np.isnan(visible), hidden, visible))))


def _by_joint(reports: Sequence[Report], metric: str) -> Float[np.ndarray, "images joints"]:
    return np.concatenate(
        [np.stack([report.values[metric][name] for name in SHOWN], axis=1) for report in reports]
    )


def _means(values: Float[np.ndarray, "images joints"]) -> Float[np.ndarray, "24"]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no value is NaN
        return np.concatenate([[0.0], np.nanmean(values, axis=0)])
