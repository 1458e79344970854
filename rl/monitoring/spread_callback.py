"""How wide a policy's samples lie while it learns, on a few of its own training images.

The spread is `hmr.metrics.errors.spread_mm`, visible and occluded joints apart, as `eval.benchmark.protocol` reports it, but for one
thing: which joints are seen is the encoder's own belief, read from the condition that it left in the row. No truth is
opened, and no image. Noise is seeded once, so that two looks differ by the policy alone.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from common.seeding import derive_generator
from hmr.body.model import load_body
from hmr.metrics.errors import spread_mm
from hmr.policy.encoder import read_joints
from hmr.policy.parametrization import VECTOR_SIZE
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import BodyParams

__all__ = ["SpreadMonitor", "believed_visible"]

BOX_FEATURES = 3  # of hmr.policy.parametrization.box_features


class SpreadMonitor:
    """`num_samples` hypotheses for each image of `features`, whenever `measure` is called."""

    def __init__(self, policy: DiffusionPolicy, features: Features, num_samples: int, seed: int) -> None:
        self.policy, self.num_samples, self.seed = policy, num_samples, seed
        self.features, self.visible = features, believed_visible(features.condition)
        self.body = load_body()

    @torch.no_grad()
    def measure(self) -> dict[str, Float[Tensor, ""]]:
        """`spread_visible_mm` and `spread_occluded_mm`, means over the images that have such joints; NaN where none."""
        device = self.policy.device
        features = Features(self.features.condition.to(device), self.features.geometry.to(device))
        groups = self.policy.sample(features, self.num_samples, derive_generator(self.seed, "spread watch"))
        params = BodyParams.cat([group.params for group in groups]).to("cpu")
        joints_cam_m = self.body.joints(params).unflatten(0, (len(groups), self.num_samples))
        masks = {"spread_visible_mm": self.visible, "spread_occluded_mm": ~self.visible}
        return {name: spread_mm(joints_cam_m, mask).nanmean() for name, mask in masks.items()}


def believed_visible(condition: Float[Tensor, "images channels"]) -> Bool[Tensor, "images 24"]:
    """Joints that the encoder rather sees than not; a condition is its vector, the box, and the regression head's guess
    (`hmr.policy.policy`)."""
    return read_joints(condition[:, : -(BOX_FEATURES + VECTOR_SIZE)]).visible > 0.5
