"""From the scores of a set to what each hypothesis is worth to the loss.

| here             | symbol | equation                                                                         |
|------------------|--------|----------------------------------------------------------------------------------|
| scores           | s_i    | higher is better, any unit; None where judging failed                            |
| centred          | c_i    | s_i - mean_j s_j over the scored hypotheses of one image                         |
| scale            |        | `group`: std_j s_j; `batch`: root mean square of all groups' stds; `none`: 1     |
| distance         | d_i    | abs(x_i - mean_j x_j)^2 in the policy's coordinates, standardised in the group   |
| advantages       | A_i    | c_i / scale, then the two below, then clamped to +- clip                         |
| spread_neutral   |        | A_i - mean_j (A_j d_j) d_i                                                       |
| diversity_weight | w      | A_i + w std_j(A_j) d_i                                                           |

Group-relative advantages after GRPO (arXiv 2402.03300, section 4.1.2), std in its population form; centring is always
within the group. The names of the scales are TRL's (`scale_rewards`). TRL's `batch` takes the std of one batch's raw
rewards, where an image that is hard for every hypothesis counts; ours is of the whole set and within groups, the same
for every batch size.

Hypotheses near the middle of a group are the better ones more often than not, so a policy that learns from scores
learns to huddle. Weights 1 + A_i / tau change a group's variance in proportion to mean_i (A_i d_i), to first order:
`spread_neutral` makes that zero, and `diversity_weight` pays for distance outright.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

__all__ = [
    "ADVANTAGE_TYPES",
    "DEFAULT_ADVANTAGES",
    "ROUNDING",
    "AdvantageSettings",
    "Advantages",
    "Scores",
    "advantages_of",
    "group_advantages",
    "score_std",
    "standardised_distance",
]

ADVANTAGE_TYPES = ("group", "batch", "none")
ROUNDING = 1e-9  # a std below this share of the scores' size is rounding of equal scores
Scores = Sequence[float | None]  # of one group


@dataclass(frozen=True)
class Advantages:
    values: Float[Tensor, " group"]  # 0 wherever the mask is False
    mask: Bool[Tensor, " group"]  # True where there is something to learn


@dataclass(frozen=True)
class AdvantageSettings:
    """`min_group_std` is a share of the median group's std, so that it means the same for every scorer."""

    kind: str = "group"  # of ADVANTAGE_TYPES
    clip: float = 5.0
    min_group_std: float = 0.1
    diversity_weight: float = 0.0
    spread_neutral: bool = False


DEFAULT_ADVANTAGES = AdvantageSettings()


def score_std(scores: Scores) -> float | None:
    """Population standard deviation of the scores; None when fewer than two hypotheses have one."""
    known = torch.tensor([score for score in scores if score is not None], dtype=torch.float64)
    return known.std(correction=0).item() if len(known) > 1 else None


def group_advantages(
    scores: Scores, clip: float = 5.0, min_std: float = 0.0, scale: float | None = None
) -> Advantages:
    """Centred scores, divided by `scale` (the group's own std when None) and clamped to +-`clip`.

    A hypothesis without a score is masked. So is a whole group whose std is no more than `min_std` (in the scores'
    unit) or than rounding: dividing by it would turn the scorer's noise into advantages.
    """
    scored = torch.tensor([score is not None for score in scores])
    values = torch.tensor([0.0 if score is None else score for score in scores], dtype=torch.float64)
    std = score_std(scores)
    if std is None or std <= max(min_std, ROUNDING * values.abs().max().item()):
        return Advantages(torch.zeros(len(values)), torch.zeros_like(scored))
    scaled = (values - values[scored].mean()) / (std if scale is None else scale)
    return Advantages((scaled.clamp(-clip, clip) * scored).float(), scored)


def advantages_of(
    scores: Sequence[Scores],
    x0: Float[Tensor, "images group dim"],
    settings: AdvantageSettings = DEFAULT_ADVANTAGES,
) -> tuple[Float[Tensor, "images group"], Bool[Tensor, "images group"]]:
    """The advantages of all groups, and True where there is something to learn."""
    stds = torch.tensor([std for group in scores if (std := score_std(group)) is not None] or [0.0])
    floor = settings.min_group_std * stds.median().item()
    scale = {"group": None, "batch": stds.square().mean().sqrt().item(), "none": 1.0}[settings.kind]
    scaled = [group_advantages(group, math.inf, floor, scale) for group in scores]
    values, mask = torch.stack([one.values for one in scaled]), torch.stack([one.mask for one in scaled])
    if settings.spread_neutral or settings.diversity_weight:
        distance = standardised_distance(x0, mask)
        if settings.spread_neutral:
            values = values - _group_mean(values * distance, mask) * distance
        width = _group_mean(values.square(), mask).sqrt()
        values = values + settings.diversity_weight * width * distance
    return values.clamp(-settings.clip, settings.clip), mask


def standardised_distance(
    x0: Float[Tensor, "images group dim"], mask: Bool[Tensor, "images group"]
) -> Float[Tensor, "images group"]:
    """d_i: mean 0 and std 1 over the scored hypotheses of each image; 0 where all lie equally far, and where masked."""
    middle = _group_mean(x0, mask[..., None])
    squared = (x0 - middle).square().mean(dim=-1)
    centred = (squared - _group_mean(squared, mask)) * mask
    std = _group_mean(centred.square(), mask).sqrt()
    # rounding of equal distances is no distance
    return torch.where(std > 1e-6 * squared.amax(dim=1, keepdim=True), centred / std, 0.0)


def _group_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Over the group (dimension 1, kept), scored hypotheses alone; 0 where there is none."""
    return (values * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp_min(1)
