"""Losses that turn group-relative advantages into a direction for a diffusion policy; one contract for all.

| here        | symbol  | equation                                                                           |
|-------------|---------|------------------------------------------------------------------------------------|
| error       | L_theta | mean over parameters of the squared error of the policy's prediction at (x_t^i, t) |
| reference   | L_ref   | the same of the policy that sampled the group; no gradient                         |
| ratio       | r_i     | -beta (L_theta - L_ref), Diffusion-DPO's estimate of log pi_theta / pi_ref         |
|             |         | (arXiv 2311.12908, eq. 14, its T and omega absorbed in beta); under a `relative`   |
|             |         | trust region divided by L_ref(t), the group's mean L_ref at that time              |
| advantages  | A_i     | standardised scores of the group (`rl.types.PreferenceGroup.advantages`)           |
| epsilon     | e       | how far r may move before a hypothesis is let go                                   |
| temperature | tau     | of the softmax that weighs the hypotheses of a group                               |
| penalty     | lambda  | weight of r^2 / 2, the pull back to the reference                                  |

| name        | loss of hypothesis i at one t                  | bounded below                               |
|-------------|------------------------------------------------|---------------------------------------------|
| `clip`      | A > 0: -A min(r, e); A < 0: -A max(r, -e)      | yes, by -abs(A) e                           |
| `weighted`  | -G softmax_i(A / tau) r                        | yes, since L_theta >= 0                     |
| `quadratic` | -A r + lambda r^2 / 2                          | yes, by -A^2 / (2 lambda)                   |
| `linear`    | -A r (arXiv 2602.19180)                        | no: A < 0 is ascent without end             |
| `dpo`       | -log sigma((r_best - r_worst) / 2) + log 2, a group | yes, by -log 2                         |
| `kto`       | 1/2 - sigma(sign(A) (r - z)), z = max(0, mean r) | yes, by -1/2                              |
| `sft`       | -G r of the best, 0 for the others             | yes, since L_theta >= 0                     |

`clip` is PPO's clip (arXiv 1707.06347, eq. 7) on r instead of exp(r), and one-sided: a bad step is always
undone. `weighted` is reward-weighted regression (Peters and Schaal, ICML 2007): its optimum is the
reference tilted by exp(A / tau), and it never pushes a hypothesis away. Every loss is 0 at r = 0 and is
averaged over batch, group and steps, masked hypotheses counting as zeros, so that accumulated batches of
one size add up to the large batch.

The last three are the baselines. `dpo` is Diffusion-DPO (arXiv 2311.12908, eq. 14) on the best and the worst of a
group, ADHMR's loss (arXiv 2505.10250, section 3.3): with its half, as in the code of both, so that a published beta
is ours; `kto` is Diffusion-KTO's utility (arXiv 2404.04465), desirable
being better than the group's mean, with KTO's reference point (arXiv 2402.01306, eq. 8) taken over the group and
without gradient; `sft` imitates the best-scored hypothesis. Equal best or worst ones share their place.

Left out of the paper: lambda_t, its weight by time; a constant weight is the policy's own training loss.
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
    """r, in float32 whatever autocast made of the errors: their difference is small beside them."""
    error, reference_error = error.float(), reference_error.float()
    unit = mean_error(reference_error) if trust_region == "relative" else 1.0
    return -beta * (error - reference_error) / unit


def mean_error(reference_error: Ratio) -> Float[Tensor, "batch 1 steps"]:
    """L_ref(t): how much the reference errs on a group at a time, the unit of a relative trust region."""
    return reference_error.mean(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)


def clip(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """Push until r has moved by epsilon in the wanted direction, then let go."""
    advantages = advantages[..., None]
    held = torch.where(advantages > 0, ratio.clamp(max=settings.epsilon), ratio.clamp(min=-settings.epsilon))
    return _mean(-advantages * held, mask)


def weighted(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """Imitate every hypothesis, the better ones more: the weights of a group's scored members average to
    1."""
    logits = (advantages / settings.temperature).masked_fill(~mask, torch.finfo(advantages.dtype).min)
    weights = logits.softmax(dim=-1) * mask.sum(dim=-1, keepdim=True)
    return _mean(-weights[..., None] * ratio, mask)


def quadratic(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """A parabola with its foot at r = A / lambda."""
    return _mean(-advantages[..., None] * ratio + settings.penalty / 2 * ratio.square(), mask)


def linear(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """The paper's own form, kept for fidelity. Nothing holds it near the reference, and it collapses."""
    return _mean(-advantages[..., None] * ratio, mask)


def dpo(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """The best of a group against its worst; the hypotheses between teach nothing. ADHMR's -log sigma(-beta / 2
    (delta_theta - delta_ref)), delta being the best one's error less the worst one's."""
    best, worst = _extreme(advantages, mask), _extreme(-advantages, mask)
    margin = torch.einsum("bg,bgk->bk", best - worst, ratio) / 2
    differ = (best != worst).any(dim=-1)
    return torch.where(differ[:, None], F.softplus(-margin) - math.log(2), 0.0).mean()


def kto(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """Better than the mean is desirable, worse is not; how much better does not count."""
    known = torch.where(mask[..., None], ratio.detach(), 0.0).sum(dim=1, keepdim=True)
    point = (known / mask.sum(dim=1).clamp_min(1)[:, None, None]).clamp_min(0)
    wanted = advantages.sign()[..., None]
    return _mean((0.5 - (wanted * (ratio - point)).sigmoid()) * wanted.abs(), mask)


def sft(ratio: Ratio, advantages: PerHypothesis, mask: Mask, settings: LossSettings) -> Scalar:
    """Imitate the best-scored hypothesis alone."""
    best = _extreme(advantages, mask) * advantages.shape[-1]
    return _mean(-best[..., None] * ratio, mask)


def _extreme(advantages: PerHypothesis, mask: Mask) -> PerHypothesis:
    """1 for the scored hypothesis of the largest advantage, shared where several have it; 0 for a group without."""
    scored = advantages.masked_fill(~mask, -torch.inf)
    top = (scored == scored.amax(dim=-1, keepdim=True)) & mask
    return top / top.sum(dim=-1, keepdim=True).clamp_min(1)


def _mean(losses: Ratio, mask: Mask) -> Scalar:
    return torch.where(mask[..., None], losses, 0.0).mean()


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "clip": clip,
        "weighted": weighted,
        "quadratic": quadratic,
        "linear": linear,
        "dpo": dpo,
        "kto": kto,
        "sft": sft,
    }
)
