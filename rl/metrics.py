"""What one training step tells of itself, under TRL's names where TRL has one.

| name                   | meaning                                                                          |
|------------------------|----------------------------------------------------------------------------------|
| reward, reward_std     | mean raw score; mean within-group std of the raw scores (population form)        |
| frac_reward_zero_std   | share of groups that teach nothing: too few scores, or too equal                 |
| kl                     | mean L_theta - L_ref over all hypotheses. They are draws of the reference, so it |
|                        | estimates KL(ref || theta) up to the bound's weight by time                      |
| clip_ratio/high, /low  | share of hypotheses let go: A > 0 with r > e; A < 0 with r < -e                  |
| clip_ratio/region      | their sum                                                                        |
| denoise_loss/pos, /neg | mean L_theta over A > 0 and A < 0; a healthy run parts them gently               |

NaN where a mean is over nothing; the trainer leaves those out.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from rl.losses import LossSettings

__all__ = ["step_metrics"]


@torch.no_grad()
def step_metrics(
    error: Float[Tensor, "batch group steps"],
    ratio: Float[Tensor, "batch group steps"],
    inputs: Mapping[str, Tensor],
    settings: LossSettings,
) -> dict[str, Float[Tensor, ""]]:
    """`inputs` is a batch of `rl.groups.GroupTensors`."""
    scores, mask = inputs["scores"], inputs["mask"]
    advantages = inputs["advantages"][..., None].expand_as(ratio)
    liked, disliked = advantages > 0, advantages < 0
    learning = (mask[..., None].expand_as(ratio)).sum()
    high = (liked & (ratio > settings.epsilon)).sum() / learning
    low = (disliked & (ratio < -settings.epsilon)).sum() / learning
    within = (scores - scores.nanmean(dim=-1, keepdim=True)).square().nanmean(dim=-1).sqrt()
    return {
        "reward": scores.nanmean(),
        "reward_std": within.nanmean(),
        "frac_reward_zero_std": (~mask.any(dim=-1)).float().mean(),
        "kl": -ratio.mean() / settings.beta,
        "clip_ratio/high": high,
        "clip_ratio/low": low,
        "clip_ratio/region": high + low,
        "denoise_loss/pos": error.float()[liked].mean(),
        "denoise_loss/neg": error.float()[disliked].mean(),
    }
