"""The loss `resample`: imitate hypotheses that are drawn by their scores.

    i ~ softmax(A / tau) over the scored hypotheses of a group
    L = denoise + 20 x0_joints + regression      of x_0^i, the losses of pretraining (`hmr.pretraining.losses`)

The expected gradient of `denoise` is that of the loss `weighted` (`rl.losses`), for the cost of one hypothesis in place
of a group and without a reference. The term on joints counts what the metrics count. With `train_estimate` the
regression head learns as well: hypothesis 0 and the mean of the samples start from its estimate, so a head that stays
as it is limits both. A group of one hypothesis is imitated as it is: given the truth, this is supervised fine-tuning.

Left out: several processes, a term of reprojection, and the terms of `rl.labels.body_labels` and `rl.spread`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hmr.policy.policy import DiffusionPolicy
from hmr.pretraining.losses import LossWeights, estimate_error, predict_bodies
from rl.config import GroupPreferenceConfig
from rl.labels.body_labels import BodyLabels
from rl.preferences.tensors import GroupTensors

__all__ = ["LABEL_EPOCHS", "Imitation", "groups_of_labels", "steps_on_labels"]

WEIGHTS = LossWeights(reprojection=0.0)
LABEL_EPOCHS = 16  # passes over labels; with more the images are memorised (docs/results/street.md)


class Imitation:
    """Raises ValueError for a policy that is no `DiffusionPolicy`, and for terms that are left out."""

    def __init__(self, policy: nn.Module, args: GroupPreferenceConfig) -> None:
        if not isinstance(policy, DiffusionPolicy):
            raise ValueError(f"loss_type resample needs a DiffusionPolicy, not {type(policy).__name__}")
        if args.replay_weight or args.spread_weight:
            raise ValueError("loss_type resample has no replay_weight and no spread_weight")
        if args.world_size > 1:
            raise ValueError(f"loss_type resample runs in one process, not {args.world_size}")
        self.policy, self.temperature, self.trains_estimate = policy, args.temperature, args.train_estimate

    def loss(
        self,
        inputs: Mapping[str, Tensor],
        generators: Sequence[torch.Generator],
        timesteps: Int[Tensor, "batch times"],
        noise: Float[Tensor, "batch times 157"],
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss of a batch and its terms for the log; one generator per image."""
        scored = inputs["mask"].any(dim=1)
        if not scored.any():
            return inputs["x0"].new_zeros(()).requires_grad_(), {}
        chosen = drawn_by_score(inputs["advantages"], inputs["mask"], self.temperature, generators)
        x0 = inputs["x0"][torch.arange(len(chosen), device=chosen.device), chosen][scored]
        features = inputs["condition"][scored, : self.policy.feature_size]
        with torch.set_grad_enabled(self.trains_estimate and torch.is_grad_enabled()):
            estimate = self.policy.initial_estimate(features)
        condition = torch.cat([features, estimate.detach()], dim=-1)
        found = predict_bodies(self.policy, condition, x0, timesteps[scored], noise[scored])
        terms = {"denoise": found.denoise, "x0_joints": found.x0_joints}
        if self.trains_estimate:
            terms["regression"] = estimate_error(self.policy, estimate, x0)
        loss = torch.stack([getattr(WEIGHTS, name) * term for name, term in terms.items()]).sum()
        share = scored.float().mean()  # images without a score count as zeros, as in the other losses
        return share * loss, {f"{name}_loss/resampled": term for name, term in terms.items()}


def groups_of_labels(labels: BodyLabels) -> GroupTensors:
    """Labelled scenes as groups of one: to imitate them is supervised fine-tuning, the upper bound of alignment."""
    count = len(labels)
    ones = torch.ones(count, 1)
    return GroupTensors(labels.condition, labels.x0[:, None], torch.zeros(count, 1), ones.bool(), ones)


def steps_on_labels(images: int, batch_size: int, epochs: int = LABEL_EPOCHS) -> int:
    """Optimizer steps of supervised fine-tuning on the labels of so many images."""
    return math.ceil(epochs * images / batch_size)


def drawn_by_score(
    advantages: Float[Tensor, "batch group"],
    mask: Bool[Tensor, "batch group"],
    temperature: float,
    generators: Sequence[torch.Generator],
) -> Int[Tensor, " batch"]:
    """One hypothesis per group, drawn from softmax(A / tau) of the scored ones; of all if none is scored."""
    masked = mask | ~mask.any(dim=1, keepdim=True)
    weights = (advantages / temperature).masked_fill(~masked, -torch.inf).softmax(dim=1).cpu()
    drawn = [
        torch.multinomial(row, 1, generator=generator)
        for row, generator in zip(weights, generators, strict=True)
    ]
    return torch.cat(drawn).to(advantages.device)
