"""Preference losses for a diffusion policy: functions of the log ratio and the advantages of each hypothesis.

| here        | symbol  | equation                                                                           |
|-------------|---------|------------------------------------------------------------------------------------|
| error       | L_theta | mean over parameters of the squared error of the policy's prediction at (x_t^i, t) |
| reference   | L_ref   | the same error of the policy that sampled the group; no gradient                   |
| ratio       | r_i     | -beta (L_theta - L_ref), Diffusion-DPO's estimate of log pi_theta / pi_ref         |
|             |         | (arXiv 2311.12908, eq. 14, its T and omega absorbed in beta); under a `relative`   |
|             |         | trust region divided by L_ref(t), the group's mean L_ref at that time              |
| advantages  | A_i     | standardised scores of the group (`rl.advantages`)                                 |
| epsilon     | e       | r beyond which `clip` has no gradient                                              |
| temperature | tau     | of the softmax that weights the hypotheses of a group                              |
| penalty     | lambda  | weight of r^2 / 2, which holds r near 0                                            |

| name        | loss of hypothesis i at one t                  | bounded below                               |
|-------------|------------------------------------------------|---------------------------------------------|
| `clip`      | A > 0: -A min(r, e); A < 0: -A max(r, -e)      | yes, by -abs(A) e                           |
| `weighted`  | -G softmax_i(A / tau) r                        | yes, since L_theta >= 0                     |
| `quadratic` | -A r + lambda r^2 / 2                          | yes, by -A^2 / (2 lambda)                   |
| `linear`    | -A r (arXiv 2602.19180)                        | no, where A < 0                             |
| `dpo`       | -log sigma((r_best - r_worst) / 2) + log 2, per group | yes, by -log 2                       |
| `kto`       | 1/2 - sigma(sign(A) (r - z)), z = max(0, mean r) | yes, by -1/2                              |
| `sft`       | -G r of the best, 0 for the others             | yes, since L_theta >= 0                     |

`clip` is PPO's clip (arXiv 1707.06347, eq. 7) on r instead of exp(r). It is one-sided: a move in the wrong direction
always has a gradient. `weighted` is reward-weighted regression (Peters and Schaal, ICML 2007): its optimum is the
reference density times exp(A / tau), normalised, and all its weights are positive. Every loss is 0 at r = 0 and is
averaged over batch, group and steps. Masked hypotheses count as zeros, so that accumulated batches of equal size add up
to the large batch.

The last three are baselines. `dpo` is Diffusion-DPO (arXiv 2311.12908, eq. 14) on the best and the worst hypothesis of
a group, which is ADHMR's loss (arXiv 2505.10250, section 3.3); it has the factor 1/2 of both published implementations,
so that a published beta applies unchanged. `kto` is Diffusion-KTO's utility (arXiv 2404.04465): a hypothesis is
desirable if it is better than the mean of its group, and KTO's reference point (arXiv 2402.01306, eq. 8) is taken over
the group, without gradient. `sft` imitates the best-scored hypothesis. Hypotheses that tie for best or worst share the
weight.

Left out of the paper: lambda_t, a weight by time. A constant weight matches the training loss of the policy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "LOSSES",
    "TRUST_REGIONS",
    "Loss",
    "LossSettings",
    "clip",
    "dpo",
    "kto",
    "linear",
    "log_ratio",
    "mean_error",
    "quadratic",
    "sft",
    "weighted",
]

Ratio = Float[Tensor, "batch group steps"]
PerHypothesis = Float[Tensor, "batch group"]
Mask = Bool[Tensor, "batch group"]
Scalar = Float[Tensor, ""]


TRUST_REGIONS = ("absolute", "relative")


@dataclass(frozen=True)
class LossSettings:
    beta: float = 10.0
    epsilon: float = 0.2
    temperature: float = 0.3
    penalty: float = 1.0
    trust_region: str = "absolute"  # of TRUST_REGIONS


Loss = Callable[[Ratio, PerHypothesis, Mask, LossSettings], Scalar]


def log_ratio(
    error: Ratio, reference_error: Ratio, beta: float, trust_region: str = TRUST_REGIONS[0]
) -> Ratio:
    """r, in float32 even under autocast, because the difference of the errors is small relative to the errors."""
    error, reference_error = error.float(), reference_error.float()
    unit = mean_error(reference_error) if trust_region == "relative" else 1.0
    return -beta * (error - reference_error) / unit


def mean_error(reference_error: Ratio) -> Float[Tensor, "batch 1 steps"]:
    """L_ref(t), the mean error of the reference on a group at each time: the unit of a relative trust region."""
    return reference_error.mean(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def clip(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """No gradient once r has moved by epsilon in the direction of the advantage."""
    advantages = advantages[..., None]
    clipped = torch.where(
        advantages > 0, ratio.clamp(max=settings.epsilon), ratio.clamp(min=-settings.epsilon)
    )
    return _mean(-advantages * clipped, mask)


def weighted(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """Imitate every hypothesis, the better ones more; the weights of the scored hypotheses of a group average to 1."""
    logits = (advantages / settings.temperature).masked_fill(~mask, torch.finfo(advantages.dtype).min)
    weights = logits.softmax(dim=-1) * mask.sum(dim=-1, keepdim=True)
    return _mean(-weights[..., None] * ratio, mask)


def quadratic(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """A parabola with its minimum at r = A / lambda."""
    return _mean(-advantages[..., None] * ratio + settings.penalty / 2 * ratio.square(), mask)


def linear(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """The form of the paper, kept for comparison. It is not bounded, and training with it collapses."""
    return _mean(-advantages[..., None] * ratio, mask)


def dpo(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """The best of a group against its worst; the other hypotheses have no gradient. ADHMR writes it as
    -log sigma(-beta / 2 (delta_theta - delta_ref)), where delta is the error of the best minus the error of the worst.
    """
    best, worst = _extreme(advantages, mask), _extreme(-advantages, mask)
    margin = torch.einsum("bg,bgk->bk", best - worst, ratio) / 2
    differ = (best != worst).any(dim=-1)
    return torch.where(differ[:, None], F.softplus(-margin) - math.log(2), 0.0).mean()


def kto(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """Only the sign of an advantage counts: above the mean is desirable, below it is not."""
    total = torch.where(mask[..., None], ratio.detach(), 0.0).sum(dim=1, keepdim=True)
    reference_point = (total / mask.sum(dim=1).clamp_min(1)[:, None, None]).clamp_min(0)
    sign = advantages.sign()[..., None]
    return _mean((0.5 - (sign * (ratio - reference_point)).sigmoid()) * sign.abs(), mask)


def sft(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """Imitate the best-scored hypothesis only."""
    best = _extreme(advantages, mask) * advantages.shape[-1]
    return _mean(-best[..., None] * ratio, mask)


def _extreme(advantages: PerHypothesis, mask: Mask) -> PerHypothesis:
    """1 for the scored hypothesis with the largest advantage, divided among ties; 0 for a group without scores."""
    scored = advantages.masked_fill(~mask, -torch.inf)
    top = (scored == scored.amax(dim=-1, keepdim=True)) & mask
    return top / top.sum(dim=-1, keepdim=True).clamp_min(1)


def _mean(losses: Ratio, mask: Mask) -> Scalar:
    return torch.where(mask[..., None], losses, 0.0).mean()


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {loss.__name__: loss for loss in (clip, weighted, quadratic, linear, dpo, kto, sft)}
)
