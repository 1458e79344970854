"""Metrics of one training step, under TRL's names where TRL has one.

| name                   | meaning                                                                          |
|------------------------|----------------------------------------------------------------------------------|
| reward, reward_std     | mean raw score; mean within-group std of the raw scores (population form)        |
| rewards/NAME/mean,     | the same of the scores of each reward function, if there are several             |
| rewards/NAME/std       | (rl.scorers.rewards)                                                             |
| frac_reward_zero_std   | share of masked groups: too few scores, or nearly equal ones                     |
| critic/                | share of groups of which the scores prefer no hypothesis: nobody has one, or all |
| degenerate_groups      | have the same; the agent withholds scores that follow the labels                 |
| kl                     | mean L_theta - L_ref over all hypotheses. The reference sampled them, so it      |
|                        | estimates KL(ref || theta) up to the weight by time of the bound                 |
| clip_ratio/high_mean,  | share of clipped hypotheses: A > 0 with r > e; A < 0 with r < -e                 |
| clip_ratio/low_mean    |                                                                                  |
| clip_ratio/region_mean | their sum                                                                        |
| denoise_loss/pos, /neg | mean L_theta over A > 0 and A < 0; in a healthy run they separate slowly         |
| effective_beta         | mean abs(r) of a hypothesis whose error has doubled: beta L_ref(t), or beta      |
|                        | under a relative trust region                                                    |
| denoise_loss/replay    | mean L_theta of labelled scenes (rl.labels.body_labels), from the trainer        |
| spread_kept            | spread of a group in the predictions, relative to the reference (rl.spread)      |
| spread_visible_mm,     | std of joints over samples of the averaged policy for a few training images, by  |
| spread_occluded_mm     | estimated visibility (rl.monitoring.spread_callback); the first is the base's    |

The policy gradient (rl.policy_gradient) has one line per update, with the means over its optimizer steps:

| name                   | meaning                                                                          |
|------------------------|----------------------------------------------------------------------------------|
| kl                     | KL(theta || ref) of a step of the chain, exact                                   |
| ratio/mean, ratio/std  | likelihood of a step relative to that under the policy that sampled it; 1 and 0  |
|                        | before the first optimizer step of an update                                     |
| clip_ratio/...         | shares of steps beyond 1 +- e: A > 0 above, A < 0 below, their sum               |
| spread_..._mm          | of the scored hypotheses of the update                                           |
| loss, grad_norm        | PPO's objective, negative; the norm of its gradient before clipping              |

A mean over nothing is NaN and is not logged.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rl.advantages import ROUNDING
from rl.losses import LossSettings, mean_error
from rl.preferences.tensors import REWARDS

__all__ = ["score_metrics", "step_metrics"]


@torch.no_grad()
def step_metrics(
    error: Float[Tensor, "batch group steps"],
    reference_error: Float[Tensor, "batch group steps"],
    ratio: Float[Tensor, "batch group steps"],
    inputs: Mapping[str, Tensor],
    settings: LossSettings,
) -> dict[str, Float[Tensor, ""]]:
    """`inputs` is a batch of `rl.preferences.tensors.GroupTensors`."""
    mask = inputs["mask"]
    advantages = inputs["advantages"][..., None].expand_as(ratio)
    better, worse = advantages > 0, advantages < 0
    rewards = {
        name.removeprefix(REWARDS): values for name, values in inputs.items() if name.startswith(REWARDS)
    }
    scored = mask[..., None].expand_as(ratio).sum()
    high = (better & (ratio > settings.epsilon)).sum() / scored
    low = (worse & (ratio < -settings.epsilon)).sum() / scored
    return {
        **score_metrics(inputs["scores"], mask, rewards),
        "kl": (error.float() - reference_error.float()).mean(),
        "clip_ratio/high_mean": high,
        "clip_ratio/low_mean": low,
        "clip_ratio/region_mean": high + low,
        "denoise_loss/pos": error.float()[better].mean(),
        "denoise_loss/neg": error.float()[worse].mean(),
        "effective_beta": settings.beta * _mean_unit(reference_error.float(), settings),
    }


def score_metrics(
    scores: Float[Tensor, "batch group"],
    mask: Bool[Tensor, "batch group"],
    rewards: Mapping[str, Float[Tensor, "batch group"]],
) -> dict[str, Float[Tensor, ""]]:
    """Those of the scores alone. `rewards`: the scores of each reward function, by name."""
    return {
        "reward": scores.nanmean(),
        "reward_std": _group_std(scores),
        **{f"{REWARDS}{name}/mean": values.nanmean() for name, values in rewards.items()},
        **{f"{REWARDS}{name}/std": _group_std(values) for name, values in rewards.items()},
        "frac_reward_zero_std": (~mask.any(dim=-1)).float().mean(),
        "critic/degenerate_groups": _prefers_nothing(scores).float().mean(),
    }


def _prefers_nothing(scores: Float[Tensor, "batch group"]) -> Bool[Tensor, "batch"]:
    """Whether fewer than two hypotheses of a group have different scores."""
    missing = scores.isnan()
    lowest = scores.masked_fill(missing, torch.inf).amin(dim=-1)
    highest = scores.masked_fill(missing, -torch.inf).amax(dim=-1)
    return ~(highest - lowest > ROUNDING * scores.nan_to_num().abs().amax(dim=-1))


def _group_std(scores: Float[Tensor, "batch group"]) -> Float[Tensor, ""]:
    return (scores - scores.nanmean(dim=-1, keepdim=True)).square().nanmean(dim=-1).sqrt().nanmean()


def _mean_unit(
    reference_error: Float[Tensor, "batch group steps"], settings: LossSettings
) -> Float[Tensor, ""]:
    """The mean of L_ref(t) in the unit of r."""
    unit = mean_error(reference_error)
    return (unit / unit if settings.trust_region == "relative" else unit).mean()
