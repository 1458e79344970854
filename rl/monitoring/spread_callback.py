"""Logs the spread of a policy's samples during training, on a few of its own training images.

The spread is `hmr.metrics.errors.spread_mm` of visible and of occluded joints, as in `eval.benchmark.protocol`, with
one difference: the visibility of a joint is the detector's estimate, read from the condition in the row. It needs
neither the ground truth nor the images. The joints are those of the body that the policy was trained with. Every
measurement uses the same noise, so two differ by the policy alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from datasets import Dataset
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import TrainerCallback

from common.seeding import derive_generator
from hmr.body.model import Body
from hmr.body.surface_points import BodyPoints
from hmr.metrics.errors import spread_mm
from hmr.policy.condition import unpack_points
from hmr.policy.policy import DiffusionPolicy, Features
from hmr.types import NUM_JOINTS, BodyParams, Hypotheses
from rl.config import GroupPreferenceConfig
from rl.preferences.tensors import features_of

__all__ = ["SpreadCallback", "SpreadMonitor", "estimated_visibility", "spread_by_visibility"]


class SpreadMonitor:
    """Samples `num_samples` hypotheses for each image of `features` at every call of `measure`."""

    def __init__(self, policy: DiffusionPolicy, features: Features, num_samples: int, seed: int) -> None:
        self.policy, self.num_samples, self.seed = policy, num_samples, seed
        self.features, self.visible = features, estimated_visibility(features.condition)

    @torch.no_grad()
    def measure(self) -> dict[str, Float[Tensor, ""]]:
        """The spreads of `spread_by_visibility` of new samples."""
        device = self.policy.device
        features = Features(self.features.condition.to(device), self.features.geometry.to(device))
        features = self.policy.refreshed(features)  # the initial estimate may be trained as well
        groups = self.policy.sample(features, self.num_samples, derive_generator(self.seed, "spread watch"))
        return spread_by_visibility(self.policy.feedback.points, groups, self.visible)


def spread_by_visibility(
    body: Body | BodyPoints, groups: Sequence[Hypotheses], visible: Bool[Tensor, "images 24"]
) -> dict[str, Float[Tensor, ""]]:
    """`spread_visible_mm` and `spread_occluded_mm` of groups of one size, means over images; NaN if no image has such a
    joint. body: of the policy's hypotheses, or its points."""
    params = BodyParams.cat([group.params for group in groups]).to(body.joint_template.device)
    joints_cam_m = body.joints(params).cpu().unflatten(0, (len(groups), -1))
    masks = {"spread_visible_mm": visible, "spread_occluded_mm": ~visible}
    return {name: spread_mm(joints_cam_m, mask).nanmean() for name, mask in masks.items()}


class SpreadCallback(TrainerCallback):
    """Logs the spread of the averaged policy before the first step and after every `spread_steps` steps, on the first
    `spread_images` rows of `dataset`.

    averaged_weights, record: those of `rl.trainer.GroupPreferenceTrainer`.
    """

    def __init__(
        self,
        policy: DiffusionPolicy,
        dataset: Dataset,
        args: GroupPreferenceConfig,
        averaged_weights: Callable[[], AbstractContextManager[None]],
        record: Callable[[dict[str, Tensor], Literal[""]], None],
    ) -> None:
        self.averaged_weights, self.record = averaged_weights, record
        features = features_of(dataset.select(range(min(args.spread_images, len(dataset)))))
        self.monitor = SpreadMonitor(policy, features, len(dataset[0]["scores"]), args.seed)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._measure()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % args.spread_steps == 0:
            self._measure()

    def _measure(self) -> None:
        with self.averaged_weights():
            self.record(self.monitor.measure(), "")


def estimated_visibility(condition: Float[Tensor, "images channels"]) -> Bool[Tensor, "images 24"]:
    """Joints to which the detector gives a probability of visibility above 0.5. A condition starts with the observed
    points (`hmr.policy.condition`)."""
    return unpack_points(condition).visibility[:, :NUM_JOINTS] > 0.5
